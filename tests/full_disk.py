"""A small disk of its own that runs out of space at a chosen write, in this process and in those that it starts.

    uv run python tests/full_disk.py --all             # every write of a nightly run, one after the other
    uv run python tests/full_disk.py --points 7 "open .*deployed"   # some of them, by number or a pattern of their names

The disk is a tmpfs in a namespace of mounts of its own, so nothing is left of it. Python's audit events say when a file is
opened for writing, a folder made or something renamed on it; at the chosen one the rest of the disk is filled, but for a few
bytes: whatever writes then gets the system's own error, in Python, C++ and Rust. The space comes back after the run, and the
same run is started again.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIZE = 64 * 2**20
LEFT = (0, 6_000, 60_000)
"""Bytes that are left on the disk at the chosen write: for none of it, for some small files, and for half a large one."""
FILLER = ".filler"
STATE, FOLDER = "FULL_DISK_STATE", "FULL_DISK_FOLDER"
HOOK = """
import os, sys
STATE, FOLDER = os.environ.get("FULL_DISK_STATE"), os.environ.get("FULL_DISK_FOLDER")
if STATE and FOLDER:
    import fcntl, json

    WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def count(event, arguments):
        if event == "open":
            if not isinstance(arguments[0], str) or not arguments[2] & WRITES:
                return
        elif event not in ("os.mkdir", "os.rename"):
            return
        path = os.fsdecode(arguments[1] if event == "os.rename" else arguments[0])
        if not path.startswith(FOLDER) or path.endswith((".filler", ".lock")) or (event == "os.mkdir" and os.path.isdir(path)):
            return
        descriptor = os.open(STATE, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            state = json.loads(os.read(descriptor, 10**7))
            state["seen"].append(f"{event} {path[len(FOLDER):]}")
            if len(state["seen"]) - 1 == state["at"]:
                fill(state["left"])
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.truncate(descriptor, 0)
            os.write(descriptor, json.dumps(state).encode())
        finally:
            os.close(descriptor)

    def fill(left):
        disk = os.statvfs(FOLDER)
        descriptor = os.open(FOLDER + "/.filler", os.O_WRONLY | os.O_CREAT)
        try:
            os.posix_fallocate(descriptor, 0, max(1, disk.f_bavail * disk.f_frsize - left))
        except OSError:  # another thread has just taken some of it
            pass
        finally:
            os.close(descriptor)

    sys.addaudithook(count)
"""


@dataclass(frozen=True)
class Outcome:
    """What a run on a disk that became full ended with, and what the same run gave when there was space again.

    Attributes:
        event: the write at which the disk became full.
        left: bytes that were left.
        error: name of the error's class and its message; None when the run ended well all the same.
        faults: what was wrong then, and after the second run.
    """

    event: str
    left: int
    error: tuple[str, str] | None
    faults: tuple[str, ...]


def why_not() -> str | None:
    """Why there can be no disk of its own here; None when there can."""
    if sys.platform != "linux" or not shutil.which("unshare"):
        return "needs Linux and util-linux"
    tried = subprocess.run(
        ["unshare", "-m", *_as_root(), "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True, check=False
    )
    return None if tried.returncode == 0 else f"a tmpfs cannot be mounted: {tried.stderr.strip()}"


def run_points(points: list[tuple[int | str, int]], log: Path | None = None) -> tuple[list[Outcome], list[str]]:
    """Run a nightly flow with the disk full at each of the points, in a process of its own.

    Args:
        points: number of the write, from 0, or a pattern of its name, and bytes left at it; none stands for all.
        log: where what the process prints goes.

    Returns:
        The outcomes, and every write of an undisturbed run.
    """
    with tempfile.TemporaryDirectory(prefix="full-disk-") as name:
        work = Path(name)
        (work / "hooks").mkdir()
        (work / "hooks" / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
        (work / "disk").mkdir()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(work / "hooks"), str(Path(__file__).parent)]),
            STATE: str(work / "state.json"),
            FOLDER: str(work / "disk"),
            "TMPDIR": str(work / "disk" / "tmp"),
        }
        (work / "state.json").write_text(json.dumps({"seen": [], "at": -1, "left": 0}), encoding="utf-8")
        command = ["unshare", "-m", *_as_root(), sys.executable, __file__, "--inside", json.dumps(points), str(work / "found")]
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(log.open("w", encoding="utf-8")) if log else None
            subprocess.run(command, env=environment, check=True, stdout=stream, stderr=stream)
        found = json.loads((work / "found").read_text(encoding="utf-8"))
    outcomes = [
        Outcome(one["event"], one["left"], None if one["error"] is None else tuple(one["error"]), tuple(one["faults"]))
        for one in found["outcomes"]
    ]
    return outcomes, found["events"]


def _as_root() -> list[str]:
    return [] if os.geteuid() == 0 else ["-r"]


def _inside(points: list[tuple[int | str, int]], found: Path) -> None:
    """The work of `run_points`, in the namespace of the disk."""
    disk = Path(os.environ[FOLDER])
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)
    (disk / "tmp").mkdir()
    tempfile.tempdir = None
    from hubflow.flows.nightly import nightly

    outcomes: list[dict[str, Any]] = []
    with _server():
        expected, error = _night(nightly, disk)
        assert expected is not None, error
        events = _state()["seen"]
        _clear(disk)
        _night(nightly, disk)  # by now all processes are there: what they do as they start is not seen again
        events = _state()["seen"]
        for point, left in points or [(number, left) for number in range(len(events)) for left in LEFT]:
            if isinstance(point, int):
                number = point % len(events)
            else:
                number = next(place for place, event in enumerate(events) if re.search(point, event))
            _clear(disk)
            _set(number, left)
            _result, error = _night(nightly, disk)
            event = [*_state()["seen"], *events[len(_state()["seen"]) :]][number]
            faults = _faults_of(error, disk)
            (disk / FILLER).unlink(missing_ok=True)
            _set(-1, 0)
            again, second = _night(nightly, disk)
            if second is not None:
                faults.append(f"the next run does not go on: {type(second).__name__}: {second}")
            elif again != expected:
                faults.append(f"the next run gives something else: {again}, not {expected}")
            told = None if error is None else (type(error).__name__, str(error))
            outcomes.append({"event": event, "left": left, "error": told, "faults": faults})
            print(json.dumps(outcomes[-1]), flush=True)
    found.write_text(json.dumps({"outcomes": outcomes, "events": events}), encoding="utf-8")


@contextlib.contextmanager
def _server() -> Iterator[None]:
    """A Prefect server whose database is not on the disk."""
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    from prefect.testing.utilities import prefect_test_harness

    before = os.environ.pop("TMPDIR")
    tempfile.tempdir = None
    with prefect_test_harness(server_startup_timeout=120):
        os.environ["TMPDIR"] = tempfile.tempdir = before
        yield


def _night(nightly: Any, disk: Path) -> tuple[Any, BaseException | None]:
    """What a nightly run gives that does not depend on when it ran, or the error that it ended with."""
    from hubflow.schemas.deployment import NightlySettings
    from hubflow.store.manifest import file_sha256

    store = disk / "store"
    settings = {
        "name": "full",
        "task": "image_classification",
        "module": {"name": "digits"},
        "data": {"format": "digits", "digits": [5, 6], "max_rows": 60, "dev_fraction": 0.2, "test_fraction": 0.3},
        "train": {
            "epochs": 1,
            "batch_size": 16,
            "checkpoints": {"every_steps": 1},
            "tracking": {"history": str(disk / "history.csv")},
        },
        "device": "cpu",
        "store": str(store),
    }
    try:
        result = nightly(NightlySettings.model_validate(settings))
    except Exception as error:
        return None, error
    weights = {file_sha256(path) for path in store.glob("checkpoints/*/model.safetensors")}
    programs = {file_sha256(path) for path in store.glob("exports/*/program.pdiparams")}
    history = (disk / "history.csv").read_text(encoding="utf-8")
    return (result.deployed is not None, sorted(weights), sorted(programs), history), None


def _faults_of(error: BaseException | None, disk: Path) -> list[str]:
    """What is wrong with the error, and with what the run left on the full disk."""
    from hubflow.errors import HubflowError, StoreError
    from hubflow.store.manifest import LEFTOVER, MANIFEST, verify_folder

    faults = []
    if error is not None:
        text = str(error)
        if not isinstance(error, HubflowError):
            faults.append("".join(traceback.format_exception(error)))
        elif not ("disk" in text and "B are free" in text and str(disk) in text):  # full, or fuller than training needs
            faults.append(f"the error does not say of which disk how much is free: {text}")
    store = disk / "store"
    for manifest in store.rglob(MANIFEST):
        if not LEFTOVER.fullmatch(manifest.parent.name):
            try:
                verify_folder(manifest.parent)
            except StoreError as broken:
                faults.append(f"a broken folder is in its place: {broken}")
    for path in (*store.glob("deployed/*.json"), *store.glob("nightly/*.json"), *store.glob("training/*/run.json")):
        try:
            json.loads(path.read_bytes())
        except ValueError as broken:
            faults.append(f"{path}: half a file ({broken})")
    for report in store.glob("runs/*"):
        if not report.name.startswith(".") and len(list(report.iterdir())) < 2:
            faults.append(f"{report}: half a report")
    left = [path for path in disk.rglob(".*") if LEFTOVER.fullmatch(path.name) or path.name.startswith(".staging")]
    faults += [f"{path}: a draft is left" for path in left if not path.name.endswith(".lock")]
    return faults


def _state() -> dict[str, Any]:
    state: dict[str, Any] = json.loads(Path(os.environ[STATE]).read_bytes())
    return state


def _set(at: int, left: int) -> None:
    Path(os.environ[STATE]).write_text(json.dumps({"seen": [], "at": at, "left": left}), encoding="utf-8")


def _clear(disk: Path) -> None:
    for path in disk.iterdir():
        if path.is_dir() and path.name != "tmp":
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
    _set(-1, 0)


def main() -> None:
    """Run the points of the command line, and tell what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every write, with each number of bytes left")
    parser.add_argument("--points", nargs="*", default=[], help="numbers of writes, or patterns of their names")
    parser.add_argument("--left", type=int, nargs="*", default=LEFT, help="bytes that are left then")
    parser.add_argument("--random", type=int, help="so many of them, drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        _inside([(number, left) for number, left in json.loads(given.inside[0])], Path(given.inside[1]))
        return
    reason = why_not()
    if reason:
        sys.exit(reason)
    points: list[tuple[int | str, int]] = [
        (int(point) if point.isdigit() else point, left) for point in given.points for left in given.left
    ]
    if given.random:
        points += drawn(given.random, given.seed)
    if not (points or given.all):
        parser.error("give --all, --points or --random")
    outcomes, events = run_points(points)
    for number, event in enumerate(events):
        print(number, event)
    bad = [outcome for outcome in outcomes if outcome.faults]
    print(
        f"{len(events)} writes; {len(outcomes)} runs on a full disk, {sum(one.error is not None for one in outcomes)} refused"
    )
    for outcome in bad:
        print(f"\n{outcome.event}, {outcome.left} bytes left: {outcome.error}", *outcome.faults, sep="\n  ")
    sys.exit(len(bad) > 0)


def drawn(count: int, seed: int) -> list[tuple[int | str, int]]:
    """Points drawn by seed."""
    draws = random.Random(seed)  # noqa: S311
    return [(draws.randrange(10**6), draws.choice(LEFT)) for _ in range(count)]


if __name__ == "__main__":
    main()
