"""Evaluating sequence labelling: batches of rows, in any order, summed in one pass by word and by entity."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.metrics.classification import Calibration, MetricOptions
from hubflow.metrics.entities import Mode, TagReader, scheme_of
from hubflow.metrics.metrics import ClassCounts, scores_of
from hubflow.schemas.labels import LabelMap, TagScheme, tagging_of

MODES: tuple[Mode, ...] = ("default", "strict")


class SequenceLabellingMetrics:
    """Sums over the words and entities of a split of which the true label ids are known, and what is kept of each row.

    Memory is a function of words (8 bytes each for what was predicted), rows (88 bytes) and labels; scores are not kept.

    Attributes:
        labels: true label id of each word, by row.
        predicted: label id of each word, by row; None where a row was not evaluated.
        losses: mean cross-entropy of a row's words that the model saw `[rows]`.
        row_sums: of each row how many of its words are right, its words, its summed loss, the words that the model saw, and
            for each mode how many entities are right, predicted and true `[rows, 10]`.
        words: counts of tags, by label.
        entities: counts of entities by type, for each mode of seqeval.
        calibration: of the words that the model saw.
    """

    def __init__(self, truth: Sequence[NDArray[np.int64]], label_map: LabelMap, options: MetricOptions) -> None:
        rows = len(truth)
        self.reader = reader_of(label_map, truth, options.scheme)
        self.labels = truth
        self.predicted: list[Any] = [None] * rows
        self.losses, self.row_sums = np.zeros(rows, np.float64), np.zeros((rows, 10), np.float64)
        self.words = ClassCounts(label_map.num_classes)
        self.entities = {mode: ClassCounts(len(self.reader.kinds)) for mode in MODES}
        self.calibration = Calibration(options.bins)
        self._outside = outside_id(label_map)

    def add(self, rows: NDArray[np.int64], seen: Sequence[NDArray[np.bool_]], scores: NDArray[np.float64]) -> None:
        """Judge a batch of rows.

        Args:
            rows: positions in the split `[batch]`.
            seen: of each row, whether truncation left the word to the model `[words]`; one that it cut off counts as predicted
                `O`, or as the first label where there is no `O`.
            scores: log probabilities of the words that the model saw, row after row, `[seen words, classes]`.
        """
        labels = [self.labels[row] for row in rows.tolist()]
        truth, was_seen = np.concatenate(labels), np.concatenate(seen)
        lengths = [len(row) for row in labels]
        guess = np.full(len(truth), self._outside, np.int64)
        guess[was_seen] = scores.argmax(-1)
        self.words.add(truth, guess)
        owner = np.repeat(np.arange(len(rows)), lengths)
        self.row_sums[rows, 0] = np.bincount(owner, truth == guess, len(rows))
        self.row_sums[rows, 1] = lengths
        self._add_scores(rows, owner[was_seen], truth[was_seen], scores)
        guesses = np.split(guess, np.cumsum(lengths)[:-1])
        for row, one in zip(rows.tolist(), guesses, strict=True):
            self.predicted[row] = one
        self._add_entities(rows, np.cumsum([0, *lengths]) + np.arange(len(rows) + 1), labels, guesses)

    def _add_scores(
        self, rows: NDArray[np.int64], owner: NDArray[np.int64], truth: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> None:
        places, best = np.arange(len(truth)), scores.argmax(-1)
        sums = np.bincount(owner, -scores[places, truth], len(rows))
        counts = np.bincount(owner, minlength=len(rows))
        self.losses[rows] = sums / np.maximum(counts, 1)
        self.row_sums[rows, 2], self.row_sums[rows, 3] = sums, counts
        self.calibration.add(np.exp(scores[places, best]).astype(np.float32), best == truth)

    def _add_entities(
        self,
        rows: NDArray[np.int64],
        starts: NDArray[np.int64],
        labels: Sequence[NDArray[np.int64]],
        guesses: Sequence[NDArray[np.int64]],
    ) -> None:
        """Count the entities of a batch, whose rows begin at `starts` of the flat tags."""
        truth, predicted = self.reader.flat(labels), self.reader.flat(guesses)
        for place, (mode, counts) in enumerate(self.entities.items()):
            true, found = self.reader.read(truth, mode), self.reader.read(predicted, mode)
            is_right = found.among(true)
            for which, (kind, first) in enumerate(
                ((found.kind[is_right], found.first[is_right]), (found.kind, found.first), (true.kind, true.first))
            ):
                column = (counts.right, counts.predicted, counts.true)[which]
                column += np.bincount(kind, minlength=len(column))
                owner = np.searchsorted(starts, first, side="right") - 1
                self.row_sums[rows, 4 + 3 * place + which] = np.bincount(owner, minlength=len(rows))

    @property
    def rows(self) -> NDArray[np.int64]:
        """Positions in the split that were evaluated."""
        return np.flatnonzero([guess is not None for guess in self.predicted])

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the words that the model saw."""
        return float(self.row_sums[:, 2].sum() / max(self.row_sums[:, 3].sum(), 1.0))

    def metrics(self) -> dict[str, float]:
        """Every flat metric, but the loss."""
        found = {"accuracy": int(self.words.right.sum()) / max(int(self.words.true.sum()), 1)}
        for mode, suffix in zip(MODES, ("", "_strict"), strict=True):
            found |= {f"{name}{suffix}": value for name, value in micro_scores(self.entities[mode]).items()}
        return {**found, "ece": self.calibration.error}


def reader_of(label_map: LabelMap, truth: Sequence[NDArray[np.int64]], scheme: TagScheme = "auto") -> TagReader:
    """Reader of the tags of a label map, by `scheme`, or that of the map, or what labels and true tags tell.

    Raises:
        TagError: when they do not tell it.
    """
    known = label_map.tag_scheme if scheme == "auto" else scheme
    tagging = tagging_of(label_map.labels, known)
    return TagReader(label_map.labels, scheme_of(label_map.labels, truth, tagging) if known == "auto" else known, tagging)


def micro_scores(counts: ClassCounts) -> dict[str, float]:
    """Precision, recall and F1 of all types together, as seqeval's micro average."""
    summed = scores_of(*(np.array([one.sum()]) for one in (counts.right, counts.predicted, counts.true)))
    return {name: float(values[0]) for name, values in zip(("precision", "recall", "f1"), summed, strict=True)}


def outside_id(label_map: LabelMap) -> int:
    """Label id that a word without a prediction gets: `O`, or the first label when there is none."""
    return label_map.index().get("O", 0)
