"""Process that imports Paddle once, and forks a process for each piece of work: `python -m hubflow.workers.server FD`.

Forking takes some ten milliseconds where starting Python and importing Paddle take seconds. This process runs no program of
Paddle's and has one thread, so that each process begins as if it had just imported everything. It ends, and all of its
processes with it, as soon as the process that started it is gone.
"""

import contextlib
import ctypes
import gc
import importlib
import io
import logging
import os
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hubflow.runtime import paddle_import
from hubflow.runtime.memory import share_one_heap
from hubflow.runtime.threads import take_given_threads
from hubflow.workers.connection import Connection, LogHandler, Stopped, described, send_warnings

FORK, EXECUTE = b"f", b"x"
"""How a process begins: as a copy of this one, or as a new Python, which a GPU needs."""
BEGUN, ENDED, REFUSED = "begun", "ended", "refused"
"""First words of the lines that tell of a process: with its id, its exit code, or why there is none."""
MAX_DESCRIPTORS = 4
PRELOADED = ("hubflow.jobs",)
PRELOADED_WHILE_IDLE = (
    "hubflow.inference.verification_worker",
    "sklearn.metrics",
    "sklearn.preprocessing",
    "pyarrow.dataset",
    "hubflow.schemas.frames",
)
"""What the work after training needs: imported when nothing is being done, or has been asked for a while.

During a training it would be 75 MB beside the largest process of all.
"""
IDLE_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1

_set_by_imports: dict[str, str] = {}
"""What importing Paddle sets in the environment."""


def main() -> None:
    """Serve what comes over the socket whose descriptor is the argument."""
    if sys.argv[1] == "--one":
        _work(*map(int, sys.argv[2:]))
    control = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the processes decide when they end; this one ends with its parent
    # A process that is forked has SIGTERM wait for it until it can be handled; what the thread that started this one has
    # blocked, SIGCHLD perhaps, is not blocked here.
    signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGTERM])
    share_one_heap()
    before = set(os.environ)
    for module in PRELOADED:
        importlib.import_module(module)
    assert paddle_import.paddle.__version__  # which imports it
    _set_by_imports.update({name: value for name, value in os.environ.items() if name not in before})
    sys.stdout.flush()  # what an import printed, so that no process prints it again
    _serve(control)


