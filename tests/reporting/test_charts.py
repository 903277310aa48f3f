"""Charts: axes with round values around every point, and lines that stay small however long a run is."""

import numpy as np
import pytest

from hubflow.reporting.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Series, line_chart, thinned, ticks


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.69), (0.5, 0.5), (0, 0), (-3.2, 7.7), (1e-6, 5e-5), (3, 123_456)])
def test_ticks_are_round_and_hold_every_value(low: float, high: float) -> None:
    values = ticks(low, high)
    assert values[0] <= low and high <= values[-1]
    assert 2 <= len(values) <= 8
    step = values[1] - values[0]
    assert f"{step:.0e}"[0] in "125"
    assert np.allclose(np.diff(values), step)


def test_points_lie_inside_the_axes() -> None:
    chart = line_chart("loss", [Series("train", np.array([1.0, 5, 9]), np.array([0.9, 0.1, 0.4]))], "", marked=1)
    points = np.array([[float(part) for part in point.split(",")] for point in chart.lines[0].points.split()])
    assert ((points[:, 0] >= LEFT) & (points[:, 0] <= WIDTH - RIGHT)).all()
    assert ((points[:, 1] >= TOP) & (points[:, 1] <= HEIGHT - BOTTOM)).all()
    assert points[0, 1] < points[2, 1] < points[1, 1]  # down is more in SVG
    assert chart.marked is not None and tuple(chart.marked[:2]) == tuple(points[1])


def test_a_long_run_is_drawn_by_means() -> None:
    steps = np.arange(1.0, 100_001)
    x, y = thinned(steps, np.sin(steps / 20_000))
    assert len(x) == len(y) <= 240
    assert abs(y.mean() - np.sin(steps / 20_000).mean()) < 1e-3
