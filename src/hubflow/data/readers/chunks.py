"""Rows in chunks: text files in blocks of whole lines, and what reading gives of them."""

import codecs
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hubflow.data.readers.opening import open_data, require_text
from hubflow.data.readers.source import codec_of, encoding_of_file, fitting_encoding, read_text, require_file
from hubflow.errors import DataError, EmptyError, join_limited
from hubflow.schemas.labels import clean_label
from hubflow.schemas.library import library_settings

BLOCK_BYTES = 1 << 22
BYTE_ORDER_MARK = "\ufeff"
# In these a line feed is one byte that is part of no other character, so that a wrong byte harms its own line alone.
LINE_SAFE = re.compile(
    r"utf-8(-sig)?|ascii|iso8859-\d+|cp(125\d|437|8[56]\d|874|932|949|950)|koi8-.|mac-.*|gb(2312|k|18030)|big5(hkscs)?"
    r"|shift_ji.*|euc_.*|tis-620"
)
STREAMED = re.compile(r"utf-(16|32)(-[lb]e)?")  # others keep a state or have no decoder for parts: they are read at once
ESCAPES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Block:
    """Whole lines of a file.

    Attributes:
        text: ends in a line feed, except at the end of the file; bytes that are not in the encoding are half surrogates.
        begins: 1-based number of the first line.
        is_damaged: whether there are such bytes.
        has_mark: whether a byte-order mark was taken off.
        carriage_returns: how many line ends were carriage returns alone, as on old Macs; they are line feeds in `text`.
    """

    text: str
    begins: int
    is_damaged: bool
    has_mark: bool = False
    carriage_returns: int = 0


def blocks(path: Path, encoding: str) -> Iterator[Block]:
    """A text file that holds something, in blocks of about 4 MB.

    A compressed file is decompressed (see `hubflow.data.readers.opening`). One that begins with the byte-order mark of UTF-16
    or UTF-32 is read as such where the encoding is UTF-8. Carriage returns end lines in a file without line feeds.

    Raises:
        DataError: when the file is missing, empty or unreadable, the encoding is unknown, or one in which reading cannot go
            on after a wrong byte; or a line is longer than `limits.max_line_chars`.
    """
    require_file(path)
    begins, rest, mark, returns = 1, "", False, 0
    is_blank, ends_in_returns = True, False
    for number, decoded in enumerate(_decoded(path, encoding)):
        mark = mark or (number == 0 and decoded.startswith(BYTE_ORDER_MARK))
        text = decoded.removeprefix(BYTE_ORDER_MARK) if number == 0 else decoded
        if number == 0:
            ends_in_returns = "\r" in text[:-1] and "\n" not in text
        if ends_in_returns:
            returns += text.count("\r")
            text = text.replace("\r", "\n")
        if is_blank and not text.strip(BYTE_ORDER_MARK).strip():
            _require_content(path, encoding)
        is_blank = False
        end = text.rfind("\n") + 1
        if end:
            whole = rest + text[:end]
            yield Block(whole, begins, is_damaged(whole), mark, returns)
            begins, rest, mark, returns = begins + whole.count("\n"), text[end:], False, 0
        else:
            rest += text
            _require_length(path, begins, rest)
    if rest:
        yield Block(rest, begins, is_damaged(rest), mark, returns)


def texts(path: Path, encoding: str) -> Iterator[str]:
    """A text file in parts that end anywhere, without byte-order mark, for formats that lines do not divide.

    Raises:
        DataError: as `blocks` does, but for long lines.
    """
    for number, text in enumerate(_decoded(require_file(path), encoding)):
        yield text.removeprefix(BYTE_ORDER_MARK) if number == 0 else text


def numbered(block: Block) -> list[tuple[int, str]]:
    """Lines of a block that are not blank, each with its number; only a line feed ends a line."""
    lines = enumerate(block.text.split("\n"), start=block.begins)
    return [(number, line.removesuffix("\r")) for number, line in lines if line and not line.isspace()]


def notes(block: Block, line_ends: int | None = None) -> dict[str, int]:
    """What was taken off a block's text beside the values, counted."""
    ends = block.text.count("\r\n") if line_ends is None else line_ends
    taken_off = {
        "byte-order mark": int(block.has_mark),
        "CRLF line ends": ends,
        "carriage returns as line ends": block.carriage_returns,
    }
    return {name: count for name, count in taken_off.items() if count}


