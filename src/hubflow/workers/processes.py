"""Work in processes of its own: asked for, followed and ended here. No process outlives the call that asked for it."""

import array
import atexit
import contextlib
import fcntl
import functools
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from io import FileIO
from pathlib import Path
from typing import IO, Any, Self

from hubflow.errors import (
    OPEN_FILES_REMEDY,
    HostLostError,
    OutOfMemoryError,
    WorkerError,
    WorkStoppedError,
    with_remedy,
)
from hubflow.runtime import threads as cores
from hubflow.runtime.memory import is_lack_of_memory, lack_of_memory, memory_facts
from hubflow.workers.connection import AGAIN, BROADCAST, NO_SIGNAL, message_of, rebuilt, warn_again
from hubflow.workers.hosts import BEGIN, DONE, FAILED, SIGNAL, Hosts, Seat
from hubflow.workers.server import BEGUN, ENDED, EXECUTE, FORK, REFUSED

GRACE_SECONDS = 30.0
POLL_SECONDS = 0.2
LOST_AHEAD_SECONDS = 1.0
KILL_SECONDS = 5.0
MAX_ATTEMPTS = 2
TAIL_BYTES = 4_000
SERVER = "hubflow.workers.server"
LATE_HOST = (
    "so ends a sum over hosts that has waited 30 seconds for one of them: was one stopped, or much slower than the others?"
)
STATE_KINDS = ("state_dict", "load_state_dict")
"""Calls that are answered even when the work was interrupted here: a checkpoint that is written then needs the answer."""
GPU_DISTRIBUTION = "paddlepaddle-gpu"
_OF_A_LAUNCHER = ("PADDLE_", "FLAGS_selected_")
_OF_A_LAUNCHER_TOO = ("POD_IP", "MASTER_ADDR", "MASTER_PORT", "DISTRIBUTED_TRAINER_ENDPOINTS", "TRAINER_IP_PORT_LIST")

_MEMORY_CAUSES: dict[int | None, str] = {
    None: "The kernel may have killed the process that starts others, as it does",
    -signal.SIGKILL: "This is likely the kernel, which kills a process",
    -signal.SIGSEGV: "Paddle may crash",
    -signal.SIGBUS: "Paddle may crash",
    -signal.SIGABRT: "Paddle may end",
}
"""How a lack of memory ends a process, by its exit code; None where it was lost without one."""

_log = logging.getLogger(__name__)

Answer = Callable[[str, dict[str, Any]], Any]


@dataclass(frozen=True)
class RankFailure:
    """A rank failed, with the `error` that it described, or was lost without one; `when` is by the monotonic clock."""

    rank: int
    when: float
    error: dict[str, Any] | None


def start_early() -> None:
    """Start the process that imports Paddle, if it is not there yet, so that the first work does not wait for the import."""
    with contextlib.suppress(OSError):  # the work that needs it says so
        _SERVER.start()


