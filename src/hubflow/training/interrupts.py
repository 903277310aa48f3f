"""Signals that ask a process to end, held back until the step is finished and written down."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Interrupt:
    """Whether somebody asked to stop, and what to do about it when the work is safe."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def is_asked(self) -> bool:
        """Whether a signal is held back."""
        return self.signal is not None

    def hold(self) -> None:
        """Take SIGTERM and SIGINT from now on; only Python's main thread can. A second SIGINT ends at once."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)

    def let_go(self) -> None:
        """Give the signals back to the handlers that were there before."""
        for number, handler in self._before.items():
            if handler is not None:  # None: set by other than Python, and cannot be put back
                signal.signal(number, handler)
        self._before.clear()

    def hand_on(self) -> None:
        """Deliver the signal that was held back to the handler that was there before: the engine's, or Python's own."""
        number, self.signal = self.signal, None
        self.let_go()
        if number is not None:
            signal.raise_signal(number)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:
            self.hand_on()
        self.signal = number


@contextlib.contextmanager
def deferred_signals() -> Iterator[Interrupt]:
    """Hold SIGTERM and SIGINT back inside the block, and hand on at its end what came and has not been handed on."""
    interrupt = Interrupt()
    interrupt.hold()
    try:
        yield interrupt
    finally:
        interrupt.hand_on()
