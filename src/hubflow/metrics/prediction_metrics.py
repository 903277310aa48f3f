"""Metrics of predictions against labels, from counts that add up over parts."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.errors import TagError
from hubflow.schemas.frames import BLANK
from hubflow.schemas.labels import LabelMap, clean_label

MAX_EXAMPLES = 5


@dataclass
class Evaluated:
    """What the labels of a part's rows say of its predictions; the fields are those of `ShardRecord`."""

    labelled: int = 0
    counts: dict[str, Any] = field(default_factory=dict)
    unknown: int = 0
    unknown_examples: tuple[str, ...] = ()


def evaluate_classes(
    rows: Sequence[int], labels: Sequence[str | None], predicted: NDArray[Any], label_map: LabelMap
) -> Evaluated:
    """Counts of the rows that have a label: by class, how many are of it, are predicted as it, and are both.

    Args:
        rows: numbers `[rows]`.
        labels: as the data has them.
        predicted: class ids `[rows]`.
        label_map: of the export.
    """
    index = label_map.index()
    labels = [_as_known(label, index) for label in labels]
    known = [(place, index[label]) for place, label in enumerate(labels) if label is not None and label in index]
    strange = [(rows[place], label) for place, label in enumerate(labels) if has_label(label) and label not in index]
    places, truth = np.array(known, np.int64).reshape(-1, 2).T
    guessed = predicted[places]
    kinds = {"true": truth, "predicted": guessed, "right": truth[truth == guessed]}
    counts = {name: {str(label): count for label, count in Counter(ids.tolist()).items()} for name, ids in kinds.items()}
    return Evaluated(len(known) + len(strange), counts, len(strange), _named(strange))


def evaluate_words(
    rows: Sequence[int], labels: Sequence[Sequence[str] | None], predicted: Sequence[NDArray[np.int64]], label_map: LabelMap
) -> Evaluated:
    """Counts of the entities of the sentences that have labels: how many there are, were found, and are right.

    Args:
        rows: numbers `[rows]`.
        labels: of each sentence's words, as the data has them.
        predicted: class ids of each sentence's words.
        label_map: of the export.
    """
    from hubflow.metrics.entities import TagReader

    index = label_map.index()
    given = [
        (row, [_as_known(label, index) for label in truth], guess)
        for row, truth, guess in zip(rows, labels, predicted, strict=True)
        if truth is not None
    ]
    strange = [(row, label) for row, truth, _ in given for label in truth if label not in index]
    known = [(truth, guess) for _, truth, guess in given if all(label in index for label in truth)]
    try:
        reader = TagReader(label_map.labels, "IOB2", label_map.tagging)
    except TagError:  # the predictions are sound all the same; `unreadable_tags` says why there are no metrics
        return Evaluated(len(given), {}, len(strange), _named(strange))
    true = reader.read(reader.flat(np.array([index[label] for label in truth], np.int64) for truth, _ in known), "default")
    found = reader.read(reader.flat(guess for _, guess in known), "default")
    counts = {"right": int(found.among(true).sum()), "predicted": len(found.kind), "true": len(true.kind)}
    return Evaluated(len(given), counts, len(strange), _named(strange))


def unreadable_tags(label_map: LabelMap) -> str:
    """Why the labels cannot be read as tags; empty when they can."""
    try:
        _ = label_map.tagging
    except TagError as error:
        return str(error)
    return ""


def has_label(label: str | None) -> bool:
    """Whether a row has a label: more than white space and characters that show nothing."""
    return label is not None and bool(label.strip(BLANK))


def _as_known(label: Any, index: Mapping[str, int]) -> Any:
    """A label as `load_dataset` has it, unless the label map has it as it is written."""
    return label if label in index or not isinstance(label, str) else clean_label(label)


def metrics_of(counts: Iterable[Mapping[str, Any]], num_classes: int, is_sequence: bool) -> dict[str, float]:
    """Metrics over all parts, as evaluate has them: those that counts by class give, or of entities, micro averages."""
    from hubflow.metrics.metrics import ClassCounts, count_metrics, scores_of

    parts = [one for one in counts if one]
    if is_sequence:
        sums = (np.array([sum(one[name] for one in parts)]) for name in ("right", "predicted", "true"))
        return {name: float(value[0]) for name, value in zip(("precision", "recall", "f1"), scores_of(*sums), strict=True)}
    total = ClassCounts(num_classes)
    for one in parts:
        for name, array in vars(total).items():
            for label, count in one[name].items():
                array[int(label)] += count
    return count_metrics(total)


def _named(strange: Sequence[tuple[int, Any]]) -> tuple[str, ...]:
    return tuple(f"row {row} ({label!r})" for row, label in strange[:MAX_EXAMPLES])
