"""Columns of any Arrow type: as pandas without loss, as text, one type for several files, and carried to predictions."""

import base64
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.parquet as pq
from pyarrow import compute, parquet
from pyarrow import types as kinds

from hubflow.errors import ContractError
from hubflow.schemas.references import RowKind
from hubflow.schemas.rows import ROW_MODELS

TEXT = arrow.large_string()
NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""Floats that JSON has no number for, by Arrow's text; JSON lines hold these strings, which float() and pandas read."""
# Control characters, quotes and backslashes must be escaped; what ends a line for some readers is too.
_ESCAPED = r'[\x00-\x1f"\\\x7f\x{85}\x{2028}\x{2029}]'
_LINE_ENDS = re.compile("[\x7f\x85\u2028\u2029]")
_UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def texts(column: Any, whole_floats: str = "") -> Any:
    """Each value as text, null as null; whatever `json_texts` would not quote is the same there.

    Floats are the shortest text that reads back as the same float. Times are ISO 8601, with the offset of their zone; bytes
    are Base64; lists, structs and maps are JSON.

    Args:
        column: of any type.
        whole_floats: what follows a float without decimals: nothing, or ".0", by which readers tell it from an integer.

    Raises:
        arrow.ArrowException: when the type has no text, or the zone of times is not known.
    """
    return _by_chunk(column, lambda array: _texts(array, whole_floats))


def json_texts(column: Any) -> Any:
    """Each value as JSON text, null as `null`.

    Numbers and true/false are themselves; decimals, times, bytes and floats that are not finite are strings.

    Raises:
        arrow.ArrowException: as `texts` does.
    """
    return _by_chunk(column, lambda array: compute.fill_null(_json(array), "null"))


def _by_chunk(column: Any, convert: Any) -> Any:
    if isinstance(column, arrow.ChunkedArray):
        return arrow.chunked_array([convert(chunk) for chunk in column.chunks], TEXT)
    return convert(column)


def _texts(array: Any, whole_floats: str) -> Any:  # noqa: PLR0911  # one line for each kind of type
    kind = array.type
    if kinds.is_dictionary(kind):
        return _texts(array.dictionary_decode(), whole_floats)
    if kinds.is_run_end_encoded(kind):
        return _texts(compute.run_end_decode(array), whole_floats)
    if isinstance(kind, arrow.BaseExtensionType):
        return _extension_texts(array, whole_floats)
    if kinds.is_nested(kind):
        return _json(array)
    if kinds.is_timestamp(kind):
        return _timestamp_texts(array)
    if kinds.is_duration(kind):
        return arrow.array(
            [_duration(value, _UNITS_PER_SECOND[kind.unit]) for value in array.cast(arrow.int64()).to_pylist()], TEXT
        )
    if _is_binary(kind):
        values = array.to_pylist()
        return arrow.array([None if value is None else base64.b64encode(value).decode() for value in values], TEXT)
    text = compute.cast(array, TEXT)
    if kinds.is_time(kind):
        return _short(text)
    if kinds.is_floating(kind) and whole_floats:
        is_whole = compute.match_substring_regex(text, r"^-?\d+$")
        text = compute.if_else(is_whole, _joined([text, whole_floats]), text)
    return text


def _is_binary(kind: Any) -> bool:
    is_view = kinds.is_binary_view(kind)
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind) or is_view)


def _extension_texts(array: Any, whole_floats: str) -> Any:
    kind = array.type
    if isinstance(kind, arrow.UuidType):
        return arrow.array([None if value is None else str(value) for value in array.to_pylist()], TEXT)
    if isinstance(kind, arrow.JsonType):  # a JSON string is its text; all else stays JSON
        return _unquoted(compute.cast(array.storage, TEXT))
    return _texts(_storage(array), whole_floats)


def _storage(array: Any) -> Any:
    return array.storage.cast(arrow.bool_()) if isinstance(array.type, arrow.Bool8Type) else array.storage


def _unquoted(text: Any) -> Any:
    is_string = compute.fill_null(compute.starts_with(text, '"'), False)
    if not compute.any(is_string).as_py():
        return text
    plain = [json.loads(value) for value in text.filter(is_string).to_pylist()]
    return compute.replace_with_mask(text, is_string, arrow.array(plain, TEXT))