def is_damaged(text: str) -> bool:
    """Whether `text` holds half surrogates, which no file of ours can hold."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def escaped(text: str) -> str:
    """Text with each half surrogate written out: `\\xb7` for the byte of another encoding, `\\ud800` for others."""
    return ESCAPES.sub(_escape, text) if is_damaged(text) else text


def encoding_fault(path: Path, encoding: str) -> DataError:
    """What to say of a file that is not in `encoding`: line and byte, and an encoding that reads it."""
    try:
        read, line, pending = 0, 1, b""
        decoder = codecs.getincrementaldecoder(encoding)()
        with open_data(path) as data:
            while True:
                block = data.read(BLOCK_BYTES)
                pending = decoder.getstate()[0]
                try:
                    line += decoder.decode(block, final=not block).count("\n")
                except UnicodeDecodeError as error:
                    line += codecs.decode(error.object[: error.start], encoding, "replace").count("\n")
                    offset = read - len(pending) + error.start
                    return DataError(
                        f"{path}: line {line}: byte 0x{error.object[error.start]:02x} at offset {offset} is not {encoding} "
                        f"({error.reason}); set `encoding`{fitting_encoding(path, encoding)}"
                    )
                read += len(block)
                if not block:
                    break
    except UnicodeError as error:
        return DataError(f"{path}: is not {encoding} ({error}); set `encoding`{fitting_encoding(path, encoding)}")
    return DataError(f"{path}: is not {encoding}; set `encoding`{fitting_encoding(path, encoding)}")


def _decoded(path: Path, encoding: str) -> Iterator[str]:
    name = codec_of(path, encoding)
    with open_data(path) as data:
        require_text(path, data.head)
        recognized = encoding_of_file(path, data.head, name)
        encoding, name = recognized or encoding, recognized or name
        if not LINE_SAFE.fullmatch(name) and not STREAMED.fullmatch(name):
            yield read_text(path, encoding)
            return
        try:
            if name in ("utf-16", "utf-32") and data.head[:2] not in (b"\xff\xfe", b"\xfe\xff", b"\0\0"):
                name += "-le"  # no byte-order mark: the decoder for whole texts takes the machine's order, this one refuses
            decoder = codecs.getincrementaldecoder(name)("surrogateescape" if LINE_SAFE.fullmatch(name) else "strict")
            while block := data.read(BLOCK_BYTES):
                yield decoder.decode(block)
            yield decoder.decode(b"", final=True)
        except UnicodeError as error:
            raise encoding_fault(path, encoding) from error


def _require_content(path: Path, encoding: str) -> None:
    if not any(text.strip(BYTE_ORDER_MARK).strip() for text in _decoded(path, encoding)):
        raise EmptyError(f"{path}: the file is empty; expected rows")


def _require_length(path: Path, line: int, text: str) -> None:
    if len(text) > max_line_chars():
        raise DataError(
            f"{path}: line {line}: longer than {max_line_chars():,} characters, limits.max_line_chars; expected lines of text: "
            "correct the file or `format`"
        )


def max_line_chars() -> int:
    """The most characters of a line, or of a record that spans lines."""
    return library_settings().limits.max_line_chars


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"  # noqa: PLR2004


CHUNK_ROWS = 65_536
MAX_CONTENT_CHARS = 10_000
SPACE_AROUND_LABELS = "white space around labels"
WHOLE_NUMBERS = "whole numbers with decimals as labels"
MALFORMED_COLUMNS = ["row", "content", "check", "found", "expected", "remedy"]


@dataclass(frozen=True)
class Chunk:
    """Some of a source's rows, in its order.

    Attributes:
        rows: columns of the contract and extra columns; empty when every line is malformed.
        malformed: a row for each line or record that cannot be read: row (its number), content (as written; of more
            than 10,000 characters the first, and how many follow), check, and what found, expected and remedy say of it.
        coerced: how many values were converted in reading, by column; for line ends and marks of the file, by their name.
        skipped: how many lines or files were left out because they are no rows, such as comments, by reason.
        skipped_examples: the first of them that a person should know of, such as files that no folder of a class holds.
        file: of several that are read as one source, the one that the rows are from.
        open_quotes: first and last line of each quoted field whose lines look like rows.
        quoted_columns: columns whose every field keeps its quotes; None where a format has none.
        doubled_quotes: fields that keep quotes with doubled quotes between them, by column.
    """

    rows: pd.DataFrame
    malformed: pd.DataFrame
    coerced: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    skipped_examples: tuple[str, ...] = ()
    file: str | None = None
    open_quotes: tuple[tuple[int, int], ...] = ()
    quoted_columns: frozenset[str] | None = None
    doubled_quotes: dict[str, int] = field(default_factory=dict)


def with_clean_labels(chunk: Chunk, column: str) -> Chunk:
    """A chunk whose labels, in `column`, are as `clean_label` has them; what that changed is counted."""
    if column not in chunk.rows:
        return chunk
    values = chunk.rows[column]
    is_list = column == "labels"
    texts: Any = chain.from_iterable(filter(is_label_list, values)) if is_list else values
    distinct = {text for text in (texts if is_list or values.dtype == object else values.unique()) if isinstance(text, str)}
    changed = {text: clean for text in distinct if (clean := clean_label(text)) != text}
    if not changed:
        return chunk
    if is_list:
        cleaned = [_replaced(items, changed) if is_label_list(items) else items for items in values]
        found = Counter(text for text in chain.from_iterable(filter(is_label_list, values)) if isinstance(text, str))
    else:
        cleaned = [changed.get(value, value) if isinstance(value, str) else value for value in values]
        found = Counter(value for value in values if isinstance(value, str))
    counts = Counter(chunk.coerced)
    for text, clean in changed.items():
        counts[SPACE_AROUND_LABELS] += found[text] if text.strip() != text else 0
        counts[WHOLE_NUMBERS] += found[text] if text.strip() != clean else 0
    series = pd.Series(cleaned, index=values.index, dtype=values.dtype)
    return replace(chunk, rows=chunk.rows.assign(**{column: series}), coerced={name: n for name, n in counts.items() if n})


def is_label_list(value: object) -> bool:
    """Whether a value is a list of labels of a row."""
    return isinstance(value, list | tuple | np.ndarray)


def _replaced(items: Sequence[Any], changed: dict[str, str]) -> list[Any]:
    return [changed.get(item, item) if isinstance(item, str) else item for item in items]


class Malformed:
    """Gathers the lines of a chunk that cannot be read; `unit` is what the numbers are of."""

    def __init__(self, unit: str = "line") -> None:
        self.unit = unit
        self._lines: list[tuple[int, str, str, str, str, str]] = []

    def add(self, row: int, content: str, check: str, found: str, expected: str = "", remedy: str = "") -> None:
        """Note one line; `found` names it."""
        rest = len(content) - MAX_CONTENT_CHARS
        more = f"… [{rest} more characters]" if rest > 0 else ""
        self._lines.append((row, escaped(content[:MAX_CONTENT_CHARS]) + more, check, escaped(found), expected, remedy))

    def frame(self) -> pd.DataFrame:
        """The lines as `Chunk.malformed` has them."""
        frame = pd.DataFrame(sorted(self._lines), columns=MALFORMED_COLUMNS, dtype=object)
        return frame.astype({"row": np.int64, **dict.fromkeys(MALFORMED_COLUMNS[1:], "str")})


def explained(malformed: pd.DataFrame) -> Iterator[str]:
    """What is wrong with malformed lines, one text for each kind of fault, with the first few lines named."""
    for (_, expected, remedy), lines in malformed.groupby(["check", "expected", "remedy"], sort=False):
        yield "; ".join(str(part) for part in (expected, join_limited(lines["found"]), remedy) if part)


def sliced(rows: pd.DataFrame, chunk_rows: int, coerced: dict[str, int] | None = None) -> Iterator[Chunk]:
    """Rows at hand as chunks."""
    nothing = Malformed().frame()
    for start in range(0, len(rows), chunk_rows):
        part = rows.iloc[start : start + chunk_rows].reset_index(drop=True)
        yield Chunk(part, nothing, (coerced or {}) if start == 0 else {})


def pieces(size: int, chunk_rows: int) -> Iterator[slice]:
    """Slices that cover `size` items, each of at most `chunk_rows`."""
    return (slice(start, start + chunk_rows) for start in range(0, size, chunk_rows))


def kept(items: Sequence[str], places: Sequence[int]) -> list[str]:
    """Those of `items` at `places`."""
    return [items[position] for position in places]
