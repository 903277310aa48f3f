"""Columns of any Arrow type: as pandas without loss, and one type for a column of several files. Must not import Paddle."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as arrow
from pyarrow import compute, parquet
from pyarrow import types as kinds

from hubflow.data.column_text import json_texts
from hubflow.errors import ContractError

JSON = arrow.json_(arrow.large_string())
"""Type of a column of JSON lines whose values have no common type: each is kept as it was written, as JSON."""
INT64_DIGITS, UINT64_DIGITS = 19, 20
MAX_DIGITS, MAX_WIDE_DIGITS = 38, 76  # of decimals of 128 and 256 bits
_UNITS = ("s", "ms", "us", "ns")
_UTC = {"UTC", "Etc/UTC", "Z", "+00:00", "-00:00"}


@dataclass(frozen=True)
class Piece:
    """Rows in a Parquet file of ours: what names their origin in errors, where they are, and their columns."""

    source: str
    path: Path
    schema: Any

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """The rows, a row group at a time."""
        with parquet.ParquetFile(self.path, pre_buffer=False) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns, use_threads=False)


def to_frame(table: Any) -> pd.DataFrame:
    """An Arrow table as pandas, with every value as it was.

    Numbers, true/false, times and text have pandas' usual types; integers and true/false with nulls its nullable ones
    (`Int64`, `boolean`). What these would change (decimals, dates, lists, bytes, nulls beside NaN …) keeps its Arrow type.
    """
    columns = {name: to_series(column) for name, column in zip(table.column_names, table.itercolumns(), strict=True)}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(table)))


def to_series(column: Any) -> "pd.Series[Any]":
    """An Arrow column as pandas, as `to_frame` has it."""
    column = in_plain_layout(column)
    kind = column.type
    if column.null_count and (kinds.is_integer(kind) or kinds.is_boolean(kind)):
        nullable = (
            "boolean" if kinds.is_boolean(kind) else f"{'U' if kinds.is_unsigned_integer(kind) else ''}Int{kind.bit_width}"
        )
        series: pd.Series[Any] = column.to_pandas(types_mapper=lambda _: pd.api.types.pandas_dtype(nullable))
        return series
    if kinds.is_null(kind):
        return pd.Series([None] * len(column), dtype=object)
    if _is_safe_in_pandas(column):
        try:
            return column.to_pandas()  # type: ignore[no-any-return]
        except (arrow.ArrowInvalid, LookupError, ValueError):  # a time zone that pandas does not know
            pass
    chunked = column if isinstance(column, arrow.ChunkedArray) else arrow.chunked_array([column])
    return pd.Series(pd.arrays.ArrowExtensionArray(chunked))


def _is_safe_in_pandas(column: Any) -> bool:
    kind = column.type
    if kinds.is_floating(kind):  # pandas holds a null as NaN, and gives NaN back as null
        return not bool(compute.any(compute.is_nan(column)).as_py())
    is_text = kinds.is_string(kind) or kinds.is_large_string(kind)
    is_number = kinds.is_integer(kind) or kinds.is_boolean(kind)
    return bool(is_text or is_number or kinds.is_timestamp(kind) or kinds.is_duration(kind))


def in_plain_layout(column: Any) -> Any:
    """A column with the same values, without views, run-end encoding, and dictionaries of other values than plain text."""
    wanted = _plain(column.type)
    if wanted.equals(column.type):
        return column
    if isinstance(column, arrow.ChunkedArray):
        return arrow.chunked_array([in_plain_layout(chunk) for chunk in column.chunks], wanted)
    if kinds.is_run_end_encoded(column.type):
        return in_plain_layout(compute.run_end_decode(column))
    if kinds.is_dictionary(column.type):  # `dictionary_decode` knows no views, as Polars writes categories
        return in_plain_layout(column.dictionary).take(column.indices)
    if kinds.is_nested(column.type):  # Arrow 26 casts views of lists to empty lists
        return arrow.array(column.to_pylist(), wanted)
    return compute.cast(column, wanted)


def _plain(kind: Any) -> Any:  # noqa: PLR0911  # one line for each kind of type
    """The type of `kind` in plain layout."""
    if kinds.is_string_view(kind):
        return arrow.large_string()
    if kinds.is_binary_view(kind):
        return arrow.large_binary()
    if kinds.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if kinds.is_dictionary(kind):  # Parquet reads those of text back as such, and no others
        is_text = kinds.is_string(kind.value_type) or kinds.is_large_string(kind.value_type)
        return kind if is_text else _plain(kind.value_type)
    if not kinds.is_nested(kind):
        return kind
    if kinds.is_struct(kind):
        fields = [field.with_type(_plain(field.type)) for field in kind]
        return kind if all(new.equals(old) for new, old in zip(fields, kind, strict=True)) else arrow.struct(fields)
    if kinds.is_map(kind):
        key, item = _plain(kind.key_type), _plain(kind.item_type)
        return kind if key.equals(kind.key_type) and item.equals(kind.item_type) else arrow.map_(key, item)
    if not is_list(kind):
        return kind
    inner = kind.value_field.with_type(_plain(kind.value_type))
    if kinds.is_list_view(kind):
        return arrow.list_(inner)
    if kinds.is_large_list_view(kind):
        return arrow.large_list(inner)
    if inner.equals(kind.value_field):
        return kind
    if kinds.is_fixed_size_list(kind):
        return arrow.list_(inner, kind.list_size)
    return arrow.large_list(inner) if kinds.is_large_list(kind) else arrow.list_(inner)


def is_list(kind: Any) -> bool:
    """Whether a type is of lists of any layout."""
    is_view = kinds.is_list_view(kind) or kinds.is_large_list_view(kind)
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind) or is_view)


def leaves(kind: Any) -> int:
    """How many columns without further parts a type has."""
    if kinds.is_nested(kind):
        return sum(leaves(kind.field(place).type) for place in range(kind.num_fields))
    return 1


def levels(kind: Any) -> int:
    """In how many levels a type is nested."""
    if kinds.is_nested(kind):
        return 1 + max((levels(kind.field(place).type) for place in range(kind.num_fields)), default=0)
    return 0


def is_json(kind: Any) -> bool:
    """Whether a type is Arrow's of JSON texts."""
    return isinstance(kind, arrow.JsonType)