def run(
    target: str,
    request: Mapping[str, Any],
    answer: Answer = lambda kind, message: None,
    should_stop: Callable[[], bool] | None = None,
    ranks: int = 1,
    gpus: Sequence[str] = (),
    device: str = "cpu",
    grace: float = GRACE_SECONDS,
    work: str = "the work",
    memory_remedy: str = "Give the process less to do at once",
    hosts: Hosts | None = None,
    elsewhere: Mapping[str, Any] | None = None,
) -> Any:
    """Have `target` done in a process of its own, or in processes that work together, and wait for the end.

    SIGTERM, `should_stop` and any exception here, KeyboardInterrupt among them, reach the processes as SIGTERM. They have
    `grace` seconds to finish what they are at and write it down, then they are killed. The exception goes on, SIGTERM to the
    handler that was there before.

    Args:
        target: `module:function`, called in each process as `function(request, connection)`; its module imports no Prefect.
        request: what it needs, as values that JSON can hold.
        answer: called here, in this thread, as `answer(kind, message)` for what the process calls; gives the answer.
        should_stop: asked a few times a second; for callers that no signal reaches.
        ranks: how many processes on each host.
        gpus: their GPUs, one for each rank of a host; none for work on a CPU, or on the one GPU that `device` names.
        device: as settings have it.
        grace: seconds.
        work: what is done, as a noun, for the message of a lack of memory.
        memory_remedy: which settings to change then, as an instruction.
        hosts: that have joined this one, with as many ranks each; by default this one works alone.
        elsewhere: what the request has on those in the place of its own; its `folder` there is one of theirs.

    Returns:
        What `target` gives in the first process.

    Raises:
        WorkStoppedError: when the processes ended early on SIGTERM, from here or from elsewhere.
        OutOfMemoryError: when a process found no more memory.
        HostLostError: when a host can no longer be reached.
        WorkerError: naming the rank that failed first, its error, exit code or signal, and the end of its output. An error of
            hubflow's is raised as what it is.
    """
    if ranks < 1 or (gpus and len(gpus) != ranks):
        raise WorkerError(f"{ranks} process(es) on GPUs {', '.join(gpus)}: expected one GPU for each, e.g. device gpu:0,1")
    way = EXECUTE if gpus or _needs_new_python(device) else FORK
    hosts = hosts if hosts is not None and hosts.seats else None
    size = ranks + (len(hosts.seats) if hosts else 0)
    point = _meeting_point(ranks, gpus, hosts)
    with _terminated() as terminated, point as (meeting, memory), _Ranks(size, answer) as all_ranks:
        asked = {"target": target, "request": request, "size": size, "meeting": meeting}
        try:
            for rank in range(ranks):
                own = {**asked, "rank": rank, **_place(rank, ranks, gpus, meeting)}
                all_ranks.start(_Rank(rank, way, own, memory))
            for rank, seat in enumerate(hosts.seats if hosts else (), start=ranks):
                changes = {"changes": _of_rank(rank, ranks, gpus, meeting), "defaults": _of_network(seat.interface)}
                own = {**asked, "rank": rank, "request": {**request, **(elsewhere or {}), "folder": seat.folder}, **changes}
                all_ranks.start(_RankElsewhere(rank, way, own, seat))
            _follow(all_ranks, lambda: terminated() or (should_stop is not None and should_stop()), grace)
        except BaseException:
            all_ranks.answers = False
            _end(all_ranks, grace)
            raise
        finally:
            all_ranks.kill()
        return _outcome(all_ranks, work, memory_remedy)


@contextlib.contextmanager
def _starting() -> Iterator[None]:
    """Raise an error of the system as one that says what cannot be done.

    Raises:
        WorkerError: naming it, and what to do when too many files are open.
    """
    try:
        yield
    except OSError as error:
        raise WorkerError(f"no process can be started: {with_remedy(error)}") from error


class Output:
    """The file that a process prints into."""

    def __init__(self) -> None:
        """Open it.

        Raises:
            WorkerError: when no more files can be open.
        """
        with _starting():
            self._file = tempfile.TemporaryFile()
        self._begun = b""
        self._read = 0  # bytes that were taken in

    def fileno(self) -> int:
        """Its descriptor."""
        return self._file.fileno()

    def lines(self, is_whole: bool) -> list[str]:
        """The lines that were completed since the last call; all that is left when the output is whole."""
        lines: list[bytes] = []
        while True:
            new = os.pread(self.fileno(), 1 << 20, self._read)
            self._read += len(new)
            *more, self._begun = (self._begun + new).split(b"\n")
            lines += more
            if not new or not is_whole:
                break
        if is_whole and self._begun:
            lines.append(self._begun)
            self._begun = b""
        return [line.decode("utf-8", "replace") for line in lines]

    def tail(self) -> str:
        """Its end."""
        return _tail(self.fileno())

    def close(self) -> None:
        """Close it, which removes it."""
        self._file.close()


