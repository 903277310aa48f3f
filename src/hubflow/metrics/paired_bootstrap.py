"""Paired bootstrap: how far the difference between two models on the same rows is from chance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.metrics.entities import Mode, TagReader, scheme_of
from hubflow.metrics.metrics import ClassCounts, count_metrics, scores_of
from hubflow.schemas.labels import Tagging

CHUNK = 2**22  # numbers drawn at once
Sums = NDArray[np.float64]
Metric = Callable[[Sums], float]


@dataclass(frozen=True)
class PairedValues:
    """What one model gives of each row, so that a metric is a function of the sums over any rows.

    Attributes:
        kinds: which kind of row each is; rows of a kind add the same to the sums `[rows]`.
        parts: what a row of each kind adds `[kinds, numbers]`.
        metric: of sums `[numbers]`.
    """

    kinds: NDArray[np.int64]
    parts: Sums
    metric: Metric

    @property
    def value(self) -> float:
        """The metric of all rows."""
        return self.metric(np.bincount(self.kinds, minlength=len(self.parts)) @ self.parts)


def paired_interval(
    first: PairedValues, second: PairedValues, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile interval of `first`'s metric minus `second`'s, of rows drawn again with replacement, the same for both.

    Rows that are alike for both are drawn together, as one draw of how many of them there are: it is the same distribution.
    """
    pairs, counts = np.unique(first.kinds * len(second.parts) + second.kinds, return_counts=True)
    ours, theirs = first.parts[pairs // len(second.parts)], second.parts[pairs % len(second.parts)]
    total = int(counts.sum())
    generator, differences = np.random.default_rng(seed), []
    at_once = max(1, CHUNK // len(pairs))
    for start in range(0, resamples, at_once):
        drawn = generator.multinomial(total, counts / total, size=min(at_once, resamples - start)).astype(np.float64)
        sums = zip(drawn @ ours, drawn @ theirs, strict=True)
        differences += [first.metric(mine) - second.metric(other) for mine, other in sums]
    outside = (1 - confidence) / 2
    low, high = np.quantile(differences, [outside, 1 - outside])
    return float(low), float(high)


def evaluated_classes(labels: Sequence[str], truth: Sequence[str], predicted: Sequence[str], metric: str) -> PairedValues:
    """Rows of one label each, for a metric of `count_metrics`; a prediction that is none of `labels` is wrong.

    Args:
        labels: that averages are over.
        truth: true label of each row.
        predicted: predicted label of each row.
        metric: its name.
    """
    index, size = {label: place for place, label in enumerate(labels)}, len(labels)
    codes = [index[true] * (size + 1) + index.get(guess, size) for true, guess in zip(truth, predicted, strict=True)]
    found, kinds = np.unique(np.array(codes, np.int64), return_inverse=True)
    true, guess = found // (size + 1), found % (size + 1)
    parts, places = np.zeros((len(found), 3, size + 1), np.float64), np.arange(len(found))
    parts[places, 0, true] = parts[places, 1, guess] = 1
    parts[places, 2, true] = true == guess

    def of(sums: Sums) -> float:
        counts = ClassCounts(size)
        counts.true, counts.predicted, counts.right = sums.reshape(3, size + 1)[:, :size].round().astype(np.int64)
        return count_metrics(counts)[metric]

    return PairedValues(kinds, parts.reshape(len(found), -1), of)


def evaluated_losses(losses: Sequence[float]) -> PairedValues:
    """Rows with a loss each; the metric is their mean, negated, so that more is better."""
    parts = np.stack([np.asarray(losses, np.float64), np.ones(len(losses))], axis=1)
    return PairedValues(np.arange(len(parts)), parts, lambda sums: float(-sums[0] / sums[1]))


def evaluated_tags(
    truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], metric: str, tagging: Tagging | None = None
) -> PairedValues:
    """Sentences of tags, for the accuracy of words, or precision, recall or F1 of entities (`_strict`: by the scheme).

    Args:
        truth: true tags of each sentence.
        predicted: predicted tags of each sentence.
        metric: its name.
        tagging: how labels are read as tags; told by those that occur when not given.
    """
    rows = [(np.array(one, object), np.array(other, object)) for one, other in zip(truth, predicted, strict=True)]
    if metric == "accuracy":
        parts = np.array([[np.sum(one == other), len(one)] for one, other in rows], np.float64)
        return _of_rows(parts, lambda sums: float(sums[0] / max(sums[1], 1)))
    name, _, strict = metric.partition("_")
    parts = _entity_parts(rows, "strict" if strict else "default", tagging)
    place = ("precision", "recall", "f1").index(name)

    def of(sums: Sums) -> float:
        counts = sums.round().astype(np.int64)
        return float(scores_of(counts[:1], counts[1:2], counts[2:])[place][0])

    return _of_rows(parts, of)


def _of_rows(parts: Sums, metric: Metric) -> PairedValues:
    found, kinds = np.unique(parts, axis=0, return_inverse=True)
    return PairedValues(kinds.reshape(-1), found, metric)


def _entity_parts(rows: list[tuple[Any, Any]], mode: Mode, tagging: Tagging | None) -> Sums:
    """Entities of each sentence that are right, predicted and true `[sentences, 3]`."""
    labels = sorted({tag for pair in rows for tags in pair for tag in tags})
    index = {label: place for place, label in enumerate(labels)}
    truth, predicted = ([np.array([index[tag] for tag in pair[side]], np.int64) for pair in rows] for side in (0, 1))
    reader = TagReader(labels, scheme_of(labels, truth, tagging), tagging)
    starts = np.cumsum([0, *(len(tags) + 1 for tags in truth)])  # flat rows have an `O` after each
    true, found = (reader.read(reader.flat(tags), mode) for tags in (truth, predicted))
    of_row = [np.searchsorted(starts, one.first, side="right") - 1 for one in (true, found)]
    counted = (of_row[1][found.among(true)], of_row[1], of_row[0])
    return np.stack([np.bincount(owners, minlength=len(rows)) for owners in counted], axis=1).astype(np.float64)
