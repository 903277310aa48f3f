"""Rows of token files: CoNLL columns, and tokens and labels joined by \\x02, in chunks."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from hubflow.data.readers.chunks import Chunk, Malformed, blocks, is_damaged, max_line_chars, notes, numbered, pieces
from hubflow.data.readers.source import Request, require_few_columns
from hubflow.errors import DataError, EmptyError, join_limited
from hubflow.schemas.settings import Column

DOCUMENT_START = "-DOCSTART-"
JOINED_BY = "\x02"
MSRA_HEADERS = {("text_a", "label"), ("text", "label"), ("tokens", "labels"), ("text_a",), ("tokens",)}
MAX_SENTENCE_LINES = 1_000_000
CORRECT = "correct these lines"
COMMENTS, DOCUMENTS, RANGES, EMPTY_NODES = "comment lines", "-DOCSTART- lines", "multi-word tokens", "empty nodes"
GLOBAL_COLUMNS = re.compile(r"#\s*global\.columns\s*=\s*")
CONLLU = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
TAG = re.compile(r"O|[BIESLUMW][-_].+|.+[-_][BIESLUMW]")
RANGE, EMPTY_NODE = re.compile(r"\d+-\d+"), re.compile(r"\d+\.\d+")
Line = tuple[int, list[str]]


def read_conll(request: Request, chunk_rows: int) -> Iterator[Chunk]:
    """Sentences of a CoNLL file: one token a line, columns between tabs or blanks, an empty line between sentences.

    A line with a tab is split at tabs alone. The token is in the column `tokens_column` and the tag in `label_column`: by
    position, from the end where negative, or by name in CoNLL-U and where a line `# global.columns = …` names them; the first
    and the last unless set, and the column FORM where there is one. A row's number is the line of its first token.

    Lines that begin with `#` before a sentence are comments, unless they have the columns of a token and a tag. These, lines
    of `-DOCSTART-`, and of CoNLL-U multi-word tokens and empty nodes, are skipped and counted. A sentence with a line of
    another number of columns than most lines of the file's first part, or with bytes that are not in the encoding, is
    malformed.

    Raises:
        DataError: when there are no sentences, or a column is missing or not named.
    """
    reader, last = _Conll(request), None
    coerced: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for block, taken_off in _sentences(request, skipped):
        coerced.update(taken_off)
        sentences = reader.partition_rows(block, skipped)
        for piece in pieces(len(sentences), chunk_rows):
            if last is not None:
                yield last
            last = reader.chunk(sentences[piece], dict(coerced), dict(+skipped))
            coerced.clear()
            skipped.clear()
    if last is None:
        raise EmptyError(f"{request.path}: holds no sentences; expected one token a line")
    # What comes after the last sentence is counted too.
    yield replace(last, coerced=dict(coerced + Counter(last.coerced)), skipped=dict(skipped + Counter(last.skipped)))


@dataclass(frozen=True)
class _Columns:
    """Columns of a file: how many, in which line that was seen, and where index, token and tag are."""

    width: int
    first_line: int
    token: int
    tag: int | None
    index: int | None


class _Conll:
    """Makes rows of sentences, all with the number of columns of most lines of the first part."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.columns: _Columns | None = None
        self._names: tuple[str, ...] = ()
        self._tags: set[str] = set()

    def partition_rows(self, sentences: list[list[Line]], skipped: Counter[str]) -> list[list[Line]]:
        """Sentences of a part of the file without comments and without lines that are no tokens; these are counted."""
        for lines in sentences:
            if not self._names and lines[0][1][0].startswith("#"):
                self._names = _global_columns(lines)
        if self.columns is None and any(sentences):
            self.columns = self._columns_of(sentences)
        if self.columns is None:
            return []
        found = []
        doubtful = [lines[0][1][0].startswith("#") for lines in sentences]
        if any(doubtful):
            self._learn_tags(sentences)
        for lines, is_doubtful in zip(sentences, doubtful, strict=True):
            tokens = self._without_comments(lines, skipped) if is_doubtful else lines
            tokens = tokens if self.columns.index is None else self._without_ranges(tokens, skipped)
            if tokens:
                found.append(tokens)
        return found

    def chunk(self, sentences: list[list[Line]], coerced: dict[str, int], skipped: dict[str, int]) -> Chunk:
        """A chunk of sentences as rows."""
        malformed = Malformed()
        assert self.columns is not None
        token, tag = self.columns.token, self.columns.tag
        good = [lines for lines in sentences if self._is_good(lines, malformed)]
        columns: dict[str, list[object]] = {
            "row": [lines[0][0] for lines in good],
            "tokens": [[fields[token] for _, fields in lines] for lines in good],
        }
        if tag is not None:
            columns["labels"] = [[fields[tag] for _, fields in lines] for lines in good]
        return Chunk(_frame(columns), malformed.frame(), coerced, skipped)

    def _columns_of(self, sentences: list[list[Line]]) -> _Columns | None:
        """The columns of the file, by its first part."""
        lines = [line for sentence in sentences for line in sentence]
        certain = [line for line in lines if not line[1][0].startswith("#")] or [
            line for line in lines if line[1][0] == "#" or not line[1][0].startswith("# ")
        ]
        if not certain:
            return None  # comments alone
        widths = Counter(len(fields) for _, fields in certain)
        filled = {sum(map(bool, fields)) for _, fields in certain} if len(widths) > 1 else set()
        width = filled.pop() if len(filled) == 1 else widths.most_common(1)[0][0]  # one, of columns set out by several tabs
        require_few_columns(self._request.path, width)
        first_line = next(number for number, fields in certain if width in (len(fields), sum(map(bool, fields))))
        if len(self._names) not in (0, width):
            raise DataError(
                f"{self._request.path}: the line `# global.columns = …` names {len(self._names)} columns, but line "
                f"{first_line} has {width}; correct the line of names, or remove it"
            )
        is_indexed = _is_indexed(sentences, width)
        names = self._names or (CONLLU if width == len(CONLLU) else ())
        is_told = bool(self._names) or (is_indexed and bool(names))
        token = self._token_column(names, width, is_told)
        tag = self._tag_column(names, width, token, is_told, is_indexed)
        index = names.index("ID") if "ID" in names else 0
        return _Columns(width, first_line, token, tag, None if index in (token, tag) else index)

    def _token_column(self, names: tuple[str, ...], width: int, is_told: bool) -> int:
        column = self._request.spec.tokens_column
        if column == "tokens" and "tokens" not in names:
            return names.index("FORM") if is_told and "FORM" in names else 0
        found = _position(column, names, width)
        if found is not None:
            return found
        raise self._no_column("tokens_column", column, names, width, "for the first")

    def _tag_column(self, names: tuple[str, ...], width: int, token: int, is_told: bool, is_indexed: bool) -> int | None:
        column, is_labelled = self._request.spec.label_column, self._request.labelled
        if column == "label" and "label" not in names:
            if is_told and names[-1] == "MISC":
                if not is_labelled:
                    return None
                raise DataError(
                    f"{self._request.path}: the file is CoNLL-U, whose columns are {join_limited(names)}; set label_column to "
                    "that of the tags, for example UPOS"
                )
            others = [position for position in range(width) if position != token and (position or not is_indexed)]
            found = others[-1] if others else None
        else:
            found = _position(column, names, width)
            found = None if found == token else found
        if found is not None or not is_labelled:
            return found
        raise self._no_column("label_column", column, names, width, "for the last")

    def _no_column(self, setting: str, column: object, names: tuple[str, ...], width: int, default: str) -> DataError:
        named = f", {join_limited(names, width)}," if names else ""
        other = ", one of which is the token" if setting == "label_column" else ""
        remedy = f"set {setting} to a position from {'1' if other else '0'} to {max(width - 1, 1)}, or from the end, as -1"
        by_name = ", or to one of these names" if names else "; no line `# global.columns = …` names the columns"
        found = f"{setting} is {column!r}, but lines have {width} column(s){named}{other}"
        return DataError(f"{self._request.path}: {found}; {remedy}{by_name}, or leave it out {default}")

    def _learn_tags(self, sentences: list[list[Line]]) -> None:
        """Note every tag of the lines that are tokens for certain: of a comment, the last field is none of them."""
        assert self.columns is not None
        width, tag = self.columns.width, self.columns.tag if self.columns.tag is not None else self.columns.width - 1
        for lines in sentences:
            certain = False
            for _, fields in lines:
                certain = certain or not fields[0].startswith("#")
                if certain and len(fields) == width:
                    self._tags.add(fields[tag])

    def _without_comments(self, lines: list[Line], skipped: Counter[str]) -> list[Line]:
        count = 0
        for _, fields in lines:
            if not self._is_comment(fields):
                break
            count += 1
        skipped[COMMENTS] += count
        return lines[count:]

    def _is_comment(self, fields: list[str]) -> bool:
        """Whether a line before the first token of a sentence is none: it begins with `#` and is no token with its tag."""
        assert self.columns is not None
        first, width = fields[0], self.columns.width
        if not first.startswith("#"):
            return False
        if len(fields) != width or (first.startswith("# ") and "=" in first):
            return True
        if first in ("#begin", "#end") and fields[1:2] == ["document"]:  # of CoNLL-2012
            return True
        if first == "#" and width > 2 and ("=" in fields[1][1:] or fields[2] == "="):  # noqa: PLR2004 - as `# text = …`
            return True
        if width == 1 or (first != "#" and not first.startswith("# ")):
            return first.startswith("# ")
        tag = fields[self.columns.tag if self.columns.tag is not None else width - 1]
        return tag not in self._tags and not TAG.fullmatch(tag)

    def _without_ranges(self, lines: list[Line], skipped: Counter[str]) -> list[Line]:
        """Lines without multi-word tokens (`1-2`) and empty nodes (`8.1`), where all others are numbered 1, 2, 3 …"""
        assert self.columns is not None
        index, width = self.columns.index, self.columns.width
        assert index is not None
        numbers = [fields[index] if len(fields) == width else "" for _, fields in lines]
        if not any("-" in number or "." in number for number in numbers):
            return lines
        kinds = [RANGES if RANGE.fullmatch(one) else EMPTY_NODES if EMPTY_NODE.fullmatch(one) else "" for one in numbers]
        kept = [line for line, kind in zip(lines, kinds, strict=True) if not kind]
        if [number for number, kind in zip(numbers, kinds, strict=True) if not kind] != _counted(len(kept)):
            return lines
        skipped.update(kind for kind in kinds if kind)
        return kept

    def _is_good(self, lines: list[Line], malformed: Malformed) -> bool:
        assert self.columns is not None
        width = self.columns.width
        uneven = [line for line in lines if len(line[1]) != width]
        for _, fields in uneven:  # columns that are set out by several tabs
            filled = [field for field in fields if field]
            if len(filled) == width:
                fields[:] = filled
        uneven = [line for line in uneven if len(line[1]) != width]
        damaged = [number for number, fields in lines if any(map(is_damaged, fields))]
        if not uneven and not damaged:
            return True
        content = "\n".join(
            ("\t" if any(" " in field for field in fields) else " ").join(fields) for _, fields in lines[:1_000]
        )
        if damaged:
            found = f"line {damaged[0]} is not {self._request.spec.encoding}"
            malformed.add(lines[0][0], content, "encoding", found, remedy="set `encoding`")
        else:
            found = ", ".join(f"line {number} has {len(fields)}" for number, fields in uneven[:10])
            expected = f"expected {width} column(s) in every line, as in line {self.columns.first_line}"
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