class _Rank:
    """One process as it is seen from here: its connection, its end, and what it prints."""

    host = ""

    def __init__(self, rank: int, way: bytes, request: Mapping[str, Any], shared_memory: int | None = None) -> None:
        """Open the file of its output.

        Raises:
            WorkerError: when no more files can be open.
        """
        self.rank, self.request = rank, request
        self.output = Output()
        with _starting():
            self.connection, self.status = socket.socket(), FileIO(os.devnull)
        self.pid: int | None = None  # before it begins
        self.exit_code: int | None = None
        self.outcome: dict[str, Any] | None = None
        self.last_call = 0  # the one that its outcome is
        self.is_gone = self.is_connected = False
        self._way, self._attempts = way, 0
        self._shared = () if shared_memory is None else (shared_memory,)
        self._received = b""

    def begin(self) -> None:
        """Have it begun by the server; `look` learns when that is done."""
        self._attempts += 1
        self._close_both()
        with _starting():
            self.connection, theirs = socket.socketpair()
            with theirs:
                status, given = os.pipe()
                self.status, self.is_connected = FileIO(status), True
                try:
                    _SERVER.fork(self._way, [given, theirs.fileno(), self.output.fileno(), *self._shared])
                finally:
                    os.close(given)

    def look(self) -> bool:
        """Take in that it began, or that it ended, with its exit code; of a server that is lost with it, nothing.

        Returns:
            Whether the server was lost before it began, so that `begin` is to be tried again.

        Raises:
            WorkerError: when it cannot begin.
        """
        word, _, rest = self.status.readline().decode().strip().partition(" ")
        if word == BEGUN:
            self.pid = int(rest)
            self.send(kind="request", **self.request)
            return False
        if word == "" and self.pid is None and self._attempts < MAX_ATTEMPTS:
            return True
        self.is_gone = True
        if word == REFUSED:
            raise WorkerError(f"no process can be started: {with_remedy(rest)}")
        if word == "" and self.pid is None:
            text = f"has no room for it: too many files are open; {OPEN_FILES_REMEDY}" if _SERVER.is_there else "ends at once"
            raise WorkerError(f"the process that starts others ({SERVER}) {text}; its output ends:\n{_SERVER.tail()}")
        self.exit_code = int(rest) if word == ENDED else None
        return False

    def abandon(self) -> None:
        """Wait no longer for it to begin: if it ever does, it sees that nobody is there, and ends."""
        self.is_gone, self.is_connected = True, False
        self._close_both()

    def send(self, **message: Any) -> None:
        """Send one message; a process that is gone is noticed elsewhere."""
        line = json.dumps(message).encode() + b"\n"
        with contextlib.suppress(OSError):
            self.connection.sendall(line, NO_SIGNAL)

    def messages(self) -> list[dict[str, Any]]:
        """What has come over the connection; of a process that is gone, to the last word."""
        try:
            received = self.connection.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:  # a child of the process may hold the connection open
            self.is_connected = not self.is_gone
            return []
        except OSError:
            received = b""
        if not received:
            self.is_connected = False
        *lines, self._received = (self._received + received).split(b"\n")
        return [message for line in lines if (message := message_of(line)) is not None]

    def printed(self) -> list[str]:
        """The lines of its output that were completed since the last call; all that is left when it is gone."""
        return self.output.lines(is_whole=self.is_gone)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal while the process is there."""
        if self.pid is not None and not self.is_gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def tail(self) -> str:
        """The end of its output."""
        return self.output.tail()

    def close(self, is_done: bool) -> None:
        """Close all that is open for it; `is_done` says whether the work is."""
        self._close_both()
        self.output.close()

    def _close_both(self) -> None:
        self.connection.close()
        self.status.close()


class _RankElsewhere(_Rank):
    """A process on a host that has joined: begun and ended by that host, which logs what it prints."""

    def __init__(self, rank: int, way: bytes, request: Mapping[str, Any], seat: Seat) -> None:
        super().__init__(rank, way, request)
        self._close_both()
        self.connection, self.host = seat.connection, seat.host
        self.status = FileIO(os.dup(seat.control.fileno()))
        self._control, self._tail = seat.control, "(no output)"

    def begin(self) -> None:
        """Have it begun by its host."""
        self.is_connected = True
        self._control.send(kind=BEGIN, executes=self._way == EXECUTE)

    def look(self) -> bool:
        """Take in that it began, or that it ended; of a host that is lost, nothing more.

        Raises:
            WorkerError: when its host cannot begin it.
        """
        messages = self._control.read()
        self.is_gone = messages is None
        for message in messages or []:
            if message["kind"] == BEGUN:
                self.pid = int(message["pid"])
                self.send(kind="request", **self.request)
            elif message["kind"] == ENDED:
                self.is_gone, self.exit_code, self._tail = True, int(message["code"]), str(message["tail"])
            elif message["kind"] == REFUSED:
                self.is_gone = True
                raise WorkerError(f"{self.host}: no process can be started: {message['message']}")
        return False

    def signal(self, number: signal.Signals) -> None:
        """Have its host send it a signal."""
        if not self.is_gone:
            self._control.send(kind=SIGNAL, number=int(number))

    def tail(self) -> str:
        """The end of its output, when it has ended."""
        return self._tail

    def close(self, is_done: bool) -> None:
        """Let its host know whether the work is done, and close all that is open for it."""
        if is_done:
            self._control.send(kind=DONE)
        elif self.outcome is not None and self.outcome["outcome"] == "failed":
            self._control.send(kind=FAILED, message=self.outcome["error"]["message"])
        self._control.close()
        super().close(is_done)


class _Ranks:
    """The processes of one piece of work."""

    def __init__(self, size: int, answer: Answer) -> None:
        self.size, self.answers = size, True
        self.was_asked_to_stop = False
        self.failures: list[RankFailure] = []
        self._answer = answer
        self.error: BaseException | None = None
        self.all: list[_Rank] = []
        self._broadcast = _Broadcast(number=0)
        with _starting():
            self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        is_done = all(rank.outcome is not None and rank.outcome["outcome"] == "finished" for rank in self.all)
        for rank in self.all:
            rank.close(is_done)

    def start(self, rank: _Rank) -> None:
        """Start the next rank."""
        self.all.append(rank)
        self._begin(rank)

    def _begin(self, rank: _Rank) -> None:
        rank.begin()
        self._selector.register(rank.connection, selectors.EVENT_READ, (rank, self._hear))
        self._selector.register(rank.status, selectors.EVENT_READ, (rank, self._look))

    @property
    def first_failure(self) -> RankFailure | None:
        """What went wrong first; of a lost rank and one that failed at nearly the same time, the lost one was first.

        The others fail as soon as they miss it, and their words may be read before its silence is noticed.
        """
        return min(self.failures, key=lambda one: one.when if one.error else one.when - LOST_AHEAD_SECONDS, default=None)

    @property
    def are_gone(self) -> bool:
        """Whether no process is left."""
        return all(rank.is_gone for rank in self.all)

    def poll(self, seconds: float) -> None:
        """Take in what the processes say and print, waiting `seconds` at most for the first word."""
        for key, _ in self._selector.select(seconds):
            rank, hear = key.data
            hear(rank)
        for rank in self.all:
            for line in rank.printed():
                _log.info("%s%s", self.prefix(rank.rank), line)

    def prefix(self, rank: int) -> str:
        """Names a rank in a log, where there are several."""
        return f"rank {rank}: " if self.size > 1 else ""

    def terminate(self) -> None:
        """SIGTERM to every process; what waits for one to begin waits no longer."""
        for rank in self.all:
            if rank.pid is None:
                self._abandon(rank)
            if not self.answers:  # a call of it may have been lost where an exception came
                rank.send(kind=AGAIN)
            rank.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to every process that is still there; returns when they are gone."""
        until = time.monotonic() + KILL_SECONDS
        while not self.are_gone and time.monotonic() < until:
            for rank in self.all:
                if rank.pid is None:
                    self._abandon(rank)
                rank.signal(signal.SIGKILL)
            self.poll(0.1)

    def _abandon(self, rank: _Rank) -> None:
        if not rank.is_gone:
            self._forget(rank)
            rank.abandon()

    def _forget(self, rank: _Rank) -> None:
        for one in (rank.connection, rank.status):
            with contextlib.suppress(KeyError, ValueError):  # not registered, or closed
                self._selector.unregister(one)

    def _look(self, rank: _Rank) -> None:
        if rank.look():
            self._forget(rank)
            self._begin(rank)
            return
        if not rank.is_gone:
            return
        self._selector.unregister(rank.status)
        while rank.is_connected:  # its last words
            self._hear(rank)
        if rank.outcome is None:
            self.failures.append(RankFailure(rank.rank, time.monotonic(), None))
            self._release("was lost")

    def _hear(self, rank: _Rank) -> None:
        if not rank.is_connected:
            return
        messages = rank.messages()
        if not rank.is_connected:
            self._selector.unregister(rank.connection)
        for message in messages:
            kind, call = message.pop("kind"), message.pop("call", None)
            if kind == "outcome":
                self._ended(rank, message, call)
            elif kind == "log":
                text = f"{self.prefix(rank.rank)}{message['message']}"
                logging.getLogger(message["name"]).log(message["level"], "%s", text)
            elif kind == "warning":
                self._warn(message)
            elif kind == BROADCAST:
                self._take_part(rank, call, **message)
            else:
                self._reply(rank, kind, message, call)

    def _warn(self, message: dict[str, Any]) -> None:
        try:
            warn_again(message)
        except Warning as error:  # a filter here makes errors of them
            self.error = self.error or error

    def _ended(self, rank: _Rank, outcome: dict[str, Any], call: int) -> None:
        rank.outcome, rank.last_call = outcome, call
        self._release(_end_of(rank))
        if outcome["outcome"] == "failed":
            self.failures.append(RankFailure(rank.rank, time.monotonic(), outcome["error"]))
            rank.send(kind="answer", call=call)
        elif all(one.outcome is not None for one in self.all):
            for one in self.all:
                one.send(kind="answer", call=one.last_call)

    def _take_part(self, rank: _Rank, call: int, number: int, value: Any) -> None:
        """Let a rank wait for the others, unless this is a call that was answered before and is made again."""
        if number < self._broadcast.number:
            rank.send(kind="answer", call=call, value={"value": self._broadcast.value_before, "lost": None})
            return
        if number > self._broadcast.number:
            self._broadcast = _Broadcast(number, self._broadcast.value)
        self._broadcast.calls[rank.rank] = call
        if rank.rank == 0:
            self._broadcast.value = value
        if len(self._broadcast.calls) == self.size:
            for one in self.all:
                one.send(
                    kind="answer", call=self._broadcast.calls[one.rank], value={"value": self._broadcast.value, "lost": None}
                )
        else:
            self._release(next((how for one in self.all if (how := _end_of(one)) is not None), None))

    def _release(self, lost: str | None) -> None:
        """Answer the ranks that wait for one that has ended."""
        if lost is None or len(self._broadcast.calls) == self.size:
            return
        for rank, call in self._broadcast.calls.items():
            self.all[rank].send(kind="answer", call=call, value={"value": None, "lost": lost})

    def _reply(self, rank: _Rank, kind: str, message: dict[str, Any], call: int) -> None:
        """Answer a call. What the callee raises ends the work at once, and is raised when it has ended."""
        answer: dict[str, Any] = {"kind": "answer", "call": call}
        if self.error is not None:
            rank.send(**answer, failed=True)
        elif not self.answers and kind not in STATE_KINDS:
            rank.send(**answer)
        else:
            try:
                rank.send(**answer, value=self._answer(kind, message))
            except Exception as error:  # what the callee raises, or a value that JSON cannot hold
                self.error = error
                rank.send(**answer, failed=True)


