"""Rows of JSON lines and Parquet files. Must not import Paddle or Prefect."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pyarrow as arrow
from pyarrow import compute, parquet

from hubflow.schemas.errors import bounded
from hubflow.stages.errors import DataError
from hubflow.stages.reading_source import Request, make_rows, numbered_lines, require_file, wanted_columns

MAX_VALUE_CHARS = 60


def read_jsonl(request: Request) -> pd.DataFrame:
    """Rows of a file with one JSON object a line; numbers and true/false as labels become their text.

    Raises:
        DataError: for a line that is no JSON object, or holds something else than text where text belongs.
    """
    path = request.path
    lines = numbered_lines(path, request.spec.encoding)
    records = [_record(path, number, line) for number, line in lines]
    numbers = [number for number, _ in lines]
    names = list(dict.fromkeys(name for record in records for name in record))
    taken = wanted_columns(request, names)
    convert = {key: _CONVERTERS[name] for name, key in taken.items()}
    table = {name: _column(path, numbers, records, name, convert.get(name, _carried)) for name in names}
    return make_rows(request, numbers, table)


def read_parquet(request: Request) -> pd.DataFrame:
    """Rows of a Parquet file; numbers and true/false as labels become their text.

    Raises:
        DataError: for a file that is no Parquet, or a column of another type than its contract has.
    """
    try:
        with parquet.ParquetFile(require_file(request.path)) as file:
            table = file.read()
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{request.path}: cannot be read as Parquet ({error})") from error
    repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if repeated:
        raise DataError(f"{request.path}: column name(s) {bounded(map(repr, repeated))} repeat; name each column once")
    taken = wanted_columns(request, table.column_names)
    for name, key in taken.items():
        column = _typed(request.path, name, key, table.column(key))
        table = table.set_column(table.column_names.index(key), key, column)
    frame = table.to_pandas(ignore_metadata=True)
    lists = {key for name, key in taken.items() if name in ("tokens", "labels")}
    nested = {field.name for field in table.schema if arrow.types.is_nested(field.type)} - lists
    columns: dict[str, Any] = {key: frame[key] for key in frame}
    columns |= {key: _lists(frame[key]) for key in lists}
    columns |= {key: [_carried(value) for value in table.column(key).to_pylist()] for key in nested}  # as JSON lines have it
    return make_rows(request, range(1, len(frame) + 1), columns)


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: line {number}: not valid JSON ({error}); expected one object a line") from error
    if not isinstance(record, dict):
        raise DataError(f"{path}: line {number}: expected a JSON object, found {type(record).__name__}")
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _column(path: Path, numbers: list[int], records: list[dict[str, Any]], name: str, convert: Any) -> list[Any]:
    try:
        values = [convert(record.get(name)) for record in records]
        for value in values:
            _require_unicode(value)
    except (TypeError, UnicodeEncodeError):
        _name_line(path, numbers, records, name, convert)
    return values


def _name_line(path: Path, numbers: list[int], records: list[dict[str, Any]], name: str, convert: Any) -> NoReturn:
    for number, record in zip(numbers, records, strict=True):
        try:
            _require_unicode(convert(record.get(name)))
        except TypeError as error:
            raise DataError(f"{path}: line {number}: {name!r} is {error}") from error
        except UnicodeEncodeError as error:
            raise DataError(f"{path}: line {number}: {name!r} holds half a surrogate pair; write whole characters") from error
    raise AssertionError("unreachable: a value failed before")


def _require_unicode(value: object) -> None:
    if isinstance(value, str) and not value.isascii():
        value.encode()
    elif isinstance(value, list):
        "".join(item for item in value if item).encode()


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{_brief(value)}; expected text")


def _label(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
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


def _carried(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _brief(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"


_CONVERTERS = {"text": _text, "text_pair": _text, "label": _label, "tokens": _texts, "labels": _labels}


def _typed(path: Path, name: str, key: str, column: Any) -> Any:
    kind = column.type.value_type if arrow.types.is_dictionary(column.type) else column.type
    inner = kind.value_type if name in ("tokens", "labels") and _is_list(kind) else kind
    inner = inner.value_type if arrow.types.is_dictionary(inner) else inner
    is_text = arrow.types.is_string(inner) or arrow.types.is_large_string(inner)
    is_number = arrow.types.is_integer(inner) or arrow.types.is_floating(inner) or arrow.types.is_boolean(inner)
    fits = is_text or (name in ("label", "labels") and (is_number or arrow.types.is_null(inner)))
    if not fits or (name in ("tokens", "labels") and not _is_list(kind)):
        expected = {"tokens": "lists of text", "labels": "lists of labels", "label": "text or numbers"}.get(name, "text")
        raise DataError(f"{path}: column {key!r} is of type {column.type}; expected {expected}")
    text = arrow.large_string()
    return compute.cast(column, arrow.large_list(text) if name in ("tokens", "labels") else text)


def _is_list(kind: Any) -> bool:
    return bool(arrow.types.is_list(kind) or arrow.types.is_large_list(kind))


def _lists(values: Iterable[Any]) -> list[list[str] | None]:
    return [None if value is None else list(value) for value in values]
