"""Charts as coordinates of inline SVG: the history of a training, and reliability diagrams."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hubflow.schemas.evaluation import Calibration, CalibrationBin
from hubflow.schemas.frames import require_evaluations, require_steps
from hubflow.schemas.references import CheckpointRef

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 38
MAX_POINTS = 240
TICKS = 4
MANY, FEW = 1e6, 1e-4  # from where a tick is written with an exponent
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tick:
    """A position on an axis, in SVG units, and the value that it stands for."""

    position: float
    text: str


@dataclass(frozen=True)
class Line:
    """One series: its points as SVG coordinates; few are drawn as dots too. `mark` is a class of the page's style."""

    name: str
    points: str
    dots: tuple[tuple[float, float, str], ...]
    mark: str = ""


@dataclass(frozen=True)
class Box:
    """A bar behind the lines."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class LineChart:
    """Lines over one pair of axes, in a box of WIDTH by HEIGHT.

    Attributes:
        title: what is drawn.
        note: a sentence of its ends, for those who do not see the lines.
        lines: the second is drawn dashed.
        across: ticks of the horizontal axis.
        up: ticks of the vertical axis.
        axis: what the horizontal axis counts.
        marked: a point that stands out, with what it is; None when there is none.
        bars: behind the lines.
    """

    title: str
    note: str
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    axis: str
    marked: tuple[float, float, str] | None = None
    bars: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Series:
    """What a line is drawn of: `x` and `y` of one length, finite; one with a `mark`, a class of the style, has no dots."""

    name: str
    x: Floats
    y: Floats
    mark: str = ""


@dataclass(frozen=True)
class Bar:
    """What a bar is drawn of, in the values of the axes: from `low` to `high` across, from 0 up to `y`."""

    low: float
    high: float
    y: float
    title: str


def line_chart(
    title: str,
    series: Sequence[Series],
    note: str,
    axis: str = "step",
    marked: int | None = None,
    bars: Sequence[Bar] = (),
    axes: Sequence[float] | None = None,
) -> LineChart:
    """Lines over axes that start and end at round values.

    Args:
        title: what is drawn.
        series: one or two lines, none of them empty.
        note: a sentence about them.
        axis: what `x` counts.
        marked: index of a point of the last series that stands out.
        bars: behind the lines.
        axes: ticks of both axes; those that hold every point when not given.
    """
    across = axes or ticks(0.0, max(one.x.max() for one in series), is_whole=True)
    up = axes or ticks(min(one.y.min() for one in series), max(one.y.max() for one in series))
    to_x, to_y = _scale(across, LEFT, WIDTH - RIGHT), _scale(up, HEIGHT - BOTTOM, TOP)
    lines = tuple(_line(one, to_x, to_y, one.mark or ("second" if position else "")) for position, one in enumerate(series))
    boxes = tuple(_box(bar, to_x, to_y) for bar in bars)
    point = None
    if marked is not None:
        x, y = series[-1].x[marked], series[-1].y[marked]
        point = (to_x(x), to_y(y), f"{axis} {x:g}: {y:.4g}")
    return LineChart(title, note, lines, _ticks(across, to_x), _ticks(up, to_y), axis, point, boxes)


def ticks(low: float, high: float, is_whole: bool = False) -> list[float]:
    """Up to about TICKS + 2 round values, the first at or below `low`, the last at or above `high`."""
    if high - low <= abs(high) * 1e-12:  # a flat line is drawn through the middle
        low, high = (low - 1, high + 1) if is_whole else (low - (abs(low) / 10 or 1), high + (abs(high) / 10 or 1))
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    if is_whole:
        step = max(1.0, float(round(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def thinned(x: Floats, y: Floats, most: int = MAX_POINTS) -> tuple[Floats, Floats]:
    """At most `most` points: means of neighbours where there are more."""
    if len(x) <= most:
        return x, y
    parts = [np.array_split(values, most) for values in (x, y)]
    return np.array([part.mean() for part in parts[0]]), np.array([part.mean() for part in parts[1]])


def _line(one: Series, to_x: Any, to_y: Any, mark: str) -> Line:
    x, y = thinned(one.x, one.y)
    places = [(to_x(a), to_y(b)) for a, b in zip(x, y, strict=True)]
    points = " ".join(f"{a:g},{b:g}" for a, b in places)
    is_few = len(places) <= MAX_POINTS // 10 and not one.mark
    texts = [f"{one.name}, {a:g}: {b:.4g}" for a, b in zip(x, y, strict=True)]
    dots = tuple((a, b, text) for (a, b), text in zip(places, texts, strict=True)) if is_few else ()
    return Line(one.name, points, dots, mark)


def _box(bar: Bar, to_x: Any, to_y: Any) -> Box:
    left, right, top, bottom = to_x(bar.low), to_x(bar.high), to_y(bar.y), to_y(0.0)
    return Box(left, top, round(right - left, 1), round(bottom - top, 1), bar.title)


def _scale(values: Sequence[float], start: float, end: float) -> Any:
    low, wide = values[0], values[-1] - values[0]

    def to_position(value: float) -> float:
        return round(start + (end - start) * (float(value) - low) / wide, 1)

    return to_position


def _ticks(values: Sequence[float], to_position: Any) -> tuple[Tick, ...]:
    return tuple(Tick(to_position(value), brief(value, values[1] - values[0])) for value in values)


def brief(value: float, step: float) -> str:
    """A tick's value with as many digits as its step needs."""
    if abs(value) < step / 1e6:
        return "0"
    if abs(value) >= MANY or step < FEW:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


