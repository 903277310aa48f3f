"""Metrics, exactly over all rows: classification through scikit-learn, entities as seqeval counts them. No Paddle here."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Entity = tuple[str, int, int]
Mode = Literal["default", "strict"]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log probabilities over the last dimension."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def classification_metrics(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> dict[str, float]:
    """Accuracy, and macro precision, recall and F1 over the classes of the label map.

    Args:
        labels: true class ids `[rows]`.
        predicted: predicted class ids `[rows]`.
        num_classes: size of the label map; a class without rows counts as 0, as in scikit-learn.
    """
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=list(range(num_classes)), average="macro", zero_division=0
    )
    right = int((labels == predicted).sum())
    return {
        "accuracy": right / len(labels),
        "precision_macro": float(precision),
        "recall_macro": float(recall),
        "f1_macro": float(f1),
    }


def entity_metrics(
    truth: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]], mode: Mode = "default"
) -> dict[str, float]:
    """Micro-averaged entity precision, recall and F1, as seqeval gives them.

    Args:
        truth: IOB2 tags of each row.
        predicted: tags of each row, as many as in `truth`.
        mode: `default` is conlleval's lenient reading, `strict` accepts an entity only from its `B-` tag (strict IOB2).
    """
    find = entities if mode == "default" else strict_entities
    right = found = present = 0
    for true_tags, predicted_tags in zip(truth, predicted, strict=True):
        true_entities, predicted_entities = set(find(true_tags)), set(find(predicted_tags))
        right += len(true_entities & predicted_entities)
        found += len(predicted_entities)
        present += len(true_entities)
    precision, recall = right / found if found else 0.0, right / present if present else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def entities(tags: Sequence[str]) -> list[Entity]:
    """Entities `(type, first, last)` of one row, read leniently as conlleval and seqeval's default mode do."""
    found: list[Entity] = []
    previous_prefix, previous_type, start = "O", "", 0
    for position, tag in enumerate([*tags, "O"]):
        prefix, kind = (tag[0], tag[1:].removeprefix("-") or "_") if tag else ("O", "")
        kind = "" if tag == "O" else kind
        if _ends(previous_prefix, prefix, previous_type, kind):
            found.append((previous_type, start, position - 1))
        if _starts(previous_prefix, prefix, previous_type, kind):
            start = position
        previous_prefix, previous_type = prefix, kind
    return found


def strict_entities(tags: Sequence[str]) -> list[Entity]:
    """Entities `(type, first, last)` of one row in strict IOB2: `B-x` and the `I-x` that follow it; nothing else counts."""
    found: list[Entity] = []
    position = 0
    while position < len(tags):
        start, tag = position, tags[position]
        position += 1
        if tag.startswith("B-"):
            while position < len(tags) and tags[position] == f"I-{tag[2:]}":
                position += 1
            found.append((tag[2:], start, position - 1))
    return found


def confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], num_classes: int) -> NDArray[Any]:
    """Counts `[true, predicted]`."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes)


def _ends(previous: str, prefix: str, previous_type: str, kind: str) -> bool:
    if previous in ("E", "S"):
        return True
    if previous in ("B", "I") and prefix in ("B", "S", "O"):
        return True
    return previous not in ("O", ".") and previous_type != kind


def _starts(previous: str, prefix: str, previous_type: str, kind: str) -> bool:
    if prefix in ("B", "S"):
        return True
    if previous in ("E", "S", "O") and prefix in ("E", "I"):
        return True
    return prefix not in ("O", ".") and previous_type != kind
