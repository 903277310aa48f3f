"""Rows that occur more than once: hashes of rows, kept on disk in bounded memory, and what they have in common."""

import heapq
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from hubflow.data import columns as column_text
from hubflow.errors import StoreError
from hubflow.schemas.references import RowKind, Split

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]
BITS = 64
PAIRS_AT_ONCE = 2_000_000


def nearest(known: Hashes, asked: Hashes, distance: int) -> tuple[Integers, Integers]:
    """For each of `asked` the place of the nearest of `known`, -1 where none is within `distance` bits, and how far it is.

    Two hashes that differ in at most `distance` bits are the same in at least one of `distance + 1` bands: only those that
    share a band are compared (Manku, Jain and Das Sarma, "Detecting Near-Duplicates for Web Crawling", 2007).
    """
    ours, first = np.unique(known, return_index=True)
    theirs, back = np.unique(asked, return_inverse=True)
    position, bits = np.full(len(theirs), -1, np.int64), np.full(len(theirs), BITS + 1, np.int64)
    for low, high in _bands(distance + 1):
        mask = np.uint64((1 << (high - low)) - 1)
        for one, other in _sharing((ours >> np.uint64(low)) & mask, (theirs >> np.uint64(low)) & mask):
            apart = np.bitwise_count(ours[one] ^ theirs[other])
            near = apart <= distance
            order = np.lexsort((first[one[near]], apart[near]))[::-1]  # the best is written last, and stays
            one, other, apart = one[near][order], other[near][order], apart[near][order]  # noqa: PLW2901
            best = np.full(len(theirs), BITS + 1, np.int64)
            best[other] = apart
            match = np.full(len(theirs), -1, np.int64)
            match[other] = first[one]
            better = best < bits
            position[better], bits[better] = match[better], best[better]
    return position[back], bits[back]


def _bands(count: int) -> Iterator[tuple[int, int]]:
    edges = np.linspace(0, BITS, count + 1).round().astype(int).tolist()
    yield from pairwise(edges)


def _sharing(ours: Hashes, theirs: Hashes) -> Iterator[tuple[Integers, Integers]]:
    """Places of all pairs with equal values, in blocks of about PAIRS_AT_ONCE."""
    order = np.argsort(ours, kind="stable")
    starts = np.searchsorted(ours[order], theirs, side="left")
    sizes = np.searchsorted(ours[order], theirs, side="right") - starts
    ends = np.cumsum(sizes)
    begin = 0
    while begin < len(theirs):
        done = int(ends[begin - 1]) if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, done + PAIRS_AT_ONCE, side="right")))
        counts = sizes[begin:end]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        yield order[np.repeat(starts[begin:end], counts) + within], np.repeat(np.arange(begin, end), counts)
        begin = end


Keys = NDArray[np.uint64]
PAIR_SEPARATOR = "\x1e"
WORD_SEPARATOR = "\x1f"
_SPACE, _FIRST_PRINTED = 32, 32
_WIDE_SPACES = r"[\x{85}\x{1680}\p{Zl}\p{Zp}]"  # those that NFKC leaves as they are


def exact_texts(rows: pd.DataFrame, kind: RowKind) -> pa.Array:
    """What makes a row the same as another, as one string a row: text, pair, words, or the hash of an image."""
    if kind == "image":
        return _strings(rows["sha256"])
    if kind == "tokens":
        return _joined(rows["tokens"], WORD_SEPARATOR)
    return _pairs(_strings(rows["text"]), _strings(rows["text_pair"])) if kind == "text_pair" else _strings(rows["text"])


def normalised_texts(rows: pd.DataFrame, kind: RowKind) -> pa.Array:
    """The same after NFKC, in lower case, white space collapsed, punctuation at the ends dropped; words joined by a space.

    A text of nothing but punctuation keeps it.
    """
    if kind == "tokens":
        return _normalised(_joined(rows["tokens"], " "))
    texts = _normalised(_strings(rows["text"]))
    return _pairs(texts, _normalised(_strings(rows["text_pair"]))) if kind == "text_pair" else texts


def hashed(texts: pa.Array) -> Keys:
    """64-bit hash of each string `[rows]`, the same in every process."""
    keys: Keys = pd.util.hash_array(texts.to_numpy(zero_copy_only=False), categorize=False)
    return keys


def group_keys(values: "pd.Series[Any]") -> tuple[Keys, NDArray[np.bool_]]:
    """Hash of each group key `[rows]`, and which rows have one, not empty; a number is the same as text and as number."""
    try:
        keys = _one_array(pa.array(values, from_pandas=True))
    except (pa.ArrowException, OverflowError):  # Python objects of several types
        keys = pa.array(values.astype("str").where(values.notna()), pa.large_string())
    if pa.types.is_floating(keys.type):
        keys = pc.if_else(pc.is_nan(keys), pa.scalar(None, keys.type), keys)
    keys = pc.fill_null(_one_array(column_text.texts(keys)), "")
    return hashed(keys), pc.greater(pc.binary_length(keys), 0).to_numpy(zero_copy_only=False)