@dataclass
class _Broadcast:
    """One call of every rank for the same value: the `number`-th, and the calls to answer, by rank."""

    number: int
    value_before: Any = None
    value: Any = None
    calls: dict[int, int] = field(default_factory=dict)


def _end_of(rank: _Rank) -> str | None:
    """How a rank ended; None while it works."""
    if rank.outcome is not None:
        return str(rank.outcome["outcome"])
    return "was lost" if rank.is_gone else None


def _follow(ranks: _Ranks, should_stop: Callable[[], bool], grace: float) -> None:
    """Pass on what the processes say until they have ended."""
    while not ranks.are_gone:
        ranks.poll(POLL_SECONDS)
        failure = ranks.first_failure
        if should_stop():
            ranks.was_asked_to_stop = True
            _end(ranks, grace)
            return
        if ranks.error is not None:
            _end(ranks, grace)
            return
        if failure is not None and (ranks.size == 1 or time.monotonic() > failure.when + LOST_AHEAD_SECONDS):
            # The others wait for one that is gone: they have a moment to say what they were at.
            _end(ranks, LOST_AHEAD_SECONDS)
            return


def _end(ranks: _Ranks, grace: float) -> None:
    """SIGTERM to every process, and wait `grace` seconds at most."""
    ranks.terminate()
    until = time.monotonic() + grace
    while not ranks.are_gone and time.monotonic() < until:
        ranks.poll(POLL_SECONDS)


