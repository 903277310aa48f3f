"""Work in processes of its own: asked for, followed and ended here. No process outlives the call that asked for it."""

import atexit
import contextlib
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
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from io import FileIO
from typing import Any, NoReturn, Self

from hubflow.schemas.errors import HubflowError, StoppedError
from hubflow.stages.hub import cores
from hubflow.stages.worker.connection import BYE, rebuilt
from hubflow.stages.worker.server import EXECUTE, FORK

GRACE_SECONDS = 30.0
POLL_SECONDS = 0.2
LOST_AHEAD_SECONDS = 1.0
KILL_SECONDS = 5.0
TAIL_BYTES = 4_000
SERVER = "hubflow.stages.worker.server"
GPU_DISTRIBUTION = "paddlepaddle-gpu"
_OF_A_LAUNCHER = ("PADDLE_", "FLAGS_selected_")
_OF_A_LAUNCHER_TOO = ("POD_IP", "MASTER_ADDR", "MASTER_PORT", "DISTRIBUTED_TRAINER_ENDPOINTS", "TRAINER_IP_PORT_LIST")

_log = logging.getLogger(__name__)

Answer = Callable[[str, dict[str, Any]], Any]


class WorkerError(HubflowError):
    """A process failed or was lost; the message names it and shows the end of what it printed."""


class WorkStoppedError(StoppedError):
    """The processes ended early because they were asked to."""


@dataclass(frozen=True)
class RankFailure:
    """A rank failed, with the `error` that it described, or was lost without one; `when` is by the monotonic clock."""

    rank: int
    when: float
    error: dict[str, Any] | None


def start_early() -> None:
    """Start the process that imports Paddle, if it is not there yet, so that the first work does not wait for the import."""
    _server().start()


def run(
    target: str,
    request: Mapping[str, Any],
    answer: Answer = lambda kind, message: None,
    should_stop: Callable[[], bool] | None = None,
    ranks: int = 1,
    gpus: Sequence[str] = (),
    device: str = "cpu",
    grace: float = GRACE_SECONDS,
) -> Any:
    """Have `target` done in a process of its own, or in `ranks` processes that work together, and wait for the end.

    SIGTERM, `should_stop` and any exception here, KeyboardInterrupt among them, reach the processes as SIGTERM. They have
    `grace` seconds to finish what they are at and write it down, then they are killed. The exception goes on, SIGTERM to the
    handler that was there before.

    Args:
        target: `module:function`, called in each process as `function(request, connection)`; its module imports no Prefect.
        request: what it needs, as values that JSON can hold.
        answer: called here, in this thread, as `answer(kind, message)` for what the process calls; gives the answer.
        should_stop: asked a few times a second; for callers that no signal reaches.
        ranks: how many processes.
        gpus: their GPUs, one for each rank; none for work on a CPU, or on the one GPU that `device` names.
        device: as settings have it.
        grace: seconds.

    Returns:
        What `target` gives in the first process.

    Raises:
        WorkStoppedError: when the processes ended early on SIGTERM, from here or from elsewhere.
        WorkerError: naming the rank that failed first, its error, exit code or signal, and the end of its output. An error of
            hubflow's is raised as what it is.
    """
    if ranks < 1 or (gpus and len(gpus) != ranks):
        raise WorkerError(f"{ranks} process(es) on GPUs {', '.join(gpus)}: expected one GPU for each, e.g. device gpu:0,1")
    way = EXECUTE if gpus or _needs_new_python(device) else FORK
    with _terminated() as terminated, _reserved_port(ranks) as port, _Ranks(ranks, answer) as all_ranks:
        try:
            for rank in range(ranks):
                all_ranks.start(way, {"target": target, "request": request, **_place(rank, ranks, gpus, port)})
            _follow(all_ranks, lambda: terminated() or (should_stop is not None and should_stop()), grace)
        except BaseException:
            all_ranks.answers = False
            _end(all_ranks, grace)
            raise
        finally:
            all_ranks.kill()
        return _outcome(all_ranks)


