"""Rows of Parquet files, in chunks."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as arrow
from pyarrow import compute, parquet, types

from hubflow.data.columns import in_plain_layout, is_list, levels, to_frame
from hubflow.data.preview import named_column, names_by_column
from hubflow.data.readers.chunks import Chunk, Malformed
from hubflow.data.readers.opening import HEAD_BYTES, what_it_is
from hubflow.data.readers.parquet_pages import PageError, Plan, plan_of
from hubflow.data.readers.source import Request, make_rows, require_few_columns, require_file, wanted_columns
from hubflow.errors import DataError, EmptyError, join_limited
from hubflow.files import held_open, open_file
from hubflow.schemas.library import library_settings

BATCH_BYTES = 1 << 25
TEXT = arrow.large_string()


def read_parquet(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Rows of a Parquet file; numbers and true/false as labels become their text, and are counted.

    Numbers of classes that the library datasets has named in the file's metadata become the names.

    A record with text that is not UTF-8 is malformed.

    Raises:
        DataError: for a file that is empty or no Parquet, or a column of another type than its contract has.
    """
    number = 1
    try:
        require_file(request.path)
        with held_open(request.path) as name, open_file(name) as stream:
            _require_footer(stream, request.path)
            metadata = parquet.read_metadata(name)
            schema = _checked_schema(name, metadata, request.path)
            taken = wanted_columns(request, schema.names)
            plan = plan_of(request.path, stream, metadata, schema)
            with parquet.ParquetFile(name, metadata=metadata, read_dictionary=plan.dictionaries) as file:
                for batch in file.iter_batches(batch_size=min(plan.most_rows, _batch_rows(metadata, plan, chunk_rows))):
                    for part in plan.parts(batch, number):
                        yield arrow_chunk(request, arrow.Table.from_batches([part]), taken, number)
                        number += len(part)
    except (arrow.ArrowException, OSError, PageError, UnicodeDecodeError) as error:  # the last of a column's name
        raise DataError(f"{request.path}: cannot be read as Parquet ({error}); {_instead(request.path)}") from error


def _require_footer(stream: IO[bytes], path: Path) -> None:
    """Refuse an empty file, and one whose footer is larger than a machine bears, before it is read."""
    size = os.fstat(stream.fileno()).st_size
    if not size:
        raise EmptyError(f"{path}: the file is empty; expected rows")
    stream.seek(max(0, size - 8))
    footer, most = int.from_bytes(stream.read(4), "little"), library_settings().limits.max_footer_bytes
    if most < footer <= size:  # a larger number is no size of a footer
        raise DataError(
            f"{path}: its footer has {footer:,} bytes, more than limits.max_footer_bytes ({most:,}); write fewer row groups"
        )


def _checked_schema(name: str, metadata: Any, path: Path) -> Any:
    """The columns as Arrow has them, once they are not too many, and none is nested too deeply or named twice."""
    if not metadata.num_rows:  # which may lack the columns too, as pandas writes an empty frame
        raise EmptyError(f"{path}: holds no rows; expected at least one")
    require_few_columns(path, metadata.num_columns)
    with parquet.ParquetFile(name, metadata=metadata) as file:
        schema, most = file.schema_arrow, library_settings().limits.max_nesting
    for field in schema:
        _require_names(field.type)
    deep = [field.name for field in schema if levels(field.type) > most]
    if deep:
        raise DataError(
            f"{path}: column(s) {join_limited(map(repr, deep))}: the type is nested in more than {most} levels, "
            "limits.max_nesting"
        )
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: column name(s) {join_limited(map(repr, repeated))} repeat; name each column once")
    return schema


def _require_names(kind: Any) -> None:
    """Decode what a type names: its fields, and the zone of its times.

    Raises:
        UnicodeDecodeError: when a name is not UTF-8; Arrow finds it out where it is used.
    """
    if types.is_nested(kind):
        for position in range(kind.num_fields):
            str(kind.field(position).name)
            _require_names(kind.field(position).type)
    elif types.is_timestamp(kind):
        str(kind.tz)


def _instead(path: Path) -> str:
    """What a file is that cannot be read as Parquet, and what to do about it."""
    with open_file(path) as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(b"PAR1"):
        return "it is damaged or cut off: copy or write it again"
    name, remedy = what_it_is(head) or ("another file, such as CSV or JSON", "set `format`")
    return f"it is {name}: {remedy}"


