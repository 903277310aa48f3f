"""One start of a nightly run in a child process, which tells its parent where it is and can be struck there.

The parent has imported everything and run nothing of it, so that the child begins at once. The child, its worker server and the
workers share memory with the parent, in which they count how often they come to a place: before or after a rename, a removal,
an upload and so on. The process that comes to the place of a strike waits until the parent has struck.
"""

import contextlib
import importlib
import json
import mmap
import os
import select
import signal
import stat
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ELSEWHERE = "between stages"
STAGES = (
    ELSEWHERE,
    *("load_dataset", "load_module", "encode_dataset", "build_head", "fine_tune", "evaluate", "export_inference_program"),
    *("gate", "promote", "predict_sample", "write_report"),
)
ANY_MOMENT = "any moment"
RENAME, REMOVAL, FOLDER, SYNC, STEP = "a rename", "a removal", "the making of a folder", "a write to disk", "a training step"
UPLOAD, OBJECT, SWAP, DELETE, DOWNLOAD = (
    "an upload",
    "the writing of an object",
    "a compare-and-swap",
    "the removal of an object",
    "a download",
)
REMOTE_PLACES = (UPLOAD, OBJECT, SWAP, DELETE, DOWNLOAD)
PLACES = (RENAME, REMOVAL, FOLDER, SYNC, STEP, *REMOTE_PLACES)
BEFORE, AFTER, DURING = "before", "after", "during"
FINISHED, REFUSED, FAILED, KILLED, HUNG = "finished", "ended with an error", "failed", "killed", "hung"
CODES = {0: FINISHED, 3: REFUSED}
HELD_SECONDS = 30
POPEN = subprocess.Popen
_COUNTS = 8


@dataclass(frozen=True)
class Strike:
    """When a night is struck: at an occurrence of a place, or a moment after the start."""

    place: str
    occurrence: int
    when: str
    seconds: float

    def __str__(self) -> str:
        if self.place == ANY_MOMENT:
            return f"after {self.seconds:.2f} s"
        return f"{self.when} {self.place} ({self.occurrence})"


class Board:
    """What the processes of a night say of where they are, in memory shared with their parent."""

    def __init__(self, strike: Strike | None) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.bell, self._bell = os.pipe()
        self._strike = strike

    @property
    def stage(self) -> str:
        """The stage that the main process is in, or was in when it died."""
        return STAGES[self._memory[0]]

    @property
    def counts(self) -> dict[str, int]:
        """How often the processes came to each place."""
        return {place: self._count(place) for place in PLACES}

    @contextlib.contextmanager
    def in_stage(self, name: str) -> Iterator[None]:
        """Child: be in a stage inside the block."""
        self._memory[0] = STAGES.index(name) if name in STAGES else 0
        yield
        self._memory[0] = 0

    @contextlib.contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Child: come to a place, and leave it at the end of the block."""
        count = self._count(place) + 1
        struct.pack_into("I", self._memory, self._where(place), count)
        strike = self._strike
        when = strike.when if strike is not None and (strike.place, strike.occurrence) == (place, count) else None
        if when in (BEFORE, DURING):
            self._ring(is_held=when == BEFORE)
        yield
        if when == AFTER:
            self._ring(is_held=True)

    def release(self) -> None:
        """Parent: have the process that waits at the place of the strike go on."""
        self._memory[1] = 1

    def close(self) -> None:
        """Parent: close the bell."""
        os.close(self.bell)
        os.close(self._bell)

    def _ring(self, is_held: bool) -> None:
        os.write(self._bell, b"!")
        until = time.monotonic() + HELD_SECONDS
        while is_held and not self._memory[1] and time.monotonic() < until:
            time.sleep(0.005)

    def _count(self, place: str) -> int:
        return int(struct.unpack_from("I", self._memory, self._where(place))[0])

    @staticmethod
    def _where(place: str) -> int:
        return _COUNTS + 4 * PLACES.index(place)


def watch_places(board: Board) -> None:
    """Child: have what writes, renames, removes and sends tell the board."""
    from hubflow.orchestration import tasks
    from hubflow.store.remote import Remote
    from hubflow.training.loop import TrainStep

    def at(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with board.at(place):
                return function(*args, **kwargs)

        return run

    def in_stage(function: Callable[..., Any], *args: Any, call: Callable[..., Any] = tasks._run_stage, **kwargs: Any) -> Any:
        with board.in_stage(function.__name__):
            return call(function, *args, **kwargs)

    places = {"rename": RENAME, "replace": RENAME, "unlink": REMOVAL, "rmdir": REMOVAL, "mkdir": FOLDER, "fsync": SYNC}
    for name, place in places.items():
        setattr(os, name, at(place, getattr(os, name)))
    remote = {"upload": UPLOAD, "write": OBJECT, "swap": SWAP, "remove": DELETE, "download": DOWNLOAD}
    for name, place in remote.items():
        setattr(Remote, name, at(place, getattr(Remote, name)))
    TrainStep.run = at(STEP, TrainStep.run)  # type: ignore[method-assign]
    tasks._run_stage = in_stage


class ForkedServer:
    """The worker server as a fork of a process that has imported everything; it stands where a `subprocess.Popen` is."""

    def __init__(self, command: Sequence[str], stdout: Any, **_: Any) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                for descriptor in (1, 2):
                    os.dup2(stdout.fileno(), descriptor)
                subprocess.Popen = POPEN  # type: ignore[misc]
                _close_sockets_but(int(command[-1]))
                sys.argv = ["server", command[-1]]
                importlib.import_module("hubflow.workers.server").main()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)

    def poll(self) -> int | None:
        """The exit code, once it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ChildProcessError):
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def kill(self) -> None:
        """SIGKILL."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for its end."""
        while self.poll() is None:
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode


