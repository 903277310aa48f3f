"""Rows of token files: CoNLL columns, and tokens and labels joined by \\x02, in chunks. Must not import Paddle or Prefect."""

from collections import Counter
from collections.abc import Iterator

import pandas as pd

from hubflow.stages.data.reading_chunks import Chunk, Malformed, pieces
from hubflow.stages.data.reading_source import Request
from hubflow.stages.data.reading_text import blocks, is_damaged, notes, numbered
from hubflow.stages.errors import DataError

DOCUMENT_START = "-DOCSTART-"
JOINED_BY = "\x02"
MSRA_HEADERS = {("text_a", "label"), ("text", "label"), ("tokens", "labels"), ("text_a",), ("tokens",)}
MAX_SENTENCE_LINES = 1_000_000
CORRECT = "correct these lines"
Line = tuple[int, list[str]]


def read_conll(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Sentences of a CoNLL file: one token a line, columns between blanks, an empty line between sentences.

    The first column is the token; the tag is the column `label_column`, the last one unless set. A row's number is
    the line of its first token; `-DOCSTART-` lines are left out. A sentence with a line of another number of columns than
    most lines of the file's first part, or with bytes that are not in the encoding, is malformed.

    Raises:
        DataError: when there are no sentences, or `label_column` is not there.
    """
    reader = _Conll(request)
    for sentences, taken_off in _sentences(request):
        for piece in pieces(len(sentences), chunk_rows):
            yield reader.chunk(sentences[piece], taken_off if piece.start == 0 else {})
    if not reader.width:
        raise DataError(f"{request.path}: holds no sentences; expected one token a line")


class _Conll:
    """Makes rows of sentences, all with the number of columns of most lines of the first chunk."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.width, self._first_line = 0, 0
        self._tag: int | None = None

    def chunk(self, sentences: list[list[Line]], coerced: dict[str, int]) -> Chunk:
        if not self.width:
            widths = Counter(len(fields) for lines in sentences for _, fields in lines)
            self.width = widths.most_common(1)[0][0]
            self._first_line = next(number for lines in sentences for number, fields in lines if len(fields) == self.width)
            self._tag = _tag_column(self._request, self.width)
        malformed, tag = Malformed(), self._tag
        good = [lines for lines in sentences if self._is_good(lines, malformed)]
        columns: dict[str, list[object]] = {
            "row": [lines[0][0] for lines in good],
            "tokens": [[fields[0] for _, fields in lines] for lines in good],
        }
        if tag is not None:
            columns["labels"] = [[fields[tag] for _, fields in lines] for lines in good]
        return Chunk(_frame(columns), malformed.frame(), coerced)

    def _is_good(self, lines: list[Line], malformed: Malformed) -> bool:
        width = self.width
        uneven = [line for line in lines if len(line[1]) != width]
        damaged = [number for number, fields in lines if any(map(is_damaged, fields))]
        if not uneven and not damaged:
            return True
        content = "\n".join(" ".join(fields) for _, fields in lines[:1_000])
        if damaged:
            found = f"line {damaged[0]} is not {self._request.spec.encoding}"
            malformed.add(lines[0][0], content, "encoding", found, remedy="set `encoding`")
        else:
            found = ", ".join(f"line {number} has {len(fields)}" for number, fields in uneven[:10])
            expected = f"expected {width} column(s) in every line, as in line {self._first_line}"
            malformed.add(lines[0][0], content, "columns", found, expected, CORRECT)
        return False


def read_msra(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Sentences of a file of `tokens<TAB>labels` lines, each joined by \\x02; a header line may come first.

    A line without exactly one tab, or with bytes that are not in the encoding, is malformed.
    """
    is_first = True
    for block in blocks(request.path, request.spec.encoding):
        records = [(number, line.split("\t")) for number, line in numbered(block)]
        if is_first and records:
            is_first = False
            records = records[1:] if tuple(records[0][1]) in MSRA_HEADERS else records
        coerced = notes(block)
        for piece in pieces(len(records), chunk_rows):
            yield _msra_chunk(request, records[piece], coerced)
            coerced = {}


def _msra_chunk(request: Request, records: list[Line], coerced: dict[str, int]) -> Chunk:
    malformed, good = Malformed(), []
    widths = (2,) if request.labelled else (1, 2)
    expected = "expected 2 fields in every line, tokens<TAB>labels, each joined by \\x02"
    for number, fields in records:
        if any(map(is_damaged, fields)):
            found = f"line {number} is not {request.spec.encoding}"
            malformed.add(number, "\t".join(fields), "encoding", found, remedy="set `encoding`")
        elif len(fields) not in widths:
            malformed.add(number, "\t".join(fields), "fields", f"line {number} has {len(fields)}", expected, CORRECT)
        else:
            good.append((number, fields))
    columns: dict[str, list[object]] = {
        "row": [number for number, _ in good],
        "tokens": [fields[0].split(JOINED_BY) for _, fields in good],
    }
    if all(len(fields) == 2 for _, fields in good):  # noqa: PLR2004
        columns["labels"] = [fields[1].split(JOINED_BY) for _, fields in good]
    return Chunk(_frame(columns), malformed.frame(), coerced)


def _sentences(request: Request) -> Iterator[tuple[list[list[Line]], dict[str, int]]]:
    """Sentences of each block, with what was taken off its text; one that the block cuts waits for the next."""
    lines: list[Line] = []
    for block in blocks(request.path, request.spec.encoding):
        found: list[list[Line]] = []
        # Only spaces and tabs separate: a token of real text may be another white-space character.
        for number, line in enumerate(block.text.removesuffix("\n").split("\n"), start=block.begins):
            fields = [field for field in line.removesuffix("\r").replace("\t", " ").split(" ") if field]
            if fields and fields[0] != DOCUMENT_START:
                lines.append((number, fields))
            elif lines:
                found.append(lines)
                lines = []
        if len(lines) > MAX_SENTENCE_LINES:
            raise DataError(
                f"{request.path}: line {lines[0][0]}: a sentence of more than {MAX_SENTENCE_LINES:,} lines; expected an empty "
                "line between sentences: correct the file or `format`"
            )
        yield found, notes(block)
    if lines:
        yield [lines], {}


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