def _batch_rows(metadata: Any, plan: Plan, chunk_rows: int) -> int:
    """So many rows at once that long ones need no more memory than short ones."""
    size: int = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    size = max(size, plan.decoded_bytes)  # the footer's need not be those of the pages
    rows: int = metadata.num_rows
    return max(1, min(chunk_rows, BATCH_BYTES * max(rows, 1) // max(size, 1)))


def arrow_chunk(request: Request, table: Any, taken: dict[str, str], begins: int) -> Chunk:
    """Rows of an Arrow table; columns beyond the contract keep their type (see `hubflow.data.columns.to_frame`).

    Args:
        request: names the source in errors.
        table: some of its rows.
        taken: the table's column for each of the contract, as `wanted_columns` gives it.
        begins: number of the first row.

    Raises:
        DataError: when a column of the contract is of a type that holds neither text nor labels.
    """
    malformed, numbers = Malformed(), np.arange(begins, begins + len(table))
    for key in taken.values():
        position = table.column_names.index(key)
        table = table.set_column(position, key, in_text(in_plain_layout(table.column(key))))
    table, numbers = _valid(table, numbers, malformed)
    class_names, typed = names_by_column(table.schema.metadata), {}
    for name, key in taken.items():
        column, named = table.column(key), 0
        if name in ("label", "labels") and key in class_names:
            column, named = named_column(request.path, key, column, class_names[key], numbers)
        column, converted = typed_column(request.path, name, key, column)
        typed[name] = column, named or converted
    lists = {key for name, key in taken.items() if name in ("tokens", "labels")}
    frame = to_frame(table.drop_columns(list(taken.values())))
    columns: dict[str, Any] = {str(key): frame[key] for key in frame}
    for name, key in taken.items():
        values = typed[name][0].to_pandas()
        columns[key] = _lists(values) if key in lists else values
    counted = {name: count for name, (_, count) in typed.items() if count}
    return Chunk(make_rows(request, numbers, {key: columns[key] for key in table.column_names}), malformed.frame(), counted)


def _valid(table: Any, numbers: np.ndarray, malformed: Malformed) -> tuple[Any, np.ndarray]:
    """Records whose text is UTF-8, which Parquet promises and some writers do not keep; the others are noted."""
    try:
        table.validate(full=True)
        return table, numbers
    except arrow.ArrowInvalid:
        good = np.ones(len(table), dtype=bool)
    for position in range(len(table)):
        try:
            table.take([position]).validate(full=True)
        except arrow.ArrowInvalid as error:
            good[position] = False
            found = f"record {numbers[position]}: {error}"
            malformed.add(int(numbers[position]), "", "encoding", found, remedy="write the text as UTF-8")
    return table.filter(arrow.array(good)), numbers[good]


def in_text(column: Any) -> Any:
    """A column without dictionaries and extension types, and bytes as text that is yet to be checked."""
    wanted = _text_type(column.type)
    if wanted.equals(column.type):
        return column
    if isinstance(column.type, arrow.BaseExtensionType):
        chunks = [compute.cast(chunk.storage, column.type.storage_type) for chunk in column.chunks]
        return in_text(arrow.chunked_array(chunks, column.type.storage_type))
    return column.cast(options=compute.CastOptions(wanted, allow_invalid_utf8=True))


def _text_type(kind: Any) -> Any:
    if types.is_dictionary(kind):
        return _text_type(kind.value_type)
    if isinstance(kind, arrow.BaseExtensionType):
        return kind if isinstance(kind, arrow.UuidType) else _text_type(kind.storage_type)
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return TEXT
    return arrow.large_list(_text_type(kind.value_type)) if is_list(kind) else kind


def typed_column(path: Path, name: str, key: str, column: Any) -> tuple[Any, int]:
    """A column as its contract has it, and how many of its values had to be converted."""
    kind = column.type
    is_sequence = name in ("tokens", "labels")
    inner = kind.value_type if is_sequence and is_list(kind) else kind
    is_text = types.is_string(inner) or types.is_large_string(inner)
    is_number = types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner) or types.is_decimal(inner)
    fits = is_text or types.is_null(inner) or (name in ("label", "labels") and (is_number or types.is_date(inner)))
    if not fits or (is_sequence and not is_list(kind) and not types.is_null(kind)):
        expected = {"tokens": "lists of text", "labels": "lists of labels", "label": "text or numbers"}.get(name, "text")
        raise DataError(f"{path}: column {key!r} is of type {column.type}; expected {expected}")
    if is_sequence:
        converted = 0 if is_text else len(compute.list_flatten(column)) if is_list(kind) else 0
        return compute.cast(column, arrow.large_list(TEXT)), converted
    converted = 0 if is_text else len(column) - column.null_count
    if types.is_floating(column.type):
        column = compute.if_else(compute.is_nan(column), None, column)  # what is no number is a missing label
    return compute.cast(column, TEXT), converted


def _lists(values: Iterable[Any]) -> list[list[str] | None]:
    return [None if value is None else list(value) for value in values]
