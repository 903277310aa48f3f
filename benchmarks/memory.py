"""Memory of a long-lived process: MiniLM-L6 fine-tuned and evaluated, predicted with, and swept over, again and again.

Each way runs in a process of its own. After each round it notes the resident memory of that process and of the process that
starts its workers, and the number of threads of both; the workers themselves are gone by then. The nights are of the digits of
`hubflow demo`, each with a seed of its own, and after each the store is pruned to its five newest of a kind. `--write` puts the
result into RESULTS.md.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import figures_of, versions, write_section
from training import TASKS, prepare, settings

ROWS = 64
EARLY = 3
PRUNED = 10
"""Round from which pruning has something to remove of every kind."""
LIMIT_SECONDS = 3600.0
WAYS = {
    "fine_tune and evaluate, plain functions": "stages",
    "the flow fine-tune": "flow",
    "predict, the export loaded anew": "predict",
    "a sweep": "sweep",
    "nights, the store pruned after each": "nights",
}


def main() -> None:
    """Run each way, and print memory after the early and the last round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", choices=WAYS.values(), action="append", help="one way; all when not given")
    parser.add_argument("--write", action="store_true", help="keep the result in RESULTS.md")
    options = parser.parse_args()
    lines = [
        f"| way | rounds | MB after round {EARLY} | MB after the last | growth | threads, then and at the end "
        f"| store, MB after round {PRUNED} and at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for title, way in WAYS.items():
            if options.only and way not in options.only:
                continue
            command = [sys.executable, __file__, "--child", way, str(options.rounds), folder]
            found = figures_of(command, LIMIT_SECONDS)["rounds"]
            early, last = found[EARLY - 1], found[-1]
            growth = 100 * (last["bytes"] / early["bytes"] - 1)
            lines.append(
                f"| {title} | {len(found)} | {early['bytes'] / 1e6:.0f} | {last['bytes'] / 1e6:.0f} | **{growth:+.1f}%** "
                f"| {early['threads']}, {last['threads']} | {_store_then_and_now(found)} |"
            )
            print("\n".join(lines), file=sys.stderr)
    lines += [
        "",
        f"{ROWS} rows of SST-2, one epoch; a sweep has as many trials as rounds. {versions(['paddlepaddle', 'prefect'])}.",
    ]
    write_section("Memory", "uv run python " + " ".join(["benchmarks/memory.py", *sys.argv[1:]]), lines)


def _store_then_and_now(rounds: list[dict[str, int]]) -> str:
    if "store" not in rounds[-1] or len(rounds) < PRUNED:
        return "–"
    return f"{rounds[PRUNED - 1]['store'] / 1e6:.1f}, {rounds[-1]['store'] / 1e6:.1f}"


def child(way: str, rounds: str, folder: str) -> None:
    """Do it so often; what was noted after each round, as JSON."""
    from hubflow.schemas.parsing import parse_settings
    from hubflow.schemas.settings import FineTuneSettings

    home = Path(folder) / way
    home.mkdir()
    given = settings(TASKS["sst2"], prepare(TASKS["sst2"], home, ROWS))
    given |= {"store": str(home / "store"), "device": "cpu", "reuse": False}
    given["train"] |= {"preflight": False}
    given["export"] = {"latency_rounds": 3}
    made = parse_settings(FineTuneSettings, given, way)
    noted: list[dict[str, int]] = []
    {"stages": _stages, "flow": _flow, "predict": _predict, "sweep": _sweep, "nights": _nights}[way](
        made, given, int(rounds), noted
    )
    sys.stdout.write(json.dumps({"rounds": noted}) + "\n")


def _stages(made: Any, given: dict[str, Any], rounds: int, noted: list[dict[str, int]]) -> None:
    from hubflow.stages.build_head import build_head
    from hubflow.stages.encode_dataset import encode_dataset
    from hubflow.stages.evaluate import evaluate
    from hubflow.stages.fine_tune import fine_tune
    from hubflow.stages.load_dataset import load_dataset
    from hubflow.stages.load_module import load_module

    store = made.store
    dataset, module = load_dataset.fn(made.data, made.task, store), load_module.fn(made.module, store)
    encoded = encode_dataset.fn(dataset, module, made.module, store)
    task = build_head.fn(made.task, module, dataset, made.module, made.head, store)
    for seed in range(rounds):
        checkpoint = fine_tune.fn(task, encoded, made.train, store, seed, "cpu")
        evaluate.fn(checkpoint, encoded, made.evaluate, store, "cpu")
        noted.append(_now())


def _flow(made: Any, given: dict[str, Any], rounds: int, noted: list[dict[str, int]]) -> None:
    from prefect.testing.utilities import prefect_test_harness

    from hubflow.flows.fine_tune import fine_tune

    with prefect_test_harness(server_startup_timeout=120):
        for _ in range(rounds):
            fine_tune.fn(made)
            noted.append(_now())


def _predict(made: Any, given: dict[str, Any], rounds: int, noted: list[dict[str, int]]) -> None:
    from hubflow.hub import Predictor
    from hubflow.stages.build_head import build_head
    from hubflow.stages.encode_dataset import encode_dataset
    from hubflow.stages.evaluate import evaluate
    from hubflow.stages.export_inference_program import export_inference_program
    from hubflow.stages.fine_tune import fine_tune
    from hubflow.stages.load_dataset import load_dataset
    from hubflow.stages.load_module import load_module

    store = made.store
    dataset, module = load_dataset.fn(made.data, made.task, store), load_module.fn(made.module, store)
    encoded = encode_dataset.fn(dataset, module, made.module, store)
    task = build_head.fn(made.task, module, dataset, made.module, made.head, store)
    checkpoint = fine_tune.fn(task, encoded, made.train, store, 0, "cpu")
    export = export_inference_program.fn(
        checkpoint, encoded, evaluate.fn(checkpoint, encoded, made.evaluate, store, "cpu"), store
    )
    for _ in range(rounds):
        Predictor.load(Path(store) / export.path).predict(["a fine film", "a dull one of no joy"] * (ROWS // 2))
        noted.append(_now())


def _sweep(made: Any, given: dict[str, Any], rounds: int, noted: list[dict[str, int]]) -> None:
    from prefect.testing.utilities import prefect_test_harness

    from hubflow.flows.sweep import sweep
    from hubflow.orchestration.progress import followed_by
    from hubflow.schemas.parsing import parse_settings
    from hubflow.schemas.sweep import SweepSettings
    from hubflow.training.callbacks import Callback, TrainState

    class Noting(Callback):
        """Notes memory where each trial's training begins."""

        def on_train_begin(self, state: TrainState, total_steps: int) -> None:
            """Note it."""
            noted.append(_now())

    asked = {
        "name": "memory",
        "base": {name: value for name, value in given.items() if name not in ("reuse", "name")},
        "space": {"train.learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}},
        "trials": rounds,
    }
    with prefect_test_harness(server_startup_timeout=120), followed_by(Noting()):
        sweep(parse_settings(SweepSettings, asked, "sweep"))


def _nights(made: Any, given: dict[str, Any], rounds: int, noted: list[dict[str, int]]) -> None:
    from prefect.testing.utilities import prefect_test_harness

    from hubflow.deployment.pruning import prune
    from hubflow.flows.demo import demo_settings
    from hubflow.flows.nightly import nightly
    from hubflow.schemas.deployment import NightlySettings, PruneSettings
    from hubflow.schemas.parsing import parse_settings

    every = demo_settings(made.store, pretrained=True).model_dump(mode="json", exclude={"reuse"}, exclude_unset=True)
    with prefect_test_harness(server_startup_timeout=120):
        for night in range(rounds):
            asked = {**every, "name": "digits", "seed": night, "gate": {"min_value": 0.0}}
            nightly(parse_settings(NightlySettings, asked, "nightly"))
            prune(PruneSettings(keep_last=5, min_age_days=0), made.store)
            size = sum(file.stat().st_size for file in Path(made.store).rglob("*") if file.is_file())
            noted.append(_now() | {"store": size})


def _now() -> dict[str, int]:
    """Resident bytes and threads of this process and of the one that starts its workers."""
    pids = ["self", *_children()]
    return {"bytes": sum(_status(pid, "VmRSS") * 1024 for pid in pids), "threads": sum(_status(pid, "Threads") for pid in pids)}


def _children() -> list[str]:
    text = " ".join(path.read_text(encoding="ascii") for path in Path("/proc/self/task").glob("*/children"))
    return [pid for pid in text.split() if b"hubflow.workers.server" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _status(pid: str, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(*sys.argv[2:5])
    else:
        main()
