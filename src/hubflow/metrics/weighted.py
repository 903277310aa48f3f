"""Metrics of rows that count several times each, for many such weightings at once."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hubflow.metrics.classification import ClassificationMetrics
    from hubflow.metrics.sequence_labelling import SequenceLabellingMetrics

Floats = NDArray[np.float64]
MAX_AREA_VALUES = 50_000_000
"""Rows times areas times weightings, above which ROC-AUC is left out: about five seconds, many times what all else takes."""


class ClassStatistics:
    """Flat metrics of a classification for weights `[weightings, rows]`: `{name: [weightings]}`.

    Args:
        judge: what was evaluated.
        weightings: how many there will be in all.
    """

    def __init__(self, judge: "ClassificationMetrics", weightings: int) -> None:
        from hubflow.metrics.classification import bin_of
        from hubflow.metrics.metrics import BINARY

        rows = judge.rows
        labels, predicted = judge.labels[rows], judge.predicted[rows]
        self._classes = judge.num_classes
        occurring, places = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
        self._size = len(occurring)
        labels, predicted = np.split(places, 2)
        cells, cell = np.unique(labels * self._size + predicted, return_inverse=True)
        self._true, self._predicted = np.divmod(cells, self._size)
        self._order, self._starts = _groups(cell)
        self._by_true, self._by_predicted = _groups(self._true)[1], _groups(self._predicted)
        is_right, confidence = labels == predicted, judge.confidence[rows].astype(np.float64)
        sums = {"loss": judge.losses[rows], **{f"top_{k}_accuracy": judge.ranks[rows] < k for k in judge.top_k}}
        self._names, self._sums = tuple(sums), np.stack(list(sums.values()), axis=1).astype(np.float64)
        self._gaps = np.zeros((len(rows), judge.options.bins))
        self._gaps[np.arange(len(rows)), bin_of(confidence, judge.options.bins)] = is_right - confidence
        self._areas: list[_Area] = []
        areas = 1 if judge.num_classes == BINARY else judge.num_classes
        self.has_areas = judge.scores is not None and len(rows) * areas * weightings <= MAX_AREA_VALUES
        if self.has_areas and judge.scores is not None:
            self._areas = _areas(judge.labels[rows], judge.scores[rows])

    def __call__(self, weights: NDArray[np.int64]) -> dict[str, Floats]:
        """Every metric for each weighting; NaN where one is not defined."""
        total = weights.sum(1).astype(np.float64)
        floats = weights.astype(np.float64)
        found = {**self._of_counts(weights, total), "ece": np.abs(floats @ self._gaps).sum(1) / total}
        found |= dict(zip(self._names, (floats @ self._sums / total[:, None]).T, strict=True))
        found["log_loss"] = found["loss"]
        if self._areas:
            with np.errstate(invalid="ignore", divide="ignore"):
                found["roc_auc"] = _mean_of_defined(np.stack([area(floats) for area in self._areas], axis=1))
        return found

    def _of_counts(self, weights: NDArray[np.int64], total: Floats) -> dict[str, Floats]:
        counts = np.add.reduceat(weights[:, self._order], self._starts, axis=1).astype(np.float64)
        true, predicted, right = (np.zeros((len(weights), self._size)) for _ in range(3))
        true[:, self._true[self._by_true]] = np.add.reduceat(counts, self._by_true, axis=1)  # cells are sorted by true label
        order, starts = self._by_predicted
        predicted[:, self._predicted[order[starts]]] = np.add.reduceat(counts[:, order], starts, axis=1)
        is_right = self._true == self._predicted
        right[:, self._true[is_right]] = counts[:, is_right]
        scores = {
            "precision": _ratio(right, predicted),
            "recall": _ratio(right, true),
            "f1": _ratio(2 * right, true + predicted),
        }
        spread = (total**2 - (predicted**2).sum(1)) * (total**2 - (true**2).sum(1))
        return {
            "accuracy": right.sum(1) / total,
            **{f"{name}_macro": values.sum(1) / self._classes for name, values in scores.items()},
            **{f"{name}_weighted": (values * true).sum(1) / total for name, values in scores.items()},
            "balanced_accuracy": scores["recall"].sum(1) / np.maximum((true > 0).sum(1), 1),
            "mcc": _ratio(right.sum(1) * total - (predicted * true).sum(1), np.sqrt(np.maximum(spread, 0.0))),
        }


class SequenceStatistics:
    """Flat metrics of sequences for weights of their rows `[weightings, rows]`: `{name: [weightings]}`."""

    def __init__(self, judge: "SequenceLabellingMetrics") -> None:
        self._sums = judge.row_sums[judge.rows]

    def __call__(self, weights: NDArray[Any]) -> dict[str, Floats]:
        """Every metric for each weighting."""
        sums = weights.astype(np.float64) @ self._sums
        found = {"loss": _ratio(sums[:, 2], sums[:, 3]), "accuracy": _ratio(sums[:, 0], sums[:, 1])}
        for suffix, (right, predicted, true) in (("", sums[:, 4:7].T), ("_strict", sums[:, 7:10].T)):
            found |= {
                f"precision{suffix}": _ratio(right, predicted),
                f"recall{suffix}": _ratio(right, true),
                f"f1{suffix}": _ratio(2 * right, predicted + true),
            }
        return found


class _Area:
    """ROC-AUC of one class for weights `[weightings, rows]`, from rows that were sorted once."""

    def __init__(self, is_true: NDArray[np.bool_], scores: NDArray[np.float32]) -> None:
        self._order, self._starts = _groups(np.unique(scores, return_inverse=True)[1])
        self._is_true = is_true[self._order].astype(np.float64)

    def __call__(self, weights: Floats) -> Floats:
        ordered = np.take(weights, self._order, axis=1)
        true = ordered * self._is_true
        below = np.cumsum(ordered - true, axis=1)  # the others up to each row, of which a true row itself is none
        count, others = true.sum(1), below[:, -1].copy()
        if len(self._starts) < len(self._order):  # rows of equal scores count by half
            ends = np.append(self._starts[1:], len(self._order)) - 1
            upper = below[:, ends]
            lower = np.concatenate([np.zeros((len(weights), 1)), upper[:, :-1]], axis=1)
            true, below = np.add.reduceat(true, self._starts, axis=1), (upper + lower) / 2
        result: Floats = np.einsum("ij,ij->i", true, below) / (count * others)
        return result


def _areas(labels: NDArray[np.int64], scores: NDArray[np.float32]) -> list[_Area]:
    from hubflow.metrics.metrics import BINARY, ranking_scores

    ranked = ranking_scores(scores)
    first = 1 if scores.shape[1] == BINARY else 0  # of two classes the areas are one
    return [
        _Area(labels == place, ranked[:, place])
        for place in range(first, scores.shape[1])
        if (labels == place).any() and not (labels == place).all()
    ]


def _groups(of_row: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows sorted by their group, and where each group begins in that order."""
    order = np.argsort(of_row, kind="stable")
    return order, np.flatnonzero(np.diff(of_row[order], prepend=-1))


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the second axis of what is not NaN; NaN of nothing."""
    is_defined = ~np.isnan(values)
    result: Floats = np.where(is_defined, values, 0.0).sum(1) / is_defined.sum(1)
    return result