class _Rank:
    """One process as it is seen from here: its connection, its end, and what it prints."""

    def __init__(self, rank: int, way: bytes) -> None:
        self.rank = rank
        self.output = tempfile.TemporaryFile()
        self.pid, self.connection, self.status = self._begun(way) or self._begun(way) or self._refuse()
        self.exit_code: int | None = None
        self.outcome: dict[str, Any] | None = None
        self.is_gone, self.is_connected, self.is_waiting = False, True, False
        self._received = self._printed = b""
        self._read = 0  # bytes of its output that were logged

    def _begun(self, way: bytes) -> tuple[int, socket.socket, FileIO] | None:
        """The process's id, the connection to it, and what tells its end; None when the server was lost before it began."""
        connection, theirs = socket.socketpair()
        status, given = os.pipe()
        try:
            _server().fork(way, [theirs.fileno(), given, self.output.fileno()])
        finally:
            theirs.close()
            os.close(given)
        ended = FileIO(status)
        pid = ended.readline()
        if pid:
            return int(pid), connection, ended
        connection.close()
        ended.close()
        _server().end()
        return None

    def _refuse(self) -> NoReturn:
        raise WorkerError(f"the process that starts others ({SERVER}) ends at once; what it printed says why")

    def send(self, **message: Any) -> None:
        """Send one message; a process that is gone is noticed elsewhere."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def reply(self, **message: Any) -> None:
        """Answer what the process waits for."""
        self.is_waiting = False
        self.send(kind="answer", **message)

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
        return [json.loads(line) for line in lines]

    def look(self) -> None:
        """Take in its exit code when it ends; of a server that is lost with it, nothing."""
        code = self.status.readline()
        self.exit_code, self.is_gone = int(code) if code else None, True

    def printed(self) -> list[str]:
        """The lines of its output that were completed since the last call."""
        new = os.pread(self.output.fileno(), 1 << 20, self._read)
        self._read += len(new)
        *lines, self._printed = (self._printed + new).split(b"\n")
        return [line.decode("utf-8", "replace") for line in lines]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal while the process is there."""
        if not self.is_gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def tail(self) -> str:
        """The end of its output."""
        size = os.fstat(self.output.fileno()).st_size
        text = os.pread(self.output.fileno(), TAIL_BYTES, max(0, size - TAIL_BYTES)).decode("utf-8", "replace")
        return text.strip() or "(no output)"

    def close(self) -> None:
        """Close all that is open for it."""
        self.connection.close()
        self.status.close()
        self.output.close()


class _Ranks:
    """The processes of one piece of work."""

    def __init__(self, size: int, answer: Answer) -> None:
        self.size, self.answers = size, True
        self.was_asked_to_stop = False
        self.failures: list[RankFailure] = []
        self._answer = answer
        self.error: BaseException | None = None
        self.all: list[_Rank] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for rank in self.all:
            rank.close()

    def start(self, way: bytes, request: Mapping[str, Any]) -> None:
        """Start the next rank."""
        rank = _Rank(len(self.all), way)
        self.all.append(rank)
        self._selector.register(rank.connection, selectors.EVENT_READ, (rank, self._hear))
        self._selector.register(rank.status, selectors.EVENT_READ, (rank, self._look))
        rank.send(**request)

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
        """SIGTERM to every process."""
        for rank in self.all:
            if rank.is_waiting:  # what should have answered was interrupted
                rank.reply()
            rank.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to every process that is still there; returns when they are gone."""
        until = time.monotonic() + KILL_SECONDS
        while not self.are_gone and time.monotonic() < until:
            for rank in self.all:
                rank.signal(signal.SIGKILL)
            self.poll(0.1)

    def _look(self, rank: _Rank) -> None:
        rank.look()
        self._selector.unregister(rank.status)
        while rank.is_connected:  # its last words
            self._hear(rank)
        if rank.outcome is None:
            self.failures.append(RankFailure(rank.rank, time.monotonic(), None))

    def _hear(self, rank: _Rank) -> None:
        if not rank.is_connected:
            return
        messages = rank.messages()
        if not rank.is_connected:
            self._selector.unregister(rank.connection)
        for message in messages:
            kind = message.pop("kind")
            if kind == "outcome":
                self._ended(rank, message)
            elif kind == "log":
                text = f"{self.prefix(rank.rank)}{message['message']}"
                logging.getLogger(message["name"]).log(message["level"], "%s", text)
            else:
                rank.is_waiting = True
                self._reply(rank, kind, message)

    def _ended(self, rank: _Rank, outcome: dict[str, Any]) -> None:
        rank.outcome = outcome
        if outcome["outcome"] == "failed":
            self.failures.append(RankFailure(rank.rank, time.monotonic(), outcome["error"]))
            rank.send(kind=BYE)
        elif all(one.outcome is not None for one in self.all):
            for one in self.all:
                one.send(kind=BYE)

    def _reply(self, rank: _Rank, kind: str, message: dict[str, Any]) -> None:
        """Answer a call. What the callee raises ends the work at once, and is raised when it has ended."""
        if self.error is not None:
            rank.reply(failed=True)
        elif not self.answers and kind == "event":
            rank.reply()
        else:
            try:
                value = self._answer(kind, message)
            except Exception as error:
                self.error = error
                rank.reply(failed=True)
            else:
                rank.reply(value=value)


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


def _outcome(ranks: _Ranks) -> Any:
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
    named, rank = _named(failure.rank, ranks), ranks.all[failure.rank]
    if failure.error is None:
        others = "; the others were ended" if ranks.size > 1 else ""
        raise WorkerError(f"{named} {_how_ended(rank.exit_code)}{others}; its output ends:\n{rank.tail()}")
    error = rebuilt(failure.error)
    if error is None:
        kind, text = failure.error["type"], failure.error["message"]
        raise WorkerError(f"{named} failed: {kind}: {text[:2000]}\n{failure.error['traceback']}")
    error.add_note(f"{named} raised it:\n{failure.error['traceback']}")
    raise error


def _named(rank: int, ranks: _Ranks) -> str:
    return f"rank {rank} of {ranks.size}" if ranks.size > 1 else "the process"


def _how_ended(code: int | None) -> str:
    if code is None:
        return "was lost"
    if code >= 0:
        return f"failed with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


@contextlib.contextmanager
def _terminated() -> Iterator[Callable[[], bool]]:
    """In the main thread, whether SIGTERM came; at the end it goes to the handler that was there before.

    Prefect's own handler stays: it raises in this thread, and a runner takes a run as cancelled only while it is in place.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread() or _is_prefects(signal.getsignal(signal.SIGTERM)):
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
        if came.is_set():
            signal.raise_signal(signal.SIGTERM)


