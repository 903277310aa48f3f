"""Judging sequence labelling: batches of rows, in any order, summed in one pass by word and by entity. No Paddle here."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hubflow.schemas.labels import LabelMap
from hubflow.stages.hub.entities import Mode, Scheme, TagReader
from hubflow.stages.hub.judging import Calibration
from hubflow.stages.hub.metrics import ClassCounts, scores_of

MODES: tuple[Mode, ...] = ("default", "strict")


class SequenceJudge:
    """Sums over the words and entities of a split, and what is kept of each row.

    Memory is a function of words (8 bytes each for what was predicted), rows and labels; scores are not kept.

    Attributes:
        predicted: label id of each word, by row; None where a row was not judged.
        losses: mean cross-entropy of a row's words that the model saw `[rows]`.
        words: counts of tags, by label.
        entities: counts of entities by type, for each mode of seqeval.
        calibration: of the words that the model saw.
    """

    def __init__(self, rows: int, label_map: LabelMap, scheme: Scheme, bins: int) -> None:
        self.reader = TagReader(label_map.labels, scheme)
        self.predicted: list[NDArray[np.int64] | None] = [None] * rows
        self.labels: list[NDArray[np.int64] | None] = [None] * rows
        self.losses = np.zeros(rows, np.float64)
        self.words = ClassCounts(label_map.num_classes)
        self.entities = {mode: ClassCounts(len(self.reader.kinds)) for mode in MODES}
        self.calibration = Calibration(bins)
        self._outside = outside_id(label_map)
        self._loss, self._seen = 0.0, 0

    def add(
        self,
        rows: NDArray[np.int64],
        labels: Sequence[NDArray[np.int64]],
        seen: Sequence[NDArray[np.bool_]],
        scores: NDArray[np.float64],
    ) -> None:
        """Judge a batch of rows.

        Args:
            rows: positions in the split `[batch]`.
            labels: of each row, true label ids `[words]`.
            seen: of each row, whether truncation left the word to the model `[words]`; one that it cut off counts as predicted
                `O`, or as the first label where there is no `O`.
            scores: log probabilities of the words that the model saw, row after row, `[seen words, classes]`.
        """
        truth, was_seen = np.concatenate(labels), np.concatenate(seen)
        lengths = [len(row) for row in labels]
        guess = np.full(len(truth), self._outside, np.int64)
        guess[was_seen] = scores.argmax(-1)
        self.words.add(truth, guess)
        self._add_scores(rows, np.repeat(np.arange(len(rows)), lengths)[was_seen], truth[was_seen], scores)
        guesses = np.split(guess, np.cumsum(lengths)[:-1])
        for row, one, true in zip(rows.tolist(), guesses, labels, strict=True):
            self.predicted[row], self.labels[row] = one, true
        self._add_entities(self.reader.flat(labels), self.reader.flat(guesses))

    def _add_scores(
        self, rows: NDArray[np.int64], owner: NDArray[np.int64], truth: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> None:
        places, best = np.arange(len(truth)), scores.argmax(-1)
        losses = -scores[places, truth]
        counts = np.bincount(owner, minlength=len(rows))
        self.losses[rows] = np.bincount(owner, losses, len(rows)) / np.maximum(counts, 1)
        self._loss, self._seen = self._loss + float(losses.sum()), self._seen + len(losses)
        self.calibration.add(np.exp(scores[places, best]), best == truth)

    def _add_entities(self, truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> None:
        kinds = len(self.reader.kinds)
        for mode, counts in self.entities.items():
            true, found = self.reader.read(truth, mode), self.reader.read(predicted, mode)
            counts.true += np.bincount(true.kind, minlength=kinds)
            counts.predicted += np.bincount(found.kind, minlength=kinds)
            counts.right += np.bincount(found.kind[found.among(true)], minlength=kinds)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Positions in the split that were judged."""
        return np.flatnonzero([guess is not None for guess in self.predicted])

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the words that the model saw."""
        return self._loss / max(self._seen, 1)

    def metrics(self) -> dict[str, float]:
        """Every flat metric, but the loss."""
        found = {"accuracy": int(self.words.right.sum()) / max(int(self.words.true.sum()), 1)}
        for mode, suffix in zip(MODES, ("", "_strict"), strict=True):
            found |= {f"{name}{suffix}": value for name, value in micro_scores(self.entities[mode]).items()}
        return {**found, "ece": self.calibration.error}


def micro_scores(counts: ClassCounts) -> dict[str, float]:
    """Precision, recall and F1 of all types together, as seqeval's micro average."""
    summed = scores_of(*(np.array([one.sum()]) for one in (counts.right, counts.predicted, counts.true)))
    return {name: float(values[0]) for name, values in zip(("precision", "recall", "f1"), summed, strict=True)}


def outside_id(label_map: LabelMap) -> int:
    """Label id that a word without a prediction gets: `O`, or the first label when there is none."""
    return label_map.index().get("O", 0)
