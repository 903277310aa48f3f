"""How time and memory grow over rows, length, classes and processes, as plots, and what a step costs beside its operators.

Each stage runs in a process of its own, so that its peak memory is its own. `--largest-rows 100000` gives a quicker look,
10000000 a longer one; `--only` one part, `--write` puts tables and plots into RESULTS.md and plots/.
"""

import argparse
import importlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import HERE, figures_of, versions, write_section
from training import TASKS, minilm, prepare, settings

PARTS = ("rows", "length", "classes", "processes", "overhead")
STAGES = ("load_dataset", "encode_dataset", "fine_tune", "evaluate")
LIMIT_SECONDS = 1200.0
Points = list[dict[str, Any]]


def main() -> None:
    """Measure each part, and print tables with the exponents of the growth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="again for more; all when not given")
    parser.add_argument("--largest-rows", type=int, default=1_000_000)
    parser.add_argument("--write", action="store_true", help="keep the result in RESULTS.md and plots/")
    options = parser.parse_args()
    measures: dict[str, Callable[[Path], Points]] = {
        "rows": lambda folder: over_rows(folder, options.largest_rows),
        "length": over_length,
        "classes": over_classes,
        "processes": over_processes,
        "overhead": overhead,
    }
    lines: list[str] = []
    for part in options.only or PARTS:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            points = measures[part](Path(folder))
        lines += [f"### {part.capitalize()}", "", *table(part, points)]
        if part in ("rows", "length", "classes"):
            lines += ["", f"![{part}](plots/{part}.svg)"]
            plot(part, points, HERE / "plots" / f"{part}.svg" if options.write else None)
        lines += ["", f"Measured in {time.perf_counter() - began:.0f} s.", ""]
    lines += [versions(["paddlepaddle", "pandas", "pandera", "pyarrow", "tokenizers"]) + "."]
    write_section("How cost grows", "uv run python " + " ".join(["benchmarks/growth.py", *sys.argv[1:]]), lines)


def over_rows(folder: Path, largest: int) -> Points:
    """Rows of 20 words, a tenth of them to judge on; training takes 50 steps, whatever the rows."""
    found = []
    for rows in [10**power for power in range(3, 8) if 10**power <= largest]:
        train, dev = write_rows(folder / "train.tsv", rows, 10), write_rows(folder / "dev.tsv", rows // 10, 10)
        given = text_settings(folder, train, dev) | {"store": str(folder / f"store-{rows}")}
        found.append({"rows": rows} | stage_figures(folder, given))
        shutil.rmtree(given["store"])
    return found


def over_length(folder: Path) -> Points:
    """Eight rows a step, all of them as long as max_seq_len, MiniLM-L6."""
    found = []
    for length in (16, 32, 64, 128, 256, 512):
        train, dev = (write_rows(folder / f"{name}.tsv", 64, 2, words=length) for name in ("train", "dev"))
        given = text_settings(folder, train, dev) | {"store": str(folder / f"store-{length}")}
        given["module"] = {"name": minilm(), "max_seq_len": length}
        given["train"] |= {"batch_size": 8, "max_steps": 6, "preflight": False}
        found.append({"length": length} | stage_figures(folder, given))
    return found


def over_classes(folder: Path) -> Points:
    """20 000 rows to learn from and 2 000 to judge on; training takes 50 steps of 32 rows."""
    found = []
    for classes in (2, 10, 100, 1000, 10_000):
        train, dev = write_rows(folder / "train.tsv", 20_000, classes), write_rows(folder / "dev.tsv", 2000, classes)
        given = text_settings(folder, train, dev) | {"store": str(folder / f"store-{classes}")}
        found.append({"classes": classes} | stage_figures(folder, given))
    return found


def over_processes(folder: Path) -> Points:
    """MiniLM-L6 on SST-2, 32 rows a step: what 20 more steps cost, so that starting and evaluating are left out."""
    files = prepare(TASKS["sst2"], folder, 1280)
    found = []
    for processes in (1, 2):
        seconds, peak = [], 0.0
        for steps in (10, 30):
            given = settings(TASKS["sst2"], files)
            given |= {"store": str(folder / f"store-{processes}-{steps}"), "device": "cpu", "num_processes": processes}
            given["train"] |= {"max_steps": steps, "preflight": False}
            figures = child_figures(folder, given, "fine_tune")
            seconds.append(figures["seconds"])
            peak = figures["tree_bytes"] / 1e6
        found.append({"processes": processes, "step ms": 1000 * (seconds[1] - seconds[0]) / 20, "peak MB of all": peak})
    return found


def overhead(folder: Path) -> Points:
    """MiniLM-L6 on SST-2, 32 rows a step: what passes in a step outside Paddle's executor."""
    given = settings(TASKS["sst2"], prepare(TASKS["sst2"], folder, 1280))
    figures = child_figures(folder, given | {"store": str(folder / "store"), "device": "cpu"}, "fine_tune")
    total, inside = figures["step_seconds"], figures["executor_seconds"]
    return [{"step ms": 1000 * total, "in the executor ms": 1000 * inside, "outside %": 100 * (1 - inside / total)}]


