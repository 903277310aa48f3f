"""Rows of Parquet files, in chunks. Must not import Paddle or Prefect."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
from pyarrow import compute, parquet

from hubflow.schemas.errors import bounded
from hubflow.stages.data.reading_chunks import Chunk, Malformed
from hubflow.stages.data.reading_records import carried
from hubflow.stages.data.reading_source import Request, make_rows, require_file, wanted_columns
from hubflow.stages.errors import DataError

BATCH_BYTES = 1 << 25
TEXT = arrow.large_string()


def read_parquet(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Rows of a Parquet file; numbers and true/false as labels become their text, and are counted.

    A record with text that is not UTF-8 is malformed.

    Raises:
        DataError: for a file that is no Parquet, or a column of another type than its contract has.
    """
    number = 1
    try:
        with parquet.ParquetFile(require_file(request.path)) as file:
            names = file.schema_arrow.names
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise DataError(f"{request.path}: column name(s) {bounded(map(repr, repeated))} repeat; name each column once")
            taken = wanted_columns(request, names)
            for batch in file.iter_batches(batch_size=_batch_rows(file.metadata, chunk_rows)):
                yield _chunk(request, arrow.Table.from_batches([batch]), taken, number)
                number += len(batch)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{request.path}: cannot be read as Parquet ({error})") from error


def _batch_rows(metadata: Any, chunk_rows: int) -> int:
    """So many rows at once that long ones need no more memory than short ones."""
    size: int = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    rows: int = metadata.num_rows
    return max(1, min(chunk_rows, BATCH_BYTES * max(rows, 1) // max(size, 1)))


def _chunk(request: Request, table: Any, taken: dict[str, str], begins: int) -> Chunk:
    malformed, numbers = Malformed(), np.arange(begins, begins + len(table))
    table, numbers = _valid(table, numbers, malformed)
    coerced = {}
    for name, key in taken.items():
        column, coerced[name] = _typed(request.path, name, key, table.column(key))
        table = table.set_column(table.column_names.index(key), key, column)
    frame = table.to_pandas(ignore_metadata=True)
    lists = {key for name, key in taken.items() if name in ("tokens", "labels")}
    nested = {field.name for field in table.schema if arrow.types.is_nested(field.type)} - lists
    columns: dict[str, Any] = {key: frame[key] for key in frame}
    columns |= {key: _lists(frame[key]) for key in lists}
    columns |= {key: [carried(value) for value in table.column(key).to_pylist()] for key in nested}  # as JSON lines have it
    coerced |= {key: len(table) - table.column(key).null_count for key in nested}
    counted = {name: count for name, count in coerced.items() if count}
    return Chunk(make_rows(request, numbers, columns), malformed.frame(), counted)


def _valid(table: Any, numbers: np.ndarray, malformed: Malformed) -> tuple[Any, np.ndarray]:
    """Records whose text is UTF-8, which Parquet promises and some writers do not keep; the others are noted."""
    try:
        table.validate(full=True)
        return table, numbers
    except arrow.ArrowInvalid:
        good = np.ones(len(table), dtype=bool)
    for place in range(len(table)):
        try:
            table.slice(place, 1).combine_chunks().to_pylist()
        except (UnicodeDecodeError, arrow.ArrowInvalid) as error:
            good[place] = False
            found = f"record {numbers[place]}: {error}"
            malformed.add(int(numbers[place]), "", "encoding", found, remedy="write the text as UTF-8")
    return table.filter(arrow.array(good)), numbers[good]


def _typed(path: Path, name: str, key: str, column: Any) -> tuple[Any, int]:
    """A column as its contract has it, and how many of its values had to be converted."""
    kind = column.type.value_type if arrow.types.is_dictionary(column.type) else column.type
    inner = kind.value_type if name in ("tokens", "labels") and _is_list(kind) else kind
    inner = inner.value_type if arrow.types.is_dictionary(inner) else inner
    is_text = arrow.types.is_string(inner) or arrow.types.is_large_string(inner)
    is_number = arrow.types.is_integer(inner) or arrow.types.is_floating(inner) or arrow.types.is_boolean(inner)
    fits = is_text or (name in ("label", "labels") and (is_number or arrow.types.is_null(inner)))
    if not fits or (name in ("tokens", "labels") and not _is_list(kind)):
        expected = {"tokens": "lists of text", "labels": "lists of labels", "label": "text or numbers"}.get(name, "text")
        raise DataError(f"{path}: column {key!r} is of type {column.type}; expected {expected}")
    if name in ("tokens", "labels"):
        converted = 0 if is_text else len(compute.list_flatten(column))
        return compute.cast(column, arrow.large_list(TEXT)), converted
    converted = 0 if is_text else len(column) - column.null_count
    if arrow.types.is_floating(column.type):
        column = compute.if_else(compute.is_nan(column), None, column)  # what is no number is a missing label
    return compute.cast(column, TEXT), converted


def _is_list(kind: Any) -> bool:
    return bool(arrow.types.is_list(kind) or arrow.types.is_large_list(kind))


def _lists(values: Iterable[Any]) -> list[list[str] | None]:
    return [None if value is None else list(value) for value in values]
