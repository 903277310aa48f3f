"""Metrics, exactly over all rows: classification through scikit-learn, entities as seqeval counts them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.metrics.entities import Mode, Scheme, TagReader
from hubflow.schemas.labels import Tagging

BINARY = 2


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log probabilities over the last dimension."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


class ClassCounts:
    """How often each class is true, is predicted, and is both `[classes]`: all that the metrics of a confusion need."""

    def __init__(self, num_classes: int) -> None:
        self.true = np.zeros(num_classes, np.int64)
        self.predicted = np.zeros(num_classes, np.int64)
        self.right = np.zeros(num_classes, np.int64)

    def add(self, labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> None:
        """Count examples: true and predicted class ids `[examples]`."""
        num_classes = len(self.true)
        self.true += np.bincount(labels, minlength=num_classes)
        self.predicted += np.bincount(predicted, minlength=num_classes)
        self.right += np.bincount(labels[labels == predicted], minlength=num_classes)

    def scores(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Precision, recall and F1 of each class `[classes]`, 0 where one is not defined."""
        return scores_of(self.right, self.predicted, self.true)


def scores_of(
    right: NDArray[np.int64], predicted: NDArray[np.int64], true: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision, recall and F1 by class from how many are both, are predicted and are true; 0 where one is not defined."""
    precision, recall = _ratio(right, predicted), _ratio(right, true)
    return precision, recall, _ratio(2 * right, predicted + true)


def averages(right: NDArray[np.int64], predicted: NDArray[np.int64], true: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 by kind of average, as scikit-learn defines them with `zero_division=0`.

    `micro` is of the sums over the classes, `macro` the plain mean, `weighted` the mean by how often a class is true.
    """
    names = ("precision", "recall", "f1")
    by_class = scores_of(right, predicted, true)
    summed = scores_of(*(np.array([counts.sum()]) for counts in (right, predicted, true)))
    weights = _ratio(true, np.full_like(true, true.sum()))
    return {
        "micro": {name: float(values[0]) for name, values in zip(names, summed, strict=True)},
        "macro": {name: float(values.mean()) if len(values) else 0.0 for name, values in zip(names, by_class, strict=True)},
        "weighted": {name: float((values * weights).sum()) for name, values in zip(names, by_class, strict=True)},
    }


def count_metrics(counts: ClassCounts) -> dict[str, float]:
    """The metrics that counts by class are enough for; a class without rows counts as 0, as in scikit-learn.

    `balanced_accuracy` is the mean recall of the classes that have rows. `mcc` is Gorodkin's correlation of several classes
    (Comput. Biol. Chem. 28, 2004), which of two is Matthews'.
    """
    right, predicted, true = counts.right, counts.predicted, counts.true
    means = averages(right, predicted, true)
    flat = {f"{name}_{kind}": value for kind in ("macro", "weighted") for name, value in means[kind].items()}
    recall = _ratio(right, true)[true > 0]
    return {
        "accuracy": int(right.sum()) / max(int(true.sum()), 1),
        **flat,
        "balanced_accuracy": float(recall.mean()) if len(recall) else 0.0,
        "mcc": _mcc(float(right.sum()), predicted.astype(np.float64), true.astype(np.float64)),
    }


def classification_metrics(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> dict[str, float]:
    """The metrics of true and predicted class ids `[rows]`, as `count_metrics` has them."""
    counts = ClassCounts(num_classes)
    counts.add(labels, predicted)
    return count_metrics(counts)


def class_aucs(labels: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Area under the ROC curve of each class against all others `[classes]`, exact, equal scores counted by half.

    NaN where a class has no rows, or all of them.

    Args:
        labels: true class ids `[rows]`.
        scores: of each class, higher for more probable, `[rows, classes]`.
    """
    from sklearn.metrics import roc_auc_score

    found = np.full(scores.shape[1], np.nan)
    for place in range(scores.shape[1]):
        is_true = labels == place
        if is_true.any() and not is_true.all():
            found[place] = roc_auc_score(is_true, scores[:, place])
    return found


def ranking_scores(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ranks rows by class `[rows, classes]`: log probabilities, of two classes their difference.

    Of two classes the order is the same, but probabilities near 1 are all equal in float32.
    """
    if scores.shape[1] != BINARY:
        return scores
    difference = scores[:, 1] - scores[:, 0]
    return np.stack([-difference, difference], axis=1)


def entity_metrics(
    truth: Iterable[Sequence[str]],
    predicted: Iterable[Sequence[str]],
    mode: Mode = "default",
    scheme: Scheme = "IOB2",
    tagging: Tagging | None = None,
) -> dict[str, float]:
    """Micro-averaged entity precision, recall and F1, as seqeval gives them of well-formed IOB2.

    Args:
        truth: tags of each row.
        predicted: tags of each row, as many as in `truth`.
        mode: `default` is conlleval's lenient reading, `strict` accepts an entity only as the scheme has it.
        scheme: that the tags are written in; for `strict`.
        tagging: how labels are read as tags; told by those that occur when not given.
    """
    pairs = [(list(left), list(right)) for left, right in zip(truth, predicted, strict=True)]
    if any(len(left) != len(right) for left, right in pairs):
        raise ValueError("a row has more tags, or fewer, than were predicted of it")
    labels = sorted({tag for pair in pairs for tags in pair for tag in tags})
    index, reader = {label: place for place, label in enumerate(labels)}, TagReader(labels, scheme, tagging)
    true, found = (
        reader.read(reader.flat(np.array([index[tag] for tag in pair[side]], np.int64) for pair in pairs), mode)
        for side in (0, 1)
    )
    counts = (int(found.among(true).sum()), len(found.kind), len(true.kind))
    scores = scores_of(*(np.array([count]) for count in counts))
    return {name: float(value[0]) for name, value in zip(("precision", "recall", "f1"), scores, strict=True)}


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[Any]:
    """Counts `[true, predicted]`."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes)


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part), np.float64), where=whole > 0)


def _mcc(right: float, predicted: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    total = float(true.sum())
    spread = (total**2 - float(predicted @ predicted)) * (total**2 - float(true @ true))
    return (right * total - float(predicted @ true)) / float(np.sqrt(spread)) if spread > 0 else 0.0
