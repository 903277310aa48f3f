"""Predictions as Arrow tables, and written as one Parquet, CSV or JSON lines file so that every value reads back."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as arrow
from numpy.typing import NDArray
from pyarrow import compute, parquet

from hubflow.data.columns import TEXT, free_names, json_texts, texts
from hubflow.errors import DataError
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
        columns |= {
            f"{PROBABILITY}{label}": arrow.array(scores[:, position]) for position, label in enumerate(label_map.labels)
        }
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


# Some readers take a lone carriage return, or another control character, for the end of a row or a file.
_QUOTED = r'[",\x00-\x1f\x7f]|^\s|\s$|^$'
# Full-width signs too: spreadsheets of East Asian languages take them for the others.
_FORMULA = r"^[\x{200b}-\x{200f}\x{2060}\x{feff}]*[=+\-@\t\r\n＝＋－＠]"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
"""Of which nothing is computed: a column of a CSV file is text."""
OUTPUTS = (".parquet", ".csv", ".jsonl")


def write_tables(tables: Iterable[Any], stream: IO[bytes], ending: str, escape_formulas: bool = False) -> None:
    """Write tables with the same columns as one file, in order, in the format of the ending.

    In CSV, no value is an empty field and an empty text is `""`; floats are `inf`, `-inf` and `nan` where they are not finite.
    In JSON lines these are the strings "Infinity", "-Infinity" and "NaN". See `hubflow.data.columns` for the others.

    Args:
        tables: what to write.
        stream: the file, open for writing.
        ending: `.parquet`, `.csv` or `.jsonl`.
        escape_formulas: put `'` before texts, of cells and of column names, that spreadsheets would compute; in CSV alone.

    Raises:
        OSError: when it cannot be written.
    """
    if ending == ".parquet":
        writer = None
        for table in tables:
            writer = writer or parquet.ParquetWriter(stream, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
        return
    for number, table in enumerate(tables):
        if number == 0 and ending == ".csv":
            names = _cells(arrow.array(table.column_names, TEXT), escape_formulas)
            stream.write(f"{','.join(names.to_pylist())}\n".encode())
        for batch in table.to_batches():
            lines = _csv_lines(batch, escape_formulas) if ending == ".csv" else _json_lines(batch)
            stream.write("\n".join([*lines.to_pylist(), ""]).encode())


def require_writable(schema: Any, output: Path, source: str) -> None:
    """Refuse rows with a column that the format of the output cannot hold.

    Args:
        schema: columns of the input.
        output: the predictions file.
        source: of the rows, named in the error.

    Raises:
        DataError: naming the column.
    """
    if output.suffix == ".parquet":  # the rows are in Parquet already
        return
    for field in schema:
        try:
            texts(arrow.nulls(1, field.type))
        except (arrow.ArrowException, ValueError) as error:
            raise DataError(
                f"{source}: column {field.name!r} is of type {field.type}, which {output.suffix} cannot hold ({error}); write "
                "to a .parquet file, or leave the column out"
            ) from error


def _cells(column: Any, escape_formulas: bool) -> Any:
    """Values as fields of CSV."""
    text = texts(column, ".0")
    kinds = arrow.types
    is_text = not (kinds.is_primitive(column.type) or kinds.is_decimal(column.type))  # numbers and times keep their sign
    if escape_formulas and is_text:
        is_number = compute.match_substring_regex(text, _NUMBER)
        is_formula = compute.and_not(compute.match_substring_regex(text, _FORMULA), is_number)
        with_mark = compute.binary_join_element_wise(arrow.scalar("'", TEXT), text, arrow.scalar("", TEXT))
        text = compute.if_else(is_formula, with_mark, text)
    doubled = compute.replace_substring(text, '"', '""')
    is_quoted = compute.match_substring_regex(text, _QUOTED)
    whole = compute.binary_join_element_wise(arrow.scalar('"', TEXT), doubled, arrow.scalar('"', TEXT), arrow.scalar("", TEXT))
    return compute.fill_null(compute.if_else(is_quoted, whole, text), "")


def _csv_lines(batch: Any, escape_formulas: bool) -> Any:
    cells = [_cells(column, escape_formulas) for column in batch.columns]
    return compute.binary_join_element_wise(*cells, arrow.scalar(",", TEXT))


def _json_lines(batch: Any) -> Any:
    parts: list[Any] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        parts += [arrow.scalar(f"{', ' if parts else '{'}{json.dumps(name)}: ", TEXT), json_texts(column)]
    return compute.binary_join_element_wise(*parts, arrow.scalar("}", TEXT), arrow.scalar("", TEXT))