def _sentences(request: Request, skipped: Counter[str]) -> Iterator[tuple[list[list[Line]], dict[str, int]]]:
    """Sentences of each block, with what was taken off its text; one that the block cuts waits for the next.

    A sentence is all that stands between empty lines, with its comments. A line with a tab is split at tabs alone.
    """
    lines: list[Line] = []
    is_wide, open_chars, most_chars = False, 0, max_line_chars()
    waiting: tuple[list[list[Line]], dict[str, int]] | None = None
    for block in blocks(request.path, request.spec.encoding):
        if waiting is not None:
            yield waiting
            waiting = None  # memory is of one block
        found: list[list[Line]] = []
        # Only spaces and tabs separate: a token of real text may be another white-space character.
        for number, line in enumerate(block.text.removesuffix("\n").split("\n"), start=block.begins):
            text = line.rstrip(" \t\r")
            fields = text.split("\t") if "\t" in text else text.split(" ")
            if len(fields) > 1:
                is_wide = True
                if text[0] == "#" and GLOBAL_COLUMNS.match(text):
                    fields = [text]
                elif "\t" in text:
                    fields = [field.strip(" ") for field in fields] if " " in text else fields
                elif "" in fields:
                    fields = [field for field in fields if field]
            if fields[0] == DOCUMENT_START:
                skipped[DOCUMENTS] += 1
            elif text and not (is_wide and text.isspace()):
                lines.append((number, fields))
                continue
            if lines:
                found.append(lines)
                lines = []
        open_chars = len(block.text) + (open_chars if lines and lines[0][0] < block.begins else 0)
        _require_end(request, lines, open_chars - len(block.text), most_chars)
        waiting = found, notes(block)
    if waiting is not None:  # with the last sentence, which no empty line need end
        yield waiting[0] + ([lines] if lines else []), waiting[1]


