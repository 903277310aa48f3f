"""Contract of encoded text rows: ids within the vocabulary, lengths that agree, labels within the map. No Paddle here."""

from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
from numpy.typing import NDArray

from hubflow.errors import ContractError
from hubflow.schemas.frames import validate_frame


class EncodedRows(pa.DataFrameModel):
    """Encoded text rows: `row`, `input_ids` and `segment_ids` of equal lengths, and labels.

    Classification rows carry `label`; token rows carry `word_labels` and `first_piece` of equal lengths, each piece inside
    its row. `check_encoded_text` holds the lists to the limits of module and label map, as flat arrays.
    """

    row: int = pa.Field(ge=1)

    class Config:
        """Columns beyond `row` are checked together, as flat arrays."""

        strict = False


def check_encoded_text(batch: arrow.RecordBatch, vocab_size: int, max_seq_len: int, num_classes: int, source: str) -> None:
    """Hold one batch of encoded text rows to the contract.

    Raises:
        ContractError: naming split, rows and the check that failed.
    """
    columns = {name: batch.column(name) for name in batch.schema.names}
    lengths = _lengths(columns["input_ids"])
    frame = pd.DataFrame({"row": columns["row"].to_numpy()})
    validate_frame(frame, EncodedRows.to_schema(), source)
    faults: dict[str, NDArray[np.bool_]] = {
        f"1 to {max_seq_len} tokens": (lengths < 1) | (lengths > max_seq_len),
        "as many segment ids as token ids": lengths != _lengths(columns["segment_ids"]),
        f"token ids in 0..{vocab_size - 1}": _rows_with(columns["input_ids"], 0, vocab_size),
    }
    if "label" in columns:
        label = columns["label"].to_numpy()
        faults[f"label in 0..{num_classes - 1}"] = (label < 0) | (label >= num_classes)
    if "word_labels" in columns:
        words, pieces = columns["word_labels"], columns["first_piece"]
        faults["as many first pieces as words"] = _lengths(words) != _lengths(pieces)
        faults[f"word labels in 0..{num_classes - 1}"] = _rows_with(words, 0, num_classes)
        faults["first pieces inside the row, or -1"] = _rows_with(pieces, -1, lengths)
    for expected, is_bad in faults.items():
        if is_bad.any():
            rows = frame["row"].to_numpy()[is_bad][:10].tolist()
            raise ContractError(
                f"{source}: {int(is_bad.sum())} encoded row(s) break the contract; expected {expected}; rows {rows}"
            )


def _lengths(column: Any) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = np.diff(column.offsets.to_numpy()).astype(np.int64)
    return lengths


def _rows_with(column: Any, low: int, high: int | NDArray[np.int64]) -> NDArray[np.bool_]:
    """Rows of a list column that hold a value outside `low..high-1`; `high` is one for all, or one for each row."""
    offsets = column.offsets.to_numpy()
    values, starts = column.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0]
    limits = high if isinstance(high, int) else np.repeat(high, np.diff(offsets))
    bad = (values < low) | (values >= limits)
    counts = np.concatenate([[0], np.cumsum(bad)])
    result: NDArray[np.bool_] = counts[starts[1:]] > counts[starts[:-1]]
    return result
