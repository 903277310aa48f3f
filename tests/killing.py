"""Kills training at any moment, starts it again until it finishes, and holds what it left to that of the uninterrupted run.

    uv run python tests/killing.py --runs 60 --seed 7

Each run is a child of a parent that has imported Paddle and run nothing of it. The child tells where it is (during a step, an
evaluation, a checkpoint's write …) in memory that it shares with the parent, and rings when it comes to the place that was
drawn for it; the parent waits a random part of the time that such a place lasts, and sends SIGKILL. What is counted is where
the child was when it died, not where it was meant to die. A rename is one system call and cannot be cut in two, so a child is
held just before it or just after it until it is killed.

A run is equal when its folder holds the same files with the same bytes as the uninterrupted run's: weights, optimizer state,
history, best score, patience, generators, the callbacks' state. One checkpoint more, older than those, is let pass: a run that
is killed between its last write and the removal of what is old has nothing more to write, and so nothing more to remove.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import mmap
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent / "helpers"))  # for those who run this file; pytest has it there already
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a fork must not inherit their threads' locks

import numpy as np
from small_modules import (
    ENTITY_LABELS,
    SENTIMENT,
    image_split,
    settings,
    some_texts,
    some_tokens,
    text_split,
    token_split,
    write_tiny_bert,
)

from hubflow.data.encoded import EncodedSplit
from hubflow.modules.download import resolve_module
from hubflow.programs.session import Session
from hubflow.runtime.threads import compute_sub_batches
from hubflow.schemas.labels import LabelMap
from hubflow.tasks.task import TaskSpec
from hubflow.training import loop as training
from hubflow.training.callbacks import Callback, Step, TrainState
from hubflow.training.checkpoints import Checkpoints
from hubflow.training.loop import TrainStep

STARTING, LOADING, STEP, EVALUATION = "starting", "loading a checkpoint", "a step", "an evaluation"
LAST, BEST, REMOVAL = "writing last", "writing best", "removing what is old"
BEFORE, AFTER, BETWEEN = "before a rename", "after a rename", "between these"
PLACES = (STARTING, LOADING, STEP, EVALUATION, LAST, BEST, REMOVAL, BEFORE, AFTER, BETWEEN)
TARGETS = (STEP, LAST, EVALUATION, AFTER, BEFORE, BEST, REMOVAL, LOADING)
LONGEST_CHILD_SECONDS = 120
HELD_SECONDS = 1.0  # at the place where a child is asked to stop, so that it is there when it is asked
FAILED, INTERRUPTED = 1, 130


@dataclass(frozen=True)
class Job:
    """One kind of fine-tune at small size."""

    name: str
    spec: TaskSpec
    module: Path
    label_map: LabelMap
    train: EncodedSplit
    dev: EncodedSplit
    values: Mapping[str, Any]

    def run(
        self, folder: Path, seed: int = 3, callbacks: Sequence[Callback] = (), draws: bool = True, **request: Any
    ) -> TrainState:
        """Train to the end, from the checkpoints that there are."""
        asked = {"job": self.name, **request}
        plan = training.TrainPlan(settings(**self.values), seed, self.label_map, "loss", self.train, self.dev, asked)
        checkpoints = Checkpoints(folder, plan.settings.checkpoints.keep)
        return training.train(
            Session(self.spec, self.module, "cpu", sub_batches=compute_sub_batches()),
            plan,
            checkpoints,
            [*([Draws()] if draws else []), *callbacks],
        )


class Draws(Callback):
    """Draws from Python's and numpy's generators at each step, and remembers what came."""

    def __init__(self) -> None:
        self.drawn: list[tuple[int, float, float]] = []

    def on_step_end(self, state: TrainState, step: Step) -> None:
        """Draw."""
        self.drawn.append((step.step, random.random(), float(np.random.normal())))  # noqa: S311

    def state_dict(self) -> dict[str, Any]:
        """What has been drawn."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.drawn = [tuple(one) for one in state["drawn"]]


