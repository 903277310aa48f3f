"""Rows of CSV and TSV files, with the line that each begins at, in chunks. Must not import Paddle or Prefect."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hubflow.schemas.errors import bounded
from hubflow.stages.data.reading_chunks import Chunk, Malformed, kept, pieces
from hubflow.stages.data.reading_source import Request, make_rows
from hubflow.stages.data.reading_text import MAX_LINE_CHARS, Block, blocks, encoding_fault, is_damaged, notes
from hubflow.stages.errors import DataError

DELIMITERS = {"csv": ",", "tsv": "\t"}
NAMED = {"csv": "comma", "tsv": "tab"}
MAX_FIELD_CHARS = MAX_LINE_CHARS
QUOTES_REMEDY = (
    'a field with quotes, delimiters or line ends is written "like ""this"""; set `quoting: false` when quotes are plain text'
)
Numbers = Sequence[int]


def read_delimited(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Rows of a CSV or TSV file, every field the text as written.

    A line with another number of fields than the first, or bytes that are not in the encoding, is malformed; so is one
    that breaks the rules of quoting when it is clear where it ends.

    Raises:
        DataError: for an open quote, a header that cannot be read, or a missing column.
    """
    quoting = request.spec.quoting
    quoted = quoting if quoting is not None else request.spec.format == "csv"
    return _quoted_chunks(request, chunk_rows) if quoted else _plain_chunks(request, chunk_rows)


class _Layout:
    """Width and column names of a file, from its first line."""

    def __init__(self, request: Request) -> None:
        self.request, self.delimiter = request, DELIMITERS[request.spec.format]
        self.width, self.first_line = 0, 0
        self.names: list[str] | None = None

    def begin(self, fields: Sequence[str], line: int) -> bool:
        """Take the first line; True when it is a row itself."""
        self.width, self.first_line = len(fields), line
        if not self.request.spec.header:
            self.names = [f"column_{position}" for position in range(len(fields))]
            return True
        if any(map(is_damaged, fields)):
            raise encoding_fault(self.request.path, self.request.spec.encoding)
        self.names = _header(self.request.path, fields, line)
        return False

    def chunk(self, numbers: Numbers, columns: Sequence[Sequence[str]], malformed: Malformed, coerced: dict[str, int]) -> Chunk:
        """A chunk of the columns' fields."""
        assert self.names is not None
        rows = make_rows(self.request, numbers, dict(zip(self.names, columns, strict=True)))
        return Chunk(rows, malformed.frame(), coerced)

    def note_width(self, malformed: Malformed, number: int, content: str, count: int) -> None:
        """Note a line with another number of fields."""
        malformed.add(
            number,
            content,
            "fields",
            f"line {number} has {count}",
            f"expected {self.width} field(s) in every line, as in line {self.first_line}",
            f"a {NAMED[self.request.spec.format]} separates fields: correct these lines, or quote the fields and set "
            "`quoting: true`",
        )

    def note_encoding(self, malformed: Malformed, number: int, content: str) -> None:
        """Note a line with bytes that are not in the encoding."""
        malformed.add(
            number, content, "encoding", f"line {number} is not {self.request.spec.encoding}", remedy="set `encoding`"
        )


def _plain_chunks(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Chunks of lines split all at once, which keeps a million lines within a second or two."""
    layout, blank = _Layout(request), 0
    for block in blocks(request.path, request.spec.encoding):
        text = block.text.replace("\r\n", "\n")
        body = text.rstrip("\n" if text.endswith("\n") else "\r\n")
        # Blank lines at the end of the file are no rows: those at the end of a block wait for what comes after.
        waiting, blank = blank, (len(text) - len(body) - text.endswith("\n")) if body else blank + len(text)
        if not body:
            continue
        lines = [""] * waiting + body.split("\n") if waiting else body.split("\n")
        numbers: Numbers = range(block.begins - waiting, block.begins - waiting + len(lines))
        if not layout.width:
            layout.width = next(line for line in lines if line).count(layout.delimiter) + 1
        if layout.width > 1 and not all(lines):
            places = [place for place, line in enumerate(lines) if line]
            lines, numbers = kept(lines, places), [numbers[place] for place in places]
        if layout.names is None and not layout.begin(lines[0].split(layout.delimiter), numbers[0]):
            lines, numbers = lines[1:], numbers[1:]
        coerced = notes(block)
        for piece in pieces(len(lines), chunk_rows):
            yield _plain_chunk(layout, numbers[piece], lines[piece], block, coerced)
            coerced = {}


def _plain_chunk(layout: _Layout, numbers: Numbers, lines: list[str], block: Block, coerced: dict[str, int]) -> Chunk:
    malformed, width, delimiter = Malformed(), layout.width, layout.delimiter
    counts = [line.count(delimiter) + 1 for line in lines]
    if counts.count(width) != len(counts) or block.is_damaged:
        good = []
        for place, (line, count) in enumerate(zip(lines, counts, strict=True)):
            if block.is_damaged and is_damaged(line):
                layout.note_encoding(malformed, numbers[place], line)
            elif count != width:
                layout.note_width(malformed, numbers[place], line, count)
            else:
                good.append(place)
        lines, numbers = kept(lines, good), [numbers[place] for place in good]
    fields = delimiter.join(lines).split(delimiter) if lines else []
    return layout.chunk(numbers, [fields[position::width] for position in range(width)], malformed, coerced)


class _Lines:
    """The lines of a file one by one, as csv.reader wants them, with what is known of the block that they are from."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.blocks_read, self.is_damaged, self.last = 0, False, ""
        self.coerced: dict[str, int] = {}

    def __iter__(self) -> Iterator[str]:
        for block in blocks(self._request.path, self._request.spec.encoding):
            self.blocks_read += 1
            self.is_damaged |= block.is_damaged
            for name, count in notes(block).items():
                self.coerced[name] = self.coerced.get(name, 0) + count
            # The reader must not see more than a block ahead of what it has given.
            for self.last in io.StringIO(block.text, newline="\n"):
                yield self.last


def _quoted_chunks(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Chunks of records; a quoted field may hold delimiters, doubled quotes and line ends."""
    csv.field_size_limit(MAX_FIELD_CHARS)
    lines, layout = _Lines(request), _Layout(request)
    records = _records(request, lines)
    reading = True
    blank: list[int] = []
    while reading:
        batch: list[tuple[int, list[str]]] = []
        malformed, at = Malformed(), lines.blocks_read + 1
        for number, record, fault in records:
            if record:
                layout.width = layout.width or len(record)
                if blank:
                    batch += [(line, [""]) for line in blank if layout.width == 1]
                    blank = []
                batch.append((number, record))
            elif fault and not layout.width:
                raise DataError(f"{request.path}: line {number}: {fault}; {QUOTES_REMEDY}")
            elif fault:
                malformed.add(number, lines.last, "quoting", f"line {number}: {fault}", remedy=QUOTES_REMEDY)
            else:  # no record, except in a file of one column and before another, where it is an empty one
                blank += [number] if layout.width <= 1 else []
                continue
            if len(batch) >= chunk_rows or lines.blocks_read > at:
                break
        else:
            reading = False
        if batch and layout.names is None and not layout.begin(batch[0][1], batch[0][0]):
            batch = batch[1:]
        if layout.names is not None:
            yield _quoted_chunk(layout, batch, malformed, lines)


def _quoted_chunk(layout: _Layout, batch: list[tuple[int, list[str]]], malformed: Malformed, lines: _Lines) -> Chunk:
    good = [entry for entry in batch if len(entry[1]) == layout.width]
    if len(good) < len(batch) or lines.is_damaged:
        good = []
        for number, record in batch:
            if lines.is_damaged and any(map(is_damaged, record)):
                layout.note_encoding(malformed, number, _as_csv(record, layout.delimiter))
            elif len(record) != layout.width:
                layout.note_width(malformed, number, _as_csv(record, layout.delimiter), len(record))
            else:
                good.append((number, record))
    coerced = lines.coerced
    if "CRLF line ends" in coerced:  # those inside fields stay
        coerced["CRLF line ends"] -= sum(field.count("\r\n") for _, record in batch for field in record)
    lines.coerced = {}
    columns: list[Sequence[str]] = list(zip(*(record for _, record in good), strict=True)) or [()] * layout.width
    return layout.chunk([number for number, _ in good], columns, malformed, coerced)


def _records(request: Request, lines: _Lines) -> Iterator[tuple[int, list[str], str]]:
    """Records with the line that each begins at; for a malformed line, no record and what is wrong with it."""
    reader = csv.reader(iter(lines), delimiter=DELIMITERS[request.spec.format], strict=True)
    begins = 1
    while True:
        try:
            for record in reader:
                yield begins, record, ""
                begins = reader.line_num + 1
            return
        except csv.Error as error:
            # After a line with all its quotes in pairs the next begins a record; otherwise nobody knows where one begins.
            is_over = reader.line_num == begins and lines.last.count('"') % 2 == 0 and "field larger" not in str(error)
            if not is_over:
                ends = f" (up to line {reader.line_num})" if reader.line_num > begins else ""
                raise DataError(f"{request.path}: line {begins}{ends}: {error}; {QUOTES_REMEDY}") from error
            yield begins, [], str(error)
            begins = reader.line_num + 1


def _as_csv(record: list[str], delimiter: str) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, lineterminator="").writerow(record)
    return stream.getvalue()


def _header(path: Path, fields: Sequence[str], line: int) -> list[str]:
    names = [field.strip() or f"column_{position}" for position, field in enumerate(fields)]
    unique, counts = np.unique(names, return_counts=True)
    repeated = unique[counts > 1].tolist()
    if repeated:
        raise DataError(
            f"{path}: line {line}: column name(s) {bounded(map(repr, repeated))} repeat; name each column once, "
            "or set header: false when the first line is a row"
        )
    return names
