"""Memory of the process while it trains: what a step frees is kept for the next one. Must not import Paddle."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

# Parameters of mallopt(3) and what glibc has by default.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_LARGE, _LARGEST = 2**20, 2**25
_KEPT = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 2**10, _TOP_PAD: 0}


def share_one_heap() -> None:
    """Let all threads of this process allocate from one heap; threads that already have one of their own keep it.

    To be called where a process that will train begins. By default glibc gives every new thread a heap, and each keeps what its
    thread frees.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_ARENA_MAX, 1)


@contextlib.contextmanager
def kept_between_steps(large: bool = False) -> Iterator[None]:
    """Inside, blocks that are freed stay with the process; at the end it hands back what it does not use.

    A step allocates and frees the same activations as the one before. By default glibc gives what is free at the end of its
    heap back to the system at once, and takes pages of zeros for it anew.

    Args:
        large: whether blocks of a megabyte and more stay too. Those of Paddle are aligned to pages, and glibc (before 2.38)
            never finds a freed one again for another of its size, so that with them a heap grows to half as much again; but a
            block that is handed back costs the pages that are zeroed for the next one. The threshold remains set afterwards:
            glibc moves its own with what a process frees, and never again once one is set.
    """
    library = _glibc()
    if library is None:
        yield
        return
    share_one_heap()
    for parameter, value in {**_KEPT, _MMAP_THRESHOLD: _LARGEST if large else _LARGE}.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _DEFAULTS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc; others are left alone."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if library is not None and hasattr(library, "gnu_get_libc_version") else None
