"""The side of a host that joins another one's run: it begins and ends the processes that the leading host asks for."""

import contextlib
import logging
import os
import secrets
import selectors
import signal
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from io import FileIO
from typing import Any

from hubflow.errors import RendezvousError
from hubflow.workers.hosts import (
    BEGIN,
    DONE,
    FAILED,
    POLL_SECONDS,
    SIGNAL,
    Lines,
    hosts_key,
    interface_of,
    is_proof,
    proof,
    versions_here,
)
from hubflow.workers.processes import Output, fork, start_early
from hubflow.workers.server import BEGUN, ENDED, EXECUTE, FORK, REFUSED

RETRY_SECONDS = 0.5
KILL_SECONDS = 5.0
log = logging.getLogger(__name__)


def join(address: str, port: int, wait_seconds: float = 600.0, stays: bool = False) -> None:
    """Join the run that is led from `address`, and do its work here until it is done.

    When the host that leads is lost, or its run ends early, it is waited for again, so that a run that goes on finds its hosts.

    Args:
        address: of the host that leads: an IPv4 address, or a name that has one.
        port: where hosts join there.
        wait_seconds: how long it is waited for, each time.
        stays: go on to the next run when one is done, and wait for it without an end.

    Raises:
        RendezvousError: when nobody leads there in time, or what leads there has another key or other versions.
        SettingsError: when there is no key.
    """
    key = hosts_key()
    start_early()
    while True:
        with tempfile.TemporaryDirectory(prefix="hubflow-join-") as folder, contextlib.ExitStack() as held:
            seats = _enter(address, port, key, float("inf") if stays else wait_seconds, folder, held)
            log.info("joined the run of %s:%d", address, port)
            is_done = _serve(seats)
        log.info("the run of %s:%d %s", address, port, "is done" if is_done else "was left; waiting for it to go on")
        if is_done and not stays:
            return


