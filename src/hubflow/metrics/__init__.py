"""Metrics: streaming sums over rows, exact metrics, bootstrap intervals."""

from collections.abc import Sequence
from typing import Any

from hubflow.metrics.classification import ClassCounts, ClassificationMetrics
from hubflow.metrics.sequence_labelling import EntityCounts, SequenceLabellingMetrics, TagReader
from hubflow.metrics.streaming import MetricOptions, StreamingCounts, StreamingMetrics
from hubflow.schemas.labels import LabelMap

__all__ = ["MetricOptions", "StreamingCounts", "StreamingMetrics", "counts_for", "metrics_for"]


def metrics_for(
    labels: Any, label_map: LabelMap, options: MetricOptions, is_sequence: bool, others: Sequence[str] = ()
) -> StreamingMetrics:
    """The metrics of a split, with no row evaluated.

    Args:
        labels: true class id of each row `[rows]`; of sequences the ids of the words of each row.
        label_map: that averages over labels are over.
        options: what is measured.
        is_sequence: whether rows are sequences with a label for each word.
        others: labels that predictions may have and the map has not; their ids follow those of the map.

    Raises:
        TagError: when the labels of sequences cannot be read as tags.
    """
    if is_sequence:
        return SequenceLabellingMetrics(labels, label_map, options, others)
    return ClassificationMetrics(labels, label_map.num_classes, options)


def counts_for(label_map: LabelMap, is_sequence: bool) -> StreamingCounts:
    """Counts of no rows, for metrics of predictions alone: by class, or of sequences by type of entity, read leniently.

    Args:
        label_map: the labels.
        is_sequence: whether rows are sequences with a label for each word.

    Raises:
        TagError: when the labels of sequences cannot be read as tags.
    """
    return (
        EntityCounts(TagReader(label_map.labels, "IOB2", label_map.tagging))
        if is_sequence
        else ClassCounts(label_map.num_classes)
    )
