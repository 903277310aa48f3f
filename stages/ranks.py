"""What the ranks of a run say and log, as the process that started them hears it. Must not import Paddle or Prefect."""

import json
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHUNK = 1 << 16
TAIL_BYTES = 4_000
KILL_SECONDS = 5.0
LOST_AHEAD_SECONDS = 1.0

_log = logging.getLogger("hubflow.stages.launch")


@dataclass(frozen=True)
class Trouble:
    """A rank failed, telling its `error`, or was lost, telling nothing; `when` is by the monotonic clock, in seconds."""

    rank: int
    when: float
    error: str


@dataclass
class _Connection:
    """One rank's line; `rank` and `pid` are known once it has said hello."""

    socket: socket.socket
    rank: int = -1
    pid: int = 0
    received: bytes = b""


@dataclass
class _Log:
    path: Path
    offset: int = 0
    rest: bytes = b""

    def read(self) -> list[str]:
        """The lines that were completed since the last call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                new = file.read()
        except FileNotFoundError:
            return []
        self.offset += len(new)
        *lines, self.rest = (self.rest + new).split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines]


class Ranks:
    """The ranks' connections and logs.

    Args:
        size: how many ranks.
        path: of the socket that they connect to.
        logs: folder of their logs, `workerlog.N`.
        on_event: called with each event.
    """

    def __init__(self, size: int, path: Path, logs: Path, on_event: Callable[[dict[str, Any]], None]) -> None:
        self.size = size
        self.outcomes: dict[int, str] = {}
        self.stopping = False
        self._troubles: list[Trouble] = []
        self._on_event = on_event
        self._open: dict[int, _Connection] = {}
        for rank in range(size):
            (logs / f"workerlog.{rank}").unlink(missing_ok=True)
        self._logs = [_Log(logs / f"workerlog.{rank}") for rank in range(size)]
        self._selector = selectors.DefaultSelector()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(size)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for connection in self._open.values():
            connection.socket.close()
        self._listener.close()
        self._selector.close()

    @property
    def first_trouble(self) -> Trouble | None:
        """What went wrong first; of a lost rank and one that failed at nearly the same time, the lost one was first.

        The others fail as soon as they miss it, and their words may be read before its silence is noticed.
        """
        return min(self._troubles, key=_presumed, default=None)

    @property
    def all_done(self) -> bool:
        """Whether every rank has told its end, none of them a failure, and is gone."""
        return len(self.outcomes) == self.size and not self._open and not self._troubles

    def attend(self, seconds: float) -> None:
        """Take in what the ranks say and log, waiting `seconds` at most for the first word."""
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._listener:
                accepted, _ = self._listener.accept()
                self._open[accepted.fileno()] = _Connection(accepted)
                self._selector.register(accepted, selectors.EVENT_READ)
            else:
                self._receive(self._open[key.fd])
        for rank, log in enumerate(self._logs):
            for line in log.read():
                _log.info("rank %d: %s", rank, line)

    def drain(self) -> None:
        """Take in all that is left when no rank lives any more."""
        while self._selector.select(0):
            self.attend(0)
        self.attend(0)

    def ignore_events(self) -> None:
        """Call `on_event` no more."""
        self._on_event = lambda event: None

    def terminate(self) -> None:
        """SIGTERM to every rank, and to those that say hello later."""
        self.stopping = True
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to every rank that is still there; returns when they are gone."""
        until = time.monotonic() + KILL_SECONDS
        while self._open and time.monotonic() < until:
            self._signal(signal.SIGKILL)
            self.attend(0.1)

    def _signal(self, number: signal.Signals) -> None:
        # An open connection means that the process lives, so that its id is not yet another's.
        for connection in list(self._open.values()):
            if connection.pid:
                os.kill(connection.pid, number)

    def _receive(self, connection: _Connection) -> None:
        try:
            received = connection.socket.recv(CHUNK)
        except ConnectionError:
            received = b""
        if not received:
            self._close(connection)
            return
        *messages, connection.received = (connection.received + received).split(b"\n")
        for message in messages:
            self._understand(connection, json.loads(message))

    def _close(self, connection: _Connection) -> None:
        self._selector.unregister(connection.socket)
        del self._open[connection.socket.fileno()]
        connection.socket.close()
        if connection.pid and connection.rank not in self.outcomes:
            self._troubles.append(Trouble(connection.rank, time.monotonic(), ""))

    def _understand(self, connection: _Connection, message: dict[str, Any]) -> None:
        if message["kind"] == "hello":
            connection.rank, connection.pid = message["rank"], message["pid"]
            if self.stopping:
                os.kill(connection.pid, signal.SIGTERM)
        elif message["kind"] == "event":
            self._on_event(message["event"])
        else:
            self.outcomes[connection.rank] = message["outcome"]
            if message["outcome"] == "failed":
                self._troubles.append(Trouble(connection.rank, time.monotonic(), message["error"]))


def _presumed(trouble: Trouble) -> float:
    """When it probably began."""
    return trouble.when if trouble.error else trouble.when - LOST_AHEAD_SECONDS


def tail(path: Path) -> str:
    """The end of a log."""
    try:
        text = path.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace")
    except OSError:
        return "(no log)"
    return text.strip() or "(an empty log)"
