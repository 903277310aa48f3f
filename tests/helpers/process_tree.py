"""What runs below a process, read from /proc."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def children_of(pid: int | None = None) -> list[int]:
    """The processes that a process (this one by default) started and that still run, in the order in which they began."""
    parent, found = os.getpid() if pid is None else pid, []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, above, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(above) == parent and state not in "ZX":
            found.append(int(entry.name))
    return sorted(found)


def workers_of(pid: int | None = None) -> list[int]:
    """The worker processes that work for a process (this one by default), in the order of their ranks."""
    servers = [child for child in children_of(pid) if b"hubflow.workers.server" in _command(child)]
    return [worker for server in servers for worker in children_of(server)]


def wait_for(condition: Callable[[], Any], seconds: float) -> None:
    """Until `condition` holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.02)


def wait_until_idle(pid: int, seconds: float = 60) -> None:
    """Until a process has used no processor time for three seconds."""
    times = [-1.0]

    def is_idle() -> bool:
        """Ask once a second."""
        time.sleep(1)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        times.append(int(fields[11]) + int(fields[12]))
        return len(set(times[-4:])) == 1

    wait_for(is_idle, seconds)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