def _is_prefects(handler: Any) -> bool:
    return str(getattr(handler, "__module__", "")).partition(".")[0] == "prefect"


@contextlib.contextmanager
def _reserved_port(ranks: int) -> Iterator[int]:
    """A free port for the ranks' meeting. It stays bound here, not listening, so that no other run is given the same one."""
    if ranks == 1:
        yield 0
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("", 0))  # Paddle's meeting point listens on all interfaces
        yield reserved.getsockname()[1]


def _place(rank: int, ranks: int, gpus: Sequence[str], port: int) -> dict[str, Any]:
    """Where a rank works: its environment, folder and import path are those of this process."""
    environment = {
        name: value
        for name, value in _environment().items()
        if not name.startswith(_OF_A_LAUNCHER) and name not in _OF_A_LAUNCHER_TOO
    }
    if ranks > 1:
        environment |= _of_rank(rank, ranks, port)
        if not gpus:
            environment |= {"PADDLE_DISTRI_BACKEND": "gloo", "CUDA_VISIBLE_DEVICES": ""}
            environment.setdefault(cores.THREADS, str(max(1, cores.usable_cores() // ranks)))
    if gpus:
        environment["FLAGS_selected_gpus"] = gpus[rank]
    return {
        "environment": environment,
        "folder": os.getcwd(),
        "path": [os.path.abspath(entry) for entry in sys.path],
    }


def _environment() -> dict[str, str]:
    """This process's environment, with numbers of threads only where the user set them: Paddle and Dask set some too."""
    found = {name: value for name, value in os.environ.items() if name != cores.THREADS}
    found = {
        name: value for name, value in found.items() if name not in cores.SET_BY_DASK or not cores.is_set_by_dask(name, value)
    }
    return {**found, cores.THREADS: given} if (given := cores.given_threads()) else found


def _of_rank(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What Paddle's `init_parallel_env` goes by."""
    endpoints = [f"127.0.0.1:{port + one}" for one in range(ranks)]
    loopback = next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    # gloo listens on the address of the host's name unless it is given an interface.
    network = {"GLOO_SOCKET_IFNAME": loopback} if loopback else {}
    return {
        "PADDLE_MASTER": endpoints[0],
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINERS_NUM": str(ranks),
        "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
        "PADDLE_CURRENT_ENDPOINT": endpoints[rank],
        "PADDLE_RANK_IN_NODE": str(rank),
        "PADDLE_LOCAL_SIZE": str(ranks),
        **network,
    }


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

    def start(self) -> None:
        """Start it unless it runs."""
        with self._lock:
            self._started()

    def fork(self, way: bytes, descriptors: list[int]) -> None:
        """Have a process begun that is given the descriptors."""
        with self._lock:
            try:
                socket.send_fds(self._started(), [way], descriptors)
            except OSError:  # it was lost since the last time
                self._close()
                socket.send_fds(self._started(), [way], descriptors)

    def _started(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self._close()
        if self._control is None:
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-P", "-m", SERVER, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    env=_environment(),
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
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
        self.__init__()  # type: ignore[misc]


@functools.cache
def _server() -> _Server:
    server = _Server()
    atexit.register(server.end)
    os.register_at_fork(after_in_child=server.forget)
    return server
