"""Several hosts that work together, from the side of the one that leads: it waits at an address of its own until they join.

Before anything else is said, both sides prove that they hold the same key (`HUBFLOW_HOSTS_KEY`), by an HMAC (RFC 2104) with
SHA-256 over a nonce of each and what is said with it. What follows is not encrypted: it belongs in a network of one's own.
"""

import contextlib
import fcntl
import hmac
import json
import logging
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Self

from hubflow.errors import RendezvousError, SettingsError, WorkStoppedError, join_limited
from hubflow.workers.connection import NO_SIGNAL, message_of
from hubflow.workers.server import REFUSED

if TYPE_CHECKING:
    from hubflow.schemas.training import HostsSettings  # with Pydantic, which the server must begin without

KEY = "HUBFLOW_HOSTS_KEY"
MIN_KEY_LENGTH = 16
BEGIN, DONE, FAILED, SIGNAL = "begin", "done", "failed", "signal"
POLL_SECONDS = 0.2
HANDSHAKE_SECONDS = 10.0
MAX_HANDSHAKE = 1 << 16
MAX_AT_ONCE = 64
"""Connections that have not proved yet who they are."""
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
"""A host that loses its power or its network says nothing: after 20 seconds without an answer it counts as lost."""
LOOPBACK = "lo"
_SIOCGIFADDR = 0x8915
_PACKAGES = ("hubflow", "paddlepaddle", "paddlepaddle-gpu", "numpy")

log = logging.getLogger(__name__)


