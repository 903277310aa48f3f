"""How many cores this process may use. Must not import Paddle."""

import os


def usable_cores() -> int:
    """Cores that this process may use: its affinity where the system tells, all cores elsewhere."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
