"""Near-duplicates: the banded look-up finds what comparing all with all finds, and is not quadratic."""

import time

import numpy as np
import pytest

from hubflow.data import duplicates as near_duplicates
from hubflow.data.duplicates import Hashes, nearest


def random_hashes(count: int, seed: int) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


def flipped(hashes: Hashes, bits: int, seed: int) -> Hashes:
    """Hashes with up to `bits` of their bits turned over."""
    places = np.random.default_rng(seed).integers(0, 64, (bits, len(hashes)), np.uint64)
    return np.bitwise_xor.reduce(np.left_shift(np.uint64(1), places), axis=0) ^ hashes


@pytest.mark.parametrize("distance", [0, 1, 4, 6, 15])
@pytest.mark.parametrize("at_once", [2_000_000, 100])
def test_the_nearest_is_that_of_comparing_all_with_all(distance: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "PAIRS_AT_ONCE", at_once)
    known = np.concatenate([random_hashes(300, 1), random_hashes(20, 1), np.zeros(5, np.uint64)])
    asked = np.concatenate([flipped(known[:200], 9, 2), random_hashes(50, 3), known[:9], np.full(4, 3, np.uint64)])
    apart = np.bitwise_count((known[:, None] ^ asked[None, :]).reshape(-1)).reshape(len(known), -1)
    place, bits = nearest(known, asked, distance)
    near = apart.min(0) <= distance
    assert (place >= 0).tolist() == near.tolist()
    assert bits[near].tolist() == apart.min(0)[near].tolist()
    assert place[near].tolist() == apart.argmin(0)[near].tolist()


def test_a_hundred_thousand_images_take_seconds() -> None:
    known = random_hashes(100_000, 4)
    asked = np.concatenate([flipped(known[:1000], 6, 5), random_hashes(9_000, 6)])
    started = time.perf_counter()
    place, _ = nearest(known, asked, 6)
    assert time.perf_counter() - started < 15
    assert (place[:1000] == np.arange(1000)).all()
    assert (place[1000:] < 0).all()


def test_a_hundred_thousand_images_of_one_hash_take_no_longer() -> None:
    started = time.perf_counter()
    place, bits = nearest(np.full(100_000, 7, np.uint64), np.full(10_000, 5, np.uint64), 6)
    assert (place == 0).all()
    assert (bits == 1).all()
    assert time.perf_counter() - started < 5