def _serve(control: socket.socket) -> None:
    """Fork a process for each message, and tell those who wait for it when it ends."""
    children: dict[int, int] = {}
    woken, wakes = os.pipe()
    for descriptor in (woken, wakes):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()  # select takes no descriptor beyond 1023
    selector.register(control, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    waiting, is_idle = list(PRELOADED_WHILE_IDLE), False
    gc.freeze()
    while True:
        timeout = (0.0 if is_idle else IDLE_SECONDS) if waiting and not children else None
        ready = [key.fd for key, _ in selector.select(timeout)]
        is_idle = not ready
        if is_idle and waiting:
            with contextlib.suppress(Exception):  # it fails again where it is needed
                importlib.import_module(waiting.pop(0))
            gc.freeze()
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
        _reap(children)
        if control.fileno() in ready:
            way, descriptors = _asked(control)
            if not way:
                for child in children:
                    _kill_group(child)
                os._exit(0)
            _fork(way, descriptors, children, [control.fileno(), woken, wakes, selector])


def _asked(control: socket.socket) -> tuple[bytes, list[int]]:
    """How a process shall begin, and its descriptors (none if there is no room for all); nothing when nobody is there."""
    try:
        way, descriptors, flags, _ = socket.recv_fds(control, 1, MAX_DESCRIPTORS)
    except ConnectionError:
        return b"", []
    if flags & socket.MSG_CTRUNC:
        for descriptor in descriptors:
            os.close(descriptor)
        return way, []
    return way, descriptors


def _fork(way: bytes, descriptors: list[int], children: dict[int, int], ours: Sequence[int | selectors.BaseSelector]) -> None:
    """Fork one process, and tell those who wait for it its id; or why there is none, while the others go on."""
    if not descriptors:  # there is no room for them; the process that asked sees that all are closed
        return
    status, connected, output, *shared = descriptors
    try:
        child = os.fork()
    except OSError as error:
        _report(status, f"{REFUSED} {error}")
        for descriptor in descriptors:
            os.close(descriptor)
        return
    if child == 0:
        signal.set_wakeup_fd(-1)
        for one in ours:
            if isinstance(one, int):
                os.close(one)
            else:
                one.close()
        for descriptor in (status, *children.values()):
            os.close(descriptor)
        _begin(way, connected, output, shared)
    for descriptor in (connected, output, *shared):
        os.close(descriptor)
    children[child] = status
    _report(status, f"{BEGUN} {child}")


def _report(status: int, line: str) -> None:
    with contextlib.suppress(OSError):  # the process that asked is gone, or waits no longer
        os.write(status, f"{line}\n".encode())


def _reap(children: dict[int, int]) -> None:
    """Report which processes have ended, and end what they started."""
    while children:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        _kill_group(ended.si_pid)  # as long as it is not reaped, no other group has its number
        child, waited = os.waitpid(ended.si_pid, 0)
        status = children.pop(child)
        _report(status, f"{ENDED} {os.waitstatus_to_exitcode(waited)}")
        os.close(status)


def _kill_group(child: int) -> None:
    """Kill a process, and those that it started, a tracker's or a metric's, unless they made themselves a session."""
    for kill in (os.killpg, os.kill):  # it has no group yet when it has just begun
        with contextlib.suppress(ProcessLookupError):
            kill(child, signal.SIGKILL)


def _begin(way: bytes, connected: int, output: int, shared: Sequence[int]) -> NoReturn:
    """The new process: standard output and error go to the file, signals are as at a program's start."""
    server = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != server:
            os._exit(1)
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    if way == EXECUTE:
        for descriptor in (connected, *shared):
            os.set_inheritable(descriptor, True)
        descriptors = map(str, (connected, *shared))
        os.execv(sys.executable, [sys.executable, "-P", "-m", __spec__.name, "--one", *descriptors])  # noqa: S606
    _work(connected, *shared)


def _work(connected: int, shared_memory: int | None = None) -> NoReturn:
    """Do what is asked for over the connection, say how it ended, and end this process when the other side knows."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    connection = Connection(socket.socket(fileno=connected), shared_memory)
    code = 1
    try:
        code = _answer(connection)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)  # at once: what a program of Paddle's leaves behind takes a while to take apart


def _answer(connection: Connection) -> int:
    signal.signal(signal.SIGTERM, connection.stop)
    outcome: dict[str, Any] = {}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        request = connection.receive()
        connection.rank, connection.size, connection.meeting = request["rank"], request["size"], request["meeting"]
        _take_over(request)
        _log_to(connection)
        module, _, name = request["target"].partition(":")
        work = getattr(importlib.import_module(module), name)
        asked = request["request"]
        from hubflow.store.manifest import full_disk_explained  # imports pydantic, which the server must begin without

        with full_disk_explained(Path(asked.get("folder") or asked.get("answer") or tempfile.gettempdir())):
            result = work(asked, connection)
        outcome = {"outcome": "finished", "result": result}
    except (Stopped, KeyboardInterrupt):
        outcome = {"outcome": "stopped"}
    except BaseException as error:
        # In the middle of an import, for instance, which makes an error of its own of a signal.
        outcome = {"outcome": "stopped"} if connection.was_stopped else {"outcome": "failed", "error": described(error)}
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.call("outcome", **outcome)  # answered when all ranks of the run are done: one is where the others meet
    return 1 if outcome["outcome"] == "failed" else 0


def _log_to(connection: Connection) -> None:
    """Let the other side log what hubflow logs, and warnings of all others."""
    root = logging.getLogger()
    root.addHandler(LogHandler(connection))
    root.setLevel(logging.WARNING)
    logging.getLogger("hubflow").setLevel(logging.INFO)
    send_warnings(connection)


def _take_over(request: dict[str, Any]) -> None:
    """What a process has from the one that starts it, as it is in the process that asks; of another host, some variables."""
    if "changes" in request:
        os.environ.update({**request["defaults"], **os.environ, **request["changes"]})
        take_given_threads()
        return
    os.environ.clear()
    os.environ.update({**_set_by_imports, **request["environment"]})
    with contextlib.suppress(OSError):
        os.chdir(request["folder"])
    sys.path[:] = request["path"]
    if request["umask"] is not None:
        os.umask(request["umask"])
    if request["cores"] is not None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, request["cores"])
    take_given_threads()


if __name__ == "__main__":
    # Under its own name, so that what it raises and what others import are the same.
    importlib.import_module("hubflow.workers.server").main()