def _timestamp_texts(array: Any) -> Any:
    if array.type.tz is None:
        return _short(compute.cast(compute.strftime(array, format="%Y-%m-%dT%H:%M:%S"), TEXT))
    text = compute.cast(compute.strftime(array, format="%Y-%m-%dT%H:%M:%S%Ez"), TEXT)
    local, there = compute.local_timestamp(array).cast(arrow.int64()), array.cast(arrow.int64())
    odd = np.asarray(compute.fill_null(compute.subtract(local, there), 0)) % (60 * _UNITS_PER_SECOND[array.type.unit]) != 0
    odd |= np.asarray(compute.fill_null(compute.match_substring_regex(text, r"^\d{5}"), False))
    if odd.any():  # a year of five digits, or an offset with seconds as before there were zones: not all readers know them
        in_utc = compute.strftime(array.cast(arrow.timestamp(array.type.unit, "UTC")), format="%Y-%m-%dT%H:%M:%S%Ez")
        text = compute.if_else(arrow.array(odd), compute.cast(in_utc, TEXT), text)
    return _short(text)


def _short(text: Any) -> Any:
    """Times without decimals that are all zero, and with six where the others are."""
    text = compute.replace_substring_regex(text, r"\.0+([+-]|$)", r"\1")
    return compute.replace_substring_regex(text, r"\.(\d{6})000([+-]|$)", r".\1\2")


def _duration(value: int | None, unit: int) -> str | None:
    """A duration as ISO 8601 has it: days, hours, minutes and seconds."""
    if value is None:
        return None
    seconds, fraction = divmod(abs(value), unit)
    days, rest = divmod(seconds, 86_400)
    decimals = f".{fraction:0{len(str(unit)) - 1}d}" if fraction else ""
    return f"{'-' if value < 0 else ''}P{days}DT{rest // 3600}H{rest // 60 % 60}M{rest % 60}{decimals}S"


def _json(array: Any) -> Any:  # noqa: PLR0911  # one line for each kind of type
    """JSON text of each value; null as null."""
    kind = array.type
    if kinds.is_null(kind):
        return arrow.nulls(len(array), TEXT)
    if kinds.is_dictionary(kind):
        return _json(array.dictionary_decode())
    if kinds.is_run_end_encoded(kind):
        return _json(compute.run_end_decode(array))
    if isinstance(kind, arrow.JsonType):
        return _one_line(compute.cast(array.storage, TEXT))
    if isinstance(kind, arrow.BaseExtensionType) and not isinstance(kind, arrow.UuidType):
        return _json(_storage(array))
    if kinds.is_integer(kind) or kinds.is_boolean(kind):
        return compute.cast(array, TEXT)
    if kinds.is_floating(kind):
        text = _texts(array, ".0")
        for found, name in NOT_FINITE.items():
            text = compute.if_else(compute.equal(text, found), f'"{name}"', text)
        return text
    if kinds.is_struct(kind):
        return _struct_json(array)
    if kinds.is_nested(kind):
        return _list_json(array)
    return quoted(_texts(array, ""))


def _one_line(text: Any) -> Any:
    """JSON as one line: line ends between its parts are blanks, those in its strings escapes; what is no JSON is a string."""

    def mended(value: str | None) -> str | None:
        try:
            if value is not None:
                _STRICT.decode(value)
        except (ValueError, RecursionError):
            return json.dumps(value)
        return value and _LINE_ENDS.sub(_escape, value.replace("\n", " ").replace("\r", " "))

    return arrow.array(list(map(mended, text.to_pylist())), TEXT)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_STRICT = json.JSONDecoder(parse_constant=_no_constant)


