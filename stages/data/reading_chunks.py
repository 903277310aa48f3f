"""What reading in chunks gives: rows, and the lines that cannot be read. Must not import Paddle or Prefect."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from hubflow.schemas.errors import bounded
from hubflow.stages.data.reading_text import escaped

CHUNK_ROWS = 65_536
MAX_CONTENT_CHARS = 10_000
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
    """

    rows: pd.DataFrame
    malformed: pd.DataFrame
    coerced: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    skipped_examples: tuple[str, ...] = ()
    file: str | None = None


class Malformed:
    """Gathers the lines of a chunk that cannot be read."""

    def __init__(self) -> None:
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
        yield "; ".join(str(part) for part in (expected, bounded(lines["found"]), remedy) if part)


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