def label_lists(labels: "pd.Series[Any]") -> tuple[Keys, dict[str, int]]:
    """Hash of each row's list of labels `[rows]`, and how many words have each label."""
    lists = _lists(labels)
    counts = pc.value_counts(lists.flatten())
    return hashed(_joined_lists(lists, WORD_SEPARATOR)), dict(
        zip(*(part.to_pylist() for part in counts.flatten()), strict=True)
    )


def _normalised(texts: pa.Array) -> pa.Array:
    lower = _collapsed(pc.utf8_lower(pc.utf8_normalize(texts, "NFKC")))
    trimmed = pc.utf8_trim(lower, _dropped_at_ends())
    return pc.if_else(pc.equal(pc.binary_length(trimmed), 0), pc.utf8_trim_whitespace(lower), trimmed)


def _collapsed(texts: pa.Array) -> pa.Array:
    """Every run of white space as one space; only rows that need it pay for a regular expression."""
    needed = _has_odd_spaces(texts)
    if not needed.any():
        return texts
    mask = pa.array(needed)
    mended = pc.replace_substring_regex(texts.filter(mask), rf"(?:\s|{_WIDE_SPACES})+", " ")
    return pc.replace_with_mask(texts, mask, mended)


def _has_odd_spaces(texts: pa.Array) -> NDArray[np.bool_]:
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]
    odd = data < _FIRST_PRINTED
    odd[1:] |= (data[1:] == _SPACE) & (data[:-1] == _SPACE)
    found = np.zeros(len(texts), bool)
    found[np.searchsorted(offsets - offsets[0], np.flatnonzero(odd), side="right") - 1] = True
    wide = ~pc.string_is_ascii(texts).to_numpy(zero_copy_only=False)
    if wide.any():
        found[wide] |= pc.match_substring_regex(texts.filter(pa.array(wide)), _WIDE_SPACES).to_numpy(zero_copy_only=False)
    return found


@cache
def _dropped_at_ends() -> str:
    """White space and every character that Unicode calls punctuation."""
    return " " + "".join(char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char).startswith("P"))


def _strings(values: "pd.Series[Any]") -> pa.Array:
    return _one_array(pa.array(values, pa.large_string()))


def _joined(values: "pd.Series[Any]", separator: str) -> pa.Array:
    return _joined_lists(_lists(values), separator)


def _lists(values: "pd.Series[Any]") -> pa.Array:
    return _one_array(pa.array(values, pa.list_(pa.large_string())))


def _joined_lists(lists: pa.Array, separator: str) -> pa.Array:
    return pc.binary_join(lists, pa.scalar(separator, pa.large_string()))


def _pairs(left: pa.Array, right: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(left, right, pa.scalar(PAIR_SEPARATOR, pa.large_string()))


def _one_array(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


PARTS = 64
RECORD = np.dtype([("key", "u8"), ("exact", "u4"), ("label", "u4"), ("row", "i8"), ("split", "u1")])
"""25 bytes: hash of what is compared, a second hash under which it is exactly the same, label, row number, split."""
Records = NDArray[np.void]


class HashIndex:
    """Records to be compared by key, appended chunk by chunk.

    Up to `in_memory` records wait in memory; more are moved to files, one for each of PARTS ranges of keys, so that records
    of one key always come together and at most one part has to be in memory.
    """

    def __init__(self, in_memory: int = 1_000_000, scratch: Path | None = None) -> None:
        self._in_memory, self._scratch = in_memory, scratch
        self._waiting: list[Records] = []
        self._count = 0
        self._files: list[IO[bytes]] = []

    def add(self, records: Records) -> None:
        """Take records in the order of their rows.

        Raises:
            StoreError: when the temporary files cannot be written.
        """
        self._waiting.append(records)
        self._count += len(records)
        if self._count > self._in_memory:
            try:
                self._spill()
            except OSError as error:
                folder = self._scratch or tempfile.gettempdir()
                raise StoreError(f"{folder}: hashes of rows cannot be kept there ({error}); free it, or set TMPDIR") from error

    def parts(self) -> Iterator[Records]:
        """Every record, all those of one key in one part, in the order in which they were added."""
        if not self._files:
            yield np.concatenate(self._waiting or [np.zeros(0, RECORD)])
            return
        self._spill()
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), RECORD)

    def _spill(self) -> None:
        if not self._files:
            self._files = [tempfile.TemporaryFile(dir=self._scratch) for _ in range(PARTS)]
        records = np.concatenate(self._waiting or [np.zeros(0, RECORD)])
        part = (records["key"] % np.uint64(PARTS)).astype(np.uint8)
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part, minlength=PARTS))
        for file, rows in zip(self._files, np.split(order, ends[:-1]), strict=True):
            file.write(records[rows].tobytes())
        self._waiting, self._count = [], 0


