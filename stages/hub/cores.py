"""How many cores this process may use. Must not import Paddle."""

import os

MAX_LANES = 4
"""Paddle's executor has so many threads for operators that do not wait for each other."""
_GIVEN = os.environ.get("OMP_NUM_THREADS", "")  # as the user set it: importing Paddle may change it


def usable_cores() -> int:
    """Cores that this process may use: its affinity where the system tells, all cores elsewhere."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compute_cores() -> int:
    """Cores that programs compute with: OMP_NUM_THREADS where it is set, else all that this process may use."""
    return int(_GIVEN) if _GIVEN.isdecimal() and int(_GIVEN) else usable_cores()


def compute_lanes() -> int:
    """In how many shares a program computes the rows of a batch side by side on a CPU."""
    return min(compute_cores(), MAX_LANES)