def make_jobs(folder: Path) -> list[Job]:
    """Texts, images and tokens; parts, gradual unfreezing, early stopping and class weights among them."""
    bert, digits = write_tiny_bert(folder / "bert"), resolve_module("digits")
    texts = text_split(folder / "texts", bert, *some_texts(20)), text_split(folder / "dev", bert, *some_texts(11, seed=1))
    tokens = token_split(folder / "tokens", bert, *some_tokens(20), max_seq_len=24)
    flipped = image_split(folder / "images", 20, random_flip=True), image_split(folder / "dev-images", 11, seed=1)
    sides = LabelMap(labels=("left", "right"))
    every = {"every_steps": 1}
    text, image = TaskSpec("text_classification", 2), TaskSpec("image_classification", 2, hidden_units=(8,))
    gradual = {"epochs": 4, "unfreeze_every_epochs": 1, "batch_size": 10}
    patient = {"epochs": 9, "learning_rate": 2e-2, "early_stopping": {"patience": 2, "min_delta": 0.05}, "schedule": "constant"}
    return [
        Job("texts", text, bert, SENTIMENT, *texts, {"epochs": 3, "evaluate_every_steps": 2, "checkpoints": every}),
        Job("images, flipped", image, digits, sides, *flipped, {"epochs": 3, "random_flip": True, "checkpoints": every}),
        Job(
            "texts, unfreezing",
            text,
            bert,
            SENTIMENT,
            *texts,
            {**gradual, "gradient_accumulation_steps": 2, "checkpoints": every},
        ),
        Job("texts, patience", text, bert, SENTIMENT, *texts, {**patient, "checkpoints": {"every_steps": 2, "keep": 1}}),
        Job(
            "images, unfreezing", image, digits, sides, *flipped,
            {**gradual, "optimizer": "momentum", "l2_sp": 0.01, "evaluate_every_steps": 3, "checkpoints": {"every_steps": 2}},
        ),
        Job(
            "tokens", TaskSpec("sequence_labelling", 5), bert, ENTITY_LABELS, tokens, tokens,
            {"epochs": 2, "class_weights": "balanced", "label_smoothing": 0.1, "layerwise_lr_decay": 0.9, "checkpoints": every},
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class Strike:
    """Where a child is to be killed: the n-th time that it comes to a place, after a delay."""

    place: str
    occurrence: int
    delay_seconds: float
    signals: tuple[int, ...] = (signal.SIGKILL,)


@dataclass(frozen=True)
class Ending:
    """How a child ended: where it was, by which signal or with which code, after how many steps of its own."""

    place: str
    signal: int | None
    code: int | None
    steps: int

    @property
    def is_finished(self) -> bool:
        """Whether it trained to the end."""
        return self.code == 0


class Board:
    """What a child says of where it is, in memory shared with its parent: it can be read when the child is dead."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._read, self._bell = os.pipe()
        self._strike: Strike | None = None
        self._times: dict[str, list[float]] = {place: [] for place in PLACES}

    @property
    def place(self) -> str:
        """Where the child is, or was when it died."""
        return PLACES[self._memory[0]]

    @property
    def steps(self) -> int:
        """How many steps the child has finished."""
        return self._memory[1]

    def begin(self, strike: Strike | None) -> None:
        """Child: take the place's orders; the parent's end of the bell is closed."""
        os.close(self._read)
        self._strike = strike
        self._memory[0] = PLACES.index(STARTING)

    @contextlib.contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Child: be at a place inside the block."""
        outer, started = self._memory[0], time.perf_counter()
        self._memory[0] = PLACES.index(place)
        times = self._times[place]
        strike = self._strike
        if strike is not None and (strike.place, strike.occurrence) == (place, len(times) + 1):
            os.write(self._bell, b"!")
            if strike.signals != (signal.SIGKILL,):
                time.sleep(HELD_SECONDS)
            elif place in (BEFORE, AFTER):
                time.sleep(LONGEST_CHILD_SECONDS)
        yield
        times.append(time.perf_counter() - started)
        self._memory[1] = len(self._times[STEP])
        self._memory[0] = PLACES.index(BETWEEN) if outer == PLACES.index(STARTING) else outer

    def wait(self, seconds: float) -> bool:
        """Parent: wait for the bell; False when the child has ended before it rang."""
        os.close(self._bell)
        ready, _, _ = select.select([self._read], [], [], seconds)
        assert ready, f"a child neither came to its place nor ended in {seconds} s"
        rang = os.read(self._read, 1) == b"!"
        os.close(self._read)
        return rang

    def durations(self) -> dict[str, tuple[int, float]]:
        """Child: how often it was at each place, and for how many seconds on average."""
        return {place: (len(times), sum(times) / len(times)) for place, times in self._times.items() if times}


def watch_places(board: Board) -> None:
    """Child: have the parts of the engine tell the board where the run is."""

    def told(place: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with board.at(place):
                return function(*args, **kwargs)

        return run

    def rename(*args: Any, rename: Callable[..., None] = os.rename) -> None:
        with board.at(BEFORE):
            pass
        rename(*args)
        with board.at(AFTER):
            pass

    os.rename = rename  # type: ignore[assignment]
    TrainStep.run = told(STEP, TrainStep.run)  # type: ignore[method-assign]
    training.evaluate_split = told(EVALUATION, training.evaluate_split)
    Checkpoints.load = told(LOADING, Checkpoints.load)  # type: ignore[method-assign]
    Checkpoints.save = told(LAST, Checkpoints.save)  # type: ignore[method-assign]
    Checkpoints.save_best = told(BEST, Checkpoints.save_best)  # type: ignore[method-assign]
    shutil.rmtree = told(REMOVAL, shutil.rmtree)  # type: ignore[assignment]


def run_child(job: Job, folder: Path, strike: Strike | None = None, notes: Path | None = None) -> Ending:
    """Train in a child that is struck, or not, and say how it ended.

    Raises:
        AssertionError: when the child fails; it has printed why.
    """
    board = Board()
    child = os.fork()
    if child == 0:
        _be_child(board, job, folder, strike, notes)
    if board.wait(LONGEST_CHILD_SECONDS) and strike is not None:
        for number in strike.signals:
            time.sleep(strike.delay_seconds)
            os.kill(child, number)
    _, status = os.waitpid(child, 0)
    ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    ending = Ending(board.place, ended_by, None if ended_by else os.WEXITSTATUS(status), board.steps)
    assert ending.code != FAILED, f"{job.name}: the child failed in {board.place}"
    return ending


def _be_child(board: Board, job: Job, folder: Path, strike: Strike | None, notes: Path | None) -> None:
    code = FAILED
    try:
        board.begin(strike)
        watch_places(board)
        job.run(folder)
        if notes is not None:
            notes.write_text(json.dumps(board.durations()), encoding="utf-8")
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, hidden ones included."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def differences(found: Mapping[str, str], whole: Mapping[str, str]) -> list[str]:
    """Files that differ, are missing or are too many."""
    oldest = min(name for name in whole if name.startswith("last-"))
    more = sorted({name.partition("/")[0] for name in found.keys() - whole.keys()})
    is_left_over = len(more) == 1 and more[0].startswith("last-") and more[0] < oldest
    names = whole.keys() if is_left_over else found.keys() | whole.keys()
    return sorted(name for name in names if found.get(name) != whole.get(name))


@dataclass(frozen=True)
class Whole:
    """An uninterrupted run: what it left, and how often and how long it was at each place."""

    job: Job
    contents: dict[str, str]
    durations: dict[str, tuple[int, float]]


def run_whole(job: Job, folder: Path) -> Whole:
    """Train a job without interruption."""
    notes = folder.with_suffix(".json")
    assert run_child(job, folder, notes=notes).is_finished
    return Whole(job, contents(folder), json.loads(notes.read_text(encoding="utf-8")))


@dataclass
class Tally:
    """What came of the runs."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    unequal: list[str] = field(default_factory=list)

    def table(self) -> str:
        """What came of them, for people."""
        kills = "\n".join(f"| {place} | {self.kills[place]} |" for place in PLACES)
        runs = "\n".join(f"| {name} | {count} |" for name, count in self.runs.items())
        total, killed = self.runs.total(), self.kills.total()
        unequal = "".join(f"\n  - {one}" for one in self.unequal) or " none"
        return (
            f"| killed during | times |\n|---|---|\n{kills}\n\n| fine-tune | runs |\n|---|---|\n{runs}\n\n"
            f"{total} runs, killed {killed} times, started {self.starts} times. "
            f"Equal to the uninterrupted run, every byte: {total - len(self.unequal)} of {total}; not equal:{unequal}"
        )


def draw_strike(draw: random.Random, whole: Whole, place: str) -> Strike:
    """An occurrence of a place, and a delay within the time that it lasts."""
    count, seconds = whole.durations.get(place, (1, 0.0))
    return Strike(place, draw.randint(1, max(1, count // 2)), draw.uniform(0.0, seconds))


def kill_and_resume(whole: Whole, folder: Path, places: Sequence[str], draw: random.Random, tally: Tally) -> None:
    """One run, killed at each of `places` in turn and started again, until it finishes."""
    struck = []
    for strike in [*(draw_strike(draw, whole, place) for place in places), None]:
        tally.starts += 1
        ending = run_child(whole.job, folder, strike)
        if ending.is_finished:
            break
        tally.kills[ending.place] += 1
        struck.append(ending.place)
    tally.runs[whole.job.name] += 1
    differing = differences(contents(folder), whole.contents)
    if differing:
        tally.unequal.append(f"{folder.name}, {whole.job.name}, killed during {struck}: {differing}")
    else:
        shutil.rmtree(folder)


def kill_runs(runs: int, kinds: int, seed: int, most_kills: int, folder: Path) -> Tally:
    """Kill so many runs, job by job and place by place in turn, up to `most_kills` times each."""
    draw, tally = random.Random(seed), Tally()  # noqa: S311
    wholes = [run_whole(job, folder / f"whole-{number}") for number, job in enumerate(make_jobs(folder)[:kinds])]
    order = iter(draw.sample(TARGETS * (runs * most_kills), runs * most_kills * len(TARGETS)))
    for number in range(runs):
        # The first place of each run goes round, so that few runs see all of them; the others are drawn.
        places = [TARGETS[number % len(TARGETS)], *(next(order) for _ in range(draw.randint(0, most_kills - 1)))]
        kill_and_resume(wholes[number % len(wholes)], folder / f"run-{number}", places, draw, tally)
    return tally


def main() -> int:
    """Kill runs, print what came of them, and end with 1 when one was not equal."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=60, help="how many runs are killed")
    parser.add_argument("--kinds", type=int, default=6, help="how many kinds of fine-tune are among them")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn: places, delays")
    parser.add_argument("--most-kills", type=int, default=4, help="how often one run is killed at most")
    parser.add_argument("--folder", type=Path, default=None, help="where the runs are kept; a temporary one by default")
    options = parser.parse_args()
    parent = options.folder
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="killing.", dir=parent))
    started = time.perf_counter()
    tally = kill_runs(options.runs, options.kinds, options.seed, options.most_kills, folder)
    print(f"{tally.table()}\n{time.perf_counter() - started:.0f} s")
    if tally.unequal:
        print(f"what they left is in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
