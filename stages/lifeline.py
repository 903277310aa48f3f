"""Ties a run's processes together: a child dies with its parent, tells it what happens. Must not import Paddle or Prefect."""

import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

PARENT_VARIABLE = "HUBFLOW_PARENT_PID"
LINE_VARIABLE = "HUBFLOW_LINE"
EXIT_CODES_VARIABLE = "HUBFLOW_EXIT_CODES"
_PR_SET_PDEATHSIG = 1
_ORPHAN_CHECK_SECONDS = 0.5


def die_with_parent() -> None:
    """Let this process be killed as soon as the one that started it is gone, and its own children after it.

    The starter's id is in the environment; a process without it is left alone. On Linux the kernel does it, so that a rank
    that hangs in native code dies too; elsewhere a thread looks every half second.
    """
    parent = int(os.environ.get(PARENT_VARIABLE, "0"))
    if not parent:
        return
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), name="lifeline", daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_ORPHAN_CHECK_SECONDS)
    os._exit(1)


class Line:
    """A rank's connection to the stage that started the run: JSON lines, one message each.

    It stays open until the process ends: so the stage learns of that at once, however it comes about.
    """

    def __init__(self, rank: int) -> None:
        self._descriptor: int | None = None
        path = os.environ.get(LINE_VARIABLE)
        if path:
            line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            line.connect(path)
            # Not closed with any Python object: only the end of the process ends the connection.
            self._descriptor = line.detach()
        self.tell(kind="hello", rank=rank, pid=os.getpid())

    def tell(self, **message: Any) -> None:
        """Send one message; numpy numbers in it become plain ones."""
        rest = json.dumps(message, default=_plain).encode() + b"\n"
        while self._descriptor is not None and rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def emit(self, event: dict[str, Any]) -> None:
        """Send one event of the training loop."""
        self.tell(kind="event", event=event)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"an event holds {type(value).__name__}; expected numbers, text, lists and dicts")
