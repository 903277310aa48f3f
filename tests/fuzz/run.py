"""Read damaged files, for minutes or for a number of them, and list every one that does not end as it should.

    uv run python tests/fuzz/run.py --minutes 10
    uv run python tests/fuzz/run.py --executions 100000 --reader parquet --reader pickles --seed 7 --jobs 2
    uv run python tests/fuzz/run.py --input /tmp/hubflow-fuzz/parquet-1a2b3c

Each input must end in a result or in an error of hubflow's, within SECONDS of work and MEMORY_BYTES more than before. The
inputs come from sound ones by seeded changes; an input that ends in a new place of the code is changed further. Each reader
runs in processes of its own, so that one that crashes or hangs ends alone. An input that fails is kept in the folder
of `--keep`.
"""

import argparse
import contextlib
import faulthandler
import hashlib
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

if __name__ == "__main__":  # before the libraries are imported; tests that import this file keep their environment
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")  # others reserve address space, which is limited here
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RUST_BACKTRACE", "0")
sys.path.insert(0, str(Path(__file__).parent))

import pyarrow
from mutations import MAX_BYTES, mutated
from readers import READERS, Reader

from hubflow.errors import HubflowError

SECONDS = 5.0
"""Of work for one input."""
WALL_SECONDS = 60.0
"""Of a process that waits."""
MEMORY_BYTES = 1 << 30
MAX_CORPUS, MAX_KEPT_BYTES = 2_000, 6_000
"""Inputs that are changed further."""
IN_MEMORY = "/dev/shm"  # noqa: S108
KEEP = Path(tempfile.gettempdir()) / "hubflow-fuzz"
_STATE = struct.Struct("<QQQQ")
"""Executions that have begun and ended, how many ended in an error of hubflow's, and the size of the present input."""


@dataclass
class Found:
    """What reading damaged files gave.

    Attributes:
        executions: how many inputs were read.
        refused: how many of them ended in an error of hubflow's.
        places: in how many different ways they ended.
        faults: by what is wrong, an input that shows it.
    """

    executions: int = 0
    refused: int = 0
    places: int = 0
    faults: dict[str, bytes] = field(default_factory=dict)


def fuzz(reader: Reader, seed: int, executions: int | None = None, seconds: float | None = None) -> Found:
    """Read damaged files with one reader, in processes of its own.

    Args:
        reader: the reader.
        seed: decides what is changed in them.
        executions: how many to read; without a limit when None.
        seconds: for how long; without a limit when None.
    """
    found, ends, attempt = Found(), None if seconds is None else time.monotonic() + seconds, 0
    while (executions is None or found.executions < executions) and (ends is None or time.monotonic() < ends):
        left = None if executions is None else executions - found.executions
        _process(reader, seed * 1_000_003 + attempt, left, ends, found)
        attempt += 1
    return found


def _process(reader: Reader, seed: int, executions: int | None, ends: float | None, found: Found) -> None:
    """One process: until it is done, crashes, or has to be ended."""
    shared = mmap.mmap(-1, _STATE.size + 2 * MAX_BYTES)
    results = tempfile.TemporaryFile()
    folder = tempfile.mkdtemp(prefix="hubflow-fuzz-", dir=IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None)
    child = os.fork()
    if not child:
        code = 3
        try:
            _child(reader, seed, executions, ends, shared, results.fileno(), Path(folder))
            code = 0
        except BaseException as error:
            _report(results.fileno(), f"fuzzer: {_fault(error)}", traceback.format_exc().encode())
        os._exit(code)
    fault = _watched(child, shared)
    begun, ended, refused, size = _STATE.unpack_from(shared)
    found.executions += max(begun, ended, 1)
    found.refused += refused
    if fault:
        found.faults.setdefault(fault, bytes(shared[_STATE.size : _STATE.size + size]))
    results.seek(0)
    while len(head := results.read(8)) == 8:
        sizes = struct.unpack("<II", head)
        name, data = (results.read(length) for length in sizes)
        if name == b"places":
            found.places = max(found.places, int(data))
        else:
            found.faults.setdefault(name.decode(), data)
    shutil.rmtree(folder, ignore_errors=True)
    results.close()
    shared.close()


def _watched(child: int, shared: mmap.mmap) -> str:
    """Wait for a process, and end it when it works on one input for too long; what is wrong with how it ended."""
    last, since, worked = -1, time.monotonic(), _seconds_of(child)
    pause = 0.001
    while True:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            code = os.waitstatus_to_exitcode(status)
            return "" if code == 0 else f"crash: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        ended = _STATE.unpack_from(shared)[1]
        if ended != last:
            last, since, worked = ended, time.monotonic(), _seconds_of(child)
        elif _seconds_of(child) - worked > SECONDS or time.monotonic() - since > WALL_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"hang: no end within {SECONDS:.0f} s of work, or {WALL_SECONDS:.0f} s"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def _seconds_of(process: int) -> float:
    try:
        values = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