def _require_end(request: Request, lines: list[Line], chars: int, most_chars: int) -> None:
    """Refuse a sentence that has not ended for long: its `lines`, and how many characters of whole blocks they are."""
    long = chars > most_chars and f"{most_chars:,} characters, limits.max_line_chars"
    long = long or (len(lines) > MAX_SENTENCE_LINES and f"{MAX_SENTENCE_LINES:,} lines")
    if lines and long:
        raise DataError(
            f"{request.path}: line {lines[0][0]}: a sentence of more than {long}; expected an empty line between sentences: "
            "correct the file or `format`"
        )


def _global_columns(lines: list[Line]) -> tuple[str, ...]:
    """Names of columns, where a line of CoNLL-U Plus has them."""
    found = next((fields[0] for _, fields in lines if GLOBAL_COLUMNS.match(fields[0])), "")
    return tuple(GLOBAL_COLUMNS.sub("", found, count=1).split())


def _position(column: Column, names: tuple[str, ...], width: int) -> int | None:
    """Position of a column that the settings give by position, from the end where negative, or by name."""
    if isinstance(column, int):
        return column % width if -width <= column < width else None
    close = [position for position, name in enumerate(names) if name == column or name.lower() == column.lower()]
    return names.index(column) if column in names else close[0] if len(close) == 1 else None


def _is_indexed(sentences: list[list[Line]], width: int) -> bool:
    """Whether the first column of most sentences is 1, 2, 3 …"""
    first = [[fields[0] for _, fields in lines if len(fields) == width and fields[0].isdecimal()] for lines in sentences]
    return sum(numbers == _counted(len(numbers)) and bool(numbers) for numbers in first) > len(first) / 2


def _counted(count: int) -> list[str]:
    return [str(position) for position in range(1, count + 1)]


def _frame(columns: dict[str, list[object]]) -> pd.DataFrame:
    series = {name: pd.Series(values, dtype="int64" if name == "row" else object) for name, values in columns.items()}
    return pd.DataFrame(series)
