"""What the fine-tune flow costs beside the plain functions that it calls, with a Prefect server and without one.

`--write` puts the result into RESULTS.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measuring import median, spread, versions, write_section

PLAIN = """
import sys
from hubflow.schemas.parsing import load_settings
from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages.build_head import build_head
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.evaluate import evaluate
from hubflow.stages.export_inference_program import export_inference_program
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.stages.write_report import write_report

given = load_settings(FineTuneSettings, sys.argv[1])
store = given.store
dataset = load_dataset.fn(given.data, given.task, store)
module = load_module.fn(given.module, store)
encoded = encode_dataset.fn(dataset, module, given.module, store)
task = build_head.fn(given.task, module, dataset, given.module, given.head, store)
checkpoint = fine_tune.fn(task, encoded, given.train, store, given.seed, given.device)
evaluation = evaluate.fn(checkpoint, encoded, given.evaluate, store, given.device)
export = export_inference_program.fn(checkpoint, encoded, evaluation, store, given.reuse, given.export)
write_report.fn(evaluation, encoded, export, store, given.name, given.report, run_settings=given)
"""
PORT = 4311


def main() -> None:
    """Run each way in turn, and print medians and what the flow adds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep the result in RESULTS.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        script = home / "plain.py"
        script.write_text(PLAIN, encoding="utf-8")
        cli = str(Path(sys.executable).with_name("hubflow"))
        with server(home) as url:
            ways: dict[str, tuple[list[str], dict[str, str]]] = {
                "plain functions": ([sys.executable, str(script)], {}),
                "hubflow fine-tune, server up": ([cli, "fine-tune"], {"PREFECT_API_URL": url}),
                "hubflow fine-tune, no server": ([cli, "fine-tune"], {}),
            }
            found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
            for turn in range(options.rounds + 1):  # the first warms the disk
                for name, (command, environment) in ways.items():
                    taken = run(home, command, environment)
                    if turn:
                        found[name].append({"seconds": taken})
    base = median(found["plain functions"], "seconds")
    lines = ["| way | seconds | more than the functions |", "|---|---|---|"]
    for name, rounds in found.items():
        more = "–" if name == "plain functions" else f"**{median(rounds, 'seconds') - base:+.1f}**"
        lines.append(f"| {name} | {spread(rounds, 'seconds', 2)} | {more} |")
    told = f"Medians (least–most) of {options.rounds} rounds in turn, in fresh processes and stores: digits, 2 epochs."
    lines += ["", f"{told} {versions(['prefect', 'paddlepaddle'])}."]
    write_section("Flow", "uv run python " + " ".join(["benchmarks/flow_overhead.py", *sys.argv[1:]]), lines)


def run(home: Path, command: list[str], environment: dict[str, str]) -> float:
    """Seconds of one run in an empty store and a process of its own."""
    store = home / "store"
    shutil.rmtree(store, ignore_errors=True)
    config = home / "config.json"
    config.write_text(json.dumps(settings(store)), encoding="utf-8")
    usual: dict[str, Any] = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    began = time.perf_counter()
    done = subprocess.run(
        [*command, str(config)],
        env={**usual, "PREFECT_HOME": str(home / "prefect"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - began


def settings(store: Path) -> dict[str, Any]:
    """A fine-tune of a few seconds: what is measured is what is around it."""
    return {
        "name": "overhead",
        "task": "image_classification",
        "module": {"name": "digits"},
        "data": {"format": "digits", "test_fraction": 0.2},
        "train": {"epochs": 2, "batch_size": 32},
        "store": str(store),
        "device": "cpu",
    }


@contextmanager
def server(home: Path) -> Iterator[str]:
    """A Prefect server on loopback; gives the URL of its API."""
    command = [str(Path(sys.executable).with_name("prefect")), "server", "start", "--host", "127.0.0.1", "--port", str(PORT)]
    environment = {**os.environ, "PREFECT_HOME": str(home / "server"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    url = f"http://127.0.0.1:{PORT}/api"
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(240):
                try:
                    with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310  # loopback
                        break
                except OSError:
                    time.sleep(0.5)
            yield url
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
