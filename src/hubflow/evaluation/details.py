"""Details of a split beyond its metrics: scores by label, confusion matrix, calibration and worst mistakes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hubflow.evaluation.custom_metrics import CustomMetric, metrics_identity
from hubflow.evaluation.slices import EvaluatedSplit, slices_of
from hubflow.metrics.intervals import intervals_of
from hubflow.schemas.evaluation import (
    Calibration,
    CalibrationBin,
    ClassScore,
    ConfusedPair,
    Confusion,
    Mistake,
    Scores,
    SplitDetails,
)
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.settings import EvaluateSettings

if TYPE_CHECKING:
    from hubflow.metrics.classification import Calibration as CalibrationSums
    from hubflow.metrics.classification import ClassificationMetrics, MetricOptions
    from hubflow.metrics.metrics import ClassCounts
    from hubflow.metrics.sequence_labelling import SequenceLabellingMetrics

MAX_MATRIX_LABELS = 100
MAX_PAIRS = 200


def confusion_of(labels: NDArray[np.int64], predicted: NDArray[np.int64], names: Sequence[str]) -> Confusion:
    """Which labels were taken for which, bounded: a matrix up to MAX_MATRIX_LABELS labels, and the MAX_PAIRS worst pairs.

    Args:
        labels: true label ids `[examples]`.
        predicted: predicted label ids `[examples]`.
        names: of the labels.
    """
    size = len(names)
    cells, counts = np.unique(labels * size + predicted, return_counts=True)
    true, guess = np.divmod(cells, size)
    matrix = None
    if size <= MAX_MATRIX_LABELS:
        dense = np.zeros(size * size, np.int64)
        dense[cells] = counts
        matrix = dense.reshape(size, size).tolist()
    wrong = np.flatnonzero(true != guess)
    worst = wrong[np.argsort(-counts[wrong], kind="stable")]
    pairs = [
        ConfusedPair(label=names[true[place]], predicted=names[guess[place]], count=int(counts[place]))
        for place in worst[:MAX_PAIRS]
    ]
    shown = None if matrix is None else list(names)
    return Confusion(labels=shown, counts=matrix, pairs=pairs, left_out=max(0, len(worst) - MAX_PAIRS))


MAX_TEXT = 400
CONTENT = ("text", "text_pair", "tokens", "path")


def worst_mistakes(evaluated: EvaluatedSplit, count: int) -> list[Mistake]:
    """The `count` wrong rows of the largest loss, largest first; of sentences those with a wrong word."""
    from hubflow.metrics.classification import ClassificationMetrics

    judge, rows, positions = evaluated.judge, evaluated.rows, evaluated.positions
    if isinstance(judge, ClassificationMetrics):
        is_wrong = judge.labels[rows] != judge.predicted[rows]
    else:
        is_wrong = judge.row_sums[rows, 0] < judge.row_sums[rows, 1]
    wrong = np.flatnonzero(is_wrong)
    worst = wrong[np.argsort(-judge.losses[rows[wrong]], kind="stable")][:count]
    present = pq.read_schema(evaluated.data).names
    columns = ["row", *(name for name in CONTENT if name in present)]
    content = pq.read_table(evaluated.data, columns=columns).take(positions[worst]).to_pylist()
    return [
        _mistake(judge, int(rows[place]), int(positions[place]), row, evaluated.label_map)
        for place, row in zip(worst.tolist(), content, strict=True)
    ]


def _mistake(
    judge: "ClassificationMetrics | SequenceLabellingMetrics",
    row: int,
    position: int,
    content: dict[str, Any],
    label_map: LabelMap,
) -> Mistake:
    from hubflow.metrics.classification import ClassificationMetrics

    number = content.pop("row")
    texts = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in content.items()}
    return Mistake(
        row=number,
        position=position,
        label=_named(judge.labels[row], label_map),
        predicted=_named(judge.predicted[row], label_map),
        loss=float(judge.losses[row]),
        probability=float(judge.confidence[row]) if isinstance(judge, ClassificationMetrics) else None,
        content=texts,
    )


def _named(ids: Any, label_map: LabelMap) -> str | list[str]:
    return [label_map.labels[one] for one in ids] if np.ndim(ids) else label_map.labels[int(ids)]


SCORED_CLASSES = 200
"""Up to so many labels the probability of each is kept for each row, and ROC-AUC is computed."""


def metric_options(settings: EvaluateSettings) -> "MetricOptions":
    """What the stages measure, which is more than what is measured while training."""
    from hubflow.metrics.classification import MetricOptions

    return MetricOptions(settings.top_k, settings.calibration_bins, SCORED_CLASSES, settings.scheme)


def identity_of(settings: EvaluateSettings, own: Mapping[str, CustomMetric]) -> dict[str, Any]:
    """What an evaluation is a function of beside model and rows."""
    return {"settings": settings.model_dump(mode="json", exclude={"batch_size"}), "custom_metrics": metrics_identity(own)}


def split_details(evaluated: EvaluatedSplit, settings: EvaluateSettings) -> SplitDetails:
    """What is known of a split beyond its flat metrics.

    Raises:
        SettingsError: when the data has no column that the settings slice by.
    """
    judge, label_map, bootstrap = evaluated.judge, evaluated.label_map, settings.bootstrap
    intervals, notes = intervals_of(judge, bootstrap)
    return SplitDetails(
        **_scores(judge, label_map),
        rows=len(evaluated.rows),
        calibration=_calibration(judge.calibration),
        slices=slices_of(evaluated, settings.slices, bootstrap.confidence),
        intervals=intervals,
        confidence=bootstrap.confidence if intervals else None,
        resamples=bootstrap.resamples if intervals else 0,
        worst=worst_mistakes(evaluated, settings.worst_mistakes),
        notes=[*_left_out(judge, label_map), *notes],
    )


def _scores(judge: "ClassificationMetrics | SequenceLabellingMetrics", label_map: LabelMap) -> dict[str, Any]:
    """Those fields of the details that come from counts alone."""
    from hubflow.metrics.classification import ClassificationMetrics

    rows, names = judge.rows, label_map.labels
    if isinstance(judge, ClassificationMetrics):
        scores = _scores_by_name(judge.counts, names, judge.areas.tolist())
        confusion = confusion_of(judge.labels[rows], judge.predicted[rows], names)
        top = {k: float((judge.ranks[rows] < k).mean()) for k in judge.top_k}
        return {**dict(scores), "confusion": confusion, "top_k": top}
    by_mode = {mode: _scores_by_name(counts, judge.reader.kinds, occurring=True) for mode, counts in judge.entities.items()}
    words = [np.concatenate([one[row] for row in rows.tolist()]) for one in (judge.labels, judge.predicted)]
    return {
        **dict(by_mode["default"]),
        "strict": by_mode["strict"],
        "per_tag": _scores_by_name(judge.words, names).per_class,
        "scheme": judge.reader.scheme,
        "confusion": confusion_of(words[0], words[1], names),
    }


def _scores_by_name(
    counts: "ClassCounts", names: Sequence[str], areas: Sequence[float] = (), occurring: bool = False
) -> Scores:
    """Scores by name of the class, and their means; over those alone that occur, as seqeval has it, when `occurring`."""
    from hubflow.metrics.metrics import averages

    columns = [*counts.scores(), counts.true, counts.predicted]
    by_name = {
        name: ClassScore(
            precision=precision,
            recall=recall,
            f1=f1,
            support=support,
            predicted=predicted,
            roc_auc=None if np.isnan(area) else area,
        )
        for name, area, precision, recall, f1, support, predicted in zip(
            names, areas or [float("nan")] * len(names), *(column.tolist() for column in columns), strict=True
        )
    }
    kept = (counts.true + counts.predicted > 0) | (not occurring)
    return Scores(per_class=by_name, averages=averages(counts.right[kept], counts.predicted[kept], counts.true[kept]))


def _calibration(sums: "CalibrationSums") -> Calibration:
    edges = np.linspace(0, 1, len(sums.count) + 1).tolist()
    counts = np.maximum(sums.count, 1)
    bins = zip(edges[:-1], edges[1:], sums.count, sums.confidence / counts, sums.right / counts, strict=True)
    return Calibration(
        ece=sums.error,
        bins=[
            CalibrationBin(low=low, high=high, count=int(count), confidence=float(confidence), accuracy=float(accuracy))
            for low, high, count, confidence, accuracy in bins
        ],
    )


def _left_out(judge: "ClassificationMetrics | SequenceLabellingMetrics", label_map: LabelMap) -> list[str]:
    """What was not computed, and why."""
    from hubflow.metrics.classification import ClassificationMetrics

    if not isinstance(judge, ClassificationMetrics):
        return []
    if judge.scores is None:
        return [
            f"{judge.num_classes} labels: the probability of each label, and ROC-AUC, are kept up to {SCORED_CLASSES} labels; "
            "of more each row has that of its predicted label"
        ]
    undefined = int(np.isnan(judge.areas).sum())
    if not undefined:
        return []
    return [f"roc_auc is not defined of {undefined} of {label_map.num_classes} labels, which no row or every row has"]
