"""Work done ahead: the next result is computed by a thread while the present one is used. Must not import Paddle."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

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
