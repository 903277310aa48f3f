"""What records of a ledger have in common: within a split, across two splits, with other labels. No Paddle or Prefect here."""

import heapq
from dataclasses import dataclass, field
from itertools import combinations
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from hubflow.data.hash_index import Records
from hubflow.schemas.references import Split

Integers = NDArray[np.int64]
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
