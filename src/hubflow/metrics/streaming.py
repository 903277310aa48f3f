"""What every metrics object does: take batches of rows, add up, and compute each figure from the sums."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from hubflow.schemas.evaluation import SCORED_WHILE_TRAINING
from hubflow.schemas.labels import TagScheme

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MetricOptions:
    """What is measured beside counts.

    Attributes:
        top_k: for each k below the number of classes, how often the true class is among the k most probable.
        bins: of equal width, of the calibration.
        scored_classes: up to so many classes the probabilities of all are kept, which ROC-AUC needs.
        scheme: of tags; recognized from the labels and the true tags when `auto`.
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

    def update(self, confidence: NDArray[np.floating[Any]], right: Mask) -> None:
        """Count examples.

        Args:
            confidence: probability of what was predicted `[examples]`.
            right: whether that was right `[examples]`.
        """
        bins = len(self.count)
        bin_ids = bin_of(confidence, bins)
        self.count += np.bincount(bin_ids, minlength=bins)
        self.right += np.bincount(bin_ids[right], minlength=bins)
        self.confidence += np.bincount(bin_ids, confidence.astype(np.float64), bins)

    def merge(self, other: "Calibration") -> None:
        """Add the examples of another calibration with as many bins."""
        self.count += other.count
        self.right += other.right
        self.confidence += other.confidence

    @property
    def error(self) -> float:
        """Expected calibration error: by how much confidence and accuracy of a bin differ, weighted by its examples."""
        return float(np.abs(self.right - self.confidence).sum() / max(int(self.count.sum()), 1))


def bin_of(confidence: NDArray[np.floating[Any]], bins: int) -> Ids:
    """Which of `bins` bins of equal width each confidence is in, counted from 0; an edge belongs to the bin below it."""
    return np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


class Statistics(Protocol):
    """Every metric of rows that count several times each, for many such weightings at once.

    Attributes:
        width: values that one weighting takes in memory.
        notes: which metrics are left out, and why.
    """

    width: int
    notes: list[str]

    def __call__(self, weights: Ids) -> dict[str, Floats]:
        """Each metric for each weighting, NaN where it is not defined.

        Args:
            weights: how often each row counts `[weightings, rows]`.

        Returns:
            Values by name `[weightings]`.
        """
        ...


