"""Bootstrap: rows drawn again with replacement, and the percentile intervals that they give, of one model or of a pair."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hubflow.metrics.streaming import Floats, Ids, StreamingMetrics
from hubflow.schemas.evaluation import Interval
from hubflow.schemas.settings import BootstrapSettings

VALUES_AT_ONCE = 200_000  # few enough for a processor's cache
ROWS_PER_KIND = 10
"""From so many rows of a kind on, drawing how many of each kind there are is faster than drawing rows."""


def bootstrap_weights(rows: int | Ids, resamples: int, seed: int, at_once: int = 0) -> Iterator[NDArray[np.int64]]:
    """How often each row is drawn, in parts: `[part, rows]`, each line the sum of as many draws as there are rows.

    The same rows, resamples and seed give the same draws, however they are parted, so that two models can be compared on the
    same ones. Rows that are alike can be given as one kind: how many rows of the kind are drawn has the same distribution.

    Args:
        rows: of the split; or how many rows there are of each kind `[kinds]`, and the weights are `[part, kinds]`.
        resamples: lines in all.
        seed: of the draws.
        at_once: lines of a part; by default so many that a part has about VALUES_AT_ONCE values.
    """
    generator = np.random.default_rng(seed)
    counts = np.ones(rows, np.int64) if isinstance(rows, int) else rows
    total, kinds = int(counts.sum()), len(counts)
    is_grouped = kinds * ROWS_PER_KIND <= total
    kind_of = None if kinds == total else np.repeat(np.arange(kinds), counts)
    lines = at_once or max(1, VALUES_AT_ONCE // max(kinds if is_grouped else total, 1))
    for start in range(0, resamples, lines):
        count = min(lines, resamples - start)
        if is_grouped:
            yield generator.multinomial(total, counts / total, size=count)
            continue
        drawn = generator.integers(0, total, (count, total))
        drawn = drawn if kind_of is None else kind_of[drawn]
        drawn += kinds * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * kinds).reshape(count, kinds)


def bootstrap_intervals(metrics: StreamingMetrics, settings: BootstrapSettings) -> tuple[dict[str, Interval], list[str]]:
    """Percentile intervals of every metric that rows drawn again give (Efron and Tibshirani, 1993, chapter 13), and notes.

    Sentences are drawn whole, as their words are not independent. Memory is VALUES_AT_ONCE values whatever the rows, and rows
    times calibration bins.

    Args:
        metrics: of the split.
        settings: how many resamples, their seed, and the confidence of the intervals.

    Returns:
        The interval of each metric by name, and what was left out and why; nothing of no resamples, or no rows.
    """
    rows = len(metrics.rows)
    if settings.resamples == 0 or rows == 0:
        return {}, []
    statistics = metrics.statistics(settings.resamples)
    parts: dict[str, list[Floats]] = {}
    at_once = max(1, VALUES_AT_ONCE // statistics.width)
    for weights in bootstrap_weights(rows, settings.resamples, settings.seed, at_once):
        for name, values in statistics(weights).items():
            parts.setdefault(name, []).append(values)
    found = {}
    for name, lines in parts.items():
        values = np.concatenate(lines)
        values = values[~np.isnan(values)]
        if len(values):
            low, high = _percentiles(values, settings.confidence)
            found[name] = Interval(low=low, high=high)
    return found, statistics.notes


def improvement(first: float, second: float, lower_is_better: bool) -> float:
    """By how much the first value of a metric is better than the second: positive when it is, whichever way is better."""
    return second - first if lower_is_better else first - second


def paired_interval(
    first: StreamingMetrics,
    second: StreamingMetrics,
    metric: str,
    lower_is_better: bool,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[float, float]:
    """Percentile interval of the `improvement` of `first` over `second`, of rows drawn again, the same for both.

    Rows that are alike for both count as one kind, so that the time is that of the kinds and not of the rows.

    Args:
        first: metrics of one model.
        second: metrics of the other model, of the same rows.
        metric: that both have.
        lower_is_better: whether its smallest value is the best.
        resamples: how often rows are drawn.
        confidence: of the interval, 0..1.
        seed: of the draws.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: when the rows that were evaluated are not the same.
    """
    if not np.array_equal(first.rows, second.rows):
        raise ValueError(f"{len(first.rows)} and {len(second.rows)} rows were evaluated, and they are not the same")
    ours, theirs = first.row_kinds(metric), second.row_kinds(metric)
    _, places, counts = np.unique(ours * (int(theirs.max()) + 1) + theirs, return_index=True, return_counts=True)
    one, other = (metrics.statistics(resamples, metrics.rows[places], metric) for metrics in (first, second))
    at_once = max(1, VALUES_AT_ONCE // max(one.width, other.width))
    differences = [
        improvement(one(weights)[metric], other(weights)[metric], lower_is_better)  # type: ignore[arg-type]
        for weights in bootstrap_weights(counts, resamples, seed, at_once)
    ]
    return _percentiles(np.concatenate(differences), confidence)


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