def text_settings(folder: Path, train: str, dev: str) -> dict[str, Any]:
    """A fine-tune of a BERT of one layer with MiniLM's vocabulary: what is around the operators is what is measured."""
    module = folder / "module"
    if not module.exists():
        shutil.copytree(minilm(), module, ignore=shutil.ignore_patterns("*.safetensors"))
        config = json.loads((module / "config.json").read_text(encoding="utf-8"))
        small = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}
        (module / "config.json").write_text(json.dumps(config | small), encoding="utf-8")
    checks = {"same_text_across_splits": "ignore", "same_normalised_text_across_splits": "ignore"}
    return {
        "name": "growth",
        "task": "text_classification",
        "module": {"name": str(module), "pretrained": False, "max_seq_len": 64},
        "data": {"format": "tsv", "train": train, "dev": dev, "checks": checks},
        "train": {"max_steps": 50, "batch_size": 32},
        "device": "cpu",
    }


def write_rows(path: Path, rows: int, classes: int, words: int = 20) -> str:
    """A file of rows of so many short words, each text another one, each label as often as any other."""
    draw = random.Random(rows)  # noqa: S311
    known = [line for line in (Path(minilm()) / "vocab.txt").read_text(encoding="utf-8").splitlines() if line.isalpha()][:5000]
    with path.open("w", encoding="utf-8") as stream:
        stream.write("text\tlabel\n")
        for row in range(rows):
            stream.write(f"{' '.join(draw.choices(known, k=words - 1))} {row}\tclass {row % classes}\n")
    return str(path)


def stage_figures(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Seconds and peak memory of each stage, each in a process of its own that finds the earlier ones' results."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        figures = child_figures(folder, given, stage)
        found |= {f"{stage} s": figures["seconds"], f"{stage} MB": figures["tree_bytes"] / 1e6}
        if stage == "fine_tune":
            found["step ms"] = 1000 * figures["step_seconds"]
    print("  " + json.dumps(found), file=sys.stderr)
    return found


def child_figures(folder: Path, given: dict[str, Any], stage: str) -> dict[str, Any]:
    """What `child` prints."""
    config = folder / "settings.json"
    config.write_text(json.dumps(given), encoding="utf-8")
    command = [sys.executable, __file__, "--child", str(config), stage]
    return figures_of(command, LIMIT_SECONDS, tree=True)


def table(part: str, points: Points) -> list[str]:
    """The points, and the exponent of the growth between the last two: 1 where it grows as its work does."""
    names = list(points[0])
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(shown(point[name]) for name in names) + " |" for point in points]
    if part in ("rows", "length", "classes") and len(points) > 1:
        last = math.log(points[-1][part] / points[-2][part])
        powers = [math.log(points[-1][name] / points[-2][name]) / last for name in names[1:]]
        lines.append("| exponent, last two | " + " | ".join(f"{power:.2f}" for power in powers) + " |")
    return lines


