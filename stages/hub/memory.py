"""Memory of the process while it trains: what a step frees is kept for the next one. Must not import Paddle."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

# Parameters of mallopt(3) and what glibc has by default.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_LARGE = 2**20
_KEPT = {_ARENA_MAX: 1, _MMAP_THRESHOLD: _LARGE, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 2**10, _TOP_PAD: 0}
# The threshold of mapped blocks stays: glibc moves its own with what a process frees, and never again once one is set.


@contextlib.contextmanager
def kept_between_steps() -> Iterator[None]:
    """Inside, blocks that are freed stay with the process; at the end it hands back what it does not use.

    A step allocates and frees the same activations as the one before. By default glibc gives what is free at the end of its
    heap back to the system at once, and takes pages of zeros for it anew. Blocks of a megabyte and more go back still: those
    of Paddle are aligned to pages, and glibc (before 2.38) never finds a freed one again for another of its size, so that with
    them a heap grows to half as much again. Other C libraries are left alone.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "gnu_get_libc_version"):
        yield
        return
    for parameter, value in _KEPT.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _DEFAULTS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)