PLACE = ("step", "epoch", "loss")


def training_charts(folder: Path, checkpoint: CheckpointRef) -> list[LineChart]:
    """Loss of training and dev, the metric that picked the weights and the others, learning rate and norm of the gradient.

    Args:
        folder: of the checkpoint, with `steps.parquet` (`TrainingSteps`) and `evaluations.parquet` (`Evaluations`).
        checkpoint: says which metric picked the weights, and in which epoch.

    Raises:
        ContractError: when either table breaks its contract.
    """
    steps = require_steps(pd.read_parquet(folder / "steps.parquet"), "steps.parquet")
    evaluated = require_evaluations(
        pd.read_parquet(folder / "evaluations.parquet"), "evaluations.parquet", checkpoint.task.task
    )
    loss = [Series("train", *_points(steps, "loss"))]
    if len(evaluated) and "loss" in evaluated:
        loss.append(Series("dev", *_points(evaluated, "loss")))
    by_metric = {
        name: Series("dev", *_points(evaluated, name)) for name in evaluated.columns if len(evaluated) and name not in PLACE
    }
    first, best = by_metric.pop(checkpoint.best_metric, None), _best(evaluated, checkpoint)
    charts = [_chart("Loss", loss, best if checkpoint.best_metric == "loss" else None)]
    charts += [_chart(f"{checkpoint.best_metric} on dev", [first], best)] if first is not None else []
    for title, column in (("Learning rate", "learning_rate"), ("Norm of the gradient", "grad_norm")):
        charts.append(_chart(title, [Series("train", *_points(steps, column))]))
    return charts + [_chart(f"{name} on dev", [one]) for name, one in by_metric.items() if len(evaluated) > 1]


def _chart(title: str, series: list[Series], marked: int | None = None) -> LineChart:
    ends = [f"{one.name} {one.y[0]:.4g} → {one.y[-1]:.4g}" for one in series]
    return line_chart(title, series, ", ".join(ends), marked=marked)


def _points(frame: pd.DataFrame, column: str) -> tuple[Floats, Floats]:
    return frame["step"].to_numpy(float), frame[column].to_numpy(float)


def _best(evaluated: "pd.DataFrame", checkpoint: CheckpointRef) -> int | None:
    """Which evaluation the weights that were kept come from."""
    if checkpoint.best_value is None or checkpoint.best_metric not in evaluated:
        return None
    values: Any = evaluated[checkpoint.best_metric].to_numpy(float)
    same = np.flatnonzero(values == checkpoint.best_value)
    return int(same[0]) if len(same) else None


EVEN = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
DIAGONAL = np.array([0.0, 1.0])


def calibration_chart(calibration: Calibration | None, unit: str) -> LineChart | None:
    """Fraction that is right over the mean probability of what was predicted, with the share of rows in each bin behind it.

    Guo et al., arXiv:1706.04599, figure 1; a point is at the mean probability of its bin, not at the bin's middle.

    Args:
        calibration: of a split.
        unit: what was counted: rows, or words.

    Returns:
        None where nothing was counted.
    """
    bins = [one for one in calibration.bins if one.count] if calibration is not None else []
    total = sum(one.count for one in bins)
    if not total:
        return None
    confidence, accuracy = (np.array([getattr(one, name) for one in bins]) for name in ("confidence", "accuracy"))
    shares = [Bar(one.low, one.high, one.count / total, _said(one, unit)) for one in bins]
    return line_chart(
        "Fraction that is right",
        [Series("this model", confidence, accuracy), Series("as right as sure", DIAGONAL, DIAGONAL, "ideal")],
        f"bars: share of the {unit}",
        axis="probability of what was predicted",
        bars=shares,
        axes=EVEN,
    )


def _said(one: CalibrationBin, unit: str) -> str:
    return f"{one.count} {unit} from {one.low:.3g} to {one.high:.3g}: {one.confidence:.3f} sure, {one.accuracy:.3f} right"


MAX_LABEL_CHARS = 40
"""Labels are cut so in tables; whole ones are in the mistakes."""


def cut_label(label: str) -> str:
    """A label as tables show it."""
    return label if len(label) <= MAX_LABEL_CHARS else f"{label[:MAX_LABEL_CHARS]}…"
