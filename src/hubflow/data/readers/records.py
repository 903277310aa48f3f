"""Rows of JSON lines, in chunks."""

import json
import math
import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, NoReturn

import pandas as pd
import pyarrow as arrow

from hubflow.data.columns import JSON, leaves, to_series
from hubflow.data.readers.chunks import (
    CHUNK_ROWS,
    Chunk,
    Malformed,
    blocks,
    is_damaged,
    max_line_chars,
    notes,
    numbered,
    pieces,
    texts,
)
from hubflow.data.readers.source import Request, make_rows, require_few_columns, wanted_columns
from hubflow.errors import DataError
from hubflow.schemas.library import library_settings
from hubflow.schemas.parsing import require_flat, shortened

MAX_VALUE_CHARS = 60
FLOAT_DIGITS = 15  # decimal digits that a float always keeps
ARRAY = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*(?:[{\]]|\Z)")
OBJECT_OF_LINES = re.compile(r"[ \t\r\n]*\{[ \t\r]*\n")
JSON_SPACE = re.compile(r"[ \t\r\n]*")
LONGEST_ESCAPE = 12  # \ud83d\ude00
BATCH_CHARS = 1 << 22
MAX_CELLS = 1 << 24
"""Rows times columns that are made at once: of objects that share no names there are more than a file has values."""
MAX_NUMBER_CHARS = 4_300
"""As many as Python reads of whole numbers."""
Line = tuple[int, str]
Record = dict[str, Any]
Batch = tuple[list[Line], list[Record], Malformed, dict[str, int]]


class _Rules(NamedTuple):
    """What a record must keep to: the encoding of its text, and how deep its values may be nested."""

    encoding: str
    max_nesting: int


_encode = json.JSONEncoder(ensure_ascii=False).encode


class _NotUsable(ValueError):
    """A line that gives no row: the check that it fails, what was found, and the remedy."""

    def __init__(self, check: str, found: str, remedy: str = "") -> None:
        super().__init__(found)
        self.check, self.found, self.remedy = check, found, remedy


