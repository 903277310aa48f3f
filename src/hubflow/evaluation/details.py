"""Details of a split beyond its metrics: scores by label, confusion matrix, calibration and worst mistakes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hubflow.evaluation.custom_metrics import CustomMetric, metrics_identity
from hubflow.evaluation.slices import EvaluatedSplit, slices_of
from hubflow.metrics import MetricOptions, StreamingMetrics
from hubflow.metrics.bootstrap import bootstrap_intervals
from hubflow.metrics.streaming import Calibration as CalibrationSums
from hubflow.schemas.evaluation import Calibration, CalibrationBin, Mistake, SplitDetails
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.settings import EvaluateSettings

MAX_TEXT = 400
CONTENT = ("text", "text_pair", "tokens", "path")


def worst_mistakes(evaluated: EvaluatedSplit, count: int) -> list[Mistake]:
    """The `count` wrong rows of the largest loss, largest first; of sentences those with a wrong word."""
    metrics, rows, positions = evaluated.metrics, evaluated.rows, evaluated.positions
    wrong = np.flatnonzero(metrics.is_wrong())
    worst = wrong[np.argsort(-metrics.losses[rows[wrong]], kind="stable")][:count]
    present = pq.read_schema(evaluated.data).names
    columns = ["row", *(name for name in CONTENT if name in present)]
    content = pq.read_table(evaluated.data, columns=columns).take(positions[worst]).to_pylist()
    return [
        _mistake(metrics, int(rows[position]), int(positions[position]), row, evaluated.label_map)
        for position, row in zip(worst.tolist(), content, strict=True)
    ]


def _mistake(metrics: StreamingMetrics, row: int, position: int, content: dict[str, Any], label_map: LabelMap) -> Mistake:
    number = content.pop("row")
    texts = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in content.items()}
    return Mistake(
        row=number,
        position=position,
        label=_named(metrics.labels[row], label_map),
        predicted=_named(metrics.predicted[row], label_map),
        loss=float(metrics.losses[row]),
        probability=metrics.row_probability(row),
        content=texts,
    )


def _named(ids: Any, label_map: LabelMap) -> str | list[str]:
    return [label_map.labels[one] for one in ids] if np.ndim(ids) else label_map.labels[int(ids)]


SCORED_CLASSES = 200
"""Up to so many labels the probability of each is kept for each row, and ROC-AUC is computed."""


def metric_options(settings: EvaluateSettings) -> MetricOptions:
    """What the stages measure, which is more than what is measured while training."""
    return MetricOptions(settings.top_k, settings.calibration_bins, SCORED_CLASSES, settings.scheme)


def identity_of(settings: EvaluateSettings, own: Mapping[str, CustomMetric]) -> dict[str, Any]:
    """What an evaluation is a function of beside model and rows."""
    return {"settings": settings.model_dump(mode="json", exclude={"batch_size"}), "custom_metrics": metrics_identity(own)}


def split_details(evaluated: EvaluatedSplit, settings: EvaluateSettings) -> SplitDetails:
    """What is known of a split beyond its flat metrics.

    Raises:
        SettingsError: when the data has no column that the settings slice by.
    """
    metrics, bootstrap = evaluated.metrics, settings.bootstrap
    intervals, notes = bootstrap_intervals(metrics, bootstrap)
    return SplitDetails(
        **metrics.details(evaluated.label_map.labels),
        rows=len(evaluated.rows),
        calibration=_calibration(metrics.calibration),
        slices=slices_of(evaluated, settings.slices, bootstrap.confidence),
        intervals=intervals,
        confidence=bootstrap.confidence if intervals else None,
        resamples=bootstrap.resamples if intervals else 0,
        worst=worst_mistakes(evaluated, settings.worst_mistakes),
        notes=[*metrics.notes(), *notes],
    )


def _calibration(sums: CalibrationSums) -> Calibration:
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
