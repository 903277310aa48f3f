"""How many cores this process may use. Must not import Paddle."""

import os
import sys
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
MAX_LANES = 4
"""Paddle's executor has so many threads for operators that do not wait for each other."""


def _given_threads() -> str:
    """OMP_NUM_THREADS as the user set it, or nothing: importing Paddle sets it to 1 where it is not set."""
    if "paddle" not in sys.modules:
        return os.environ.get(THREADS, "")
    try:
        started_with = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    prefix = f"{THREADS}=".encode()
    return next((entry.removeprefix(prefix).decode() for entry in started_with if entry.startswith(prefix)), "")


GIVEN_THREADS = _given_threads()


def take_given_threads() -> None:
    """Go by OMP_NUM_THREADS as it is now, in a process whose environment was made for it after Paddle was imported."""
    global GIVEN_THREADS  # noqa: PLW0603
    GIVEN_THREADS = os.environ.get(THREADS, "")


def usable_cores() -> int:
    """Cores that this process may use: its affinity where the system tells, all cores elsewhere."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_cores() -> int:
    """Cores that programs compute with: OMP_NUM_THREADS where it is set, else all that this process may use."""
    return int(GIVEN_THREADS) if GIVEN_THREADS.isdecimal() and int(GIVEN_THREADS) else usable_cores()


def compute_lanes() -> int:
    """In how many shares a program computes the rows of a batch side by side on a CPU."""
    return min(compute_cores(), MAX_LANES)
