"""Confidence intervals of the metrics of a split."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hubflow.metrics.bootstrap import VALUES_AT_ONCE, bootstrap_weights
from hubflow.metrics.weighted import ClassStatistics, SequenceStatistics
from hubflow.schemas.evaluation import Interval
from hubflow.schemas.settings import BootstrapSettings

if TYPE_CHECKING:
    from hubflow.metrics.classification import ClassificationMetrics
    from hubflow.metrics.sequence_labelling import SequenceLabellingMetrics


def intervals_of(
    judge: "ClassificationMetrics | SequenceLabellingMetrics", settings: BootstrapSettings
) -> tuple[dict[str, Interval], list[str]]:
    """Percentile intervals of every metric that rows drawn again give (Efron and Tibshirani, 1993, chapter 13), and notes.

    Sentences are drawn whole, as their words are not independent. Memory is VALUES_AT_ONCE values whatever the rows, and rows
    times calibration bins.
    """
    from hubflow.metrics.classification import ClassificationMetrics

    rows = len(judge.rows)
    if settings.resamples == 0 or rows == 0:
        return {}, []
    notes = []
    if isinstance(judge, ClassificationMetrics):
        statistics: ClassStatistics | SequenceStatistics = ClassStatistics(judge, settings.resamples)
        wide = max(rows, judge.num_classes)
        if judge.scores is not None and not statistics.has_areas:  # type: ignore[union-attr]
            notes.append(f"no interval of roc_auc: {rows} rows of {judge.num_classes} labels are too many to draw again")
    else:
        statistics, wide = SequenceStatistics(judge), rows
        notes.append("no interval of ece, which is over words: rows are drawn whole")
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for weights in bootstrap_weights(rows, settings.resamples, settings.seed, max(1, VALUES_AT_ONCE // wide)):
        for name, values in statistics(weights).items():
            parts.setdefault(name, []).append(values)
    tail = (1 - settings.confidence) / 2
    found = {}
    for name, lines in parts.items():
        values = np.concatenate(lines)
        values = values[~np.isnan(values)]
        if len(values):
            low, high = np.quantile(values, [tail, 1 - tail])
            found[name] = Interval(low=float(low), high=float(high))
    return found, notes
