"""Schedules: pinned at known points against the papers' formulas, no jump after warm-up, and drawn once to be looked at."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubflow.schemas.training import TrainSettings
from hubflow.training.optimizers import Schedule, schedule_of, warmup_steps

PEAK = 0.1
KINDS: dict[str, dict[str, Any]] = {
    "constant": {"name": "constant"},
    "linear": {"name": "linear"},
    "cosine": {"name": "cosine"},
    "polynomial": {"name": "polynomial", "power": 3.0, "end_factor": 0.1},
    "noam": {"name": "noam"},
    "slanted_triangular": {"name": "slanted_triangular", "ratio": 8.0},
}
STEEPEST = {"constant": 0.0, "linear": 1.0, "cosine": math.pi / 2, "polynomial": 3.0, "noam": 0.0, "slanted_triangular": 1.0}
"""Largest slope of each decay, in peaks per share of the steps after warm-up; noam's depends on the warm-up alone."""


def schedule(kind: str, total: int, **warmup: Any) -> Schedule:
    values = {"learning_rate": PEAK, "schedule": KINDS[kind], "warmup_proportion": 0.0, **warmup}
    if "warmup_steps" in warmup:
        del values["warmup_proportion"]
    return schedule_of(TrainSettings(**values), total)


def rates_of(one: Schedule) -> list[float]:
    return [one.at(step) for step in range(one.total_steps + 1)]


def reference(kind: str, total: int, warmup: int) -> np.ndarray:
    """Each schedule as its paper writes it, in float64: `[total + 1]`."""
    step = np.arange(total + 1, dtype=np.float64)
    after = np.clip((step - warmup) / (total - warmup), 0, None)
    rising = (step + 1) / (warmup + 1)
    if kind == "slanted_triangular":  # ULMFiT, eq. 3, with cut = warm-up and cut_frac = cut / total
        p = np.where(step < warmup, step / max(warmup, 1), 1 - after)
        return PEAK * (1 + p * (8.0 - 1)) / 8.0
    if kind == "noam":  # Vaswani et al., eq. 3, steps counted from 1, scaled to PEAK at its highest
        count, top = step + 1, warmup + 1
        return PEAK * top**0.5 * np.minimum(count**-0.5, count * top**-1.5)
    decay = {
        "constant": np.ones_like(step),
        "linear": 1 - after,
        "cosine": 0.5 * (1 + np.cos(np.pi * after)),  # SGDR, eq. 5, with lr_min 0 and one period
        "polynomial": (1 - 0.1) * (1 - after) ** 3 + 0.1,
    }[kind]
    return PEAK * np.where(step < warmup, rising, decay)


