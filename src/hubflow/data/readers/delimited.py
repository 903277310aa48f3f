"""Rows of CSV and TSV files, with the line that each begins at, in chunks."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hubflow.data.readers.chunks import (
    Block,
    Chunk,
    Malformed,
    blocks,
    encoding_fault,
    is_damaged,
    kept,
    max_line_chars,
    notes,
    pieces,
)
from hubflow.data.readers.source import Request, make_rows, require_few_columns, wanted_columns
from hubflow.errors import DataError, join_limited

DELIMITERS = {"csv": ",", "tsv": "\t"}
NAMED = {",": "comma", "\t": "tab", ";": "semicolon", "|": "pipe", " ": "space"}
LOOKED_AT_LINES = 20
MAX_LABELS = 10_000
MIN_LINES, MIN_WIDTH = 3, 3  # of a field of several lines that looks like rows where there are no labels to tell by
OPEN_RETURN = "a carriage return within the line, outside quotes"
QUOTES_REMEDY = (
    'a field with quotes, delimiters or line ends is written "like ""this"""; set `quoting: false` when quotes are plain text'
)
_TOO_LONG = re.compile("field larger|record of more")
Numbers = Sequence[int]
Spanning = tuple[int, int, list[str]]
"""First line, last line and fields of a record of several lines."""


