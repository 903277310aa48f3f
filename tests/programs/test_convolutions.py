"""Convolutions by oneDNN: what they compute is what Paddle's own compute, and nothing else of a program changes."""

from typing import Any

import numpy as np
import pytest

from hubflow.modules.networks import image
from hubflow.programs.passes import CONVOLUTIONS, _register_dialect, convolve_by_onednn
from hubflow.runtime.paddle_import import get_variable, leave_dynamic_mode, paddle, set_variable

pytestmark = [
    pytest.mark.skipif(not paddle.base.core.is_compiled_with_onednn(), reason="this Paddle is built without oneDNN"),
    pytest.mark.slow,
]
SHARE_OF_NORM = 0.03


def names(program: Any) -> list[str]:
    return [op.name() for op in program.global_block().ops]


def conv_program(**options: Any) -> tuple[Any, Any, list[Any]]:
    """A convolution with a bias, and the slopes of its input, weights and bias."""
    main, startup = paddle.static.Program(), paddle.static.Program()
    startup.random_seed = 5
    with paddle.static.program_guard(main, startup), paddle.utils.unique_name.guard():
        layer = paddle.nn.Conv2D(8, 16, 3, **options)
        x = paddle.static.data("x", [-1, 8, -1, -1], "float32")
        x.stop_gradient = False
        y = layer(x)
        slopes = paddle.static.gradients([(y * y).sum()], [x, layer.weight, layer.bias])
        return main, startup, [y, *(slope * 1.0 for slope in slopes)]  # a convolution's own results are gone once switched


@pytest.mark.parametrize(
    "options",
    [{"padding": 1}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"groups": 8}],
    ids=str,
)
def test_values_and_slopes_are_those_of_paddles_own(options: dict[str, Any]) -> None:
    leave_dynamic_mode()
    pixels = np.random.default_rng(0).normal(size=(3, 8, 9, 9)).astype("float32")
    found = []
    for is_switched in (False, True):
        main, startup, wanted = conv_program(**options)
        if is_switched:
            kept = [name for name in names(main) if name.removeprefix("pd_op.") not in CONVOLUTIONS]
            assert convolve_by_onednn(main) == 2
            assert [name for name in names(main) if not name.startswith("onednn_op.")] == kept
        scope, executor = paddle.static.Scope(), paddle.static.Executor(paddle.CPUPlace())
        executor.run(startup, scope=scope)
        found.append(executor.run(main, feed={"x": pixels}, fetch_list=wanted, scope=scope))
    for own, by_onednn in zip(*found, strict=True):
        np.testing.assert_allclose(by_onednn, own, atol=2e-4, rtol=1e-4)


LARGE = [pytest.param(name, marks=pytest.mark.soak) for name in ("resnext50_32x4d", "densenet121", "mobilenet_v1")]


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", *LARGE])
def test_a_backbone_computes_and_learns_the_same(architecture: str) -> None:
    leave_dynamic_mode()
    pixels = np.random.default_rng(1).normal(size=(6, 3, 64, 64)).astype("float32")
    found: list[list[Any]] = []
    for is_switched in (False, True):
        main, startup = paddle.static.Program(), paddle.static.Program()
        startup.random_seed = 3
        with paddle.static.program_guard(main, startup):
            network = image.build(architecture, paddle.static.data("image", [-1, 3, -1, -1], "float32"))
            pairs = paddle.static.append_backward((network.feature_map * network.feature_map).mean())
            fetched = [network.feature_map, *(slope * 1.0 for _, slope in pairs if slope is not None)]
        count = convolve_by_onednn(main) if is_switched else 0
        assert names(main).count("onednn_op.batch_norm_") == 0
        assert (count > 0) is is_switched
        scope, executor = paddle.static.Scope(), paddle.static.Executor(paddle.CPUPlace())
        executor.run(startup, scope=scope)
        values = executor.run(main, feed={"image": pixels}, fetch_list=fetched, scope=scope)
        statistics = [get_variable(scope, name) for key, name in network.parameters.items() if key.endswith("_mean")]
        assert any(np.any(value) for value in statistics)  # batch norms are in training mode: their running means move
        found.append([*values, *statistics])
    for own, by_onednn in zip(*found, strict=True):
        # By the norm of what differs: rounding takes a few activations over the corner of a ReLU, and their slopes with them.
        assert np.linalg.norm(by_onednn - own) <= SHARE_OF_NORM * np.linalg.norm(own) + 1e-6


def test_weights_set_between_runs_are_those_of_the_next_run() -> None:
    leave_dynamic_mode()
    main, startup, wanted = conv_program(padding=1)
    convolve_by_onednn(main)
    scope, executor, place = paddle.static.Scope(), paddle.static.Executor(paddle.CPUPlace()), paddle.CPUPlace()
    executor.run(startup, scope=scope)
    feed = {"x": np.ones((1, 8, 5, 5), np.float32)}
    (before,) = executor.run(main, feed=feed, fetch_list=wanted[:1], scope=scope)
    for name in ("conv2d_0.w_0", "conv2d_0.b_0"):
        set_variable(scope, name, 2 * get_variable(scope, name), place)
    (after,) = executor.run(main, feed=feed, fetch_list=wanted[:1], scope=scope)
    np.testing.assert_allclose(after, 2 * before, rtol=1e-5)


def test_the_same_run_twice_gives_the_same_bits() -> None:
    leave_dynamic_mode()
    pixels = np.random.default_rng(2).normal(size=(32, 8, 16, 16)).astype("float32")
    found = []
    for _ in range(2):
        main, startup, wanted = conv_program(padding=1)
        convolve_by_onednn(main)
        scope, executor = paddle.static.Scope(), paddle.static.Executor(paddle.CPUPlace())
        executor.run(startup, scope=scope)
        found.append(executor.run(main, feed={"x": pixels}, fetch_list=wanted, scope=scope))
    assert all(first.tobytes() == again.tobytes() for first, again in zip(*found, strict=True))


def test_the_flag_is_left_as_it_was() -> None:
    leave_dynamic_mode()
    before = paddle.get_flags(["FLAGS_use_mkldnn"])
    _register_dialect.cache_clear()  # it is what sets the flag, once in a process
    convolve_by_onednn(conv_program()[0])
    assert paddle.get_flags(["FLAGS_use_mkldnn"]) == before
