"""Evaluation: the test program over every row of a split, and the metrics that its task names, exactly over all rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.data.encoded import EncodedSplit, ListColumn, TextSplit, sorted_batches
from hubflow.errors import SettingsError
from hubflow.metrics import MetricOptions, StreamingMetrics
from hubflow.modules.tokenizer import WordWindows
from hubflow.programs.session import Session
from hubflow.schemas.labels import OUTSIDE, LabelMap

EVALUATION_BATCH = 64
"""Rows of a batch while training."""
WHILE_TRAINING = MetricOptions()
"""What is measured while training, where it must cost little."""
NEEDS_TWO_LABELS = frozenset({"roc_auc", "mcc"})
"""Metrics that are not defined, or always 0, where every row has the same label."""
NEEDS_ENTITIES = frozenset(f"{name}{mode}" for name in ("precision", "recall", "f1") for mode in ("", "_strict"))
"""Metrics that are 0 whatever is predicted where no word is part of an entity."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split, and what they were computed from, in the rows' order.

    Attributes:
        metrics: value by name.
        streamed: the sums, and what is kept of each row.
    """

    metrics: dict[str, float]
    streamed: StreamingMetrics

    @property
    def predicted(self) -> list[Any]:
        """Class id by row, or ids of every word by row for sequences."""
        return [np.asarray(value).tolist() for value in self.streamed.predicted]

    @property
    def losses(self) -> NDArray[np.float64]:
        """Cross-entropy by row (mean over its words for sequences) `[rows]`."""
        return self.streamed.losses


def evaluate_split(
    session: Session,
    split: EncodedSplit,
    label_map: LabelMap,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
    options: MetricOptions = WHILE_TRAINING,
    windows: WordWindows | None = None,
) -> Evaluation:
    """Run the test program over every row, the last smaller batch included; with `windows` of all rows, over these.

    Metric variables are averaged with the number of examples (tokens) of each batch as weight; accuracy and the metrics that
    a single batch cannot give come from sums over all batches. No logits are kept beyond their batch.
    """
    task = session.task
    names = task.metric_variable_names()
    fetch = [task.test_variable(name) for name in (*names, "num_examples", "logits")]
    sums, count = np.zeros(len(names)), 0.0
    streamed: StreamingMetrics = session.task_type.streaming_metrics(truth_of(split), label_map, options)
    windowed = None if windows is None else WindowedRows.of(split, windows, label_map.num_classes)
    rows = split if windowed is None else windowed.split
    for batch in sorted_batches(rows.lengths, batch_size):
        *values, weight, scores = session.run(task.test_program(), rows.feed(batch), fetch)
        sums += np.array([float(value) for value in values]) * float(weight)
        count += float(weight)
        if windowed is None:
            _update(streamed, split, batch, scores)
        else:
            windowed.update(streamed, batch, scores)
        if on_batch is not None:
            on_batch(len(batch))
    if windowed is not None:
        windowed.finish(streamed)
    metrics = dict(zip(names, (sums / max(count, 1.0)).tolist(), strict=True))
    exact = {name: value for name, value in streamed.compute().items() if name != "loss"}  # which the program measures
    return Evaluation({**metrics, **exact}, streamed)


def require_defined(metric: str, split: EncodedSplit, label_map: LabelMap) -> None:
    """Refuse to pick the best weights by a metric that the split's labels leave undefined, whatever is predicted.

    Args:
        metric: that is to pick the best weights.
        split: that is evaluated while training, with labels.
        label_map: the labels.

    Raises:
        SettingsError: naming the metric, what the split lacks, and what to do.
    """
    counts = split.class_counts(label_map.num_classes)
    present = [label for label, count in zip(label_map.labels, counts.tolist(), strict=True) if count]
    if metric in NEEDS_TWO_LABELS and len(present) < 2:  # noqa: PLR2004
        lack = f"all {len(split)} rows of dev have the label {present[0]!r}" if present else "no row of dev has a label"
        raise SettingsError(
            f"train.best_metric {metric!r} is not defined on dev: {lack}; choose another metric, such as loss or accuracy, or "
            "give a dev split with rows of several labels"
        )
    if metric in NEEDS_ENTITIES and not set(present) - {OUTSIDE}:
        raise SettingsError(
            f"train.best_metric {metric!r} is not defined on dev: no word of its {len(split)} rows is part of an entity; "
            "choose another metric, such as loss or accuracy, or give a dev split with entities"
        )


class WindowedRows:
    """Sentences read in windows: as a split of windows, each with the words that are read in it, and put together again.

    Attributes:
        split: the windows that have a word.
    """

    def __init__(
        self, split: TextSplit, owners: NDArray[np.int64], windows: WordWindows, kept: NDArray[np.int64], classes: int
    ):
        self.split = split
        self._owners, self._windows, self._kept = owners, windows, kept
        self._left = np.bincount(owners, minlength=len(windows.windows))
        self._scores: dict[int, dict[int, NDArray[np.float32]]] = {}
        self._classes = classes

    @classmethod
    def of(cls, split: EncodedSplit, windows: WordWindows, num_classes: int) -> "WindowedRows":
        """The windows of all rows of a split."""
        assert isinstance(split, TextSplit)
        assert split.word_labels is not None
        labels: dict[int, NDArray[Any]] = {}
        pieces: dict[int, NDArray[Any]] = {}
        owners: dict[int, int] = {}
        for row, of_words in enumerate(windows.windows):
            for window in np.unique(of_words[of_words >= 0]).tolist():
                is_here = of_words == window
                labels[window], pieces[window] = split.word_labels[row][is_here], windows.pieces[row][is_here]
                owners[window] = row
        kept = np.array(sorted(owners), np.int64)
        ids = [windows.input_ids[window] for window in kept]
        of_window = np.array([owners[window] for window in kept.tolist()], np.int64)
        rows = TextSplit(
            rows=split.rows[of_window],
            lengths=np.array([len(row) for row in ids], np.int64),
            pad_id=split.pad_id,
            input_ids=_Lists(ids),
            segment_ids=_Lists([np.zeros_like(row) for row in ids]),
            label=None,
            word_labels=_Lists([labels[window] for window in kept.tolist()]),
            first_piece=_Lists([pieces[window] for window in kept.tolist()]),
        )
        return cls(rows, of_window, windows, kept, num_classes)

    def update(self, streamed: StreamingMetrics, batch: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
        """Take the logits `[batch, pieces, classes]` of a batch of windows, and evaluate the rows that are whole."""
        assert self.split.first_piece is not None
        whole = []
        for position, window in enumerate(batch.tolist()):
            row = int(self._owners[window])
            kept = self._scores.setdefault(row, {})
            kept[int(self._kept[window])] = logits[position][self.split.first_piece[window]]
            if len(kept) == self._left[row]:
                whole.append(row)
        self._update_whole(streamed, whole)

    def finish(self, streamed: StreamingMetrics) -> None:
        """Evaluate the rows of which no word has a piece."""
        self._update_whole(streamed, np.flatnonzero(self._left == 0).tolist())

    def _update_whole(self, streamed: StreamingMetrics, rows: list[int]) -> None:
        if not rows:
            return
        seen, scores = [], [np.zeros((0, self._classes), np.float32)]
        for row in rows:
            of_words = self._windows.windows[row]
            seen.append(of_words >= 0)
            of_seen = of_words[of_words >= 0]
            found = np.zeros((len(of_seen), self._classes), np.float32)
            for window, logits in self._scores.pop(row, {}).items():
                found[of_seen == window] = logits
            scores.append(found)
        streamed.update(np.array(rows, np.int64), log_probabilities(np.concatenate(scores)), seen)


class _Lists(ListColumn):
    """Lists at hand, as a column."""

    def __init__(self, lists: Sequence[NDArray[Any]]) -> None:
        self._lists = lists

    def __getitem__(self, index: int) -> NDArray[Any]:
        return self._lists[index]

    def values(self) -> NDArray[Any]:
        return np.concatenate([np.zeros(0, np.int64), *self._lists])

    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(row) for row in self._lists], np.int64)


def is_sequence(split: EncodedSplit) -> bool:
    """Whether each word of a row has a label."""
    return isinstance(split, TextSplit) and split.word_labels is not None


def truth_of(split: EncodedSplit) -> Any:
    """True class ids `[rows]`; of sequences the ids of the words of each row."""
    if isinstance(split, TextSplit) and split.word_labels is not None:
        return [split.word_labels[row] for row in range(len(split))]
    return split.label  # type: ignore[attr-defined]


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log probabilities over the last dimension, in float64."""
    from scipy.special import log_softmax

    found: NDArray[np.float64] = log_softmax(logits.astype(np.float64), axis=-1)
    return found


def _update(streamed: StreamingMetrics, split: EncodedSplit, batch: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
    """Evaluate a batch: logits `[batch, classes]`, or `[batch, pieces, classes]` of sequences."""
    if not isinstance(split, TextSplit) or split.first_piece is None:
        streamed.update(batch, log_probabilities(logits))
        return
    pieces = [split.first_piece[row] for row in batch]
    seen = [row >= 0 for row in pieces]
    scores = [row[first[kept]] for row, first, kept in zip(logits, pieces, seen, strict=True)]
    streamed.update(batch, log_probabilities(np.concatenate(scores)), seen)
