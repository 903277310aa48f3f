"""Evaluation: the test program over every row of a split, and the metrics that its task names, exactly over all rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.schemas.labels import LabelMap
from hubflow.stages.hub.encoded import EncodedSplit, TextSplit, sorted_batches
from hubflow.stages.hub.metrics import classification_metrics, entity_metrics, log_softmax
from hubflow.stages.hub.session import Session

EVALUATION_BATCH = 64
"""Rows of a batch while training."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split, and what they were computed from, in the rows' order.

    Attributes:
        metrics: value by name.
        predicted: class id by row, or ids of every word by row for sequences.
        losses: cross-entropy by row (mean over its words for sequences) `[rows]`.
    """

    metrics: dict[str, float]
    predicted: list[Any]
    losses: NDArray[np.float64]


def evaluate_split(
    session: Session,
    split: EncodedSplit,
    label_map: LabelMap,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> Evaluation:
    """Run the test program over every row, the last smaller batch included.

    Metric variables are averaged with the number of examples (tokens) of each batch as weight; accuracy and the metrics that
    a single batch cannot give are computed from all predictions at once.
    """
    task = session.task
    names = task.metric_variable_names()
    fetch = [task.test_variable(name) for name in (*names, "num_examples", "logits")]
    sums, count = np.zeros(len(names)), 0.0
    logits: list[Any] = [None] * len(split)
    for batch in sorted_batches(split.lengths, batch_size):
        *values, weight, scores = session.run(task.test_program(), split.feed(batch), fetch)
        sums += np.array([float(value) for value in values]) * float(weight)
        count += float(weight)
        for place, index in enumerate(batch):
            logits[index] = scores[place]
        if on_batch is not None:
            on_batch(len(batch))
    metrics = dict(zip(names, (sums / max(count, 1.0)).tolist(), strict=True))
    if isinstance(split, TextSplit) and split.word_labels is not None:
        return _judge_sequences(metrics, split, logits, label_map)
    return _judge_classes(metrics, np.asarray(labels_of(split)), np.stack(logits), label_map)


def labels_of(split: EncodedSplit) -> NDArray[np.int64]:
    """True class ids `[rows]` of a classification split."""
    labels: NDArray[np.int64] = split.label  # type: ignore[attr-defined]
    return labels


def word_predictions(split_pieces: NDArray[Any], scores: NDArray[Any], fallback: int) -> NDArray[np.int64]:
    """Class id of each word: of its first piece, or `fallback` when truncation left the word out."""
    best = scores.argmax(-1)
    return np.where(split_pieces >= 0, best[np.maximum(split_pieces, 0)], fallback)


def outside_id(label_map: LabelMap) -> int:
    """Class id that a word without a prediction gets: `O`, or the first label when there is none."""
    return label_map.index().get("O", 0)


def _judge_classes(
    metrics: dict[str, float], labels: NDArray[np.int64], logits: NDArray[np.float32], label_map: LabelMap
) -> Evaluation:
    predicted = logits.argmax(-1)
    losses = -log_softmax(logits)[np.arange(len(labels)), labels]
    exact = classification_metrics(labels, predicted, label_map.num_classes)
    return Evaluation({**metrics, **exact}, predicted.tolist(), losses)


def _judge_sequences(
    metrics: dict[str, float], split: TextSplit, logits: Sequence[NDArray[np.float32]], label_map: LabelMap
) -> Evaluation:
    assert split.word_labels is not None
    assert split.first_piece is not None
    outside = outside_id(label_map)
    truth, predicted, losses, right, words = [], [], np.zeros(len(split)), 0, 0
    for row in range(len(split)):
        pieces, labels = split.first_piece[row], np.asarray(split.word_labels[row])
        guess = word_predictions(pieces, logits[row], outside)
        kept = pieces >= 0
        if kept.any():
            losses[row] = -log_softmax(logits[row][pieces[kept]])[np.arange(kept.sum()), labels[kept]].mean()
        right, words = right + int((guess == labels).sum()), words + len(labels)
        truth.append([label_map.labels[label] for label in labels])
        predicted.append(guess.tolist())
    tags = [[label_map.labels[label] for label in row] for row in predicted]
    exact = {"accuracy": right / max(words, 1), **entity_metrics(truth, tags)}
    strict = {f"{name}_strict": value for name, value in entity_metrics(truth, tags, "strict").items()}
    return Evaluation({**metrics, **exact, **strict}, predicted, losses)