class _Seat:
    """The place of one rank, from the side of the host that it is on."""

    def __init__(self, control: Lines, connection: socket.socket) -> None:
        self.control, self._connection, self._output = control, connection, Output()
        status, self._given = os.pipe()
        self.status = FileIO(status)
        self.is_working = False
        self._pid: int | None = None

    def heed(self, message: Mapping[str, Any]) -> None:
        """Do what the host that leads asks for."""
        if message["kind"] == BEGIN and not self.is_working:
            self.is_working = True
            try:
                fork(EXECUTE if message["executes"] else FORK, [self._given, self._connection.fileno(), self._output.fileno()])
            except OSError as error:
                self.control.send(kind=REFUSED, message=str(error))
            self._let_go()
        elif message["kind"] == FAILED:
            log.error("this host's part of the run failed: %s", message["message"])
        elif message["kind"] == SIGNAL and message["number"] in (signal.SIGTERM, signal.SIGKILL):
            self.signal(signal.Signals(message["number"]))

    def look(self) -> None:
        """Tell the host that leads that the process began, or that it ended."""
        word, _, rest = self.status.readline().decode().strip().partition(" ")
        if word == BEGUN:
            self._pid = int(rest)
            self.control.send(kind=BEGUN, pid=self._pid)
            return
        self.is_working, self._pid = False, None
        self.show()
        if word == ENDED:
            self.control.send(kind=ENDED, code=int(rest), tail=self._output.tail())
        else:
            self.control.send(kind=REFUSED, message=rest or "the process that starts others was lost")

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal while it is there."""
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def show(self) -> None:
        """Log what the process printed."""
        for line in self._output.lines(is_whole=not self.is_working):
            log.info("%s", line)

    def close(self) -> None:
        """Close all that is open for it."""
        self._let_go()
        self.control.close()
        self._output.close()
        self.status.close()

    def _let_go(self) -> None:
        """Leave the connection and the status to the process alone, so that its end is seen on the other sides."""
        self._connection.close()
        if self._given >= 0:
            os.close(self._given)
            self._given = -1


def _serve(seats: Sequence[_Seat]) -> bool:
    """Do what the host that leads asks for, until it is gone; whether its work was done then. No process outlives this."""
    is_done, until = False, float("inf")
    with selectors.DefaultSelector() as selector:
        for seat in seats:
            selector.register(seat.control, selectors.EVENT_READ, seat)
            selector.register(seat.status, selectors.EVENT_READ, seat)
        while until == float("inf") or (any(seat.is_working for seat in seats) and time.monotonic() < until):
            for key, _ in selector.select(POLL_SECONDS):
                seat = key.data
                if key.fileobj is seat.status:
                    seat.look()
                    if not seat.is_working:
                        selector.unregister(seat.status)
                    continue
                messages = seat.control.read()
                for message in messages or []:
                    seat.heed(message)
                    is_done |= message["kind"] == DONE
                if messages is None:
                    selector.unregister(seat.control)
                    until = min(until, time.monotonic() + KILL_SECONDS)
            for seat in seats:
                seat.show()
                if until < float("inf"):
                    seat.signal(signal.SIGKILL)
    return is_done


def _enter(leader: str, port: int, key: bytes, seconds: float, folder: str, held: contextlib.ExitStack) -> list[_Seat]:
    """Connect to the host that leads: two connections for each rank that it wants of this host, closed with `held`.

    Without an end of the waiting (`seconds` are infinite) one that refuses this host is waited for too.
    """
    host, until, last_warning = secrets.token_hex(8), time.monotonic() + seconds, ""
    log.info("waiting for a run that is led from %s:%d", leader, port)
    while True:
        with contextlib.ExitStack() as opened:
            try:
                places: list[tuple[Lines, socket.socket]] = []
                ranks = 1
                while len(places) < ranks:
                    control, welcome = _connected(leader, port, key, host, "control", len(places), folder)
                    opened.callback(control.close)
                    connection, _ = _connected(leader, port, key, host, "rank", len(places), folder)
                    opened.callback(connection.close)
                    places.append((control, connection.socket))
                    ranks = int(welcome["ranks"])
            except (OSError, RendezvousError) as error:
                is_refused = isinstance(error, RendezvousError)
                if is_refused and seconds < float("inf"):
                    raise
                if time.monotonic() > until:
                    raise RendezvousError(
                        f"no run could be joined at {leader}:{port} within {seconds:g} s ({error}); is one there whose "
                        "settings have `hosts`, and is its port open to this host?"
                    ) from error
                if (is_refused or isinstance(error, socket.gaierror)) and str(error) != last_warning:
                    last_warning = str(error)
                    log.warning("no run can be joined yet (%s); trying again", error)
                time.sleep(RETRY_SECONDS)
                continue
            opened.pop_all()
        entered = [_Seat(control, connection) for control, connection in places]
        for seat in entered:
            held.callback(seat.close)
        return entered


def _connected(
    leader: str, port: int, key: bytes, host: str, role: str, number: int, folder: str
) -> tuple[Lines, dict[str, Any]]:
    """One connection to the host that leads, and what it says.

    Raises:
        RendezvousError: when it has another key, or other versions.
        OSError: when nobody is there, or not what is expected.
    """
    lines = Lines(socket.create_connection((socket.gethostbyname(leader), port), timeout=RETRY_SECONDS * 10))
    try:
        nonce = secrets.token_hex(32)
        own = str(lines.socket.getsockname()[0])
        facts = {
            "host": host,
            "role": role,
            "local": number,
            "name": socket.gethostname(),
            "interface": interface_of(own),
            "folder": folder,
            "versions": versions_here(),
        }
        theirs = str(lines.receive().get("nonce"))
        lines.send(kind="hello", nonce=nonce, facts=facts, proof=proof(key, "join", theirs, nonce, facts))
        answer = lines.receive()
        if answer["kind"] == REFUSED:
            raise RendezvousError(f"{leader}:{port} does not let this host join: {answer['message']}")
        said = dict(answer["facts"])
        if not is_proof(answer["proof"], proof(key, "lead", nonce, theirs, said)):
            raise RendezvousError(
                f"what answers at {leader}:{port} does not hold this host's key: it is not the host that leads"
            )
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        lines.close()
        raise ConnectionError(f"what answers at {leader}:{port} does not answer as hubflow does") from error
    except BaseException:
        lines.close()
        raise
    return lines, said