class StreamingMetrics(Protocol):
    """Metrics of one split, whose truth is known from the start, and what is kept of each of its rows.

    Batches come in any order, each row once. Training, evaluation, the gate, and the verification of exports use the same
    objects, so that a figure means the same everywhere.

    Attributes:
        losses: cross-entropy of each row, 0 where it was not evaluated `[rows]`.
        calibration: of the examples whose probabilities are known.
    """

    losses: Floats
    calibration: Calibration

    @property
    def rows(self) -> Ids:
        """Positions in the split of the rows that were evaluated, ascending `[evaluated]`."""
        ...

    @property
    def labels(self) -> Any:
        """True class id by row, or ids of every word by row `[rows]`."""
        ...

    @property
    def predicted(self) -> Any:
        """Class id by row, or ids of every word by row `[rows]`."""
        ...

    def update(self, rows: Ids, scores: Floats, seen: Sequence[Mask] | None = None) -> None:
        """Add a batch of rows.

        Args:
            rows: positions in the split `[batch]`.
            scores: log probabilities `[batch, classes]`; of sequences those of every word that the model saw, row after row,
                `[seen words, classes]`.
            seen: of sequences, which words of each row the model saw `[words]`; all of them when not given.
        """
        ...

    def update_predicted(self, rows: Ids, predicted: Any, losses: Floats | None = None) -> None:
        """Add rows of which no probabilities are known; the metrics that need these are left out from then on.

        Args:
            rows: positions in the split `[batch]`.
            predicted: class id of each row `[batch]`, or ids of the words of each row. An id that is not below the number of
                labels is none of them, and wrong.
            losses: cross-entropy of each row `[batch]`; without it the loss is left out too.
        """
        ...

    def merge(self, other: Self) -> None:
        """Add the rows of another object of the same split, none of which are here yet.

        Raises:
            ValueError: when a row is in both.
        """
        ...

    def compute(self) -> dict[str, float]:
        """Every flat metric that is defined of the rows that were evaluated, by name, the loss among them."""
        ...

    def statistics(self, resamples: int, rows: Ids | None = None, metric: str | None = None) -> Statistics:
        """What computes every metric for weights of rows.

        Args:
            resamples: how many weightings there will be in all.
            rows: positions in the split that the weights are of `[weighted]`; all that were evaluated when not given.
            metric: that is wanted; others may be left out then. All when not given.
        """
        ...

    def row_kinds(self, metric: str) -> Ids:
        """A number for each row that was evaluated: rows of the same number count the same for a metric `[evaluated]`."""
        ...

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Columns of the evaluated rows: `label`, `predicted` and what is known of probabilities.

        Args:
            names: of the labels.
        """
        ...

    def details(self, names: Sequence[str]) -> dict[str, Any]:
        """The fields of `SplitDetails` that come from counts.

        Args:
            names: of the labels.
        """
        ...

    def is_wrong(self) -> Mask:
        """Which of the rows that were evaluated were predicted wrong, in a word at least `[evaluated]`."""
        ...

    def row_probability(self, row: int) -> float | None:
        """The probability of what was predicted of a row; None of sequences."""
        ...

    def label_slices(self, names: Sequence[str], most: int) -> Iterator[tuple[str, Mask]]:
        """The rows of each label, or with each type of entity, the most frequent first.

        Args:
            names: of the labels.
            most: how many labels, or types, at most.

        Yields:
            The slice's name, and which of the rows that were evaluated are in it `[evaluated]`.
        """
        ...

    def slice_metrics(self, within: Mask, is_one_label: bool) -> dict[str, float]:
        """Metrics of some of the rows.

        Args:
            within: which of the rows that were evaluated, one at least `[evaluated]`.
            is_one_label: whether they were chosen by their label, so that averages over labels say nothing.
        """
        ...

    def accuracy_interval(self, within: Mask, confidence: float) -> tuple[float, float] | None:
        """Wilson's interval of the accuracy of some of the rows; None of sentences, whose words are not independent.

        Args:
            within: which of the rows that were evaluated, one at least `[evaluated]`.
            confidence: of the interval, 0..1.
        """
        ...

    def notes(self) -> list[str]:
        """What was not computed, and why."""
        ...


class StreamingCounts(Protocol):
    """Counts that metrics of predictions alone are computed from, and that add up over the parts of a prediction."""

    def update(self, truth: Any, predicted: Any) -> Any:
        """Count rows: true and predicted class ids `[rows]`, or of sequences the ids of the words of each row."""
        ...

    def merge(self, other: Self) -> None:
        """Add the counts of other rows."""
        ...

    def compute(self) -> dict[str, float]:
        """The metrics that the counts are enough for, by name."""
        ...

    def state(self) -> dict[str, Any]:
        """The counts as JSON has them."""
        ...

    def from_state(self, state: Mapping[str, Any]) -> Self:
        """New counts of the same labels, as `state` gave them; an empty state is that of no rows."""
        ...


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """`part / whole`, 0 where the whole is 0; both of the same shape."""
    result: Floats = np.divide(part, whole, out=np.zeros(np.shape(part), np.float64), where=whole > 0)
    return result


def precision_recall_f1(right: NDArray[Any], predicted: NDArray[Any], true: NDArray[Any]) -> dict[str, Floats]:
    """Precision, recall and F1 from how many are right, are predicted and are true, of any shape; 0 where not defined."""
    return {"precision": ratio(right, predicted), "recall": ratio(right, true), "f1": ratio(2 * right, predicted + true)}


def require_disjoint(rows: Ids, others: Ids) -> None:
    """Refuse to merge rows that are in both.

    Raises:
        ValueError: naming the first of them.
    """
    both = np.intersect1d(rows, others)
    if len(both):
        raise ValueError(f"{len(both)} row(s) are in both metrics that are merged, the first at position {both[0]}")