SPLITS: tuple[Split, ...] = get_args(Split)
MAX_EXAMPLES = 5


@dataclass(frozen=True, order=True)
class Match:
    """Two rows that have something in common, the later split's first, with their label codes."""

    row: int
    other: int
    label: int = 0
    other_label: int = 0


@dataclass
class Tally:
    """How many were found, and the first of them by row."""

    count: int = 0
    first: list[Match] = field(default_factory=list)


Tallies = dict[tuple[str, tuple[Split, ...]], Tally]


def match_texts(records: Records, tallies: Tallies) -> None:
    """Add what the records of one part have in common to `tallies`, by the names of DataChecks."""
    records = _repeated(records)
    if not len(records):
        return
    texts = _numbered(records["key"])
    exact = _numbered(records["key"], records["exact"])
    present = [number for number, _ in enumerate(SPLITS) if (records["split"] == number).any()]
    for number in present:
        _within(records, exact, number, tallies)
    for one, other in combinations(present, 2):
        splits = (SPLITS[one], SPLITS[other])
        rows = np.flatnonzero(records["split"] == other)
        same = _first(records, exact, one)[exact[rows]]
        alike = np.where(same < 0, _first(records, texts, one)[texts[rows]], -1)
        _count(tallies, "same_text_across_splits", splits, records, rows, same)
        _count(tallies, "same_normalised_text_across_splits", splits, records, rows, alike)
        theirs = _first(records, exact, other)
        ours = np.where(theirs >= 0, _first(records, exact, one), -1)
        differ = (ours >= 0) & (records["label"][ours] != records["label"][theirs])
        _count(tallies, "conflicting_labels", splits, records, theirs[differ], ours[differ])


def match_groups(records: Records, tallies: Tallies) -> None:
    """Add the groups that are in two splits to `tallies`."""
    records = _repeated(records)
    if not len(records):
        return
    groups = _numbered(records["key"])
    for one, other in combinations(range(len(SPLITS)), 2):
        ours, theirs = _first(records, groups, one), _first(records, groups, other)
        both = (ours >= 0) & (theirs >= 0)
        splits = (SPLITS[one], SPLITS[other])
        _count(tallies, "same_group_across_splits", splits, records, theirs[both], ours[both])


def _within(records: Records, exact: Integers, number: int, tallies: Tallies) -> None:
    rows = np.flatnonzero(records["split"] == number)
    first = _first(records, exact, number)[exact[rows]]
    again, first_again = rows[rows != first], first[rows != first]
    _count(tallies, "duplicates_within_split", (SPLITS[number],), records, again, first_again)
    differ = records["label"][again] != records["label"][first_again]
    _, once = np.unique(exact[again[differ]], return_index=True)
    again, first_again = again[differ][once], first_again[differ][once]
    _count(tallies, "conflicting_labels", (SPLITS[number],), records, again, first_again)


def _repeated(records: Records) -> Records:
    """Records whose key occurs more than once, ordered by key and second hash, then as they were."""
    keys = np.ascontiguousarray(records["key"])
    order = np.argsort(keys)
    keys = keys[order]
    same = keys[1:] == keys[:-1]
    is_repeated = np.zeros(len(records), bool)
    is_repeated[1:] |= same
    is_repeated[:-1] |= same
    kept = records[np.sort(order[is_repeated])]
    ordered: Records = kept[np.lexsort((kept["exact"], kept["key"]))]
    return ordered


def _numbered(*columns: NDArray[np.unsignedinteger]) -> Integers:
    """Number of each run of equal values `[records]`, from 0."""
    changes = np.zeros(len(columns[0]), bool)
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return np.cumsum(changes)


def _first(records: Records, numbers: Integers, split: int) -> Integers:
    """Place of the first record of `split` with each number, -1 where there is none `[numbers]`."""
    places = np.flatnonzero(records["split"] == split)[::-1]
    first = np.full(int(numbers[-1]) + 1, -1, np.int64)
    first[numbers[places]] = places  # of several, the last one written stays
    return first


def _count(
    tallies: Tallies, check: str, splits: tuple[Split, ...], records: Records, rows: Integers, partners: Integers
) -> None:
    """Add each of `rows` that has a partner (not -1)."""
    rows, partners = rows[partners >= 0], partners[partners >= 0]
    if not len(rows):
        return
    tally = tallies.setdefault((check, splits), Tally())
    tally.count += len(rows)
    chosen = np.argsort(records["row"][rows], kind="stable")[:MAX_EXAMPLES]
    found = []
    for row, partner in zip(rows[chosen], partners[chosen], strict=True):
        one, other = records[row], records[partner]
        found.append(Match(int(one["row"]), int(other["row"]), int(one["label"]), int(other["label"])))
    tally.first = heapq.nsmallest(MAX_EXAMPLES, [*tally.first, *found])