def _child(
    reader: Reader, seed: int, executions: int | None, ends: float | None, shared: mmap.mmap, results: int, folder: Path
) -> None:
    random, corpus = Random(seed), reader.seeds()  # noqa: S311
    pyarrow.set_cpu_count(1)
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for descriptor in (1, 2):  # libraries print what they think of a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    places: set[object] = set()
    for data in corpus:
        with contextlib.suppress(Exception):
            places.add(reader.read(data, folder))  # imports what it needs
    _limit_memory()
    faults: set[str] = set()
    refused = number = 0
    peak = _peak()
    while (executions is None or number < executions) and (ends is None or time.monotonic() < ends):
        data = mutated(random.choice(corpus), corpus, reader.tokens, reader.changes, random)
        number += 1
        _STATE.pack_into(shared, 0, number, number - 1, refused, len(data))
        shared[_STATE.size : _STATE.size + len(data)] = data
        place, fault, is_refused = outcome(reader, data, folder)
        refused += is_refused
        if not fault and _peak() > peak + MEMORY_BYTES:
            fault = f"memory: more than {MEMORY_BYTES >> 20} MiB"
        _STATE.pack_into(shared, 0, number, number, refused, len(data))
        if place not in places:
            places.add(place)
            if len(corpus) < MAX_CORPUS and len(data) <= MAX_KEPT_BYTES:
                corpus.append(data)
        if fault and fault not in faults:
            faults.add(fault)
            _report(results, fault, data)
        if fault.startswith("memory"):
            break  # the most memory of a process does not go down again
    _report(results, "places", str(len(places)).encode())


def _report(results: int, name: str, data: bytes) -> None:
    encoded = name.encode("utf-8", "replace")
    os.write(results, struct.pack("<II", len(encoded), len(data)) + encoded + data)


def outcome(reader: Reader, data: bytes, folder: Path) -> tuple[object, str, bool]:
    """How reading one input ends: in which place of the code, what is wrong with that, and whether the input was refused."""
    try:
        return reader.read(data, folder), "", False
    except HubflowError as error:
        cause: BaseException | None = error
        places = []
        while cause is not None:
            if isinstance(cause, MemoryError):
                return None, f"memory: more than {MEMORY_BYTES >> 20} MiB in {_place(cause)}", True
            places.append((type(cause).__name__, _lines(cause)))
            cause = cause.__cause__ or cause.__context__
        return tuple(places), "", True
    except MemoryError as error:
        return None, f"memory: more than {MEMORY_BYTES >> 20} MiB in {_place(error)}", False
    except BaseException as error:
        return None, _fault(error), False


def _fault(error: BaseException) -> str:
    return f"{type(error).__name__} in {_place(error)}"


def _lines(error: BaseException) -> tuple[int, ...]:
    return tuple(line for _, line in traceback.walk_tb(error.__traceback__))


def _place(error: BaseException) -> str:
    """The last line of hubflow's own that an error passed."""
    own = [
        f"{Path(one.filename).name}:{one.lineno}"
        for one in traceback.extract_tb(error.__traceback__)
        if "hubflow" in one.filename
    ]
    return own[-1] if own else "fuzz"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 2 * MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _rounds(
    readers: Sequence[Reader], seed: int, executions: int | None, minutes: float | None, jobs: int
) -> Iterator[tuple[Reader, Found]]:
    """Each reader's share of the work, `jobs` at once; for minutes in several rounds, so that none has to wait for its turn."""
    tasks: list[Callable[[], tuple[Reader, Found]]] = []
    if minutes is not None:
        rounds = max(1, round(minutes * 60 * jobs / len(readers) / 60))
        seconds = minutes * 60 * jobs / len(readers) / rounds
        for turn in range(rounds):
            tasks += [lambda reader=reader, turn=turn: (reader, fuzz(reader, seed + turn, None, seconds)) for reader in readers]  # type: ignore[misc]
    else:
        share = -(-(executions or 1) // jobs)
        for turn in range(jobs):
            tasks += [lambda reader=reader, turn=turn: (reader, fuzz(reader, seed + turn, share)) for reader in readers]  # type: ignore[misc]
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda task: task(), tasks)


def main() -> int:
    """Read the arguments, run, and print a table; 1 when an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="in all, over all readers")
    parser.add_argument("--executions", type=int, help="for each reader")
    parser.add_argument("--reader", action="append", choices=list(READERS), help="one or more; all when not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=KEEP, help="folder of inputs that fail")
    parser.add_argument("--input", type=Path, help="read one kept input again; its name begins with that of the reader")
    given = parser.parse_args()
    if given.input is not None:
        return _again(given.input)
    readers = [READERS[name] for name in given.reader or READERS]
    executions = given.executions or (None if given.minutes else 1_000)
    total = {reader.name: Found() for reader in readers}
    begun = time.monotonic()
    for reader, found in _rounds(readers, given.seed, executions, given.minutes, given.jobs):
        whole = total[reader.name]
        whole.executions += found.executions
        whole.refused += found.refused
        whole.places = max(whole.places, found.places)
        for fault, data in found.faults.items():
            if fault not in whole.faults:
                whole.faults[fault] = data
                print(f"{reader.name}: {fault}: {_kept(given.keep, reader, data)}", flush=True)
    _print(total, time.monotonic() - begun)
    return int(any(found.faults for found in total.values()))


def _kept(folder: Path, reader: Reader, data: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{reader.name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def _print(total: dict[str, Found], seconds: float) -> None:
    print(f"{'reader':16}{'executions':>12}{'refused':>12}{'places':>8}{'faults':>8}")
    for name, found in total.items():
        print(f"{name:16}{found.executions:12,}{found.refused:12,}{found.places:8,}{len(found.faults):8,}")
    executions, refused = sum(one.executions for one in total.values()), sum(one.refused for one in total.values())
    faults = sum(len(one.faults) for one in total.values())
    print(f"{'all':16}{executions:12,}{refused:12,}{'':8}{faults:8,}   in {seconds:.0f} s")


def _again(path: Path) -> int:
    reader = next(reader for name, reader in sorted(READERS.items(), reverse=True) if path.name.startswith(f"{name}-"))
    with tempfile.TemporaryDirectory() as folder:
        try:
            print(reader.read(path.read_bytes(), Path(folder)))
        except HubflowError as error:
            print(f"{type(error).__name__}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
