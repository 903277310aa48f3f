"""From nothing to the first training step: `hubflow fine-tune` against a plain transformers script, on SST-2.

The clock starts with the process and stops where the first step begins; `data encoded` runs find the encoded rows on disk
(and that the preflight has passed on them), others encode them and try the preflight. `--write` puts the result into
RESULTS.md.
To be run where hubflow is installed as its users install it, for pandera imports Dask wherever that is installed:
`uv run --isolated --no-default-groups --group weights python benchmarks/start.py`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from flow_overhead import server
from measuring import HERE, in_turn, median, spread, versions, write_section, yardstick_python
from training import TASKS, minilm, prepare, settings

LIMIT_SECONDS = 300.0
EVALUATED_ROWS = 64


def main() -> None:
    """Start each way in turn, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the result in RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as url:
        found = in_turn(ways(Path(folder), url), options.rounds + 1)
    for rounds in found.values():
        del rounds[0]  # the first one warms the disk and encodes the rows
    lines = ["| way | seconds to the first step | ratio | seconds of the first step |", "|---|---|---|---|"]
    for name, rounds in found.items():
        yardstick = found[name.split(" | ")[0] + " | transformers script"]
        ratio = median(rounds, "seconds") / median(yardstick, "seconds")
        figures = f"{spread(rounds, 'seconds', 2)} | **{ratio:.2f}** | {spread(rounds, 'first step', 2)}"
        lines.append(f"| {name.replace(' | ', ': ')} | {figures} |")
    told = versions(["paddlepaddle", "prefect"], **{"yardstick's transformers": yardstick_version()})
    lines += [
        "",
        f"Medians (least–most) of {options.rounds} rounds in turn, in fresh processes. hubflow's first step has "
        f"{EVALUATED_ROWS} rows of dev evaluated after it, and Paddle prepares both programs in it. {told}.",
    ]
    command = "uv run --isolated --no-default-groups --group weights python benchmarks/start.py"
    write_section("Start", " ".join([command, *sys.argv[1:]]), lines)


def ways(folder: Path, url: str) -> dict[str, Any]:
    """Each way to start: a function of the round's number."""
    files = prepare(TASKS["sst2"], folder, None)
    for split in ("dev", "test"):  # what comes after the first step is not measured
        lines = Path(files[split]).read_text(encoding="utf-8").splitlines(keepends=True)
        Path(files[split]).write_text("".join(lines[:EVALUATED_ROWS]), encoding="utf-8")

    def yardstick(encoded: bool) -> dict[str, float]:
        command = [yardstick_python(), str(HERE / "yardstick" / "start.py"), "--module", minilm(), "--train", files["train"]]
        return timed_script([*command, *(["--encoded", str(folder / "rows")] if encoded else [])])

    def hubflow(turn: int, encoded: bool, served: bool) -> dict[str, float]:
        store = folder / ("store" if encoded else "other")
        if not encoded:
            shutil.rmtree(store, ignore_errors=True)
        seed = 2 * turn + served  # a run of its own, on the rows that an earlier one encoded
        return timed_flow(folder, files, store, seed, url if served else None)

    return {
        "data encoded | transformers script": lambda _: yardstick(True),
        "data encoded | hubflow fine-tune, server up": lambda turn: hubflow(turn, True, True),
        "data encoded | hubflow fine-tune, no server": lambda turn: hubflow(turn, True, False),
        "with encoding | transformers script": lambda _: yardstick(False),
        "with encoding | hubflow fine-tune, server up": lambda turn: hubflow(turn, False, True),
        "with encoding | hubflow fine-tune, no server": lambda turn: hubflow(turn, False, False),
    }


def timed_script(command: list[str]) -> dict[str, float]:
    """Seconds to the beginning of the first step."""
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS)
    if done.returncode:
        sys.exit(done.stderr)
    stamps = json.loads(done.stdout.strip().splitlines()[-1])
    return {"seconds": stamps["begin"] - began, "first step": stamps["end"] - stamps["begin"]}


def timed_flow(folder: Path, files: dict[str, str], store: Path, seed: int, url: str | None) -> dict[str, float]:
    """Seconds until the file of the history appears, which is written before the first step."""
    history = folder / "history.csv"
    history.unlink(missing_ok=True)
    given = settings(TASKS["sst2"], files)
    given["train"] |= {"epochs": 1, "max_steps": 1, "tracking": {"history": str(history)}}
    config = folder / "settings.json"
    config.write_text(json.dumps({**given, "store": str(store), "seed": seed}), encoding="utf-8")
    usual = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment = {**usual, "PREFECT_HOME": str(folder / "prefect"), **({"PREFECT_API_URL": url} if url else {})}
    command = [str(Path(sys.executable).with_name("hubflow")), "fine-tune", str(config)]
    began = time.monotonic()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not history.exists() and process.poll() is None and time.monotonic() - began < LIMIT_SECONDS:
            time.sleep(0.005)
        seconds = time.monotonic() - began
        while process.poll() is None and len(history.read_text(encoding="utf-8").splitlines()) < 2:
            time.sleep(0.005)
        first = time.monotonic() - began - seconds
        told, _ = process.communicate(timeout=LIMIT_SECONDS)
    if process.returncode:
        sys.exit(told)
    return {"seconds": seconds, "first step": first, "whole": time.monotonic() - began}


def yardstick_version() -> str:
    """Of transformers in the yardstick's environment."""
    told = "import importlib.metadata as known; print(known.version('transformers'))"
    return subprocess.run([yardstick_python(), "-c", told], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
