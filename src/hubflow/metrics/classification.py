"""Metrics of a classification: batches of log probabilities, in any order, summed in one pass."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hubflow.metrics.streaming import (
    Calibration,
    Floats,
    Ids,
    Mask,
    MetricOptions,
    bin_of,
    precision_recall_f1,
    ratio,
    require_disjoint,
)
from hubflow.schemas.evaluation import ClassScore, ConfusedPair, Confusion, Scores

SMALLEST = float(np.finfo(np.float32).tiny)
"""What a float32 probability of 0 counts as, so that its logarithm is finite: a loss of 87.3."""
BINARY = 2
LOSSES = ("loss", "log_loss")
"""Names of the mean cross-entropy."""
MAX_MATRIX_LABELS = 100
MAX_PAIRS = 200
MAX_AREA_VALUES = 50_000_000
"""Rows times areas times weightings, above which ROC-AUC is left out: about five seconds, many times what all else takes."""


class ClassCounts:
    """How often each class is true, is predicted, and is both `[classes]`: all that the metrics of a confusion need."""

    def __init__(self, num_classes: int) -> None:
        self.true = np.zeros(num_classes, np.int64)
        self.predicted = np.zeros(num_classes, np.int64)
        self.right = np.zeros(num_classes, np.int64)

    def update(self, truth: Ids, predicted: Ids) -> None:
        """Count examples.

        Args:
            truth: true class ids `[examples]`.
            predicted: predicted class ids `[examples]`; one that is not below the number of classes is none of them.
        """
        num_classes = len(self.true)
        self.true += np.bincount(truth, minlength=num_classes)
        self.predicted += np.bincount(predicted, minlength=num_classes)[:num_classes]
        self.right += np.bincount(truth[truth == predicted], minlength=num_classes)

    def merge(self, other: Self) -> None:
        """Add the counts of other examples of the same classes."""
        self.true += other.true
        self.predicted += other.predicted
        self.right += other.right

    def state(self) -> dict[str, dict[str, int]]:
        """The counts that are not 0 by class id, as JSON has them."""
        return {
            name: {str(label): int(counts[label]) for label in np.flatnonzero(counts)} for name, counts in vars(self).items()
        }

    def from_state(self, state: Mapping[str, Mapping[str, int]]) -> Self:
        """New counts of the same classes, as `state` gave them; an empty state is that of no examples."""
        found = type(self)(len(self.true))
        for name, counts in state.items():
            for label, count in counts.items():
                getattr(found, name)[int(label)] = count
        return found

    @property
    def accuracy(self) -> float:
        """Fraction of the examples that are right; 0 of none."""
        return int(self.right.sum()) / max(int(self.true.sum()), 1)

    def compute(self) -> dict[str, float]:
        """The metrics that counts by class are enough for; a class without rows counts as 0, as in scikit-learn.

        `balanced_accuracy` is the mean recall of the classes that have rows. `mcc` is Gorodkin's correlation of several
        classes (Comput. Biol. Chem. 28, 2004), which of two is Matthews'.
        """
        means = self.averages()
        flat = {f"{name}_{kind}": value for kind in ("macro", "weighted") for name, value in means[kind].items()}
        recall = ratio(self.right, self.true)[self.true > 0]
        return {
            "accuracy": self.accuracy,
            **flat,
            "balanced_accuracy": float(recall.mean()) if len(recall) else 0.0,
            "mcc": _mcc(float(self.right.sum()), self.predicted.astype(np.float64), self.true.astype(np.float64)),
        }

    def micro(self) -> dict[str, float]:
        """Precision, recall and F1 of the sums over the classes."""
        sums = (np.array([counts.sum()]) for counts in (self.right, self.predicted, self.true))
        return {name: float(values[0]) for name, values in precision_recall_f1(*sums).items()}

    def averages(self) -> dict[str, dict[str, float]]:
        """Precision, recall and F1 by kind of average, as scikit-learn defines them with `zero_division=0`.

        `micro` is of the sums over the classes, `macro` the plain mean, `weighted` the mean by how often a class is true.
        """
        by_class = precision_recall_f1(self.right, self.predicted, self.true)
        weights = ratio(self.true, np.full_like(self.true, self.true.sum()))
        return {
            "micro": self.micro(),
            "macro": {name: float(values.mean()) if len(values) else 0.0 for name, values in by_class.items()},
            "weighted": {name: float((values * weights).sum()) for name, values in by_class.items()},
        }

    def scores(self, names: Sequence[str], areas: Sequence[float] = (), occurring: bool = False) -> Scores:
        """Scores by name of the class, and their means.

        Args:
            names: of the classes.
            areas: ROC-AUC of each class, NaN where it is not defined; of none when not given.
            occurring: have the means of those classes alone that are true or predicted, as seqeval has them.
        """
        by_class = precision_recall_f1(self.right, self.predicted, self.true)
        columns = [column.tolist() for column in (*by_class.values(), self.true, self.predicted)]
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
                names, areas or [float("nan")] * len(names), *columns, strict=True
            )
        }
        return Scores(per_class=by_name, averages=(self._occurring() if occurring else self).averages())

    def _occurring(self) -> "ClassCounts":
        """The counts of the classes that are true or predicted."""
        is_there = self.true + self.predicted > 0
        found = ClassCounts(int(is_there.sum()))
        found.true, found.predicted, found.right = self.true[is_there], self.predicted[is_there], self.right[is_there]
        return found


def _mcc(right: float, predicted: Floats, true: Floats) -> float:
    total = float(true.sum())
    spread = (total**2 - float(predicted @ predicted)) * (total**2 - float(true @ true))
    return (right * total - float(predicted @ true)) / float(np.sqrt(spread)) if spread > 0 else 0.0


class ClassificationMetrics:
    """Metrics of a classification (`StreamingMetrics`): sums over the rows of a split, and what is kept of each.

    Memory is a function of rows (32 bytes each, and 4 more for each class up to `scored_classes`) and, beside it, of classes.

    Attributes:
        labels: true class id `[rows]`.
        predicted: class id of the highest score `[rows]`, the first of equal ones; -1 where a row was not evaluated.
        losses: cross-entropy `[rows]`.
        confidence: probability of `predicted` `[rows]`.
        ranks: how many classes are more probable than the true one `[rows]`.
        scores: log probabilities `[rows, classes]`, or None of more than `scored_classes`.
        counts: of each class.
        calibration: of `confidence`.
        top_k: for which k the metrics have `top_<k>_accuracy`.
    """

    def __init__(self, labels: Ids, num_classes: int, options: MetricOptions) -> None:
        self.options, self.num_classes = options, num_classes
        self.labels = np.asarray(labels, np.int64)
        rows = len(self.labels)
        self.predicted = np.full(rows, -1, np.int64)
        self.losses, self.confidence = np.zeros(rows, np.float64), np.zeros(rows, np.float32)
        self.ranks = np.zeros(rows, np.int32)
        is_scored = num_classes <= options.scored_classes
        self.scores = np.zeros((rows, num_classes), np.float32) if is_scored else None
        self.counts, self.calibration = ClassCounts(num_classes), Calibration(options.bins)
        self.top_k = tuple(k for k in options.top_k if k < num_classes)
        self._has_losses = self._has_probabilities = True

    def update(self, rows: Ids, scores: Floats, seen: Sequence[Mask] | None = None) -> None:
        """Add a batch: positions in the split `[batch]`, log probabilities `[batch, classes]`; `seen` is for sequences."""
        places, labels = np.arange(len(rows)), self.labels[rows]
        predicted, of_truth = scores.argmax(-1), scores[places, labels]
        confidence = np.exp(scores[places, predicted]).astype(np.float32)
        self.predicted[rows], self.losses[rows], self.confidence[rows] = predicted, -of_truth, confidence
        if self.scores is not None:
            self.scores[rows] = scores
        self.counts.update(labels, predicted)
        self.calibration.update(confidence, labels == predicted)
        if self.top_k:
            self.ranks[rows] = _ranks(scores, labels, of_truth)

    def update_predicted(self, rows: Ids, predicted: Any, losses: Floats | None = None) -> None:
        """Add rows of which no probabilities are known: positions in the split, class ids and losses `[batch]`."""
        self._has_probabilities = False
        self._has_losses &= losses is not None
        self.predicted[rows] = predicted
        self.counts.update(self.labels[rows], self.predicted[rows])
        if losses is not None:
            self.losses[rows] = losses

    def merge(self, other: Self) -> None:
        """Add the rows of another object of the same split; ValueError when a row is in both."""
        rows = other.rows
        require_disjoint(self.rows, rows)
        self.predicted[rows], self.losses[rows] = other.predicted[rows], other.losses[rows]
        self.confidence[rows], self.ranks[rows] = other.confidence[rows], other.ranks[rows]
        if self.scores is not None and other.scores is not None:
            self.scores[rows] = other.scores[rows]
        self.counts.merge(other.counts)
        self.calibration.merge(other.calibration)
        self._has_losses &= other._has_losses
        self._has_probabilities &= other._has_probabilities

    @property
    def rows(self) -> Ids:
        """Positions in the split that were evaluated `[evaluated]`."""
        return np.flatnonzero(self.predicted >= 0)

    def compute(self) -> dict[str, float]:
        """Every flat metric that is defined of what was evaluated."""
        rows = self.rows
        loss = float(self.losses.sum() / max(len(rows), 1))
        found = {"loss": loss} if self._has_losses else {}
        found |= self.counts.compute()
        if self._has_losses:
            found["log_loss"] = loss
        if not self._has_probabilities:
            return found
        found["ece"] = self.calibration.error
        found |= {f"top_{k}_accuracy": value for k, value in self._top_k_accuracies().items()}
        areas = self.class_aucs()
        areas = areas[~np.isnan(areas)]
        return {**found, "roc_auc": float(areas.mean())} if len(areas) else found

    def statistics(self, resamples: int, rows: Ids | None = None, metric: str | None = None) -> "ClassificationStatistics":
        """What computes every metric, or the loss alone, for weights of rows, all that were evaluated when not given."""
        return ClassificationStatistics(self, resamples, self.rows if rows is None else rows, metric in LOSSES)

    def row_kinds(self, metric: str) -> Ids:
        """A number for each row that was evaluated: rows of the same number count the same for a metric `[evaluated]`."""
        rows = self.rows
        if metric in LOSSES:
            return np.unique(self.losses[rows], return_inverse=True)[1]
        if metric in self.counts.compute():
            predicted = self.predicted[rows]
            return self.labels[rows] * (int(predicted.max(initial=0)) + 1) + predicted
        return np.arange(len(rows))

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """`label`, `predicted`, `probability` and, where they are kept, `probability_<label>` of the evaluated rows."""
        from hubflow.schemas.frames import PROBABILITY  # with pandera, which training does without

        rows, texts = self.rows, np.array(names, object)
        columns: dict[str, Any] = {
            "label": texts[self.labels[rows]],
            "predicted": texts[self.predicted[rows]],
            "probability": self.confidence[rows].astype(np.float64),
        }
        if self.scores is not None:
            probabilities = np.exp(self.scores[rows])
            columns |= {f"{PROBABILITY}{name}": probabilities[:, label] for label, name in enumerate(names)}
        return columns

    def details(self, names: Sequence[str]) -> dict[str, Any]:
        """Scores by label, the confusion, and the top-k accuracies, as `SplitDetails` has them."""
        rows = self.rows
        return {
            **dict(self.counts.scores(names, self.class_aucs().tolist())),
            "confusion": confusion_of(self.labels[rows], self.predicted[rows], names),
            "top_k": self._top_k_accuracies(),
        }

    def is_wrong(self) -> Mask:
        """Which of the rows that were evaluated were predicted wrong `[evaluated]`."""
        rows = self.rows
        result: Mask = self.labels[rows] != self.predicted[rows]
        return result

    def row_probability(self, row: int) -> float | None:
        """The probability of what was predicted of a row."""
        return float(self.confidence[row])

    def label_slices(self, names: Sequence[str], most: int) -> Iterator[tuple[str, Mask]]:
        """The rows of each label, the `most` most frequent ones, most frequent first."""
        labels = self.labels[self.rows]
        counts = np.bincount(labels, minlength=self.num_classes)
        for label in np.argsort(-counts, kind="stable")[:most].tolist():
            yield names[label], labels == label

    def slice_metrics(self, within: Mask, is_one_label: bool) -> dict[str, float]:
        """Metrics of some rows; the macro F1 is over the labels that are true or predicted in them."""
        rows = self.rows[within]
        occurring, places = np.unique(np.concatenate([self.labels[rows], self.predicted[rows]]), return_inverse=True)
        labels, predicted = np.split(places, 2)
        counts, calibration = ClassCounts(len(occurring)), Calibration(self.options.bins)
        counts.update(labels, predicted)
        calibration.update(self.confidence[rows], labels == predicted)
        flat = counts.compute()
        names = ("accuracy",) if is_one_label else ("accuracy", "balanced_accuracy", "f1_macro", "mcc")
        return {"loss": float(self.losses[rows].mean()), **{name: flat[name] for name in names}, "ece": calibration.error}

    def accuracy_interval(self, within: Mask, confidence: float) -> tuple[float, float] | None:
        """Interval of the accuracy of some rows (Wilson, J. Am. Stat. Assoc. 22, 1927): sound for few rows, and near 0 or 1."""
        from scipy.stats import binomtest

        right = int((~self.is_wrong()[within]).sum())
        interval = binomtest(right, int(within.sum())).proportion_ci(confidence, "wilson")
        return float(interval.low), float(interval.high)

    def notes(self) -> list[str]:
        """What was not computed, and why."""
        if self.scores is None:
            return [
                f"{self.num_classes} labels: the probability of each label, and ROC-AUC, are kept up to "
                f"{self.options.scored_classes} labels; of more each row has that of its predicted label"
            ]
        undefined = int(np.isnan(self.class_aucs()).sum())
        if not undefined:
            return []
        return [f"roc_auc is not defined of {undefined} of {self.num_classes} labels, which no row or every row has"]

    def class_aucs(self) -> Floats:
        """Area under the ROC curve of each class against all others `[classes]`, exact, equal scores counted by half.

        NaN where a class has no rows, or all of them; of two classes the areas are one.
        """
        rows = self.rows
        if self.scores is None or not self._has_probabilities:
            return np.full(self.num_classes, np.nan)
        if self._aucs is None or self._aucs[0] != len(rows):
            self._aucs = len(rows), _class_aucs(self.labels[rows], ranking_scores(self.scores[rows]))
        return self._aucs[1]

    _aucs: tuple[int, Floats] | None = None
    """How many rows the areas are of, and the areas: they take longer than all else."""

    def _top_k_accuracies(self) -> dict[int, float]:
        rows = self.rows
        return {k: float((self.ranks[rows] < k).mean()) for k in self.top_k}


def _ranks(scores: Floats, labels: Ids, of_truth: Floats) -> Ids:
    """How many classes come before the true one `[batch]`; of equal scores the class that has the smaller id comes first."""
    before = (scores > of_truth[:, None]).sum(-1)
    equal = scores == of_truth[:, None]
    smaller = np.arange(scores.shape[1]) < labels[:, None]
    result: Ids = before + (equal & smaller).sum(-1)
    return result


def _class_aucs(labels: Ids, scores: NDArray[np.float32]) -> Floats:
    from sklearn.metrics import roc_auc_score

    found = np.full(scores.shape[1], np.nan)
    for label in range(scores.shape[1]):
        is_true = labels == label
        if is_true.any() and not is_true.all():
            found[label] = roc_auc_score(is_true, scores[:, label])
    return found


def ranking_scores(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ranks rows by class `[rows, classes]`: log probabilities, of two classes their difference.

    Of two classes the order is the same, but probabilities near 1 are all equal in float32.
    """
    if scores.shape[1] != BINARY:
        return scores
    difference = scores[:, 1] - scores[:, 0]
    return np.stack([-difference, difference], axis=1)


