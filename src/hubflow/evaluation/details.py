"""Details of a split from what was summed over its rows. Must not import Paddle."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hubflow.evaluation.confusion import confusion_of
from hubflow.evaluation.custom_metrics import CustomMetric, metrics_identity
from hubflow.evaluation.evaluated_split import EvaluatedSplit
from hubflow.evaluation.mistakes import worst_mistakes
from hubflow.evaluation.slices import slices_of
from hubflow.metrics.intervals import intervals_of
from hubflow.schemas.evaluate_settings import EvaluateSettings
from hubflow.schemas.evaluation import Calibration, CalibrationBin, ClassScore, Scores, SplitDetails
from hubflow.schemas.labels import LabelMap

if TYPE_CHECKING:
    from hubflow.metrics.classification import Calibration as CalibrationSums
    from hubflow.metrics.classification import ClassificationMetrics, MetricOptions
    from hubflow.metrics.metrics import ClassCounts
    from hubflow.metrics.sequence_labelling import SequenceLabellingMetrics

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