def _outcome(ranks: _Ranks, work: str, memory_remedy: str) -> Any:
    if ranks.error is not None:
        raise ranks.error
    failure = ranks.first_failure
    if ranks.was_asked_to_stop and failure is not None:
        if failure.error is not None:
            _log.warning("%s failed while it stopped: %s", _named(failure.rank, ranks), failure.error["message"][:2000])
        raise WorkStoppedError("the work was asked to stop")
    if failure is None:
        if any(rank.outcome is None or rank.outcome["outcome"] == "stopped" for rank in ranks.all):
            raise WorkStoppedError("the work was asked to stop")
        outcome = ranks.all[0].outcome
        assert outcome is not None
        return outcome.get("result")
    error = None if failure.error is None else rebuilt(failure.error)
    if error is None:
        _require_hosts(ranks, failure)
    named, rank = _named(failure.rank, ranks), ranks.all[failure.rank]
    if failure.error is None:
        others = "; the others were ended" if ranks.size > 1 else ""
        ending, tail = f"{named} {_how_ended(rank.exit_code)}{others}", rank.tail()
        if rank.exit_code is not None and rank.exit_code < 0 and is_lack_of_memory("", tail):
            raise OutOfMemoryError(f"{lack_of_memory(work, tail, memory_remedy)}. {ending}; its output ends:\n{tail}")
        if (cause := _MEMORY_CAUSES.get(rank.exit_code)) is not None:
            facts = " there" if rank.host else f": {memory_facts()}"
            ending += f". {cause} when memory runs out{facts}. If so: {memory_remedy}, or use a machine with more memory"
        raise WorkerError(f"{ending}; its output ends:\n{tail}")
    if error is None:
        kind, text = failure.error["type"], failure.error["message"]
        if is_lack_of_memory(kind, text):
            lacking = OutOfMemoryError(lack_of_memory(work, text, memory_remedy))
            lacking.add_note(f"{named} raised {kind}:\n{failure.error['traceback']}")
            raise lacking
        late = f" ({LATE_HOST})" if any(one.host for one in ranks.all) and "std::exception" in text else ""
        raise WorkerError(f"{named} failed: {kind}: {with_remedy(text[:2000])}{late}\n{failure.error['traceback']}")
    if rank.host:  # what it names is there, not here
        error.args = (f"{rank.host}: {error.args[0]}",)
    error.add_note(f"{named} raised it:\n{failure.error['traceback']}")
    raise error