class Lines:
    """JSON messages over a connection to another host, a line each.

    Attributes:
        socket: the connection, which a process may go on with.
    """

    def __init__(self, connected: socket.socket) -> None:
        self.socket, self._received = connected, b""
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def fileno(self) -> int:
        """Its descriptor."""
        return self.socket.fileno()

    def send(self, **message: Any) -> None:
        """Send one message; a host that is gone is noticed when it is listened to."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n", NO_SIGNAL)

    def read(self) -> list[dict[str, Any]] | None:
        """What has come, without waiting; None when the other side is gone."""
        try:
            received = self.socket.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except OSError:
            received = b""
        if not received:
            return None
        *lines, self._received = (self._received + received).split(b"\n")
        return [message for line in lines if (message := message_of(line)) is not None]

    def receive(self) -> dict[str, Any]:
        """Wait for one message, of the handshake.

        Raises:
            OSError: when the other side is gone, says nothing for long, or sends no message.
        """
        until = time.monotonic() + HANDSHAKE_SECONDS
        while b"\n" not in self._received:
            self.socket.settimeout(max(0.01, until - time.monotonic()))
            chunk = self.socket.recv(4096)
            if not chunk or len(self._received) > MAX_HANDSHAKE:
                raise ConnectionError("it ended the connection, or is no hubflow")
            self._received += chunk
        self.socket.settimeout(None)
        line, _, self._received = self._received.partition(b"\n")
        message = message_of(line)
        if message is None:
            raise ConnectionError("it does not answer as hubflow does")
        return message

    def close(self) -> None:
        """End the connection."""
        self.socket.close()


@dataclass
class Seat:
    """The place of one rank on a host that has joined.

    Attributes:
        host: its name and address, for messages.
        address: of the host in the hosts' network.
        interface: the host's network interface there.
        folder: of the host, for what the rank writes.
        control: to the process that begins and ends the rank.
        connection: to the rank itself.
    """

    host: str
    address: str
    interface: str
    folder: str
    control: Lines
    connection: socket.socket

    def close(self) -> None:
        """Let the host go."""
        self.control.close()
        self.connection.close()


@dataclass
class _Arrival:
    """A host as it comes in, connection by connection; each has the number of its rank on the host."""

    facts: Mapping[str, Any]
    address: str
    controls: dict[int, Lines] = field(default_factory=dict)
    connections: dict[int, socket.socket] = field(default_factory=dict)

    def close(self) -> None:
        for control in self.controls.values():
            control.close()
        for connection in self.connections.values():
            connection.close()


class Hosts:
    """The hosts of one run as the one that leads sees them; a context that lets them go at its end.

    Args:
        settings: where, and how many.
        ranks: how many each host has.

    Attributes:
        address: of this host in the hosts' network.
        interface: its network interface there.
        seats: the ranks of the others, host by host, when `gather` has returned.

    Raises:
        RendezvousError: when the address is none of this host's.
        SettingsError: when there is no key.
    """

    def __init__(self, settings: "HostsSettings", ranks: int = 1) -> None:
        self._settings, self._ranks, self._key = settings, ranks, hosts_key()
        self.address = _ipv4_of(settings.address)
        self.interface = interface_of(self.address)
        self.seats: list[Seat] = []
        self._arrivals: dict[str, _Arrival] = {}
        self._is_closed = False
        self._lock, self._room = threading.Lock(), threading.BoundedSemaphore(MAX_AT_ONCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for seat in self.seats:
            seat.close()

    def gather(self, should_stop: Callable[[], bool] | None = None) -> None:
        """Wait until all hosts have joined, or for `wait_seconds`; with `min_count` of them the run begins then.

        The port is open while they are waited for, at the address alone.

        Args:
            should_stop: asked a few times a second.

        Raises:
            RendezvousError: when too few have come in time, naming those that are there; or the port is in use.
            WorkStoppedError: when `should_stop` says so.
        """
        wanted, where = self._settings.count - 1, f"{self.address}:{self._settings.port}"
        until, known = time.monotonic() + self._settings.wait_seconds, -1
        with self._listening() as listener:
            log.info("hosts: waiting at %s for %d to join (`hubflow join %s`)", where, wanted, where)
            while True:
                complete = self._complete()
                if len(complete) != known:
                    known = len(complete)
                    log.info("hosts: %d of %d have joined%s", known, wanted, _listed(complete))
                if known >= wanted or time.monotonic() > until:
                    break
                if should_stop is not None and should_stop():
                    self._let_go()
                    raise WorkStoppedError("the work was asked to stop while it waited for its hosts")
                try:
                    peer, (address, _) = listener.accept()
                except TimeoutError:
                    continue
                except OSError as error:  # too many files are open, or who asked is gone
                    log.warning("hosts: a connection could not be taken in: %s", error)
                    time.sleep(POLL_SECONDS)
                    continue
                if self._room.acquire(blocking=False):
                    threading.Thread(target=self._admit, args=(peer, address), daemon=True).start()
                else:
                    peer.close()
        least = self._settings.min_count or self._settings.count
        if 1 + known < least:
            self._let_go()
            raise RendezvousError(
                f"{1 + known} of {self._settings.count} hosts came together at {where} in {self._settings.wait_seconds:g} s"
                f"{_listed(complete)}; expected {least} at least. Run `hubflow join {where}` on the others, with this {KEY}, "
                "or set hosts.min_count to go on with fewer"
            )
        with self._lock:
            chosen = sorted(complete[:wanted], key=lambda one: (one.address, one.facts["name"], one.facts["host"]))
            self.seats = [self._seat(one, local) for one in chosen for local in range(self._ranks)]
            for one in self._arrivals.values():
                if one not in chosen:
                    one.close()
            self._arrivals, self._is_closed = {}, True

    @contextlib.contextmanager
    def _listening(self) -> Iterator[socket.socket]:
        port = self._settings.port
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self.address, port))
                listener.listen()
            except OSError as error:
                raise RendezvousError(
                    f"hosts cannot join at {self.address}:{port} ({error.strerror}); choose another hosts.port"
                ) from error
            listener.settimeout(POLL_SECONDS)
            yield listener

    def _admit(self, peer: socket.socket, address: str) -> None:
        """Take a connection in when who is there has the key and the same versions; in a thread of its own."""
        lines = Lines(peer)
        try:
            facts = self._greeted(lines)
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            log.warning("hosts: %s reached the port where hosts join, and was sent away: %s", address, error)
            lines.close()
            return
        finally:
            self._room.release()
        with self._lock:
            if self._is_closed:
                lines.close()
                return
            one = self._arrivals.setdefault(facts["host"], _Arrival(facts, address))
            if facts["role"] == "control":
                one.controls[facts["local"]] = lines
            else:
                one.connections[facts["local"]] = lines.socket

    def _greeted(self, lines: Lines) -> dict[str, Any]:
        nonce = secrets.token_hex(32)
        lines.send(kind="challenge", nonce=nonce)
        hello = lines.receive()
        theirs, facts = str(hello["nonce"]), dict(hello["facts"])
        if not is_proof(hello["proof"], proof(self._key, "join", nonce, theirs, facts)):
            lines.send(kind=REFUSED, message=f"the key ({KEY}) is not the one of the host that leads")
            raise ConnectionError(f"its key ({KEY}) is not the one of this host")
        if facts["versions"] != (own := versions_here()):
            lines.send(kind=REFUSED, message=f"versions differ: {facts['versions']} here, {own} on the host that leads")
            raise ConnectionError(f"versions differ: {facts['versions']} there, {own} here")
        answer = {"ranks": self._ranks}
        lines.send(kind="welcome", facts=answer, proof=proof(self._key, "lead", theirs, nonce, answer))
        return facts

    def _complete(self) -> list[_Arrival]:
        """The hosts that have all their connections; those that went away again are forgotten."""
        with self._lock:
            for name, one in list(self._arrivals.items()):
                if any(control.read() is None for control in one.controls.values()):
                    one.close()
                    del self._arrivals[name]
            return [one for one in self._arrivals.values() if len(one.controls) == len(one.connections) == self._ranks]

    def _seat(self, one: _Arrival, local: int) -> Seat:
        host = f"host {one.facts['name']} ({one.address})"
        interface, folder = str(one.facts["interface"]), str(one.facts["folder"])
        return Seat(host, one.address, interface, folder, one.controls[local], one.connections[local])

    def _let_go(self) -> None:
        with self._lock:
            for one in self._arrivals.values():
                one.close()
            self._arrivals, self._is_closed = {}, True


def hosts_key() -> bytes:
    """The key that the hosts of a run share.

    Raises:
        SettingsError: when there is none, or a short one.
    """
    key = os.environ.get(KEY, "")
    if len(key) < MIN_KEY_LENGTH:
        found = f"has {len(key)} characters" if key else "is not set"
        raise SettingsError(
            f"{KEY} {found}: the hosts of a run know each other by it. Set the same one, of {MIN_KEY_LENGTH} characters or "
            "more, on each of them, for example what `openssl rand -hex 32` prints"
        )
    return key.encode()


def proof(key: bytes, role: str, theirs: str, ours: str, facts: Mapping[str, Any]) -> str:
    """That who says `facts` in this role holds the key: of the nonce of the other side, and of the own one."""
    said = json.dumps([role, theirs, ours, facts], sort_keys=True).encode()
    return hmac.new(key, said, "sha256").hexdigest()


def is_proof(given: object, wanted: str) -> bool:
    """Whether what the other side gave is the proof, compared in a time that tells nothing."""
    return hmac.compare_digest(str(given).encode(), wanted.encode())


def versions_here() -> dict[str, str]:
    """Versions that must be the same on all hosts of a run."""
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _ipv4_of(address: str) -> str:
    """The IPv4 address of a host.

    Raises:
        RendezvousError: when it has none.
    """
    try:
        found = socket.getaddrinfo(address, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise RendezvousError(
            f"hosts.address {address!r} has no IPv4 address ({error.strerror}); give one, or a name that has one"
        ) from error
    return str(found[0][4][0])


def interface_of(address: str) -> str:
    """The network interface of this host that has an IPv4 address.

    Raises:
        RendezvousError: when none has; the message names those that there are.
    """
    if address.startswith("127."):
        return LOOPBACK
    there: dict[str, str] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                there[socket.inet_ntoa(answer[20:24])] = name
    if address not in there:
        listed = ", ".join(f"{one} ({name})" for one, name in there.items())
        raise RendezvousError(f"{address} is no address of this host; it has {listed}")
    return there[address]


def _listed(hosts: Sequence[_Arrival]) -> str:
    names = [f"{one.facts['name']} ({one.address})" for one in hosts]
    return f": {join_limited(names)}" if names else ""
