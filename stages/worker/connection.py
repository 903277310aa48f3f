"""A worker process's end of its connection: JSON lines over a socket pair to the process that asked for its work."""

import json
import logging
import os
import socket
import threading
import traceback
from typing import Any

from hubflow.schemas.errors import HubflowError

CHUNK = 1 << 16
MAX_MESSAGE = 100_000
MAX_TRACEBACK = 10_000
BYE = "bye"


class CallbackFailedError(Exception):
    """What the other side calls for an event raised; the work ends, and the error itself is raised there."""


class Connection:
    """Sends messages, and waits for the answer to those that have one.

    Args:
        connected: the socket; this end of it is open as long as the process lives, which is how its end is noticed.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._received = b""
        self._lock = threading.RLock()

    def send(self, kind: str, **message: Any) -> None:
        """Send one message; numpy numbers in it become plain ones."""
        line = json.dumps({"kind": kind, **message}, default=_plain).encode() + b"\n"
        with self._lock:
            try:
                self._socket.sendall(line)
            except OSError:
                os._exit(1)  # nobody is there to hear of it

    def call(self, kind: str, **message: Any) -> Any:
        """Send one message and wait for its answer.

        Raises:
            CallbackFailedError: when what the other side calls for it fails.
        """
        with self._lock:
            self.send(kind, **message)
            answer = self.receive()
        if answer.get("failed"):
            raise CallbackFailedError
        return answer.get("value")

    def receive(self) -> dict[str, Any]:
        """The next message of the other side; the process ends when that side is gone."""
        while b"\n" not in self._received:
            try:
                chunk = self._socket.recv(CHUNK)
            except OSError:
                chunk = b""
            if not chunk:
                os._exit(1)
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return dict(json.loads(line))


class LogHandler(logging.Handler):
    """Sends what hubflow logs to the other side, which logs it under the same name and level."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.INFO)
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        message = record.getMessage()[:MAX_MESSAGE]
        self._connection.send("log", name=record.name, level=record.levelno, message=message)


def described(error: BaseException) -> dict[str, Any]:
    """An error as values that JSON can hold; `rebuilt` makes an error of the same type of them."""
    attributes = {name: value for name, value in vars(error).items() if _is_json(value)}
    text = "".join(traceback.format_exception(error))
    return {
        "module": type(error).__module__,
        "type": type(error).__qualname__,
        "message": str(error)[:MAX_MESSAGE],
        "attributes": attributes,
        "traceback": text[-MAX_TRACEBACK:],  # an error of Paddle may print a whole program
    }


def rebuilt(values: dict[str, Any]) -> BaseException | None:
    """The error that `described` was given, when it is one of hubflow's; its traceback is a note of it."""
    import importlib

    try:
        kind: Any = importlib.import_module(values["module"])
        for name in values["type"].split("."):
            kind = getattr(kind, name)
    except (ImportError, AttributeError):
        return None
    if not (isinstance(kind, type) and issubclass(kind, HubflowError)):
        return None
    error = kind.__new__(kind)
    error.args = (values["message"],)
    vars(error).update({name: value for name, value in values["attributes"].items() if name != "__notes__"})
    return error


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"a message holds {type(value).__name__}; expected numbers, text, lists and dicts")