def _require_hosts(ranks: _Ranks, failure: RankFailure) -> None:
    """Find the host whose loss is why others failed: it has said nothing of how its rank ended.

    Raises:
        HostLostError: naming it.
    """
    for rank in ranks.all:
        if rank.host and rank.outcome is None and rank.exit_code is None:
            others = f"; {_named(failure.rank, ranks)} failed: {failure.error['message'][:2000]}" if failure.error else ""
            raise HostLostError(
                f"{rank.host}, rank {rank.rank} of {ranks.size}, was lost: it cannot be reached any more{others}"
            )


def _named(rank: int, ranks: _Ranks) -> str:
    where = f" on {ranks.all[rank].host}" if ranks.all[rank].host else ""
    return f"rank {rank} of {ranks.size}{where}" if ranks.size > 1 else "the process"


def _how_ended(code: int | None) -> str:
    if code is None:
        return "was lost"
    if code >= 0:
        return f"failed with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}"


@contextlib.contextmanager
def _terminated() -> Iterator[Callable[[], bool]]:
    """In the main thread, whether SIGTERM came; at the end it goes to the handler that was there before.

    Prefect's own handler stays: it raises in this thread, and a runner takes a run as cancelled only while it is in place.
    """
    came, before = threading.Event(), signal.getsignal(signal.SIGTERM)
    is_left = before in (None, signal.SIG_IGN) or _is_prefects(before)  # None: set by other than Python
    if threading.current_thread() is not threading.main_thread() or is_left:
        yield came.is_set
        return
    signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
        if came.is_set():
            signal.raise_signal(signal.SIGTERM)


