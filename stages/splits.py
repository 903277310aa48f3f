"""Seeded, stratified splits and samples of rows, in the order of their file. Must not import Paddle or Prefect."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hubflow.schemas.references import Split

Integers = npt.NDArray[np.int64]


def split_rows(
    rows: pd.DataFrame, shares: Mapping[Split, float], seed: int, stratify: str | None = None
) -> dict[Split, pd.DataFrame]:
    """Divide `rows` into `train` and one part for each of `shares`, each of at least one row where that is possible.

    No row is lost or doubled.

    Args:
        rows: the rows of train.
        shares: share of `rows` that each further part takes.
        seed: the same rows, shares and seed give the same parts.
        stratify: column whose values are spread evenly; each value keeps at least one row in train.

    Returns:
        The parts by name, over fresh indexes.
    """
    classes, sizes = _classes(rows, stratify)
    ranks = _ranks(classes, sizes, np.random.default_rng([seed, 0]))
    begins = np.zeros_like(sizes)
    parts: dict[Split, pd.DataFrame] = {}
    in_train = np.ones(len(rows), dtype=bool)
    for name, share in shares.items():
        total = max(1, round(len(rows) * share))
        ends = begins + _allocate(sizes, total, np.maximum(sizes - begins - 1, 0))
        chosen = (ranks >= begins[classes]) & (ranks < ends[classes])
        parts[name] = rows[chosen].reset_index(drop=True)
        in_train &= ~chosen
        begins = ends
    return {"train": rows[in_train].reset_index(drop=True), **parts}


def sample_rows(rows: pd.DataFrame, max_rows: int | None, seed: int, stratify: str | None = None) -> pd.DataFrame:
    """At most `max_rows` of `rows`, drawn by seed; every value of `stratify` is kept when there is room for all of them."""
    if max_rows is None or len(rows) <= max_rows:
        return rows
    classes, sizes = _classes(rows, stratify)
    least = np.ones_like(sizes) if max_rows >= len(sizes) else np.zeros_like(sizes)
    counts = least + _allocate(sizes, max_rows - int(least.sum()), sizes - least)
    chosen = _ranks(classes, sizes, np.random.default_rng([seed, 1])) < counts[classes]
    return rows[chosen].reset_index(drop=True)


def _classes(rows: pd.DataFrame, stratify: str | None) -> tuple[Integers, Integers]:
    """Class number of each row, and the number of rows of each class."""
    if stratify is None:
        return np.zeros(len(rows), dtype=np.int64), np.array([len(rows)], dtype=np.int64)
    codes, _ = pd.factorize(rows[stratify], sort=True)
    classes = codes.astype(np.int64)
    return classes, np.bincount(classes).astype(np.int64)


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
    by_remainder: npt.NDArray[Any] = np.argsort(counts - ideal, kind="stable")
    while (short := total - int(counts.sum())) > 0:
        room = by_remainder[counts[by_remainder] < capacity[by_remainder]][:short]
        if not len(room):
            break
        counts[room] += 1
    return counts
