"""Write predictions as Parquet, CSV or JSON lines so that every value reads back. Must not import Paddle or Prefect."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import pyarrow as arrow
from pyarrow import compute, parquet

from hubflow.data.column_text import TEXT, json_texts, texts
from hubflow.errors import DataError

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
    In JSON lines these are the strings "Infinity", "-Infinity" and "NaN". See `hubflow.data.column_text` for the others.

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