def quoted(text: Any) -> Any:
    """Texts as JSON strings, null as null; nothing in them ends a line."""
    plain = _joined(['"', text, '"'])
    escaped = compute.fill_null(compute.match_substring_regex(text, _ESCAPED), False)
    if not compute.any(escaped).as_py():
        return plain
    strings = [_LINE_ENDS.sub(_escape, json.dumps(value, ensure_ascii=False)) for value in text.filter(escaped).to_pylist()]
    return compute.replace_with_mask(plain, escaped, arrow.array(strings, TEXT))


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _struct_json(array: Any) -> Any:
    parts: list[Any] = ["{"]
    for position, field in enumerate(array.type):
        parts += [
            f"{', ' if position else ''}{json.dumps(field.name)}: ",
            compute.fill_null(_json(array.field(position)), "null"),
        ]
    text = _joined([*parts, "}"]) if len(parts) > 1 else arrow.array(["{}"] * len(array), TEXT)
    return compute.if_else(array.is_valid(), text, arrow.scalar(None, TEXT))


def _list_json(array: Any) -> Any:
    """JSON lists; a map is a list of its pairs."""
    kind = array.type
    if kinds.is_list_view(kind) or kinds.is_large_list_view(kind):
        array = arrow.array(array.to_pylist(), arrow.large_list(kind.value_field))
    lengths = compute.fill_null(compute.list_value_length(array), 0) if not kinds.is_map(kind) else None
    if lengths is None:
        ends = np.asarray(array.offsets)
        keys, items = (_json(part).fill_null("null").to_pylist() for part in (array.keys, array.items))
        cells = [f"[{key}, {item}]" for key, item in zip(keys, items, strict=True)]
    else:
        cells = compute.fill_null(_json(array.flatten()), "null").to_pylist()
        ends = np.concatenate([[0], np.cumsum(np.asarray(lengths))])
    whole = [f"[{', '.join(cells[start:end])}]" for start, end in itertools.pairwise(ends)]
    return arrow.array([text if valid else None for text, valid in zip(whole, array.is_valid().to_pylist(), strict=True)], TEXT)


def _joined(parts: Sequence[Any]) -> Any:
    """Texts side by side; null where one of them is."""
    scalars = [arrow.scalar(part, TEXT) if isinstance(part, str) else part for part in parts]
    return compute.binary_join_element_wise(*scalars, arrow.scalar("", TEXT))


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
        return sum(leaves(kind.field(position).type) for position in range(kind.num_fields))
    return 1


def levels(kind: Any) -> int:
    """In how many levels a type is nested."""
    if kinds.is_nested(kind):
        return 1 + max((levels(kind.field(position).type) for position in range(kind.num_fields)), default=0)
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
    for position, field in enumerate(found[0]):
        inner = _inner([kind.field(position).type for kind in found])
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


PREFIX = "source_"
FILE = "file"
"""Column that names the file of a row, where there may be several."""


def free_names(columns: Iterable[str], ours: Iterable[str]) -> dict[str, str]:
    """New names of those `columns` that have one of `ours`: `source_<name>`, and again until no column is called so."""
    names = list(columns)
    taken = {*names, *ours}
    renamed: dict[str, str] = {}
    for name in (name for name in names if name in set(ours)):
        free = f"{PREFIX}{name}"
        while free in taken:
            free = f"{PREFIX}{free}"
        taken.add(free)
        renamed[name] = free
    return renamed


def with_file(frame: pd.DataFrame, paths: "pd.Series[str] | str") -> pd.DataFrame:
    """Rows with the file that they are from; a column of theirs with that name is called `source_file`."""
    frame = frame.rename(columns=free_names(frame.columns, (FILE,)))
    same = pd.Series([paths] * len(frame), index=frame.index, dtype="str") if isinstance(paths, str) else paths
    frame.insert(0, FILE, same)
    return frame


def with_extra_columns(frame: pd.DataFrame, data: Path, kind: RowKind) -> arrow.Table:
    """`frame` and, of the same rows, the columns of a data set's split beyond the contract of its rows, types unchanged.

    Args:
        frame: one line for each row; its column `position` says which row of the file it is, from 0.
        data: Parquet file of the split.
        kind: of its rows.
    """
    inputs = {*ROW_MODELS[kind].to_schema().columns, *(("image",) if kind == "image" else ())}
    further = pq.read_table(data, columns=[name for name in pq.read_schema(data).names if name not in inputs])
    further = further.take(frame["position"].to_numpy())
    renamed = free_names(further.column_names, frame.columns)
    table = arrow.Table.from_pandas(frame, preserve_index=False)
    for name in further.column_names:
        table = table.append_column(renamed.get(name, name), further.column(name))
    return table
