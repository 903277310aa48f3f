"""Variables of a scope as arrays of numpy: copies, and views that share their memory."""

import numpy as np
import pytest

from hubflow.runtime.paddle_import import get_variable, leave_dynamic_mode, paddle, set_variable


@pytest.mark.parametrize("dtype", ["float32", "int64", "int32", "bool"])
@pytest.mark.parametrize("shape", [(2, 3), (1,), ()])
def test_a_view_has_the_values_of_now_and_a_copy_those_of_then(dtype: str, shape: tuple[int, ...]) -> None:
    leave_dynamic_mode()
    scope, place = paddle.static.Scope(), paddle.CPUPlace()
    first = np.ones(shape, dtype)
    set_variable(scope, "a", first, place)
    copied, view = get_variable(scope, "a"), get_variable(scope, "a", copy=False)
    assert copied.dtype == view.dtype == first.dtype
    assert copied.shape == view.shape == shape
    assert np.array_equal(view, first)
    assert not view.flags.writeable
    set_variable(scope, "a", np.zeros(shape, dtype), place)
    assert np.array_equal(copied, first)
    assert np.array_equal(get_variable(scope, "a", copy=False), np.zeros(shape, dtype))


def test_a_view_outlives_its_scope() -> None:
    leave_dynamic_mode()
    scope = paddle.static.Scope()
    set_variable(scope, "a", np.arange(1_000_000, dtype=np.float32), paddle.CPUPlace())
    view = get_variable(scope, "a", copy=False)
    del scope
    assert view.sum() == pytest.approx(499_999_500_000, rel=1e-6)
