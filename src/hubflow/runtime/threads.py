"""Work shared among threads, its results in order. Must not import Paddle."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

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
