"""Process that imports Paddle once, and forks a process for each piece of work: `python -m hubflow.stages.worker.server FD`.

Forking takes some ten milliseconds where starting Python and importing Paddle take seconds. This process runs no program of
Paddle's and has one thread, so that each process begins as if it had just imported everything. It ends, and all of its
processes with it, as soon as the process that started it is gone.
"""

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

from hubflow.stages.hub import cores, runtime
from hubflow.stages.hub.memory import share_one_heap
from hubflow.stages.worker.connection import Connection, LogHandler, described

FORK, EXECUTE = b"f", b"x"
"""How a process begins: as a copy of this one, or as a new Python, which a GPU needs."""
MAX_DESCRIPTORS = 3
PRELOADED = (
    "hubflow.stages.training_run",
    "hubflow.stages.evaluation_run",
    "hubflow.stages.export_run",
    "hubflow.stages.hub.proving",
)
PRELOADED_WHILE_IDLE = ("sklearn.metrics", "sklearn.preprocessing", "pyarrow.dataset", "hubflow.schemas.frames")
"""What evaluations need, imported when there is nothing to do."""
_PR_SET_PDEATHSIG = 1


class Stopped(BaseException):
    """This process was asked to end (SIGTERM)."""


_stop_came: list[bool] = []
_set_by_imports: dict[str, str] = {}
"""What importing Paddle sets in the environment."""


def main() -> None:
    """Serve what comes over the socket whose descriptor is the argument."""
    if sys.argv[1] == "--one":
        _work(int(sys.argv[2]))
    control = socket.socket(fileno=int(sys.argv[2] if len(sys.argv) > 2 else sys.argv[1]))  # noqa: PLR2004
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the processes decide when they end; this one ends with its parent
    # A process that is forked has SIGTERM wait for it until it can be handled.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    share_one_heap()
    before = set(os.environ)
    for module in PRELOADED:
        importlib.import_module(module)
    assert runtime.paddle.__version__  # which imports it
    _set_by_imports.update({name: value for name, value in os.environ.items() if name not in before})
    _serve(control)


def _serve(control: socket.socket) -> None:
    """Fork a process for each message, and tell those who wait for it when it ends."""
    children: dict[int, int] = {}
    woken, wakes = os.pipe()
    for descriptor in (woken, wakes):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wakes)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    waiting = list(PRELOADED_WHILE_IDLE)
    gc.freeze()
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [], 0.0 if waiting else None)
        if not ready and waiting:
            importlib.import_module(waiting.pop(0))
            gc.freeze()
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
        _reap(children)
        if control.fileno() in ready:
            way, descriptors, _, _ = socket.recv_fds(control, 1, MAX_DESCRIPTORS)
            if not way:
                for child in children:
                    os.kill(child, signal.SIGKILL)
                os._exit(0)
            connected, status, output = descriptors
            child = os.fork()
            if child == 0:
                signal.set_wakeup_fd(-1)
                for descriptor in (control.fileno(), woken, wakes, status, *children.values()):
                    os.close(descriptor)
                _begin(way, connected, output)
            for descriptor in (connected, output):
                os.close(descriptor)
            children[child] = status
            with contextlib.suppress(OSError):  # the process that asked is gone, and this one with it soon
                os.write(status, f"{child}\n".encode())


def _reap(children: dict[int, int]) -> None:
    while children:
        child, waited = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            return
        status = children.pop(child)
        with contextlib.suppress(OSError):
            os.write(status, f"{os.waitstatus_to_exitcode(waited)}\n".encode())
        os.close(status)


def _begin(way: bytes, connected: int, output: int) -> NoReturn:
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
        os.set_inheritable(connected, True)
        os.execv(sys.executable, [sys.executable, "-P", "-m", __spec__.name, "--one", str(connected)])  # noqa: S606
    _work(connected)


def _work(connected: int) -> NoReturn:
    """Do what is asked for over the connection, say how it ended, and end this process when the other side knows."""
    connection = Connection(socket.socket(fileno=connected))
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
    signal.signal(signal.SIGTERM, _stop)
    outcome: dict[str, Any] = {}
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        request = connection.receive()
        _take_over(request)
        logging.basicConfig(level=logging.WARNING)
        logger = logging.getLogger("hubflow")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(LogHandler(connection))
        module, _, name = request["target"].partition(":")
        result = getattr(importlib.import_module(module), name)(request["request"], connection)
        outcome = {"outcome": "finished", "result": result}
    except (Stopped, KeyboardInterrupt):
        outcome = {"outcome": "stopped"}
    except BaseException as error:
        # In the middle of an import, for instance, which makes an error of its own of a signal.
        outcome = {"outcome": "stopped"} if _stop_came else {"outcome": "failed", "error": described(error)}
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send("outcome", **outcome)
    connection.receive()  # BYE, when all ranks of the run are done: one of them is where the others meet
    return 1 if outcome["outcome"] == "failed" else 0


def _take_over(request: dict[str, Any]) -> None:
    """The environment, the folder and the import path of the process that asks."""
    os.environ.clear()
    os.environ.update({**_set_by_imports, **request["environment"]})
    with contextlib.suppress(OSError):
        os.chdir(request["folder"])
    sys.path[:] = request["path"]
    cores.take_given_threads()


def _stop(signal_number: int, frame: Any) -> None:
    _stop_came.append(True)
    raise Stopped


if __name__ == "__main__":
    # Under its own name, so that what it raises and what others import are the same.
    importlib.import_module("hubflow.stages.worker.server").main()
