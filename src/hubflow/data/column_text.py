"""Values of any Arrow type as text, for CSV, JSON lines, names of slices and keys of groups. Must not import Paddle."""

import base64
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as arrow
from pyarrow import compute
from pyarrow import types as kinds

TEXT = arrow.large_string()
NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
"""Floats that JSON has no number for, by Arrow's text; JSON lines hold these strings, which float() and pandas read."""
# Control characters, quotes and backslashes must be escaped; what ends a line for some readers is too.
_ESCAPED = r'[\x00-\x1f"\\\x7f\x{85}\x{2028}\x{2029}]'
_LINE_ENDS = re.compile("[\x7f\x85\u2028\u2029]")
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


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
        return arrow.array([_duration(value, _UNITS[kind.unit]) for value in array.cast(arrow.int64()).to_pylist()], TEXT)
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
    odd = np.asarray(compute.fill_null(compute.subtract(local, there), 0)) % (60 * _UNITS[array.type.unit]) != 0
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
    for place, field in enumerate(array.type):
        parts += [f"{', ' if place else ''}{json.dumps(field.name)}: ", compute.fill_null(_json(array.field(place)), "null")]
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
