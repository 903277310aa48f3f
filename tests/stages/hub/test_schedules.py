"""Schedules: a warm-up that has steps, and a decay that goes on where it ends."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubflow.stages.hub.schedules import DECAYS, Schedule, warmup_steps

PEAK = 0.1


@given(st.sampled_from(sorted(DECAYS)), st.integers(1, 300), st.floats(0, 0.999))
def test_rates_rise_to_the_peak_then_never_jump_and_never_leave_their_range(decay: str, total: int, proportion: float) -> None:
    """Defect 9: the decay restarted at step 0 after warm-up, and a small total divided by zero."""
    warmup = warmup_steps(proportion, total)
    schedule = Schedule(decay, PEAK, total, warmup)
    rates = [schedule.at(step) for step in range(total + 1)]
    assert all(0 <= rate <= PEAK for rate in rates)
    assert rates[0] > 0
    assert rates[warmup] == PEAK
    assert all(left < right for left, right in itertools.pairwise(rates[: warmup + 1]))
    after = max(1, total - warmup)
    for left, right in zip(rates[warmup:], rates[warmup + 1 :], strict=False):
        assert 0 <= left - right <= PEAK * 1.6 / after + 1e-12


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("proportion", [0.0, 0.1, 0.9])
def test_the_smallest_totals_have_rates(total: int, proportion: float) -> None:
    """Defect 9: a small total divided by zero."""
    for decay in DECAYS:
        schedule = Schedule(decay, PEAK, total, warmup_steps(proportion, total))
        assert all(schedule.at(step) > 0 for step in range(total))


@pytest.mark.parametrize(
    ("proportion", "total", "steps"), [(0.1, 651, 65), (0.1, 5, 1), (0.01, 50, 1), (0.0, 50, 0), (0.99, 3, 2), (0.1, 1, 0)]
)
def test_a_share_above_zero_gives_warm_up_steps(proportion: float, total: int, steps: int) -> None:
    """Defect 4: warm-up silently had zero steps."""
    assert warmup_steps(proportion, total) == steps


def test_the_shapes_are_what_they_are_called() -> None:
    linear, cosine, constant = (Schedule(name, 1.0, 100, 0) for name in ("linear", "cosine", "constant"))
    assert linear.at(25) == pytest.approx(0.75)
    assert linear.at(100) == 0
    assert cosine.at(50) == pytest.approx(0.5)
    assert cosine.at(100) == pytest.approx(0)
    assert {constant.at(step) for step in range(100)} == {1.0}
