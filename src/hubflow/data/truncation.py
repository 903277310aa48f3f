"""What max_seq_len cuts off: lengths before it, rows, words and entities lost. Must not import Paddle or Prefect."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.metrics.entities import TagReader

Integers = NDArray[np.int64]
MAX_ROWS_NAMED = 10
_EXACT_BITS = 4  # lengths below 2**4 have a bin of their own, those above 8 bins for each doubling


@dataclass
class Lost:
    """How many of how many were lost, and the numbers of the first rows that it befell."""

    count: int = 0
    of: int = 0
    first_rows: list[int] = field(default_factory=list)

    def add(self, lost: Integers, of: int, rows: Integers) -> None:
        """Count what each of `rows` lost."""
        self.count, self.of = self.count + int(lost.sum()), self.of + of
        self.first_rows += rows[lost > 0][: MAX_ROWS_NAMED - len(self.first_rows)].tolist()

    def facts(self) -> dict[str, Any]:
        """As the manifest keeps it."""
        return {"count": self.count, "of": self.of, "first_rows": self.first_rows}


@dataclass
class SplitLengths:
    """Lengths of one split's rows in tokens before truncation, special ones included, and what truncation takes."""

    lengths: Counter[int] = field(default_factory=Counter)
    rows: Lost = field(default_factory=Lost)
    words: Lost = field(default_factory=Lost)
    entities: Lost = field(default_factory=Lost)

    def add(self, lengths: Integers, rows: Integers, max_seq_len: int) -> None:
        """Count rows by their full lengths."""
        values, counts = np.unique(lengths, return_counts=True)
        self.lengths.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        self.rows.add((lengths > max_seq_len).astype(np.int64), len(rows), rows)

    def add_words(
        self,
        first_piece: Sequence[NDArray[Any]],
        labels: Sequence[Sequence[int]],
        reader: TagReader,
        cut: Integers,
        rows: Integers,
    ) -> None:
        """Count words and entities of all rows, and those that the rows at the positions `cut` lost."""
        sizes = np.array([len(row) for row in labels])
        starts = np.cumsum(sizes) - sizes
        found = reader.read(reader.flat(np.asarray(row, np.int64) for row in labels), "default")
        ends = np.zeros(int(sizes.sum()), bool)
        ends[found.last - np.searchsorted(starts + np.arange(len(sizes)), found.last, side="right") + 1] = True
        words, entities = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int64)
        for row in cut:
            pieces = np.flatnonzero(first_piece[row] >= 0)
            kept = int(pieces[-1]) + 1 if len(pieces) else 0
            words[row] = sizes[row] - kept
            entities[row] = ends[starts[row] + kept : starts[row] + sizes[row]].sum()
        self.words.add(words, int(sizes.sum()), rows)
        self.entities.add(entities, int(ends.sum()), rows)

    def histogram(self) -> dict[str, list[int]]:
        """Rows by length: `rows[i]` have more than `up_to[i - 1]` and at most `up_to[i]` tokens."""
        bins: Counter[int] = Counter()
        for length, count in self.lengths.items():
            shift = max(0, length.bit_length() - _EXACT_BITS)
            bins[((length >> shift) + 1 << shift) - 1] += count
        return {"up_to": sorted(bins), "rows": [bins[end] for end in sorted(bins)]}

    def at(self, share: float) -> int:
        """The least length that so large a share of the rows does not exceed."""
        lengths = np.array(sorted(self.lengths))
        rows = np.cumsum([self.lengths[length] for length in lengths.tolist()])
        return int(lengths[np.searchsorted(rows, share * rows[-1])])
