"""What reading in chunks gives: rows, and the lines that cannot be read. Must not import Paddle or Prefect."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from hubflow.data.readers.text import escaped
from hubflow.errors import join_limited
from hubflow.schemas.labels import clean_label

CHUNK_ROWS = 65_536
MAX_CONTENT_CHARS = 10_000
SPACE_AROUND_LABELS = "white space around labels"
WHOLE_NUMBERS = "whole numbers with decimals as labels"
MALFORMED_COLUMNS = ["row", "content", "check", "found", "expected", "remedy"]


@dataclass(frozen=True)
class Chunk:
    """Some of a source's rows, in its order.

    Attributes:
        rows: columns of the contract and those carried through; empty when every line is malformed.
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
    return [items[place] for place in places]
