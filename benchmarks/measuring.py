"""What the benchmarks share: the yardstick's environment, processes and their figures, and the sections of RESULTS.md."""

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
DATA = Path(os.environ.get("HUBFLOW_TEST_DATA", HERE.parent.parent / "shared" / "data"))
"""The data sets, as tests look for them."""


def yardstick_python() -> str:
    """The interpreter of the yardstick's environment: HUBFLOW_YARDSTICK's as it is, or that of benchmarks/.yardstick.

    The latter is made when it is absent, was not finished, or was made of other requirements.
    """
    if given := os.environ.get("HUBFLOW_YARDSTICK"):
        return str(Path(given) / "bin" / "python")
    folder, requirements = HERE / ".yardstick", HERE / "yardstick" / "requirements.txt"
    python, made_of = folder / "bin" / "python", folder / "made-of.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if not made_of.is_file() or made_of.read_text(encoding="utf-8") != wanted:
        print(f"making the yardstick's environment in {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        uv = shutil.which("uv")
        make = [uv, "venv", "--python", sys.executable, str(folder)] if uv else [sys.executable, "-m", "venv", str(folder)]
        install = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
        subprocess.run(make, check=True)
        subprocess.run([*install, "-r", str(requirements)], check=True)
        made_of.write_text(wanted, encoding="utf-8")
    return str(python)


def figures_of(command: Sequence[str], timeout_seconds: float, tree: bool = False, **environment: str) -> dict[str, Any]:
    """What a command prints as JSON on its last line; with `tree`, peak memory of it and its children as `tree_bytes`."""
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true", **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=surroundings, text=True) as process:
        peak = PeakOfTree(process.pid) if tree else None
        try:
            out, err = process.communicate(timeout=timeout_seconds)
        except BaseException:
            process.kill()
            raise
        finally:
            if peak is not None:
                peak.stop()
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{err[-4000:]}")
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found if peak is None else {**found, "tree_bytes": peak.bytes}


class PeakOfTree:
    """Looks once a second how much memory a process and its children have, what they share counted once."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            self.bytes = max(self.bytes, sum(map(_proportional, _tree(self._pid))))


def _tree(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text(encoding="ascii").split()]
    except OSError:
        return []
    return [pid, *(one for child in children for one in _tree(child))]


def _proportional(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def in_turn(ways: Mapping[str, Any], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Figures of each way, by round: the ways take turns, so that a busy machine slows all of them."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for turn in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            found[name].append(way(turn))
            shown = {key: value for key, value in found[name][-1].items() if isinstance(value, int | float)}
            print(f"  round {turn + 1}, {name}: {time.perf_counter() - began:.0f} s: {brief(shown)}", file=sys.stderr)
    return found


def median(rounds: Sequence[Mapping[str, Any]], name: str) -> float:
    """Of one figure over all rounds."""
    return statistics.median(float(one[name]) for one in rounds)


def spread(rounds: Sequence[Mapping[str, Any]], name: str, digits: int = 1) -> str:
    """Median, least and most of a figure."""
    values = [float(one[name]) for one in rounds]
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def brief(figures: Mapping[str, float]) -> str:
    """Figures on one line."""
    return ", ".join(f"{name} {value:.6g}" for name, value in figures.items())


def machine() -> str:
    """The processor, and how many of its cores this process may use."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set[str]())
    wide = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model} ({', '.join(wide)}), {cores} cores, load {os.getloadavg()[0]:.1f} at the end"


def versions(names: Sequence[str], **others: str) -> str:
    """Versions of this environment's libraries, and of others that are given."""
    known = {name: version(name) for name in names}
    return ", ".join(f"{name} {number}" for name, number in {"Python": platform.python_version(), **known, **others}.items())


def write_section(title: str, command: str, lines: Sequence[str]) -> None:
    """Print a section, and put it into RESULTS.md in place of the one of the same title."""
    told = f"{date.today().isoformat()}, `{command.replace(' --write', '')}`; {machine()}."
    text = "\n".join([f"## {title}", "", told, "", *lines, ""])
    print(text)
    if "--write" not in sys.argv:
        return
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else "# Results\n"
    parts = re.split(r"(?m)^(?=## )", old)
    kept = [part.rstrip("\n") + "\n" for part in parts]
    place = next((at for at, part in enumerate(kept) if part.startswith(f"## {title}\n")), len(kept))
    kept[place : place + 1] = [text]
    draft = RESULTS.with_suffix(".partial")
    draft.write_text("\n".join(kept), encoding="utf-8")
    draft.replace(RESULTS)
