"""Rows drawn again with replacement: how often each of them, for a bootstrap."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

VALUES_AT_ONCE = 200_000  # few enough for a processor's cache


def bootstrap_weights(rows: int, resamples: int, seed: int, at_once: int = 0) -> Iterator[NDArray[np.int64]]:
    """How often each row is drawn, in parts: `[part, rows]`, each line the sum of `rows` draws.

    The same rows, resamples and seed give the same draws, however they are parted, so that two models can be compared on the
    same ones.

    Args:
        rows: of the split.
        resamples: lines in all.
        seed: of the draws.
        at_once: lines of a part; by default so many that a part has about VALUES_AT_ONCE values.
    """
    generator = np.random.default_rng(seed)
    lines = at_once or max(1, VALUES_AT_ONCE // max(rows, 1))
    for start in range(0, resamples, lines):
        count = min(lines, resamples - start)
        drawn = generator.integers(0, rows, (count, rows))
        drawn += rows * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * rows).reshape(count, rows)