def unified(pieces: Sequence[Piece], mixed: bool = False) -> Any:
    """The columns of all pieces, each of a type that holds the values of all of them without loss.

    Args:
        pieces: at least one.
        mixed: a column whose values have no common type becomes JSON, as JSON lines hold it.

    Raises:
        ContractError: when a column has no such type, naming it, and a file of each type.
    """
    fields: dict[str, list[Any]] = {}
    for piece in pieces:
        for field in piece.schema:
            there = fields.setdefault(field.name, [])
            if not any(field.type.equals(kind) for kind in there):
                there.append(field.type)
    return arrow.schema([(name, _one_type(name, found, pieces, mixed)) for name, found in fields.items()])


def _one_type(name: str, found: Sequence[Any], pieces: Sequence[Piece], mixed: bool) -> Any:
    found = [kind for kind in found if not kinds.is_null(kind)] or [arrow.null()]
    if len(found) == 1:
        return found[0]
    fault = ""
    for candidate in [*common_types(found), *([JSON] if mixed else [])]:
        fault = _first_misfit(name, candidate, pieces)
        if not fault:
            return candidate
    shown: dict[str, str] = {}
    for piece in pieces:
        if name in piece.schema.names and not kinds.is_null(piece.schema.field(name).type):
            shown.setdefault(str(piece.schema.field(name).type), piece.source)
    (first, first_source), (second, second_source) = list(shown.items())[:2]
    reason = f" ({fault})" if fault else ""
    raise ContractError(
        f"{second_source}: column {name!r} is of type {second}; in {first_source} it is of type {first}, and no type holds the "
        f"values of both{reason}; write the column in one type, or remove it"
    )


def _first_misfit(name: str, candidate: Any, pieces: Sequence[Piece]) -> str:
    """What is wrong with the first value that `candidate` cannot hold; nothing when it holds all."""
    for piece in pieces:
        if name not in piece.schema.names or piece.schema.field(name).type.equals(candidate):
            continue
        try:
            for table in piece.tables([name]):
                cast(table.column(name), candidate)
        except (arrow.ArrowException, OverflowError) as error:
            return f"{piece.source}: {error}"
    return ""


def common_types(found: Sequence[Any]) -> list[Any]:
    """Types that may hold the values of columns of all the types `found`, the best first."""
    first = found[0]
    if kinds.is_dictionary(first) or any(map(kinds.is_dictionary, found)):
        decoded = [kind.value_type if kinds.is_dictionary(kind) else kind for kind in found]
        return [decoded[0]] if _all_equal(decoded) else common_types(decoded)
    for is_kind, choose in _FAMILIES:
        if all(map(is_kind, found)):
            return choose(found)
    return []


def _all_equal(found: Sequence[Any]) -> bool:
    return all(kind.equals(found[0]) for kind in found)


def _is_text(kind: Any) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _is_bytes(kind: Any) -> bool:
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind))


def _is_number(kind: Any) -> bool:
    return bool(kinds.is_integer(kind) or kinds.is_floating(kind))


def _is_exact(kind: Any) -> bool:
    return bool(kinds.is_integer(kind) or kinds.is_decimal(kind))