def log_of(probabilities: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> Floats:
    """Log of float32 probabilities, finite where one of them is 0."""
    result: Floats = np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST))
    return result


def confusion_of(labels: Ids, predicted: Ids, names: Sequence[str]) -> Confusion:
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
        ConfusedPair(label=names[true[position]], predicted=names[guess[position]], count=int(counts[position]))
        for position in worst[:MAX_PAIRS]
    ]
    shown = None if matrix is None else list(names)
    return Confusion(labels=shown, counts=matrix, pairs=pairs, left_out=max(0, len(worst) - MAX_PAIRS))


class ClassificationStatistics:
    """Flat metrics of a classification for weights of rows (`Statistics`).

    Args:
        metrics: of the rows.
        resamples: how many weightings there will be in all.
        rows: positions in the split that the weights are of `[rows]`.
        only_loss: leave out all other metrics.
    """

    def __init__(self, metrics: ClassificationMetrics, resamples: int, rows: Ids, only_loss: bool = False) -> None:
        self.width, self.notes = max(len(rows), metrics.num_classes), list[str]()
        self._classes = metrics.num_classes
        self._sums: dict[str, Floats] = {}
        self._gaps: Floats | None = None
        self._areas: list[_Area] = []
        self._only_loss = only_loss
        labels, predicted = metrics.labels[rows], metrics.predicted[rows]
        self._group_cells(labels, predicted)
        if metrics._has_losses:
            self._sums["loss"] = metrics.losses[rows]
        if metrics._has_probabilities and not only_loss:
            self._sums |= {f"top_{k}_accuracy": (metrics.ranks[rows] < k).astype(np.float64) for k in metrics.top_k}
            confidence = metrics.confidence[rows].astype(np.float64)
            self._gaps = np.zeros((len(rows), metrics.options.bins))
            self._gaps[np.arange(len(rows)), bin_of(confidence, metrics.options.bins)] = (labels == predicted) - confidence
            self._rank(metrics, resamples, rows)
        self._stacked = np.stack([*self._sums.values()], axis=1) if self._sums else None

    def _group_cells(self, labels: Ids, predicted: Ids) -> None:
        """Sort the rows by true and predicted label: the counts of a weighting are then sums of stretches."""
        occurring, places = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
        self._size, self._is_label = len(occurring), occurring < self._classes
        labels, predicted = np.split(places, 2)
        cells, cell = np.unique(labels * self._size + predicted, return_inverse=True)
        self._true, self._predicted = np.divmod(cells, self._size)
        self._order, self._starts = _groups(cell)
        self._by_true, self._by_predicted = _groups(self._true)[1], _groups(self._predicted)

    def _rank(self, metrics: ClassificationMetrics, resamples: int, rows: Ids) -> None:
        """Sort the rows by the scores of each class, unless these are too many to draw again."""
        if metrics.scores is None:
            return
        if len(rows) * (1 if self._classes == BINARY else self._classes) * resamples > MAX_AREA_VALUES:
            self.notes.append(f"no interval of roc_auc: {len(rows)} rows of {self._classes} labels are too many to draw again")
            return
        labels, ranked = metrics.labels[rows], ranking_scores(metrics.scores[rows])
        self._areas = [
            _Area(labels == label, ranked[:, label])
            for label in range(1 if self._classes == BINARY else 0, self._classes)  # of two classes the areas are one
            if (labels == label).any() and not (labels == label).all()
        ]

    def __call__(self, weights: Ids) -> dict[str, Floats]:
        """Every metric for each weighting; NaN where one is not defined."""
        total = weights.sum(1).astype(np.float64)
        floats = weights.astype(np.float64)
        found = {} if self._only_loss else self._of_counts(weights, total)
        if self._gaps is not None:
            found["ece"] = np.abs(floats @ self._gaps).sum(1) / total
        if self._stacked is not None:
            found |= dict(zip(self._sums, (floats @ self._stacked / total[:, None]).T, strict=True))
        if "loss" in found:
            found["log_loss"] = found["loss"]
        if self._areas:
            with np.errstate(invalid="ignore", divide="ignore"):
                found["roc_auc"] = _mean_of_defined(np.stack([area(floats) for area in self._areas], axis=1))
        return found

    def _of_counts(self, weights: Ids, total: Floats) -> dict[str, Floats]:
        counts = np.add.reduceat(weights[:, self._order], self._starts, axis=1).astype(np.float64)
        true, predicted, right = (np.zeros((len(weights), self._size)) for _ in range(3))
        true[:, self._true[self._by_true]] = np.add.reduceat(counts, self._by_true, axis=1)  # cells are sorted by true label
        order, starts = self._by_predicted
        predicted[:, self._predicted[order[starts]]] = np.add.reduceat(counts[:, order], starts, axis=1)
        predicted *= self._is_label
        is_right = self._true == self._predicted
        right[:, self._true[is_right]] = counts[:, is_right]
        scores = precision_recall_f1(right, predicted, true)
        spread = (total**2 - (predicted**2).sum(1)) * (total**2 - (true**2).sum(1))
        return {
            "accuracy": right.sum(1) / total,
            **{f"{name}_macro": values.sum(1) / self._classes for name, values in scores.items()},
            **{f"{name}_weighted": (values * true).sum(1) / total for name, values in scores.items()},
            "balanced_accuracy": scores["recall"].sum(1) / np.maximum((true > 0).sum(1), 1),
            "mcc": ratio(right.sum(1) * total - (predicted * true).sum(1), np.sqrt(np.maximum(spread, 0.0))),
        }


class _Area:
    """ROC-AUC of one class for weights `[weightings, rows]`, from rows that were sorted once."""

    def __init__(self, is_true: Mask, scores: NDArray[np.float32]) -> None:
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


def _groups(of_row: NDArray[Any]) -> tuple[Ids, Ids]:
    """Rows sorted by their group, and where each group begins in that order."""
    order = np.argsort(of_row, kind="stable")
    return order, np.flatnonzero(np.diff(of_row[order], prepend=-1))


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the second axis of what is not NaN; NaN of nothing."""
    is_defined = ~np.isnan(values)
    result: Floats = np.where(is_defined, values, 0.0).sum(1) / is_defined.sum(1)
    return result
