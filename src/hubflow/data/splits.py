"""Splits, seeded and stratified, as masks, in bounded memory."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.data.duplicates import Keys
from hubflow.schemas.references import Split

Classes = NDArray[np.unsignedinteger[Any]]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
BLOCK_ROWS = 1 << 18


def split_masks(classes: Classes, shares: Mapping[Split, float], seed: int) -> dict[Split, Mask]:
    """Divide rows into `train` and one part for each of `shares`, each of at least one row where that is possible.

    No row is lost or doubled; each class keeps at least one row in train.

    Args:
        classes: class number of each row, over which the parts are spread evenly; all 0 for one class.
        shares: share of the rows that each further part takes.
        seed: the same classes, shares and seed give the same parts, and a further part leaves those before it as they were.

    Returns:
        Which rows each part takes, by name.
    """
    sizes = _sizes(classes)
    left = sizes.copy()
    in_train = np.ones(len(classes), dtype=bool)
    parts: dict[Split, Mask] = {}
    for position, (name, share) in enumerate(shares.items()):
        counts = _allocate(sizes, max(1, round(len(classes) * share)), np.maximum(left - 1, 0))
        parts[name] = _draw(classes, in_train, left, counts, np.random.default_rng([seed, 0, position]))
        in_train &= ~parts[name]
        left -= counts
    return {"train": in_train, **parts}


def group_parts(keys: Keys, shares: Mapping[Split, float], seed: int) -> NDArray[np.uint8]:
    """Which part each row goes to by the hash of its group, so that no group is in two: 0 is train, 1 the first of `shares`.

    A part's share is one of the groups; of the rows it is the same on average. It depends on the row's own group alone, so
    that a group stays where it is when others come.

    Args:
        keys: hash of each row's group.
        shares: share of the groups that each further part takes.
        seed: the same key, shares and seed give the same part.
    """
    mixed = keys ^ np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in (
        (30, 0xBF58476D1CE4E5B9),
        (27, 0x94D049BB133111EB),
    ):  # the finaliser of SplitMix64, Steele et al. 2014
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    position = (mixed ^ (mixed >> np.uint64(31))) / 2.0**64
    ends = np.cumsum(list(shares.values()))
    part = np.searchsorted(ends, position, side="right")
    return np.where(part < len(ends), part + 1, 0).astype(np.uint8)


def sample_mask(classes: Classes, among: Mask, max_rows: int | None, seed: int) -> Mask:
    """At most `max_rows` of the rows in `among`; every class of theirs is kept when there is room for all of them."""
    if max_rows is None or int(among.sum()) <= max_rows:
        return among
    sizes = _sizes(classes, among)
    is_there = np.minimum(sizes, 1)
    least = is_there if max_rows >= is_there.sum() else np.zeros_like(sizes)
    counts = least + _allocate(sizes, max_rows - int(least.sum()), sizes - least)
    return _draw(classes, among, sizes, counts, np.random.default_rng([seed, 1]))


def _sizes(classes: Classes, among: Mask | None = None) -> Integers:
    """Number of rows of each class; block by block, since bincount makes 64-bit copies."""
    sizes = np.zeros(int(classes.max()) + 1 if len(classes) else 0, dtype=np.int64)
    for start in range(0, len(classes), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        part = classes[block] if among is None else classes[block][among[block]]
        sizes += np.bincount(part, minlength=len(sizes))
    return sizes


def _draw(classes: Classes, among: Mask, sizes: Integers, counts: Integers, random: np.random.Generator) -> Mask:
    """Exactly `counts` rows of each class, every choice of them as likely as any other.

    Block by block: how many of a block's rows are drawn follows the hypergeometric distribution, which of them a permutation.
    """
    drawn = np.zeros(len(classes), dtype=bool)
    wanted, left = counts.copy(), sizes.copy()
    for start in range(0, len(classes), BLOCK_ROWS):
        places = start + np.flatnonzero(among[start : start + BLOCK_ROWS])
        part = classes[places].astype(np.int64)
        here = np.bincount(part, minlength=len(sizes))
        taken = random.hypergeometric(wanted, left - wanted, here)
        drawn[places[_ranks(part, here, random) < taken[part]]] = True
        wanted -= taken
        left -= here
    return drawn


def _ranks(classes: Integers, sizes: Integers, random: np.random.Generator) -> Integers:
    """Place of each row in a random order of its class, from 0."""
    shuffled = random.permutation(len(classes))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    begins = np.repeat(np.cumsum(sizes) - sizes, sizes)
    ranks = np.empty(len(classes), dtype=np.int64)
    ranks[by_class] = np.arange(len(classes)) - begins
    return ranks


def _allocate(sizes: Integers, total: int, capacity: Integers) -> Integers:
    """Spread `total` over classes in proportion to their sizes by largest remainder, none above its capacity."""
    ideal = sizes * (total / max(int(sizes.sum()), 1))
    counts: Integers = np.minimum(np.floor(ideal).astype(np.int64), capacity)
    by_remainder: NDArray[Any] = np.argsort(counts - ideal, kind="stable")
    while (short := total - int(counts.sum())) > 0:
        room = by_remainder[counts[by_remainder] < capacity[by_remainder]][:short]
        if not len(room):
            break
        counts[room] += 1
    return counts