def shown(value: float) -> str:
    """A figure with four digits that count; a whole number as it is."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def plot(part: str, points: Points, path: Path | None) -> None:
    """Seconds and memory of each stage, both axes logarithmic; a line of exponent 1 to compare with."""
    if path is None:
        return
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "hubflow"
    from matplotlib import pyplot

    along = [point[part] for point in points]
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, unit in zip(axes, ("s", "MB"), strict=True):
        for stage in STAGES:
            axis.loglog(along, [point[f"{stage} {unit}"] for point in points], marker="o", label=stage)
        axis.set(xlabel=part, title={"s": "seconds", "MB": "peak memory, MB"}[unit])
        axis.grid(which="major", alpha=0.3)
    bottom = min(points[0][f"{stage} s"] for stage in STAGES)
    axes[0].loglog(along, [bottom * value / along[0] for value in along], "k:", label="as its work")
    axes[0].legend(fontsize="small")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def child(config: str, stage: str) -> None:
    """Run the stages up to `stage`, of which those before it find their results in the store; figures as JSON."""
    from hubflow.schemas.parsing import load_settings
    from hubflow.schemas.settings import FineTuneSettings
    from hubflow.stages.build_head import build_head
    from hubflow.stages.encode_dataset import encode_dataset
    from hubflow.stages.evaluate import evaluate
    from hubflow.stages.load_dataset import load_dataset
    from hubflow.stages.load_module import load_module

    fine_tune_stage = importlib.import_module("hubflow.stages.fine_tune")  # the package has the stage itself under this name
    given = load_settings(FineTuneSettings, config)
    store, clock = given.store, Steps()
    began: dict[str, float] = {}

    def ends(name: str) -> bool:
        began.setdefault("end", time.perf_counter())
        if name == stage:
            seconds = time.perf_counter() - began["start"]
            sys.stdout.write(json.dumps({"seconds": seconds, **clock.figures()}) + "\n")
        began["start"] = time.perf_counter()
        return name == stage

    began["start"] = time.perf_counter()
    dataset = load_dataset.fn(given.data, given.task, store)
    if ends("load_dataset"):
        return
    module = load_module.fn(given.module, store)
    ends("load_module")
    encoded = encode_dataset.fn(dataset, module, given.module, store)
    if ends("encode_dataset"):
        return
    task = build_head.fn(given.task, module, dataset, given.module, given.head, store)
    ends("build_head")
    follows = stage == "fine_tune" and given.num_processes == 1
    if follows:
        fine_tune_stage.TRAIN = f"{Path(__file__).stem}:counted_training"
    callbacks = [clock.callback()] if follows else []
    checkpoint = fine_tune_stage.fine_tune.fn(
        task, encoded, given.train, store, given.seed, given.device, callbacks=callbacks, num_processes=given.num_processes
    )
    if not ends("fine_tune"):
        evaluate.fn(checkpoint, encoded, given.evaluate, store, given.device)
        ends("evaluate")


class Steps:
    """Seconds of the steps after the first few, and of what passed in Paddle's executor meanwhile."""

    def __init__(self) -> None:
        self._inside = Path(tempfile.mkdtemp()) / "executor"
        os.environ[INSIDE] = str(self._inside)
        self.seconds, self.steps, self.inside = 0.0, 0, 0.0

    def figures(self) -> dict[str, float]:
        """Means a step; nothing where there were no steps."""
        if not self.steps:
            return {}
        return {"step_seconds": self.seconds / self.steps, "executor_seconds": self.inside / self.steps}

    def callback(self) -> Any:
        """What follows the run: a step's time is all that passes until the next one ends, the callback itself included."""
        from hubflow.training.callbacks import Callback, Step, TrainState

        clock = self

        class Follower(Callback):
            """Takes the time between the ends of two steps."""

            _last, _before = 0.0, 0.0

            def on_step_end(self, state: TrainState, step: Step) -> None:
                """Count it, but for the first two, which prepare programs."""
                now, inside = time.perf_counter(), float(clock._inside.read_text())
                if state.step > 2:
                    clock.seconds += now - self._last
                    clock.inside += inside - self._before
                    clock.steps += 1
                self._last, self._before = now, inside

        return Follower()


INSIDE = "HUBFLOW_BENCHMARK_EXECUTOR"
"""Environment variable: the file in which the process that trains says how long it was in Paddle's executor."""


def counted_training(request: dict[str, Any], connection: Any) -> Any:
    """As the stage's worker process does it, with the seconds in Paddle's executor written down after each run of it."""
    from hubflow.jobs import train_in_worker
    from hubflow.runtime.paddle_import import paddle

    kind, file, inside = paddle.base.executor._StandaloneExecutor, Path(os.environ[INSIDE]), [0.0]
    plain = kind.run

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return plain(self, *args, **kwargs)
        finally:
            inside[0] += time.perf_counter() - started
            file.write_text(str(inside[0]))

    kind.run = run
    return train_in_worker(request, connection)


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(*sys.argv[2:4])
    else:
        main()