def _close_sockets_but(kept: int) -> None:
    """Close what a new program would not inherit: with the main process's end open here, its end would not be noticed."""
    for number in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        with contextlib.suppress(OSError):
            if number != kept and stat.S_ISSOCK(os.fstat(number).st_mode):
                os.close(number)


@dataclass(frozen=True)
class Ending:
    """How one start of a night ended, where it was, and what it said."""

    kind: str
    stage: str
    text: str
    result: dict[str, Any]
    seconds: float
    counts: dict[str, int]
    was_struck: bool


@dataclass(frozen=True)
class Start:
    """What one start of a night is given.

    Attributes:
        settings: of the flow.
        environment: variables of the environment.
        log: what the processes print is added to it.
        strike: when it is struck; None for a start that is not.
        act: what the parent does then, with the id of the main process.
        in_child: done in the child before the night begins.
        longest_seconds: after so long it hangs.
    """

    settings: Mapping[str, Any]
    environment: Mapping[str, str]
    log: Path
    strike: Strike | None = None
    act: Callable[[int], None] = lambda child: None
    in_child: Callable[[], None] = lambda: None
    longest_seconds: float = 300

    def run(self) -> Ending:
        """Run the night, and strike; all processes that are still below its main process are killed at the end."""
        board, outcome, started = Board(self.strike), self.log.with_name("outcome.json"), time.monotonic()
        outcome.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            self._be_night(board, outcome)
        status, was_struck = None, False
        try:
            status, was_struck = self._follow(board, child, started)
        finally:
            if status is None:  # it is there, and its number is no other process's
                for pid in (*descendants(child), child):
                    send_signal(pid, signal.SIGKILL)
                os.waitpid(child, 0)
            board.close()
        kind = HUNG if status is None else KILLED if os.WIFSIGNALED(status) else CODES.get(os.WEXITSTATUS(status), FAILED)
        told = json.loads(outcome.read_text(encoding="utf-8")) if outcome.exists() else {}
        seconds = time.monotonic() - started
        return Ending(kind, board.stage, told.get("error", ""), told.get("result", {}), seconds, board.counts, was_struck)

    def _be_night(self, board: Board, outcome: Path) -> NoReturn:
        code = 4
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with self.log.open("ab", buffering=0) as stream:
                for descriptor in (1, 2):
                    os.dup2(stream.fileno(), descriptor)
            os.environ.update(self.environment)
            print(f"---- {self.strike}", flush=True)
            code, told = self._night(board)
            outcome.write_text(json.dumps(told), encoding="utf-8")
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _night(self, board: Board) -> tuple[int, dict[str, Any]]:
        from hubflow.errors import HubflowError
        from hubflow.flows.nightly import nightly
        from hubflow.schemas.deployment import NightlySettings
        from hubflow.workers import processes

        watch_places(board)
        subprocess.Popen = ForkedServer  # type: ignore[misc,assignment]
        self.in_child()
        processes.start_early()
        subprocess.Popen = POPEN  # type: ignore[misc]  # one that is started in place of a lost one is no fork
        try:
            result = nightly(NightlySettings.model_validate(self.settings))
        except HubflowError as error:
            traceback.print_exc()
            return 3, {"error": f"{type(error).__name__}: {error}"}
        except BaseException as error:
            traceback.print_exc()
            return 4, {"error": f"{type(error).__name__}: {error}"}
        return 0, {"result": result.model_dump(mode="json")}

    def _follow(self, board: Board, child: int, started: float) -> tuple[int | None, bool]:
        """Wait for the end of the main process, and strike meanwhile; its status, or None when it hangs."""
        strike, was_struck = self.strike, False
        while time.monotonic() - started < self.longest_seconds:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status, was_struck
            if strike is not None and not was_struck and self._is_due(strike, board, started):
                self.act(child)
                board.release()
                was_struck = True
            time.sleep(0.005)
        return None, was_struck

    @staticmethod
    def _is_due(strike: Strike, board: Board, started: float) -> bool:
        if strike.place == ANY_MOMENT:
            return time.monotonic() - started > strike.seconds
        ready, _, _ = select.select([board.bell], [], [], 0)
        if ready and strike.when == DURING:
            time.sleep(strike.seconds)
        return bool(ready)


def descendants(pid: int) -> list[int]:
    """Every process below one, by the parents that are there now."""
    parents = {int(path.name): parent_of(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found, waiting = [], [pid]
    while waiting:
        above = waiting.pop()
        below = [one for one, parent in parents.items() if parent == above]
        found += below
        waiting += below
    return found


def parent_of(pid: int) -> int | None:
    """Parent of a process that is there and no zombie."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(parent)


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process, if it is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
