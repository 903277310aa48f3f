"""Cores that this process may use, and work shared among threads."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

THREADS = "OMP_NUM_THREADS"
MAX_SUB_BATCHES = 4
"""Paddle's executor has so many threads for operators that do not wait for each other."""


SET_BY_DASK = (THREADS, "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def is_set_by_dask(name: str, value: str) -> bool:
    """Whether a variable is what Dask sets for all of its workers by default, which says nothing of this work.

    A result must not depend on where it is computed. In a worker of Dask whose configuration sets another number, that counts.
    """
    if "distributed.worker" not in sys.modules or value != "1":
        return False
    from dask import config

    return str(config.get("distributed.nanny.pre-spawn-environ", {}).get(name)) == value


def _environment_threads() -> str:
    if "paddle" not in sys.modules:
        return os.environ.get(THREADS, "")
    try:
        started_with = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    prefix = f"{THREADS}=".encode()
    return next((entry.removeprefix(prefix).decode() for entry in started_with if entry.startswith(prefix)), "")


_found = [_environment_threads()]
"""OMP_NUM_THREADS before Paddle was imported, which sets it to 1 where it is not set."""


def given_threads() -> str:
    """OMP_NUM_THREADS as the user set it, or nothing: Paddle and Dask set it too."""
    return "" if is_set_by_dask(THREADS, _found[0]) else _found[0]


def take_given_threads() -> None:
    """Go by OMP_NUM_THREADS as it is now, in a process whose environment was made for it after Paddle was imported."""
    _found[0] = os.environ.get(THREADS, "")


def usable_cores() -> int:
    """Cores that this process may use: its affinity where the system tells, all cores elsewhere."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_cores() -> int:
    """Cores that programs compute with: OMP_NUM_THREADS where it is set, else all that this process may use."""
    given = given_threads()
    return int(given) if given.isdecimal() and int(given) else usable_cores()


def compute_sub_batches() -> int:
    """In how many shares a program computes the rows of a batch side by side on a CPU."""
    return min(compute_cores(), MAX_SUB_BATCHES)


SMALL = 16
"""Items a thread takes at once where one is a fraction of a millisecond: less than handing it over takes."""


def thread_map(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int, ahead: int = 64, at_once: int = 1
) -> Iterator[Any]:
    """Results of `function` in order, computed by threads at most `ahead` items ahead of the reader.

    Args:
        function: of one item; what it raises is raised where its result would have come, or that of one before it that was
            handed over with it.
        items: in order.
        workers: how many threads.
        ahead: how many items may be under way or wait for the reader; at least one handing over is.
        at_once: how many items are handed to a thread together.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[list[Any]]] = deque()
        try:
            for start in range(0, len(items), at_once):
                waiting.append(pool.submit(_each, function, items[start : start + at_once]))
                if len(waiting) >= max(1, ahead // at_once):
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _each(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [function(item) for item in items]


Result = TypeVar("Result")


class Prefetcher(Generic[Result]):
    """Gives what was asked for in advance, if it is that which is needed; computes it otherwise."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="hubflow-ahead")
        self._waiting: tuple[object, Future[Result]] | None = None

    def begin(self, key: object, compute: Callable[[], Result]) -> None:
        """Start what will be needed under `key`."""
        self._waiting = (key, self._pool.submit(compute))

    def take(self, key: object, compute: Callable[[], Result]) -> Result:
        """What was begun under `key`, or `compute()` when something else was; an error comes up here."""
        waiting, self._waiting = self._waiting, None
        return waiting[1].result() if waiting is not None and waiting[0] == key else compute()