def read_jsonl(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Rows of a file with one JSON object a line, or of an array of objects, each numbered.

    Numbers and true/false as labels become their text, and are counted. A line or record that is no JSON object, or holds
    something else than text where text belongs, is malformed.

    Raises:
        DataError: for an array that breaks off or is not JSON, and for objects that lines do not divide.
    """
    names: dict[str, None] = {}
    looked_ahead = False
    for lines, records, malformed, coerced in _batches(request, chunk_rows):
        names |= dict.fromkeys(name for record in records for name in record)
        require_few_columns(request.path, len(names))
        if not looked_ahead:
            names, looked_ahead = _names_ahead(request, names), True
        if not names:
            yield Chunk(pd.DataFrame({"row": pd.Series(dtype="int64")}), malformed.frame(), coerced)
            continue
        for position, piece in enumerate(pieces(max(len(lines), 1), max(1, MAX_CELLS // len(names)))):
            found, counted = (Malformed(malformed.unit), {}) if position else (malformed, coerced)
            yield _chunk(request, lines[piece], records[piece], list(names), found, counted)


def _batches(request: Request, chunk_rows: int) -> Iterator[Batch]:
    """The lines or records of a file that are JSON objects, the objects, what else there is, and what was taken off."""
    begins = next(texts(request.path, request.spec.encoding), "")
    rules = _Rules(request.spec.encoding, library_settings().limits.max_nesting)
    if ARRAY.match(begins):
        yield from _array_batches(request, chunk_rows, rules)
        return
    if OBJECT_OF_LINES.match(begins):
        raise DataError(
            f"{request.path}: line 1: an object over several lines; expected one JSON object a line, or one array of objects: "
            "write it so, for example with `jq -c .`"
        )
    for block in blocks(request.path, request.spec.encoding):
        lines, coerced = numbered(block), notes(block)
        for piece in pieces(len(lines), chunk_rows):
            malformed = Malformed()
            yield *_records(lines[piece], malformed, rules), malformed, coerced
            coerced = {}


def _array_batches(request: Request, chunk_rows: int, rules: _Rules) -> Iterator[Batch]:
    lines, records, malformed, size = list[Line](), list[Record](), Malformed("record"), 0
    for number, (text, value) in enumerate(_Array(request).elements(), start=1):
        try:
            records.append(_usable_record(text, value, rules))
            lines.append((number, text))
        except _NotUsable as fault:
            malformed.add(number, text, fault.check, f"{malformed.unit} {number}: {fault.found}", remedy=fault.remedy)
        size += len(text)
        if number % chunk_rows == 0 or size > BATCH_CHARS:
            yield lines, records, malformed, {}
            lines, records, malformed, size = [], [], Malformed("record"), 0
    yield lines, records, malformed, {}


class _Array:
    """The elements of a file that is one JSON array, read part by part."""

    def __init__(self, request: Request) -> None:
        self._path, self._parts = request.path, texts(request.path, request.spec.encoding)
        self._text, self._position, self._line = "", 0, 1

    def elements(self) -> Iterator[tuple[str, Any]]:
        """The text of each element and its value, or the error that says why it is not to be used.

        Raises:
            DataError: naming the line where the text is no array.
        """
        self._expect("[", "")
        ended = self._next() == "]"
        while not ended:
            self._next()
            value, end = self._value()
            yield self._text[self._position : end], value
            self._position = end
            ended = self._next() == "]"
            if not ended:
                self._expect(",", "between records, or ] at the end")
        self._expect("]", "at the end of the array")
        if self._next():
            raise self._fault(self._position, "text after the end of the array; expected one array, or one object a line")

    def _value(self) -> tuple[Any, int]:
        while True:
            try:
                found: Any = _DECODER.raw_decode(self._text, self._position)
            except json.JSONDecodeError as error:
                is_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - LONGEST_ESCAPE
                if is_cut and self._fill():
                    continue
                raise self._fault(error.pos, f"not valid JSON ({error.msg}); correct it") from error
            except RecursionError as error:
                raise self._fault(self._position, "not valid JSON (nested too deeply); correct it") from error
            except ValueError as error:  # valid JSON that is not to be used: its end is where another decoder finds it
                try:
                    found = error, json.JSONDecoder(parse_int=str).raw_decode(self._text, self._position)[1]
                except json.JSONDecodeError as cut:
                    if self._fill():
                        continue
                    raise self._fault(cut.pos, f"not valid JSON ({cut.msg}); correct it") from cut
            if found[1] < len(self._text) or not self._fill():  # a number may go on
                return found[0], found[1]

    def _next(self) -> str:
        """The next character that is no white space; empty at the end of the file."""
        while True:
            space = JSON_SPACE.match(self._text, self._position)
            self._position = space.end() if space else self._position
            if self._position < len(self._text):
                return self._text[self._position]
            if not self._fill():
                return ""

    def _expect(self, character: str, where: str) -> None:
        found = self._next()
        if found != character:
            shown = repr(found) if found else "the end of the file"
            raise self._fault(
                self._position, f"expected {character} {where}, found {shown}; correct it, or copy the file again"
            )
        self._position += 1

    def _fill(self) -> bool:
        """Read on; False at the end of the file."""
        part = next(self._parts, None)
        if part is None:
            return False
        self._line += self._text.count("\n", 0, self._position)
        self._text, self._position = self._text[self._position :] + part, 0
        if len(self._text) > max_line_chars() + len(part):
            raise self._fault(
                0, f"a record longer than {max_line_chars():,} characters, limits.max_line_chars; correct the file or `format`"
            )
        return True

    def _fault(self, position: int, found: str) -> DataError:
        return DataError(f"{self._path}: line {self._line + self._text.count(chr(10), 0, position)}: {found}")


def _names_ahead(request: Request, names: dict[str, None]) -> dict[str, None]:
    """The names of the first records, or of all records when a column that is needed is not among them."""
    spec = request.spec
    needed = {spec.tokens_column} if request.kind == "tokens" else {spec.text_column, spec.text_pair_column} - {None}
    found = {"labels", *names} if spec.label_column == "label" and "labels" in names else set(names)
    if needed <= found and (not request.labelled or spec.label_column in found or "labels" in names):
        return names
    every = dict(names)
    for _, records, _, _ in _batches(request, CHUNK_ROWS):
        every |= dict.fromkeys(name for record in records for name in record)
        require_few_columns(request.path, len(every))
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


def _records(lines: list[Line], malformed: Malformed, rules: _Rules) -> tuple[list[Line], list[Record]]:
    """Lines that are JSON objects, and the objects; the others are noted."""
    try:
        return lines, [_record(line, rules) for _, line in lines]
    except _NotUsable:
        pass
    good, records = [], []
    for number, line in lines:
        try:
            records.append(_record(line, rules))
            good.append((number, line))
        except _NotUsable as fault:
            malformed.add(number, line, fault.check, f"{malformed.unit} {number}: {fault.found}", remedy=fault.remedy)
    return good, records


def _record(line: str, rules: _Rules) -> Record:
    try:
        record = None if is_damaged(line) else _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        record = error
    return _usable_record(line, record, rules)


def _usable_record(text: str, record: Any, rules: _Rules) -> Record:
    """A record, once it is an object in whole characters; `record` may be the error that decoding it gave."""
    if is_damaged(text):
        raise _NotUsable("encoding", f"not {rules.encoding}", "set `encoding`")
    if isinstance(record, Exception):
        raise _NotUsable("json", f"not valid JSON ({record})", "expected one object a line") from record
    if not isinstance(record, dict):
        raise _NotUsable("json", f"expected a JSON object, found {type(record).__name__}")
    if any(map(is_damaged, record)):
        raise _NotUsable("surrogate", "a name holds half a surrogate pair", "write whole characters")
    try:
        require_flat(text, rules.max_nesting)
    except ValueError as error:
        raise _NotUsable("json", str(error), "write the values flat, or as text") from error
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _object(pairs: list[tuple[str, Any]]) -> Record:
    found = dict(pairs)
    if len(found) != len(pairs):
        known = set[str]()
        repeated = next(name for name, _ in pairs if name in known or known.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {shortened(repeated)!r} repeats")
    return found


def _number(text: str) -> float | Decimal:
    """A number with decimals; one that a float would change, beyond its shortest or its exact digits, as it is written."""
    if len(text) > MAX_NUMBER_CHARS:
        raise ValueError(f"a number of {len(text):,} characters")
    value = float(text)
    if len(text) <= FLOAT_DIGITS and value and not math.isinf(value):
        return value
    try:
        exact = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"a number with the exponent {text.lower().partition('e')[2][:MAX_VALUE_CHARS]}") from error
    digits = max(len(exact.as_tuple().digits) - 1, 0)
    is_kept = math.isfinite(value) and (exact == Decimal(repr(value)) or exact == Decimal(f"{value:.{digits}e}"))
    return value if is_kept else exact


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_number, object_pairs_hook=_object)


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
            malformed.add(number, line, fault.check, f"{malformed.unit} {number}: {fault.found}", remedy=fault.remedy)
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
        if kinds in ({list}, {dict}) and leaves(arrow.infer_type(values)) * len(values) <= MAX_CELLS:
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
