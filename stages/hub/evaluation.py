"""Evaluation: the test program over every row of a split, and the metrics that its task names, exactly over all rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.schemas.errors import SettingsError
from hubflow.schemas.labels import LabelMap
from hubflow.stages.hub.encoded import EncodedSplit, TextSplit, sorted_batches
from hubflow.stages.hub.judging import ClassJudge, JudgeOptions
from hubflow.stages.hub.judging_sequences import SequenceJudge
from hubflow.stages.hub.metrics import log_softmax
from hubflow.stages.hub.session import Session

EVALUATION_BATCH = 64
"""Rows of a batch while training."""
WHILE_TRAINING = JudgeOptions()
"""What is measured while training, where it must cost little."""
NEEDS_TWO_LABELS = frozenset({"roc_auc", "mcc"})
"""Metrics that are not defined, or always 0, where every row has the same label."""
NEEDS_ENTITIES = frozenset(f"{name}{mode}" for name in ("precision", "recall", "f1") for mode in ("", "_strict"))
"""Metrics that are 0 whatever is predicted where no word is part of an entity."""
OUTSIDE = "O"


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one split, and what they were computed from, in the rows' order.

    Attributes:
        metrics: value by name.
        judge: the sums, and what is kept of each row.
    """

    metrics: dict[str, float]
    judge: ClassJudge | SequenceJudge

    @property
    def predicted(self) -> list[Any]:
        """Class id by row, or ids of every word by row for sequences."""
        return [np.asarray(value).tolist() for value in self.judge.predicted]

    @property
    def losses(self) -> NDArray[np.float64]:
        """Cross-entropy by row (mean over its words for sequences) `[rows]`."""
        return self.judge.losses


def evaluate_split(
    session: Session,
    split: EncodedSplit,
    label_map: LabelMap,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
    options: JudgeOptions = WHILE_TRAINING,
) -> Evaluation:
    """Run the test program over every row, the last smaller batch included.

    Metric variables are averaged with the number of examples (tokens) of each batch as weight; accuracy and the metrics that
    a single batch cannot give come from sums over all batches. No logits are kept beyond their batch.
    """
    task = session.task
    names = task.metric_variable_names()
    fetch = [task.test_variable(name) for name in (*names, "num_examples", "logits")]
    sums, count = np.zeros(len(names)), 0.0
    judge = _judge_of(split, label_map, options)
    for batch in sorted_batches(split.lengths, batch_size):
        *values, weight, scores = session.run(task.test_program(), split.feed(batch), fetch)
        sums += np.array([float(value) for value in values]) * float(weight)
        count += float(weight)
        _add(judge, split, batch, scores)
        if on_batch is not None:
            on_batch(len(batch))
    metrics = dict(zip(names, (sums / max(count, 1.0)).tolist(), strict=True))
    return Evaluation({**metrics, **judge.metrics()}, judge)


def require_defined(metric: str, split: EncodedSplit, label_map: LabelMap) -> None:
    """Refuse to pick the best weights by a metric that the split's labels leave undefined, whatever is predicted.

    Args:
        metric: that is to pick the best weights.
        split: that is judged while training, with labels.
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


def labels_of(split: EncodedSplit) -> NDArray[np.int64]:
    """True class ids `[rows]` of a classification split."""
    labels: NDArray[np.int64] = split.label  # type: ignore[attr-defined]
    return labels


def word_predictions(split_pieces: NDArray[Any], scores: NDArray[Any], fallback: int) -> NDArray[np.int64]:
    """Class id of each word: of its first piece, or `fallback` when truncation left the word out."""
    best = scores.argmax(-1)
    return np.where(split_pieces >= 0, best[np.maximum(split_pieces, 0)], fallback)


def _judge_of(split: EncodedSplit, label_map: LabelMap, options: JudgeOptions) -> ClassJudge | SequenceJudge:
    if isinstance(split, TextSplit) and split.word_labels is not None:
        return SequenceJudge([split.word_labels[row] for row in range(len(split))], label_map, options)
    return ClassJudge(len(split), label_map.num_classes, options)


def _add(judge: ClassJudge | SequenceJudge, split: EncodedSplit, batch: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
    """Judge a batch: logits `[batch, classes]`, or `[batch, pieces, classes]` of sequences."""
    if isinstance(judge, ClassJudge):
        judge.add(batch, labels_of(split)[batch], log_softmax(logits))
        return
    assert isinstance(split, TextSplit)
    assert split.first_piece is not None
    pieces = [split.first_piece[row] for row in batch]
    seen = [row >= 0 for row in pieces]
    scores = [row[first[kept]] for row, first, kept in zip(logits, pieces, seen, strict=True)]
    judge.add(batch, seen, log_softmax(np.concatenate(scores)))
