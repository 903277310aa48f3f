"""Predictions as Arrow tables, column by column: no Python object a row where it can be helped. Must not import Paddle."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as arrow
from numpy.typing import NDArray

from hubflow.data.extra_columns import free_names
from hubflow.schemas.frames import PROBABILITY, TOP_LABELS, TOP_PROBABILITIES, require_predictions
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import RowKind

if TYPE_CHECKING:
    from hubflow.inference.predictor import WordScores

NUM_TRUNCATED_TOKENS, NUM_TRUNCATED_WORDS = "num_truncated_tokens", "num_truncated_words"
"""Columns of texts, and of sentences: how many of a row's tokens, or words, `max_seq_len` cut off."""
HELD = ("row", "tokens", "predicted", "probability")


def class_table(
    rows: Any,
    scores: NDArray[np.float32],
    label_map: LabelMap,
    kind: RowKind,
    top_k: int | None,
    source: str,
    num_cut: NDArray[np.int64] | None = None,
) -> Any:
    """The rows with what was predicted of each, once it keeps `Predictions`.

    Args:
        rows: table of the input's rows.
        scores: probabilities `[rows, classes]`.
        label_map: of the export.
        kind: of the rows.
        top_k: how many labels to give as lists; None gives a column for each label.
        source: named in errors.
        num_cut: how many tokens of each text `max_seq_len` cut off `[rows]`; None of images.

    Raises:
        ContractError: when the predictions break their contract.
    """
    best = scores.argmax(1) if len(scores) else np.zeros(0, np.int64)
    columns = {
        "predicted": _labels(best, label_map),
        "probability": arrow.array(scores[np.arange(len(scores)), best].astype(np.float64)),
    }
    if top_k is None:
        columns |= {f"{PROBABILITY}{label}": arrow.array(scores[:, place]) for place, label in enumerate(label_map.labels)}
    else:
        columns |= _top(scores, label_map, min(top_k, label_map.num_classes))
    if num_cut is not None:
        columns[NUM_TRUNCATED_TOKENS] = arrow.array(num_cut)
    table = _joined(rows, columns, kind)
    held = table.select(["row", *columns]).to_pandas()
    require_predictions(held, label_map, rows.column("row").to_numpy(), source, top_k=top_k)
    return table


def word_table(rows: Any, words: Sequence["WordScores"], label_map: LabelMap, source: str) -> Any:
    """The sentences with a label and its probability for each word, once they keep `TokenPredictions`."""
    lengths = np.array([len(one.labels) for one in words], np.int64)
    offsets = arrow.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    ids = np.concatenate([one.labels for one in words] or [np.zeros(0, np.int64)])
    picked = [one.probabilities[np.arange(len(one.labels)), one.labels] for one in words]
    flat = np.concatenate(picked or [np.zeros(0, np.float32)]).astype(np.float64)
    columns = {
        "predicted": arrow.ListArray.from_arrays(offsets, _labels(ids, label_map)),
        "probability": arrow.ListArray.from_arrays(offsets, arrow.array(flat)),
        NUM_TRUNCATED_WORDS: arrow.array([one.num_cut for one in words], arrow.int64()),
    }
    table = _joined(rows, columns, "tokens")
    held = table.select(list(HELD)).to_pandas()
    require_predictions(held, label_map, rows.column("row").to_numpy(), source, is_sequence=True)
    return table


def _labels(ids: NDArray[np.int64], label_map: LabelMap) -> Any:
    return arrow.array(label_map.labels, arrow.large_string()).take(arrow.array(ids))


def _top(scores: NDArray[np.float32], label_map: LabelMap, count: int) -> dict[str, Any]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    offsets = arrow.array((np.arange(len(scores) + 1) * count).astype(np.int32))
    likely = np.take_along_axis(scores, order, axis=1)
    return {
        TOP_LABELS: arrow.ListArray.from_arrays(offsets, _labels(order.reshape(-1), label_map)),
        TOP_PROBABILITIES: arrow.ListArray.from_arrays(offsets, arrow.array(likely.reshape(-1))),
    }


def _joined(rows: Any, columns: dict[str, Any], kind: RowKind) -> Any:
    """Rows with further columns; one of theirs that has a name of ours is called `source_<name>`."""
    if kind == "image":
        rows = rows.drop_columns([name for name in ("image", "sha256") if name in rows.column_names])
    renamed = free_names(rows.column_names, columns)
    table = rows.rename_columns([renamed.get(name, name) for name in rows.column_names])
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table.replace_schema_metadata(None)
