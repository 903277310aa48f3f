"""Rows of JSON lines, in chunks. Must not import Paddle or Prefect."""

import json
import math
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, NoReturn

import pyarrow as arrow

from hubflow.stages.data.columns import JSON, to_series
from hubflow.stages.data.reading_chunks import Chunk, Malformed, pieces
from hubflow.stages.data.reading_source import Request, make_rows, wanted_columns
from hubflow.stages.data.reading_text import blocks, is_damaged, notes, numbered

MAX_VALUE_CHARS = 60
FLOAT_DIGITS = 15  # decimal digits that a float always keeps
Line = tuple[int, str]
Record = dict[str, Any]


_encode = json.JSONEncoder(ensure_ascii=False).encode


class _NotUsable(ValueError):
    """A line that gives no row: the check that it fails, what was found, and the remedy."""

    def __init__(self, check: str, found: str, remedy: str = "") -> None:
        super().__init__(found)
        self.check, self.found, self.remedy = check, found, remedy


def read_jsonl(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Rows of a file with one JSON object a line; numbers and true/false as labels become their text, and are counted.

    A line that is no JSON object, or holds something else than text where text belongs, is malformed.
    """
    names: dict[str, None] = {}
    looked_ahead = False
    for block in blocks(request.path, request.spec.encoding):
        lines, coerced = numbered(block), notes(block)
        for piece in pieces(len(lines), chunk_rows):
            malformed = Malformed()
            part, records = _records(lines[piece], malformed, request.spec.encoding)
            names |= dict.fromkeys(name for record in records for name in record)
            if not looked_ahead:
                names, looked_ahead = _names_ahead(request, names), True
            yield _chunk(request, part, records, list(names), malformed, coerced)
            coerced = {}


def _names_ahead(request: Request, names: dict[str, None]) -> dict[str, None]:
    """The names of the first records, or of all records when a column that is needed is not among them."""
    spec = request.spec
    needed = {spec.tokens_column} if request.kind == "tokens" else {spec.text_column, spec.text_pair_column} - {None}
    found = {"labels", *names} if spec.label_column == "label" and "labels" in names else set(names)
    if needed <= found and (not request.labelled or spec.label_column in found or "labels" in names):
        return names
    every = dict(names)
    for block in blocks(request.path, spec.encoding):
        _, records = _records(numbered(block), Malformed(), spec.encoding)
        every |= dict.fromkeys(name for record in records for name in record)
    return every


def _chunk(
    request: Request, lines: list[Line], records: list[Record], names: list[str], malformed: Malformed, coerced: dict[str, int]
) -> Chunk:
    taken = wanted_columns(request, names)
    by_key = {key: _CONVERTERS[name] for name, key in taken.items()}
    converters: dict[str, Callable[[object], Any]] = {name: by_key.get(name, _kept) for name in names}
    try:
        table = {name: _column(records, name, convert) for name, convert in converters.items()}
    except (TypeError, UnicodeEncodeError):
        lines, records = _usable(lines, records, converters, malformed)
        table = {name: _column(records, name, convert) for name, convert in converters.items()}
    converted = {name: _converted(records, key) for name, key in taken.items()}
    coerced = coerced | {name: count for name, count in converted.items() if count}
    columns: dict[str, Any] = {name: values if name in by_key else to_series(typed(values)) for name, values in table.items()}
    return Chunk(make_rows(request, [number for number, _ in lines], columns), malformed.frame(), coerced)


def _records(lines: list[Line], malformed: Malformed, encoding: str) -> tuple[list[Line], list[Record]]:
    """Lines that are JSON objects, and the objects; the others are noted."""
    try:
        return lines, [_record(line, encoding) for _, line in lines]
    except _NotUsable:
        pass
    good, records = [], []
    for number, line in lines:
        try:
            records.append(_record(line, encoding))
            good.append((number, line))
        except _NotUsable as fault:
            malformed.add(number, line, fault.check, f"line {number}: {fault.found}", remedy=fault.remedy)
    return good, records


def _record(line: str, encoding: str) -> Record:
    if is_damaged(line):
        raise _NotUsable("encoding", f"not {encoding}", "set `encoding`")
    try:
        record = _decode(line)
    except (ValueError, RecursionError) as error:
        raise _NotUsable("json", f"not valid JSON ({error})", "expected one object a line") from error
    if not isinstance(record, dict):
        raise _NotUsable("json", f"expected a JSON object, found {type(record).__name__}")
    if any(map(is_damaged, record)):
        raise _NotUsable("surrogate", "a name holds half a surrogate pair", "write whole characters")
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> Record:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} repeats")
    return found


def _number(text: str) -> float | Decimal:
    """A number with decimals; one that a float would change, beyond its shortest or its exact digits, as it is written."""
    value = float(text)
    if len(text) <= FLOAT_DIGITS and value and not math.isinf(value):
        return value
    exact = Decimal(text)
    digits = max(len(exact.as_tuple().digits) - 1, 0)
    is_kept = math.isfinite(value) and (exact == Decimal(repr(value)) or exact == Decimal(f"{value:.{digits}e}"))
    return value if is_kept else exact


_decode = json.JSONDecoder(parse_constant=_no_constant, parse_float=_number, object_pairs_hook=_object).decode


def _column(records: list[Record], name: str, convert: Callable[[object], Any]) -> list[Any]:
    values = [convert(record.get(name)) for record in records]
    for value in values:
        _require_unicode(value)
    return values


def _usable(
    lines: list[Line], records: list[Record], converters: dict[str, Callable[[object], Any]], malformed: Malformed
) -> tuple[list[Line], list[Record]]:
    """Lines whose values are what their columns hold; the others are noted."""
    good, usable = [], []
    for (number, line), record in zip(lines, records, strict=True):
        try:
            for name, convert in converters.items():
                _require_value(name, record.get(name), convert)
            good.append((number, line))
            usable.append(record)
        except _NotUsable as fault:
            malformed.add(number, line, fault.check, f"line {number}: {fault.found}", remedy=fault.remedy)
    return good, usable


def _require_value(name: str, value: object, convert: Callable[[object], Any]) -> None:
    try:
        _require_unicode(convert(value))
    except TypeError as error:
        found, _, remedy = str(error).rpartition("; ")
        raise _NotUsable("type", f"{name!r} is {found}", remedy) from error
    except UnicodeEncodeError as error:
        raise _NotUsable("surrogate", f"{name!r} holds half a surrogate pair", "write whole characters") from error


def _converted(records: list[Record], name: str) -> int:
    """How many values are not text as they stand; in a list, its items."""
    values = [record.get(name) for record in records]
    if {str, type(None)}.issuperset(map(type, values)):
        return 0
    return sum(map(_conversions, values))


def _conversions(value: object) -> int:
    if isinstance(value, list):
        return sum(not isinstance(item, str) for item in value)
    return not isinstance(value, str) and value is not None


def _require_unicode(value: object) -> None:
    if isinstance(value, str) and not value.isascii():
        value.encode()
    elif isinstance(value, list):
        "".join(item for item in value if isinstance(item, str)).encode()


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{_brief(value)}; expected text")


def _label(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{_brief(value)}; expected a label: text or a number")


def _texts(value: object) -> list[str | None] | None:
    return _items(value, _text)


def _labels(value: object) -> list[str | None] | None:
    return _items(value, _label)


def _items(value: object, convert: Any) -> list[str | None] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise TypeError(f"{_brief(value)}; expected a list")
    return [convert(item) for item in value]


def _kept(value: object) -> object:
    """A value of a column beyond the contract, as it is.

    Raises:
        UnicodeEncodeError: when text in it holds half a surrogate pair.
    """
    if isinstance(value, list | dict):
        _json_text(value).encode()
    return value


def typed(values: list[Any]) -> Any:  # noqa: PLR0911  # one line for each kind of value
    """Values of JSON as an Arrow array of the type that all of them have, or else of JSON texts.

    Whole numbers among others with decimals are floats; lists and objects have an Arrow type when it holds them as they are.
    A number that no 64 bits hold is kept as it was written.
    """
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return arrow.nulls(len(values))
    try:
        if kinds == {str}:
            return arrow.array(values, arrow.large_string())
        if kinds == {bool}:
            return arrow.array(values)
        if kinds == {int}:
            return _whole(values)
        if kinds in ({float}, {int, float}):
            return arrow.array(values, arrow.float64())
        texts = list(map(_json_text, values))
        if kinds in ({list}, {dict}):
            array = arrow.array(values)
            is_same = list(map(_encode, array.to_pylist())) == texts
            if is_same and "struct<>" not in str(array.type):  # which Parquet cannot hold
                return array
    except (arrow.ArrowException, OverflowError, TypeError):
        texts = list(map(_json_text, values))
    storage = arrow.array(
        [None if value is None else text for value, text in zip(values, texts, strict=True)], arrow.large_string()
    )
    return arrow.ExtensionArray.from_storage(JSON, storage)


def _whole(values: list[int | None]) -> Any:
    try:
        return arrow.array(values, arrow.int64())
    except OverflowError:
        return arrow.array(values, arrow.uint64())


def _json_text(value: Any) -> str:
    """JSON of a value; long decimals as they were written."""
    try:
        return _encode(value)
    except TypeError:
        pass
    if isinstance(value, list):
        return f"[{', '.join(map(_json_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_encode(name)}: {_json_text(item)}' for name, item in value.items())}}}"
    return str(value)


def _brief(value: object) -> str:
    text = _json_text(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"


_CONVERTERS = {"text": _text, "text_pair": _text, "label": _label, "tokens": _texts, "labels": _labels}
