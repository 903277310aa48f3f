"""Memory of the process: what a step frees is kept for the next one, and what to do where it is not enough."""

import contextlib
import ctypes
import errno
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from hubflow.errors import HubflowError, OutOfMemoryError
from hubflow.files import read_file

# Parameters of mallopt(3) and what glibc has by default.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_LARGE, _LARGEST = 2**19, 2**25
_KEPT = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 64 * 2**20}
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 2**10, _TOP_PAD: 0}


def share_one_heap() -> None:
    """Let all threads of this process allocate from one heap; threads that already have one of their own keep it.

    To be called where a process that will train begins. By default glibc gives every new thread a heap, and each keeps what its
    thread frees.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_ARENA_MAX, 1)


@contextlib.contextmanager
def kept_between_steps(large: bool = False) -> Iterator[None]:
    """Inside, blocks that are freed stay with the process; at the end it hands back what it does not use.

    A step allocates and frees the same activations as the one before. By default glibc gives what is free at the end of its
    heap back to the system at once, and takes pages of zeros for it anew.

    Args:
        large: whether blocks of half a megabyte and more stay. Those of Paddle are aligned to pages, and glibc (before 2.38)
            never finds a freed one again for another of its size, so that with them a heap grows to half as much again; but a
            block that is handed back costs the pages that are zeroed for the next one. The threshold remains set afterwards:
            glibc moves its own with what a process frees, and never again once one is set.
    """
    library = _glibc()
    if library is None:
        yield
        return
    share_one_heap()
    for parameter, value in {**_KEPT, _MMAP_THRESHOLD: _LARGEST if large else _LARGE}.items():
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _DEFAULTS.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library, where it is glibc; others are left alone."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if library is not None and hasattr(library, "gnu_get_libc_version") else None


@contextlib.contextmanager
def low_memory_explained(work: str, remedy: str) -> Iterator[None]:
    """Raise a lack of memory inside, as Python, Paddle and Arrow raise it, as an error that says what to do.

    Args:
        work: what is being done, as a noun.
        remedy: which settings to change, as an instruction.

    Raises:
        OutOfMemoryError: in place of what was raised.
    """
    try:
        yield
    except HubflowError:
        raise
    except Exception as error:
        if not is_lack_of_memory(type(error).__name__, str(error), getattr(error, "errno", None)):
            raise
        raise OutOfMemoryError(lack_of_memory(work, str(error), remedy)) from error


def require_threads(count: int = 16) -> None:
    """Refuse work that Paddle would hang in: where a thread of its pools cannot be started, it waits for the others for ever.

    To be called before Paddle runs programs in a process; the threads are started at once, and end.

    Args:
        count: of threads, more than Paddle 3.3.1 starts for a program on two cores.

    Raises:
        MemoryError: when there is no room for so many.
    """
    end, started = threading.Event(), []
    try:
        for _ in range(count):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise MemoryError(f"{error}: {len(started)} of {count} could be") from error
    finally:
        end.set()
        for thread in started:
            thread.join()


def is_lack_of_memory(kind: str, text: str, number: int | None = None) -> bool:
    """Whether an error is of a lack of memory, by the name of its type, its text and its `errno`."""
    return kind in _LACKING_KINDS or number == errno.ENOMEM or any(one.search(text) for one in (_LACKING, _NO_THREAD))


def raise_lack_of_memory(error: Exception) -> None:
    """Raise what a library says of a lack of memory, or of room for a thread, as one: the file that it read is not at fault.

    Raises:
        MemoryError: when the error is of that.
    """
    if is_lack_of_memory(type(error).__name__, str(error), getattr(error, "errno", None)):
        raise MemoryError(str(error)) from error


def lack_of_memory(work: str, text: str, remedy: str) -> str:
    """The message of a lack of memory.

    Args:
        work: what was being done, as a noun.
        text: of the error that said so, which may name how much was asked for.
        remedy: which settings to change, as an instruction.
    """
    asked = _ASKED.search(text)
    amount = "" if asked is None else asked[2] or f"{int(asked[1]):,} bytes"
    needed = f" It asked for {amount} more." if amount else ""
    what = "memory, or of threads (ulimit -u)" if _NO_THREAD.search(text) else "memory"
    return f"{work} ran out of {what}.{needed} {memory_facts()}. {remedy}, or use a machine with more memory"


def memory_facts() -> str:
    """How much memory is available now, and the limits of this process."""
    facts = []
    if available := _number(Path("/proc/meminfo"), r"MemAvailable:\s+(\d+)", 1024):
        facts.append(f"the system has {_gib(available)} available")
    if limit := _cgroup_limit():
        facts.append(f"its container or cgroup is limited to {_gib(limit)}")
    if limit := _address_limit():
        facts.append(f"a process is limited to {_gib(limit)} (RLIMIT_AS)")
    text = ", ".join(facts) or "how much memory is available is not known"
    return text[0].upper() + text[1:]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _cgroup_limit() -> int | None:
    """The smallest limit of this process's control groups (version 2, else 1) that is below the system's memory."""
    total = _number(Path("/proc/meminfo"), r"MemTotal:\s+(\d+)", 1024) or sys.maxsize
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup") if number == "0" else Path("/sys/fs/cgroup/memory")
        name = "memory.max" if number == "0" else "memory.limit_in_bytes"
        here = root / path.lstrip("/")
        limits += [_number(folder / name, r"(\d+)") for folder in (here, *here.parents) if folder.is_relative_to(root)]
    return min((limit for limit in limits if limit is not None and limit < total), default=None)


def _address_limit() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


_MOST_BYTES = 1 << 16  # of a file of the system; memory may be short


def _number(path: Path, pattern: str, unit: int = 1) -> int | None:
    try:
        found = re.search(pattern, read_file(path, max_bytes=_MOST_BYTES).decode("ascii", errors="replace"))
    except (OSError, MemoryError):
        return None
    return int(found[1]) * unit if found else None


_LACKING_KINDS = ("MemoryError", "_ArrayMemoryError", "ArrowMemoryError")
_LACKING = re.compile(
    r"ResourceExhausted|std::bad_alloc|[Cc]annot allocate memory|Out of memory error on GPU|failed to map segment"
)
_NO_THREAD = re.compile(r"Resource temporarily unavailable|can't start new thread")
"""A thread needs room for its stack."""
_ASKED = re.compile(r"alloc memory of (\d+) size|Unable to allocate ([\d.]+ [KMGT]?i?B)")