def _is_prefects(handler: Any) -> bool:
    return str(getattr(handler, "__module__", "")).partition(".")[0] == "prefect"


@contextlib.contextmanager
def _meeting_point(ranks: int, gpus: Sequence[str], hosts: Hosts | None) -> Iterator[tuple[dict[str, Any] | None, int | None]]:
    """Where several ranks meet: a port for those on GPUs or on several hosts, and for the others memory that they share.

    The port stays bound here, not listening, so that no other run is given the same one.
    """
    if ranks == 1 and not hosts:
        yield None, None
    elif gpus or hosts:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("", 0))  # Paddle's store listens on all interfaces, until the rank holds it to one
            here, interface = (hosts.address, hosts.interface) if hosts else ("127.0.0.1", "lo")
            addresses = [here] * ranks + [seat.address for seat in (hosts.seats if hosts else ())]
            port = reserved.getsockname()[1]
            yield {"port": port, "addresses": addresses, "interface": interface, "spans_hosts": hosts is not None}, None
    else:
        with _starting():
            shared = _memory_of_ranks()
        try:
            yield None, shared
        finally:
            os.close(shared)


def _memory_of_ranks() -> int:
    """Memory of no file system where there is such (/dev/shm of a container is small), else a file without a name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("hubflow-ranks")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _place(rank: int, ranks: int, gpus: Sequence[str], meeting: dict[str, Any] | None) -> dict[str, Any]:
    """Where a rank works: its environment, folder and import path are those of this process."""
    environment = {
        name: value
        for name, value in _environment().items()
        if not name.startswith(_OF_A_LAUNCHER) and name not in _OF_A_LAUNCHER_TOO
    }
    if ranks > 1 and not gpus:
        environment.setdefault(cores.THREADS, str(max(1, cores.usable_cores() // ranks)))
    environment |= _of_rank(rank, ranks, gpus, meeting)
    if meeting is not None:
        environment = _of_network(meeting["interface"]) | environment
    return {
        "environment": environment,
        "folder": _folder(),
        "path": _import_path(),
        "umask": _umask(),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }


def _environment() -> dict[str, str]:
    """This process's environment, with numbers of threads only where the user set them: Paddle and Dask set some too."""
    found = {name: value for name, value in os.environ.items() if name != cores.THREADS}
    found = {
        name: value for name, value in found.items() if name not in cores.SET_BY_DASK or not cores.is_set_by_dask(name, value)
    }
    return {**found, cores.THREADS: given} if (given := cores.given_threads()) else found


def _folder() -> str:
    """The current folder; the root where it was removed."""
    try:
        return os.getcwd()
    except OSError:
        return os.sep


def _import_path() -> list[str]:
    """Where modules are imported from, whatever the folder is later."""
    folder = _folder()
    return [os.path.normpath(os.path.join(folder, entry)) for entry in sys.path if isinstance(entry, str)]


