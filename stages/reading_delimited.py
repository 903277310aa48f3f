"""Rows of CSV and TSV files, with the line that each begins at. Must not import Paddle or Prefect."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from hubflow.schemas.errors import bounded
from hubflow.stages.errors import DataError
from hubflow.stages.reading_source import Request, make_rows, read_text

DELIMITERS = {"csv": ",", "tsv": "\t"}
MAX_FIELD_CHARS = 2**31 - 1


def read_delimited(request: Request) -> pd.DataFrame:
    """Rows of a CSV or TSV file, every field the text as written.

    Raises:
        DataError: for a line with another number of fields than the first, an open quote, or a missing column.
    """
    delimiter = DELIMITERS[request.spec.format]
    text = read_text(request.path, request.spec.encoding)
    quoted = request.spec.quoting if request.spec.quoting is not None else request.spec.format == "csv"
    split = _split_quoted if quoted else _split_plain
    lines, columns = split(request, text, delimiter)
    names = [f"column_{position}" for position in range(len(columns))]
    if request.spec.header:
        names = _header(request.path, [column[0] for column in columns], lines[0])
        lines, columns = lines[1:], [column[1:] for column in columns]
    return make_rows(request, lines, dict(zip(names, columns, strict=True)))


def _split_plain(request: Request, text: str, delimiter: str) -> tuple[Sequence[int], list[list[str]]]:
    """Line numbers and columns; split all at once, which keeps a million lines within a second or two."""
    lines = text.replace("\r\n", "\n").rstrip("\r\n").split("\n")
    numbers: Sequence[int] = range(1, len(lines) + 1)
    width = next(line for line in lines if line).count(delimiter) + 1
    if width > 1 and not all(lines):
        numbers = [number for number, line in enumerate(lines, start=1) if line]
        lines = [line for line in lines if line]
    counts = [line.count(delimiter) + 1 for line in lines]
    _require_width(request, numbers, counts, width)
    fields = delimiter.join(lines).split(delimiter)
    return numbers, [fields[position::width] for position in range(width)]


def _split_quoted(request: Request, text: str, delimiter: str) -> tuple[Sequence[int], list[list[str]]]:
    """Line numbers and columns; a quoted field may hold delimiters, doubled quotes and line ends."""
    csv.field_size_limit(MAX_FIELD_CHARS)
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=delimiter, strict=True)
    records: list[list[str]] = []
    numbers: list[int] = []
    begins = 1
    try:
        for record in reader:
            records.append(record)
            numbers.append(begins)
            begins = reader.line_num + 1
    except csv.Error as error:
        ends = f" (up to line {reader.line_num})" if reader.line_num > begins else ""
        raise DataError(
            f"{request.path}: line {begins}{ends}: {error}; a field with quotes, delimiters or line ends is written "
            '"like ""this"""; set `quoting: false` when quotes are plain text'
        ) from error
    while not records[-1]:
        records.pop()
    width = len(next(record for record in records if record))
    # A blank line holds no record, except in a file of one column, where it is an empty one.
    kept = [place for place, record in enumerate(records) if record or width == 1]
    records, numbers = [records[place] or [""] for place in kept], [numbers[place] for place in kept]
    _require_width(request, numbers, [len(record) for record in records], width)
    return numbers, [list(column) for column in zip(*records, strict=True)]


def _require_width(request: Request, numbers: Sequence[int], counts: list[int], width: int) -> None:
    if counts.count(width) == len(counts):
        return
    wrong = [f"line {number} has {count}" for number, count in zip(numbers, counts, strict=True) if count != width]
    delimiter = {"csv": "comma", "tsv": "tab"}[request.spec.format]
    raise DataError(
        f"{request.path}: expected {width} field(s) in every line, as in line {numbers[0]}; {bounded(wrong)}; "
        f"a {delimiter} separates fields: correct these lines, or quote the fields and set `quoting: true`"
    )


def _header(path: Path, fields: list[str], line: int) -> list[str]:
    names = [field.strip() or f"column_{position}" for position, field in enumerate(fields)]
    unique, counts = np.unique(names, return_counts=True)
    repeated = unique[counts > 1].tolist()
    if repeated:
        raise DataError(
            f"{path}: line {line}: column name(s) {bounded(map(repr, repeated))} repeat; name each column once, "
            "or set header: false when the first line is a row"
        )
    return names