@pytest.mark.parametrize(("warmup", "steps"), [({}, 0), ({"warmup_proportion": 0.1}, 20), ({"warmup_steps": 30}, 30)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_has_the_rate_of_the_papers_formula(kind: str, warmup: dict[str, Any], steps: int) -> None:
    one = schedule(kind, 200, **warmup)
    assert one.warmup_steps == steps
    np.testing.assert_allclose(rates_of(one), reference(kind, 200, steps), rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("constant", {0: 1 / 11, 4: 5 / 11, 10: 1, 55: 1, 99: 1}),
        ("linear", {0: 1 / 11, 9: 10 / 11, 10: 1, 55: 0.5, 100: 0}),
        ("cosine", {0: 1 / 11, 10: 1, 40: 0.75, 55: 0.5, 70: 0.25, 100: 0}),
        ("polynomial", {0: 1 / 11, 10: 1, 55: 0.1 + 0.9 / 8, 100: 0.1}),
        ("noam", {0: 1 / 11, 10: 1, 43: 0.5, 98: 1 / 3}),
        ("slanted_triangular", {0: 1 / 8, 5: 4.5 / 8, 10: 1, 55: 4.5 / 8, 100: 1 / 8}),
    ],
)
def test_known_points_after_ten_steps_of_warm_up(kind: str, points: dict[int, float]) -> None:
    one = schedule(kind, 100, warmup_steps=10)
    assert {step: one.at(step) / PEAK for step in points} == pytest.approx(points, abs=1e-12)


@given(st.sampled_from(sorted(KINDS)), st.integers(1, 300), st.floats(0, 0.999) | st.integers(0, 400))
def test_rates_rise_to_the_peak_then_never_jump_and_never_leave_their_range(kind: str, total: int, warmup: float) -> None:
    """Defect 9: the decay restarted at step 0 after warm-up, and a small total divided by zero."""
    one = schedule(kind, total, **{"warmup_steps" if isinstance(warmup, int) else "warmup_proportion": warmup})
    rates, top = rates_of(one), one.warmup_steps
    assert all(0 <= rate <= PEAK for rate in rates)
    assert all(rate > 0 for rate in rates[:-1])
    assert 0 <= top < total
    assert rates[top] == PEAK
    rises = [right - left for left, right in itertools.pairwise(rates[: top + 1])]
    assert all(0 < rise <= PEAK / top + 1e-12 for rise in rises)
    slope = 1 / (2 * (top + 1)) if kind == "noam" else STEEPEST[kind] / (total - top)
    for left, right in itertools.pairwise(rates[top:]):
        assert -1e-12 <= left - right <= PEAK * slope + 1e-12


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup", [{}, {"warmup_proportion": 0.9}, {"warmup_steps": 1}, {"warmup_steps": 1000}])
@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_totals_have_rates(kind: str, warmup: dict[str, Any], total: int) -> None:
    """Defect 9: a small total divided by zero; and a warm-up longer than the run must still reach the peak."""
    rates = rates_of(schedule(kind, total, **warmup))[:-1]
    assert all(rate > 0 for rate in rates)
    assert max(rates) == PEAK


@pytest.mark.parametrize(
    ("proportion", "total", "steps"), [(0.1, 651, 65), (0.1, 5, 1), (0.01, 50, 1), (0.0, 50, 0), (0.99, 3, 2), (0.1, 1, 0)]
)
def test_a_share_above_zero_gives_warm_up_steps(proportion: float, total: int, steps: int) -> None:
    """Defect 4: warm-up silently had zero steps."""
    assert warmup_steps(proportion, total) == steps


def test_warm_up_steps_take_the_place_of_the_share_that_is_there_by_default() -> None:
    assert schedule_of(TrainSettings(warmup_steps=0), 100).warmup_steps == 0
    assert schedule_of(TrainSettings(warmup_steps=7), 100).warmup_steps == 7
    assert schedule_of(TrainSettings(), 100).warmup_steps == 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_has_the_rates_of_one_that_was_not_stopped(kind: str) -> None:
    whole = rates_of(schedule(kind, 50, warmup_steps=9))
    for start in (0, 5, 9, 10, 49):
        again = schedule(kind, 50, warmup_steps=9)
        assert [again.at(step) for step in range(start, 51)] == whole[start:]


def test_all_schedules_are_drawn(tmp_path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    warmups: dict[str, dict[str, Any]] = {"none": {}, "a tenth": {"warmup_proportion": 0.1}, "25": {"warmup_steps": 25}}
    figure, places = pyplot.subplots(2, 3, figsize=(12, 6), sharex=True, sharey=True)
    for kind, place in zip(KINDS, places.flat, strict=True):
        place.set_title(kind)
        for name, warmup in warmups.items():
            place.plot(rates_of(schedule(kind, 100, **warmup)), label=f"warm-up: {name}")
    places.flat[0].legend()
    path = tmp_path / "schedules.png"
    figure.savefig(path)
    drawn = {
        place.get_title(): [np.asarray(line.get_ydata(), np.float64) for line in place.get_lines()] for place in places.flat
    }
    pyplot.close(figure)
    height, width, _ = pyplot.imread(path).shape
    assert (height, width) == (600, 1200)
    assert drawn.keys() == KINDS.keys()
    for kind, curves in drawn.items():
        for curve, steps in zip(curves, (0, 10, 25), strict=True):
            assert curve.argmax() == steps
            np.testing.assert_allclose(curve, reference(kind, 100, steps), rtol=1e-12, atol=1e-17)
    flat = [curve for curves in drawn.values() for curve in curves]
    assert not any(np.allclose(left, right) for left, right in itertools.combinations(flat, 2))
