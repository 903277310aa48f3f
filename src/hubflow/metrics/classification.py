"""Evaluating a classification: batches of log probabilities, in any order, summed in one pass."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.metrics.metrics import ClassCounts, class_aucs, count_metrics, ranking_scores
from hubflow.schemas.evaluation import SCORED_WHILE_TRAINING
from hubflow.schemas.labels import TagScheme

SMALLEST = float(np.finfo(np.float32).tiny)
"""What a float32 probability of 0 counts as, so that its logarithm is finite: a loss of 87.3."""


@dataclass(frozen=True)
class MetricOptions:
    """What is measured beside counts.

    Attributes:
        top_k: for each k below the number of classes, how often the true class is among the k most probable.
        bins: of equal width, of the calibration.
        scored_classes: up to so many classes the probabilities of all are kept, which ROC-AUC needs.
        scheme: of tags; told by the labels and the true tags when `auto`.
    """

    top_k: tuple[int, ...] = (3, 5)
    bins: int = 15
    scored_classes: int = SCORED_WHILE_TRAINING
    scheme: TagScheme = "auto"


class Calibration:
    """Counts by bin of confidence: how many examples, how many of them right, and the sum of their confidences `[bins]`.

    Bins are of equal width and closed above, as Guo et al. have them (arXiv:1706.04599, section 2).
    """

    def __init__(self, bins: int) -> None:
        self.count = np.zeros(bins, np.int64)
        self.right = np.zeros(bins, np.int64)
        self.confidence = np.zeros(bins, np.float64)

    def add(self, confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]) -> None:
        """Count examples: the probability of what was predicted, and whether that was right."""
        bins = len(self.count)
        place = bin_of(confidence, bins)
        self.count += np.bincount(place, minlength=bins)
        self.right += np.bincount(place[right], minlength=bins)
        self.confidence += np.bincount(place, confidence.astype(np.float64), bins)

    @property
    def error(self) -> float:
        """Expected calibration error: by how much confidence and accuracy of a bin differ, weighted by its examples."""
        return float(np.abs(self.right - self.confidence).sum() / max(int(self.count.sum()), 1))


def bin_of(confidence: NDArray[np.floating[Any]], bins: int) -> NDArray[np.int64]:
    """Which of `bins` bins of equal width each confidence is in, counted from 0; an edge belongs to the bin below it."""
    return np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


class ClassificationMetrics:
    """Sums over the rows of a split, and what is kept of each.

    Memory is a function of rows (32 bytes each, and 4 more for each class up to `scored_classes`) and, beside it, of classes.

    Attributes:
        rows: positions in the split that were evaluated `[evaluated]`.
        labels: true class id `[rows]`; -1 where a row was not evaluated.
        predicted: class id of the highest score `[rows]`, the first of equal ones.
        losses: cross-entropy `[rows]`.
        confidence: probability of `predicted` `[rows]`.
        ranks: how many classes are more probable than the true one `[rows]`.
        scores: log probabilities `[rows, classes]`, or None of more than `scored_classes`.
    """

    def __init__(self, rows: int, num_classes: int, options: MetricOptions) -> None:
        self.options, self.num_classes = options, num_classes
        self.labels, self.predicted = np.full(rows, -1, np.int64), np.full(rows, -1, np.int64)
        self.losses, self.confidence = np.zeros(rows, np.float64), np.zeros(rows, np.float32)
        self.ranks = np.zeros(rows, np.int32)
        is_scored = num_classes <= options.scored_classes
        self.scores = np.zeros((rows, num_classes), np.float32) if is_scored else None
        self.counts, self.calibration = ClassCounts(num_classes), Calibration(options.bins)
        self.top_k = tuple(k for k in options.top_k if k < num_classes)

    def add(self, rows: NDArray[np.int64], labels: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        """Judge a batch: positions in the split `[batch]`, true class ids `[batch]`, log probabilities `[batch, classes]`."""
        places = np.arange(len(rows))
        predicted, of_truth = scores.argmax(-1), scores[places, labels]
        confidence = np.exp(scores[places, predicted]).astype(np.float32)
        self.labels[rows], self.predicted[rows] = labels, predicted
        self.losses[rows], self.confidence[rows] = -of_truth, confidence
        if self.scores is not None:
            self.scores[rows] = scores
        self.counts.add(labels, predicted)
        self.calibration.add(confidence, labels == predicted)
        if self.top_k:
            self.ranks[rows] = ranks(scores, labels, of_truth)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Positions in the split that were evaluated."""
        return np.flatnonzero(self.labels >= 0)

    @property
    def loss(self) -> float:
        """Mean cross-entropy."""
        return float(self.losses.sum() / max(len(self.rows), 1))

    def metrics(self) -> dict[str, float]:
        """Every flat metric that is defined of what was evaluated, but the loss."""
        rows = self.rows
        found = {**count_metrics(self.counts), "log_loss": self.loss, "ece": self.calibration.error}
        found |= {f"top_{k}_accuracy": float((self.ranks[rows] < k).mean()) for k in self.top_k}
        areas = self.areas[~np.isnan(self.areas)]
        return {**found, "roc_auc": float(areas.mean())} if len(areas) else found

    @functools.cached_property
    def areas(self) -> NDArray[np.float64]:
        """ROC-AUC of each class against all others `[classes]`, NaN where it is not defined; of two classes they are one."""
        if self.scores is None:
            return np.full(self.num_classes, np.nan)
        rows = self.rows
        return class_aucs(self.labels[rows], ranking_scores(self.scores[rows]))


def ranks(scores: NDArray[np.float64], labels: NDArray[np.int64], of_truth: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many classes come before the true one `[batch]`; of equal scores the class that has the smaller id comes first."""
    before = (scores > of_truth[:, None]).sum(-1)
    equal = scores == of_truth[:, None]
    smaller = np.arange(scores.shape[1]) < labels[:, None]
    result: NDArray[np.int64] = before + (equal & smaller).sum(-1)
    return result


def log_of(probabilities: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> NDArray[np.float64]:
    """Log of float32 probabilities, finite where one of them is 0."""
    result: NDArray[np.float64] = np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST))
    return result
