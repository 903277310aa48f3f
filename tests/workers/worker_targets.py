"""What worker processes do in the tests."""

import logging
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from hubflow.errors import ContractError
from hubflow.workers.connection import Connection, Stopped


def echo(request: dict[str, Any], connection: Connection) -> dict[str, Any]:
    """The request, and what this process is like."""
    return {
        **request,
        "pid": os.getpid(),
        "parent": os.getppid(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "command": Path("/proc/self/cmdline").read_text().split("\0"),
        "prefect": "prefect" in sys.modules,
    }


def refuse(request: dict[str, Any], connection: Connection) -> None:
    """Raise an error with an attribute."""
    error = ContractError("row 3: expected a label, found nothing")
    error.quarantine = Path(request["path"])
    raise error


def refuse_elsewhere(request: dict[str, Any], connection: Connection) -> None:
    """As `refuse`, in the second process alone."""
    if connection.rank == 1:
        refuse(request, connection)


def sleep(request: dict[str, Any], connection: Connection) -> None:
    """Do nothing for a while."""
    time.sleep(request["seconds"])


def leave_a_process(request: dict[str, Any], connection: Connection) -> None:
    """Start a process that lasts, and end as `how` says."""
    process = subprocess.Popen(["sleep", "600"])
    connection.call("event", pid=process.pid)
    if request["how"] == "raise":
        raise ValueError("no such row: 17")
    if request["how"] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if request["how"] == "wait":
        time.sleep(600)


def open_many_files(request: dict[str, Any], connection: Connection) -> None:
    """More than may be open."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
    kept = [open(os.devnull) for _ in range(64)]
    raise AssertionError(len(kept))


def ignore_sigterm(request: dict[str, Any], connection: Connection) -> None:
    """Do nothing for a while, and not end when asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(request["seconds"])


def ask(request: dict[str, Any], connection: Connection) -> int:
    """Tell how far it is, many times; when it is asked to stop, ask for a state, as a checkpoint does, and stop."""
    times = 0
    try:
        for times in range(request["times"]):
            connection.call("event", times=times)
    except Stopped:
        connection.call("state_dict")
        raise
    return times


def warn(request: dict[str, Any], connection: Connection) -> None:
    """Warn, log and print as libraries do."""
    warnings.warn("the scores are not defined", RuntimeWarning, stacklevel=1)
    logging.getLogger("library.of.theirs").warning("row %d is odd", 7)
    logging.getLogger("library.of.theirs").info("not of interest")
    logging.getLogger("hubflow.stages").info("at %s", "work")
    logging.getLogger("hubflow.stages").info("%d and %d", *[1])  # one argument is missing
    try:
        raise ValueError("no such thing")
    except ValueError:
        logging.getLogger("hubflow.stages").exception("it failed")
    print("printed", end="")


def surroundings(request: dict[str, Any], connection: Connection) -> dict[str, Any]:
    """What a process has from the one that started it."""
    mask = os.umask(0)
    os.umask(mask)
    return {
        "umask": mask,
        "cores": sorted(os.sched_getaffinity(0)),
        "path": sys.path,
        "threads": len(os.listdir("/proc/self/task")),
        "open": sorted(int(one) for one in os.listdir("/proc/self/fd")),
        "command": Path("/proc/self/cmdline").read_text().split("\0"),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    }


def allocate(request: dict[str, Any], connection: Connection) -> None:
    """Have Paddle take memory, with a limit of `limit` bytes beyond what is in use where there is one, and hold it."""
    from hubflow.runtime.paddle_import import leave_dynamic_mode, paddle

    Path("/proc/self/oom_score_adj").write_text("1000")  # the kernel kills this process, and not the one that started it
    leave_dynamic_mode()
    program = paddle.static.Program()
    with paddle.static.program_guard(program, paddle.static.Program()):
        x = paddle.static.data("x", [-1, 8], "float32")
        product = paddle.matmul(x, x, transpose_y=True)
    if "limit" in request:
        status = Path("/proc/self/status").read_text()
        size = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, (size + request["limit"], -1))
    feed = {"x": np.ones((request["rows"], 8), np.float32)}
    paddle.static.Executor(paddle.CPUPlace()).run(program, feed=feed, fetch_list=[product])


def abort(request: dict[str, Any], connection: Connection) -> None:
    """End as a program in C++ does that finds no memory."""
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()