def read_delimited(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Rows of a CSV or TSV file, every field the text as written.

    A line with another number of fields than the first, or bytes that are not in the encoding, is malformed; so is one
    that breaks the rules of quoting when it is clear where it ends.

    Raises:
        DataError: for an open quote, a header that cannot be read, or a missing column.
    """
    spec = request.spec
    quoted = spec.quoting if spec.quoting is not None else spec.format == "csv" or spec.quote is not None
    layout = _Layout(request, quoted)
    return _quoted_chunks(layout, chunk_rows) if quoted or spec.escape is not None else _plain_chunks(layout, chunk_rows)


class _Layout:
    """Width and column names of a file, from its first line; and its labels so far, by which swallowed rows are known."""

    def __init__(self, request: Request, quoted: bool) -> None:
        spec = request.spec
        self.request, self.quoted = request, quoted
        self.delimiter, self.quote = spec.delimiter or DELIMITERS[spec.format], spec.quote or '"'
        self.width, self.first_line = 0, 0
        self.names: list[str] | None = None
        self._labels: set[str] = set()
        self._label_column: int | None = None
        self._hint: str | None = None

    def begin(self, fields: Sequence[str], line: int) -> bool:
        """Take the first line; True when it is a row itself."""
        self.width, self.first_line = len(fields), line
        require_few_columns(self.request.path, self.width, f"line {line}: ")
        header = self.request.spec.header
        if header and any(map(is_damaged, fields)):
            raise encoding_fault(self.request.path, self.request.spec.encoding)
        positions = [f"column_{position}" for position in range(len(fields))]
        self.names = _header(self.request.path, fields, line) if header else positions
        try:
            label = wanted_columns(self.request, self.names).get("label")
        except DataError as error:
            raise DataError(f"{error}{self.hint()}") from error
        self._label_column = None if label is None else self.names.index(label)
        return not header

    def chunk(
        self,
        numbers: Numbers,
        columns: Sequence[Sequence[str]],
        malformed: Malformed,
        coerced: dict[str, int],
        spanning: Sequence[Spanning] = (),
        has_quotes: bool = True,
    ) -> Chunk:
        """A chunk of the columns' fields.

        Args:
            numbers: the line that each row begins at.
            columns: fields by column.
            malformed: lines that are no rows.
            coerced: what was converted, counted.
            spanning: records of several lines.
            has_quotes: False says that no field holds a quote.
        """
        assert self.names is not None
        table = dict(zip(self.names, columns, strict=True))
        if self._label_column is not None and len(self._labels) < MAX_LABELS:
            self._labels |= {label.strip() for label in set(columns[self._label_column])}
        quoted, doubled = self._kept_quotes(table) if has_quotes else (frozenset[str](), {})
        opened = tuple((first, last) for first, last, record in spanning if self._looks_like_rows(record))
        rows = make_rows(self.request, numbers, table)
        return Chunk(rows, malformed.frame(), coerced, open_quotes=opened, quoted_columns=quoted, doubled_quotes=doubled)

    def note_width(self, malformed: Malformed, number: int, content: str, count: int, last: int | None = None) -> None:
        """Note a line with another number of fields; `last` is the last line of a record of several."""
        where = f"line {number} has {count}" if last is None else f"lines {number} to {last}, one record, have {count}"
        named = NAMED.get(self.delimiter, repr(self.delimiter))
        malformed.add(
            number,
            content,
            "fields",
            where,
            f"expected {self.width} field(s) in every line, as in line {self.first_line}",
            f"a {named} separates fields: correct these lines, or quote the fields and set `quoting: true`{self.hint()}",
        )

    def dialect(self) -> dict[str, Any]:
        """How csv.reader is to read the file."""
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        escape = self.request.spec.escape
        return {"delimiter": self.delimiter, "quotechar": self.quote, "escapechar": escape, "quoting": quoting}

    def quotes(self, line: str) -> int:
        """How many quotes a line holds that are not escaped."""
        escape = self.request.spec.escape
        if escape is not None:
            line = line.replace(2 * escape, "").replace(escape + self.quote, "")
        return line.count(self.quote)

    def hint(self) -> str:
        """What the first lines look like, when it is plainly something else than the settings say."""
        if self._hint is None:
            self._hint = _hint(self.request, self.delimiter, self.quoted)
        return self._hint

    def _looks_like_rows(self, record: Sequence[str]) -> bool:
        """Whether each line of a record of several has the file's number of fields, and a label in the label's place."""
        lines = [line.split(self.delimiter) for line in self.delimiter.join(record).split("\n")]
        if self.width == 1 or len(lines) == 1 or any(len(fields) != self.width for fields in lines):
            return False
        if self._label_column is None:
            return len(lines) >= MIN_LINES or self.width >= MIN_WIDTH
        labels = [fields[self._label_column].strip().strip(self.quote) for fields in lines]
        return set(labels) <= self._labels or (len(lines) > MIN_LINES and 2 * len(set(labels)) <= len(labels))

    def _kept_quotes(self, table: dict[str, Sequence[str]]) -> tuple[frozenset[str], dict[str, int]]:
        """Columns whose every field that holds something is in quotes, and how many fields of others hold doubled quotes."""
        columns, doubled, pair = set(), {}, 2 * self.quote
        for name, fields in table.items():
            joined = "".join(fields)  # to be searched at once: most columns have none
            first = next((text.strip() for text in fields if text), "") if self.quote in joined else ""
            if first.startswith(self.quote) or (not self.quoted and pair in joined):
                in_quotes = [len(text) > 1 and text[0] == text[-1] == self.quote for text in map(str.strip, fields)]
                count = sum(pair in text.strip()[1:-1] for text, is_one in zip(fields, in_quotes, strict=True) if is_one)
                if in_quotes.count(True) == sum(map(bool, fields)):
                    columns.add(name)
                elif count and not self.quoted:
                    doubled[name] = count
        return frozenset(columns), doubled

    def note_encoding(self, malformed: Malformed, number: int, content: str) -> None:
        """Note a line with bytes that are not in the encoding."""
        malformed.add(
            number, content, "encoding", f"line {number} is not {self.request.spec.encoding}", remedy="set `encoding`"
        )


def _plain_chunks(layout: _Layout, chunk_rows: int) -> Iterator[Chunk]:
    """Chunks of lines split all at once, which keeps a million lines within a second or two."""
    request, blank = layout.request, 0
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
            places = [position for position, line in enumerate(lines) if line]
            lines, numbers = kept(lines, places), [numbers[position] for position in places]
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
        for index, (line, count) in enumerate(zip(lines, counts, strict=True)):
            if block.is_damaged and is_damaged(line):
                layout.note_encoding(malformed, numbers[index], line)
            elif count != width:
                layout.note_width(malformed, numbers[index], line, count)
            else:
                good.append(index)
        lines, numbers = kept(lines, good), [numbers[index] for index in good]
    fields = delimiter.join(lines).split(delimiter) if lines else []
    columns = [fields[position::width] for position in range(width)]
    return layout.chunk(numbers, columns, malformed, coerced, has_quotes=layout.quote in block.text)


class _Lines:
    """The lines of a file one by one, as csv.reader wants them, with what is known of the block that they are from."""

    def __init__(self, request: Request) -> None:
        self._request, self._most_chars = request, max_line_chars()
        self.blocks_read, self.is_damaged, self.last = 0, False, ""
        self.coerced: dict[str, int] = {}
        self.spanning: list[Spanning] = []
        self.record_chars = 0
        """Of the lines since the last record."""

    def __iter__(self) -> Iterator[str]:
        for block in blocks(self._request.path, self._request.spec.encoding):
            self.blocks_read += 1
            self.is_damaged |= block.is_damaged
            for name, count in notes(block).items():
                self.coerced[name] = self.coerced.get(name, 0) + count
            # The reader must not see more than a block ahead of what it has given.
            for self.last in io.StringIO(block.text, newline="\n"):
                self.record_chars += len(self.last)
                if self.record_chars > self._most_chars:
                    raise csv.Error(f"a record of more than {self._most_chars:,} characters, limits.max_line_chars")
                yield self.last


def _quoted_chunks(layout: _Layout, chunk_rows: int) -> Iterator[Chunk]:
    """Chunks of records; a quoted field may hold delimiters, doubled quotes and line ends."""
    csv.field_size_limit(max_line_chars())
    request = layout.request
    lines = _Lines(request)
    records = _records(layout, lines)
    reading = True
    blank: list[int] = []
    while reading:
        batch: list[tuple[int, list[str]]] = []
        malformed, faults, at = Malformed(), 0, lines.blocks_read + 1
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
                faults += 1
            else:  # no record, except in a file of one column and before another, where it is an empty one
                blank += [number] if layout.width <= 1 else []
                continue
            if len(batch) + faults >= chunk_rows or lines.blocks_read > at:
                break
        else:
            reading = False
        if batch and layout.names is None and not layout.begin(batch[0][1], batch[0][0]):
            batch = batch[1:]
        if layout.names is not None:
            yield _quoted_chunk(layout, batch, malformed, lines)


def _quoted_chunk(layout: _Layout, batch: list[tuple[int, list[str]]], malformed: Malformed, lines: _Lines) -> Chunk:
    spanning, lines.spanning = lines.spanning, []
    good = [entry for entry in batch if len(entry[1]) == layout.width]
    if len(good) < len(batch) or lines.is_damaged:
        good, ends = [], {first: last for first, last, _ in spanning}
        for number, record in batch:
            if lines.is_damaged and any(map(is_damaged, record)):
                layout.note_encoding(malformed, number, _as_csv(record, layout))
            elif len(record) != layout.width:
                layout.note_width(malformed, number, _as_csv(record, layout), len(record), ends.get(number))
            else:
                good.append((number, record))
    coerced = lines.coerced
    if "CRLF line ends" in coerced:  # those inside fields stay
        coerced["CRLF line ends"] -= sum(field.count("\r\n") for _, record in batch for field in record)
    lines.coerced = {}
    columns: list[Sequence[str]] = list(zip(*(record for _, record in good), strict=True)) or [()] * layout.width
    return layout.chunk([number for number, _ in good], columns, malformed, coerced, spanning)


def _records(layout: _Layout, lines: _Lines) -> Iterator[tuple[int, list[str], str]]:
    """Records with the line that each begins at; for a malformed line, no record and what is wrong with it."""
    request = layout.request
    reader = csv.reader(iter(lines), strict=True, **layout.dialect())
    begins = 1
    while True:
        try:
            for record in reader:
                if reader.line_num > begins:
                    lines.spanning.append((begins, reader.line_num, record))
                lines.record_chars = 0
                yield begins, record, ""
                begins = reader.line_num + 1
            return
        except csv.Error as error:
            # After a line with all its quotes in pairs the next begins a record; otherwise nobody knows where one begins.
            is_over = reader.line_num == begins and layout.quotes(lines.last) % 2 == 0 and not _TOO_LONG.search(str(error))
            if not is_over:
                ends = f" (up to line {reader.line_num})" if reader.line_num > begins else ""
                raise DataError(f"{request.path}: line {begins}{ends}: {error}; {QUOTES_REMEDY}") from error
            lines.record_chars = 0
            yield begins, [], OPEN_RETURN if "new-line character" in str(error) else str(error)
            begins = reader.line_num + 1


def _as_csv(record: list[str], layout: _Layout) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=layout.delimiter, quotechar=layout.quote, lineterminator="").writerow(record)
    return stream.getvalue()


def _hint(request: Request, delimiter: str, quoted: bool) -> str:
    """What the first lines of a file look like, when it is plainly something else than the settings say."""
    texts = (block.text for block in blocks(request.path, request.spec.encoding))
    split = (line for text in texts for line in text.split("\n", LOOKED_AT_LINES)[:LOOKED_AT_LINES] if line.strip())
    lines = list(islice(split, LOOKED_AT_LINES))
    if not lines:
        return ""
    if lines[0].lstrip().startswith(("{", "[{")):
        return "; the file looks like JSON: set `format: jsonl`"
    counts = {other: {line.count(other) for line in lines} for other in NAMED if other not in (delimiter, " ")}
    fitting = [other for other, found in counts.items() if len(found) == 1 and 0 not in found]
    fitting = fitting or [other for other in counts if request.spec.header and _names_wanted(request, lines[0].split(other))]
    if fitting and (len(lines) > 1 or request.spec.header):
        other = max(fitting, key=lambda one: max(counts[one]))
        written = "\\t" if other == "\t" else other
        return f'; a {NAMED[other]} separates the fields of the first lines: set `delimiter: "{written}"`'
    first = lines[0].split(delimiter)[0].strip()
    if not quoted and request.spec.header and len(first) > 1 and first[0] == first[-1] == '"':
        return "; the names are in quotes: set `quoting: true`"
    return ""


def _names_wanted(request: Request, names: Sequence[str]) -> bool:
    return len(names) > 1 and request.spec.text_column in [name.strip().strip('"') for name in names]


def _header(path: Path, fields: Sequence[str], line: int) -> list[str]:
    names = [field.strip() or f"column_{position}" for position, field in enumerate(fields)]
    unique, counts = np.unique(names, return_counts=True)
    repeated = unique[counts > 1].tolist()
    if repeated:
        raise DataError(
            f"{path}: line {line}: column name(s) {join_limited(map(repr, repeated))} repeat; name each column once, "
            "or set header: false when the first line is a row"
        )
    return names
