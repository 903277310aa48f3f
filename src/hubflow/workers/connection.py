"""A worker process's end of its connection: JSON lines over a socket pair to the process that asked for its work."""

import json
import logging
import os
import socket
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, TextIO

from hubflow.errors import HubflowError

CHUNK = 1 << 16
MAX_MESSAGE = 100_000
MAX_TRACEBACK = 10_000
AGAIN = "again"
"""Asks for the call that is not answered yet: the other side was interrupted, and may have lost it."""
BROADCAST = "broadcast"
"""A call that is answered when every rank has made it, with the value of rank 0."""
NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
"""Of a peer that is gone an error tells, and no SIGPIPE, which ends a program that has it as the system does."""
_PATH = "path"


class Stopped(BaseException):
    """This process was asked to end (SIGTERM)."""


class CallbackFailedError(Exception):
    """What the other side calls for an event raised; the work ends, and the error itself is raised there."""


class RankLostError(Exception):
    """Another rank has ended, so that this one waits for it in vain."""


class Connection:
    """Sends messages, and waits for the answer to those that have one.

    Args:
        connected: the socket; this end of it is open as long as the process lives, which is how its end is noticed.
        shared_memory: descriptor of memory that the ranks of this work share, or None.

    Attributes:
        rank: which one of the `size` processes of this work it is.
        meeting: where the ranks meet over a network: a `port`, the `addresses` of all ranks, the `interface` of rank 0, and
            whether they are of several hosts (`spans_hosts`).
    """

    def __init__(self, connected: socket.socket, shared_memory: int | None = None) -> None:
        self._socket, self.shared_memory = connected, shared_memory
        self.rank, self.size, self._broadcasts = 0, 1, 0
        self.meeting: dict[str, Any] | None = None
        self._received = b""
        self._sending, self._calling = threading.RLock(), threading.RLock()
        self._calls = 0
        self.was_stopped = False
        self._is_sending = self._is_stop_due = False  # in the main thread

    def stop(self, signal_number: int, frame: Any) -> None:
        """Handle SIGTERM: raise `Stopped`, at the first one alone, and never in the middle of a message."""
        if self.was_stopped:
            return
        self.was_stopped = True
        self._is_stop_due = self._is_sending
        if not self._is_sending:
            raise Stopped

    def send(self, kind: str, **message: Any) -> None:
        """Send one message; numpy numbers in it become plain ones."""
        line = json.dumps({"kind": kind, **message}, default=_plain).encode() + b"\n"
        is_main = threading.current_thread() is threading.main_thread()
        with self._sending:
            self._is_sending = is_main
            try:
                self._socket.sendall(line, NO_SIGNAL)
            except OSError:
                os._exit(1)  # nobody is there to hear of it
            finally:
                self._is_sending = False
        if is_main and self._is_stop_due:
            self._is_stop_due = False
            raise Stopped

    def call(self, kind: str, **message: Any) -> Any:
        """Send one message and wait for its answer.

        Raises:
            CallbackFailedError: when what the other side calls for it fails.
        """
        with self._calling:
            self._calls += 1
            number = self._calls
            self.send(kind, call=number, **message)
            while True:
                answer = self.receive()
                if answer["kind"] == AGAIN:
                    self.send(kind, call=number, **message)
                elif answer.get("call") == number:  # an earlier call may have been left by SIGTERM before its answer
                    break
        if answer.get("failed"):
            raise CallbackFailedError
        return answer.get("value")

    def broadcast(self, value: Any) -> Any:
        """Wait until every rank has called this; return what rank 0 passed, as JSON has it.

        Raises:
            RankLostError: when another rank has ended without calling it.
            CallbackFailedError: when the work ends because of an error on the other side.
        """
        self._broadcasts += 1
        answer = self.call(BROADCAST, number=self._broadcasts, value=value)
        if answer["lost"] == "stopped":
            self.was_stopped = True  # and so was this one, a moment later
        if answer["lost"] is not None:
            raise RankLostError(f"another rank {answer['lost']}")
        return answer["value"]

    def receive(self) -> dict[str, Any]:
        """The next message of the other side; the process ends when that side is gone."""
        while True:
            while b"\n" not in self._received:
                try:
                    chunk = self._socket.recv(CHUNK)
                except OSError:
                    chunk = b""
                if not chunk:
                    os._exit(1)
                self._received += chunk
            line, _, self._received = self._received.partition(b"\n")
            message = message_of(line)
            if message is not None:
                return message


def message_of(line: bytes) -> dict[str, Any] | None:
    """A line as the message that it is; None of a rest, when who read the line was interrupted."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and "kind" in message else None


class LogHandler(logging.Handler):
    """Sends what is logged to the other side, which logs it under the same name and level."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(logging.INFO)
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            message = self.format(record)[:MAX_MESSAGE]
        except Exception:  # of a record whose arguments do not fit its message
            self.handleError(record)
        else:
            self._connection.send("log", name=record.name, level=record.levelno, message=message)


def send_warnings(connection: Connection) -> None:
    """From now on, have warnings shown by the other side, by the filters that are set there."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        kinds = [[kind.__module__, kind.__qualname__] for kind in category.__mro__]
        connection.send("warning", message=str(message)[:MAX_MESSAGE], kinds=kinds, filename=filename, lineno=lineno)

    warnings.showwarning = show


def warn_again(message: dict[str, Any]) -> None:
    """Show a warning that `send_warnings` sent; its category is the nearest one that is known here.

    Raises:
        Warning: where a filter makes an error of it.
    """
    import sys

    found = [getattr(sys.modules.get(module), name, None) for module, name in message["kinds"]]
    category = next((kind for kind in found if isinstance(kind, type) and issubclass(kind, Warning)), UserWarning)
    warnings.warn_explicit(message["message"], category, message["filename"], message["lineno"])


def described(error: BaseException) -> dict[str, Any]:
    """An error as values that JSON can hold; `rebuilt` makes an error of the same type of them."""
    attributes = {
        name: {_PATH: str(value)} if isinstance(value, Path) else value
        for name, value in vars(error).items()
        if isinstance(value, Path) or _is_json(value)
    }
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
    for name, value in values["attributes"].items():
        if name != "__notes__":
            vars(error)[name] = Path(value[_PATH]) if isinstance(value, dict) and list(value) == [_PATH] else value
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
