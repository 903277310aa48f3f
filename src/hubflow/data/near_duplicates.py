"""Near-duplicates among 64-bit perceptual hashes, without comparing all with all. Must not import Paddle or Prefect."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]
BITS = 64
PAIRS_AT_ONCE = 2_000_000
_M1, _M2, _M4 = (np.uint64(mask) for mask in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
_BYTES = np.uint64(0x0101010101010101)


def bit_count(values: Hashes) -> Integers:
    """Number of bits set in each value."""
    pairs = values - ((values >> np.uint64(1)) & _M1)
    nibbles = (pairs & _M2) + ((pairs >> np.uint64(2)) & _M2)
    total = ((nibbles + (nibbles >> np.uint64(4))) & _M4) * _BYTES
    counts: Integers = (total >> np.uint64(56)).astype(np.int64)
    return counts


def nearest(known: Hashes, asked: Hashes, distance: int) -> tuple[Integers, Integers]:
    """For each of `asked` the place of the nearest of `known`, -1 where none is within `distance` bits, and how far it is.

    Two hashes that differ in at most `distance` bits are the same in at least one of `distance + 1` bands: only those that
    share a band are compared (Manku, Jain and Das Sarma, "Detecting Near-Duplicates for Web Crawling", 2007).
    """
    ours, first = np.unique(known, return_index=True)
    theirs, back = np.unique(asked, return_inverse=True)
    place, bits = np.full(len(theirs), -1, np.int64), np.full(len(theirs), BITS + 1, np.int64)
    for low, high in _bands(distance + 1):
        mask = np.uint64((1 << (high - low)) - 1)
        for one, other in _sharing((ours >> np.uint64(low)) & mask, (theirs >> np.uint64(low)) & mask):
            apart = bit_count(ours[one] ^ theirs[other])
            near = apart <= distance
            order = np.lexsort((first[one[near]], apart[near]))[::-1]  # the best is written last, and stays
            one, other, apart = one[near][order], other[near][order], apart[near][order]  # noqa: PLW2901
            best = np.full(len(theirs), BITS + 1, np.int64)
            best[other] = apart
            match = np.full(len(theirs), -1, np.int64)
            match[other] = first[one]
            better = best < bits
            place[better], bits[better] = match[better], best[better]
    return place[back], bits[back]


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
