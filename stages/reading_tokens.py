"""Rows of token files: CoNLL columns, and tokens and labels joined by \\x02. Must not import Paddle or Prefect."""

from collections.abc import Iterator
from itertools import groupby

import pandas as pd

from hubflow.schemas.errors import bounded
from hubflow.stages.errors import DataError
from hubflow.stages.reading_source import Request, numbered_lines, read_text

DOCUMENT_START = "-DOCSTART-"
JOINED_BY = "\x02"
MSRA_HEADERS = {("text_a", "label"), ("text", "label"), ("tokens", "labels"), ("text_a",), ("tokens",)}


def read_conll(request: Request) -> pd.DataFrame:
    """Sentences of a CoNLL file: one token a line, columns between blanks, an empty line between sentences.

    The first column is the token; the tag is the column `label_column`, the last one unless set. A row's number is
    the line of its first token; `-DOCSTART-` lines are left out.

    Raises:
        DataError: for lines with another number of columns than the first, or a `label_column` that is not there.
    """
    sentences = list(_sentences(request))
    if not sentences:
        raise DataError(f"{request.path}: holds no sentences; expected one token a line")
    width = len(sentences[0][0][1])
    uneven = [f"line {number} has {len(fields)}" for lines in sentences for number, fields in lines if len(fields) != width]
    if uneven:
        first = sentences[0][0][0]
        raise DataError(
            f"{request.path}: expected {width} column(s) in every line, as in line {first}; {bounded(uneven)}; "
            "correct these lines"
        )
    tag = _tag_column(request, width)
    columns: dict[str, list[object]] = {
        "row": [lines[0][0] for lines in sentences],
        "tokens": [[fields[0] for _, fields in lines] for lines in sentences],
    }
    if tag is not None:
        columns["labels"] = [[fields[tag] for _, fields in lines] for lines in sentences]
    return _frame(columns)


def read_msra(request: Request) -> pd.DataFrame:
    """Sentences of a file of `tokens<TAB>labels` lines, each joined by \\x02; a header line may come first.

    Raises:
        DataError: for a line without exactly one tab.
    """
    lines = numbered_lines(request.path, request.spec.encoding)
    records = [(number, line.split("\t")) for number, line in lines]
    if tuple(records[0][1]) in MSRA_HEADERS:
        records = records[1:]
    expected = (2,) if request.labelled else (1, 2)
    wrong = [f"line {number} has {len(fields)}" for number, fields in records if len(fields) not in expected]
    if wrong:
        raise DataError(
            f"{request.path}: expected 2 fields in every line, tokens<TAB>labels, each joined by \\x02; {bounded(wrong)}; "
            "correct these lines"
        )
    if not records:
        raise DataError(f"{request.path}: holds no rows; expected at least one")
    columns: dict[str, list[object]] = {
        "row": [number for number, _ in records],
        "tokens": [fields[0].split(JOINED_BY) for _, fields in records],
    }
    if all(len(fields) == 2 for _, fields in records):  # noqa: PLR2004
        columns["labels"] = [fields[1].split(JOINED_BY) for _, fields in records]
    return _frame(columns)


def _sentences(request: Request) -> Iterator[list[tuple[int, list[str]]]]:
    text = read_text(request.path, request.spec.encoding)
    # Only spaces and tabs separate: a token of real text may be another white-space character.
    lines = ((number, [field for field in line.replace("\t", " ").split(" ") if field]) for number, line in _lines(text))
    for between, group in groupby(lines, key=lambda line: not line[1] or line[1][0] == DOCUMENT_START):
        if not between:
            yield list(group)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return ((number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), start=1))


def _tag_column(request: Request, width: int) -> int | None:
    column = request.spec.label_column
    if column == "label" and width > 1:
        return width - 1
    if isinstance(column, int) and 0 < column < width:
        return column
    if not request.labelled:
        return None
    raise DataError(
        f"{request.path}: label_column is {column!r}, but lines have {width} column(s), the first of which is the token; "
        f"set label_column to a position from 1 to {max(width - 1, 1)}, or leave it out for the last"
    )


def _frame(columns: dict[str, list[object]]) -> pd.DataFrame:
    series = {name: pd.Series(values, dtype="int64" if name == "row" else object) for name, values in columns.items()}
    return pd.DataFrame(series)