def _integers(found: Sequence[Any]) -> list[Any]:
    signed = [kind for kind in found if not kinds.is_unsigned_integer(kind)]
    widest = max(found, key=lambda kind: kind.bit_width)
    if len(signed) in (0, len(found)):
        return [widest]
    return [arrow.int64(), arrow.uint64(), arrow.decimal128(UINT64_DIGITS, 0)]


def _numbers(found: Sequence[Any]) -> list[Any]:
    """Of whole numbers and floats, which is how pandas writes whole numbers with nulls: whole ones where all values are."""
    whole = [kind for kind in found if kinds.is_integer(kind)]
    return [*(_integers(whole) if whole else ()), max([kind for kind in found if not kinds.is_integer(kind)], key=_bits)] + (
        [arrow.float64()] if whole else []
    )


def _bits(kind: Any) -> int:
    return int(kind.bit_width)


def _decimals(found: Sequence[Any]) -> list[Any]:
    scales = [0 if kinds.is_integer(kind) else kind.scale for kind in found]
    digits = [INT64_DIGITS + 1 if kinds.is_integer(kind) else kind.precision - kind.scale for kind in found]
    precision, scale = max(digits) + max(scales), max(scales)
    if precision <= MAX_DIGITS:
        return [arrow.decimal128(precision, scale)]
    return [arrow.decimal256(min(precision, MAX_WIDE_DIGITS), scale)]


def _timestamps(found: Sequence[Any]) -> list[Any]:
    zones = {"UTC" if kind.tz in _UTC else kind.tz for kind in found}
    if len(zones) > 1:
        return []
    places = [_UNITS.index(kind.unit) for kind in found]
    units = _UNITS[min(places) : max(places) + 1]
    return [arrow.timestamp(unit, next(iter(zones))) for unit in reversed(units)]


def _lists(found: Sequence[Any]) -> list[Any]:
    inner = _inner([kind.value_type for kind in found])
    return [arrow.large_list(kind) for kind in inner]


def _structs(found: Sequence[Any]) -> list[Any]:
    if len({tuple(field.name for field in kind) for kind in found}) > 1:
        return []
    fields = []
    for place, field in enumerate(found[0]):
        inner = _inner([kind.field(place).type for kind in found])
        if not inner:
            return []
        fields.append(arrow.field(field.name, inner[0]))
    return [arrow.struct(fields)]


def _inner(found: Sequence[Any]) -> list[Any]:
    found = [kind for kind in found if not kinds.is_null(kind)] or [arrow.null()]
    return [found[0]] if _all_equal(found) else common_types(found)


_FAMILIES: list[tuple[Callable[[Any], bool], Callable[[Sequence[Any]], list[Any]]]] = [
    (_is_text, lambda _: [arrow.large_string()]),
    (_is_bytes, lambda _: [arrow.large_binary()]),
    (kinds.is_integer, _integers),
    (_is_number, _numbers),
    (_is_exact, _decimals),
    (kinds.is_timestamp, _timestamps),
    (kinds.is_duration, lambda found: [arrow.duration(max((kind.unit for kind in found), key=_UNITS.index))]),
    (kinds.is_date, lambda _: [arrow.date32()]),
    (kinds.is_time, lambda found: [arrow.time64(max((kind.unit for kind in found), key=_UNITS.index))]),
    (is_list, _lists),
    (kinds.is_struct, _structs),
    (is_json, lambda _: [JSON]),
]


def cast(column: Any, kind: Any) -> Any:
    """A column as another type, without loss.

    Raises:
        arrow.ArrowInvalid: when a value would change.
    """
    if column.type.equals(kind):
        return column
    if kinds.is_null(column.type):
        return arrow.chunked_array([arrow.nulls(len(column), kind)], kind)
    if is_json(kind):
        known = compute.if_else(column.is_valid(), json_texts(column), arrow.scalar(None, kind.storage_type))
        storage = compute.cast(known, kind.storage_type)
        chunks = storage.chunks if isinstance(storage, arrow.ChunkedArray) else [storage]
        return arrow.chunked_array([arrow.ExtensionArray.from_storage(kind, chunk) for chunk in chunks], kind)
    if kinds.is_floating(column.type) and kinds.is_integer(kind):
        column = compute.if_else(compute.is_nan(column), arrow.scalar(None, column.type), column)
    if kinds.is_floating(column.type) and kinds.is_decimal(kind):
        raise arrow.ArrowInvalid("a float has no exact decimal")
    return compute.cast(column, kind)


def with_columns(table: Any, schema: Any) -> Any:
    """A table with the columns of `schema`, as `unified` gives it; one that it lacks is empty."""
    if table.schema.equals(schema):
        return table.cast(schema)  # with its metadata
    there = set(table.column_names)
    columns = [
        cast(table.column(field.name), field.type) if field.name in there else arrow.nulls(len(table), field.type)
        for field in schema
    ]
    return arrow.table(columns, schema=schema)