def _umask() -> int | None:
    """The mask of new files, where it can be read without being changed for a moment, for other threads too."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    return next((int(line.split()[1], 8) for line in status.splitlines() if line.startswith("Umask:")), None)


def _library_flags() -> dict[str, str]:
    """Settings of Paddle in the environment, which it reads as it is imported."""
    return {
        name: value for name, value in os.environ.items() if name.startswith("FLAGS_") and not name.startswith(_OF_A_LAUNCHER)
    }


def _tail(descriptor: int) -> str:
    """The end of what was printed into a file."""
    size = os.fstat(descriptor).st_size
    text = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")
    return text.strip() or "(no output)"


def _of_rank(rank: int, ranks: int, gpus: Sequence[str], meeting: dict[str, Any] | None) -> dict[str, str]:
    """What a rank has in its environment, wherever it is: its GPU, and what Paddle's `init_parallel_env` goes by."""
    found = {"FLAGS_selected_gpus": gpus[rank % ranks]} if gpus else {}
    if not gpus and (ranks > 1 or meeting is not None):
        found["CUDA_VISIBLE_DEVICES"] = ""
    if meeting is None:
        return found
    endpoints = [f"{address}:{meeting['port'] + number % ranks}" for number, address in enumerate(meeting["addresses"])]
    found |= {
        "PADDLE_MASTER": endpoints[0],
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINERS_NUM": str(len(endpoints)),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        "PADDLE_RANK_IN_NODE": str(rank % ranks),
        "PADDLE_LOCAL_SIZE": str(ranks),
    }
    return found if gpus else {**found, "PADDLE_DISTRI_BACKEND": "gloo"}


def _of_network(interface: str) -> dict[str, str]:
    """What has the libraries that sum over ranks use a network interface, where the user has not named one."""
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}


def _needs_new_python(device: str) -> bool:
    """A process that was forked cannot use a GPU; elsewhere than on Linux, forking is not safe."""
    return sys.platform != "linux" or (device != "cpu" and _is_built_for_gpus())


@functools.cache
def _is_built_for_gpus() -> bool:
    try:
        distribution(GPU_DISTRIBUTION)
    except PackageNotFoundError:
        return False
    return True


class _Server:
    """The process that forks the others; it is started once, and again when it was lost."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._flags: dict[str, str] = {}
        self._output: IO[bytes] | None = None

    def start(self) -> None:
        """Start it unless it runs."""
        with self._lock:
            self._started()

    def fork(self, way: bytes, descriptors: list[int]) -> None:
        """Have a process begun that is given the descriptors: what tells of it, the connection, and its output.

        Raises:
            OSError: when it cannot be started, or is lost again and again.
        """
        with self._lock:
            for attempt in range(MAX_ATTEMPTS):
                control = self._started()
                # One that was forked has the settings that the server was started with.
                chosen = way if self._flags == _library_flags() else EXECUTE
                try:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
                    control.sendmsg([chosen], [rights], NO_SIGNAL)  # `socket.send_fds` leaves its flags out
                except ConnectionError:  # it was lost since the last time
                    self._close()
                    if attempt + 1 == MAX_ATTEMPTS:
                        raise
                else:
                    return

    @property
    def is_there(self) -> bool:
        """Whether it runs."""
        with self._lock:
            return self._process is not None and self._process.poll() is None

    def tail(self) -> str:
        """The end of what it printed."""
        with self._lock:
            return _tail(self._output.fileno()) if self._output is not None else "(no output)"

    def _started(self) -> socket.socket:
        if self._process is None or self._process.poll() is not None:
            self._close()
        if self._control is None:
            if self._output is not None:
                self._output.close()
            self._output, self._flags = tempfile.TemporaryFile(), _library_flags()
            control, theirs = socket.socketpair()
            with theirs:
                # Not one of the first three, which are the new process's standard input, output and error.
                given = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3)
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-P", "-m", SERVER, str(given)],
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,  # not ours, which a reader may wait for the end of
                    stderr=self._output,
                    pass_fds=[given],
                    start_new_session=True,
                    env={**_environment(), "PYTHONPATH": os.pathsep.join(_import_path())},
                )
            except BaseException:
                control.close()
                raise
            finally:
                os.close(given)
            self._control = control
        return self._control

    def end(self) -> None:
        """End it, as the end of this process would."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None

    def forget(self) -> None:
        """In a process that was forked from this one: the server is its parent's."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.returncode = 0  # nothing to wait for here
        self.__init__()  # type: ignore[misc]


def fork(way: bytes, descriptors: list[int]) -> None:
    """Have a process begun, by the descriptors of its status, its connection and its output (`hubflow.workers.server`).

    Raises:
        OSError: when it cannot be started.
    """
    _SERVER.fork(way, descriptors)


_SERVER = _Server()
atexit.register(_SERVER.end)
os.register_at_fork(after_in_child=_SERVER.forget)
