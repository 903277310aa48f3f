"""Write predictions as Parquet, CSV or JSON lines so that every value reads back. Must not import Paddle or Prefect."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as arrow
from pyarrow import compute, parquet

from hubflow.stages.data.column_text import TEXT, json_texts, texts
from hubflow.stages.errors import DataError

# Some readers take a lone carriage return, or another control character, for the end of a row or a file.
_QUOTED = r'[",\x00-\x1f\x7f]|^\s|\s$|^$'
OUTPUTS = (".parquet", ".csv", ".jsonl")


def write_tables(tables: Iterable[Any], path: Path, ending: str) -> None:
    """Write tables with the same columns as one file, in order, in the format of the ending.

    In CSV, no value is an empty field and an empty text is `""`; floats are `inf`, `-inf` and `nan` where they are not finite.
    In JSON lines these are the strings "Infinity", "-Infinity" and "NaN". See `hubflow.stages.data.column_text` for the others.

    Raises:
        OSError: when it cannot be written.
    """
    if ending == ".parquet":
        writer = None
        for table in tables:
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
        if writer is not None:
            writer.close()
        return
    with path.open("wb") as stream:
        for number, table in enumerate(tables):
            if number == 0 and ending == ".csv":
                stream.write(f"{','.join(_cells(arrow.array(table.column_names, TEXT)).to_pylist())}\n".encode())
            for batch in table.to_batches():
                lines = _LINES[ending](batch)
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


def _cells(column: Any) -> Any:
    """Values as fields of CSV."""
    text = texts(column, ".0")
    doubled = compute.replace_substring(text, '"', '""')
    is_quoted = compute.match_substring_regex(text, _QUOTED)
    whole = compute.binary_join_element_wise(arrow.scalar('"', TEXT), doubled, arrow.scalar('"', TEXT), arrow.scalar("", TEXT))
    return compute.fill_null(compute.if_else(is_quoted, whole, text), "")


def _csv_lines(batch: Any) -> Any:
    return compute.binary_join_element_wise(*map(_cells, batch.columns), arrow.scalar(",", TEXT))


def _json_lines(batch: Any) -> Any:
    parts: list[Any] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        parts += [arrow.scalar(f"{', ' if parts else '{'}{json.dumps(name)}: ", TEXT), json_texts(column)]
    return compute.binary_join_element_wise(*parts, arrow.scalar("}", TEXT), arrow.scalar("", TEXT))


_LINES: dict[str, Callable[[Any], Any]] = {".csv": _csv_lines, ".jsonl": _json_lines}
