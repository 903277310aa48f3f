"""Preflight: one batch through every part of a run before the long work, so that a mistake costs seconds."""

import os
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hubflow.data.encoded import EncodedSplit, IntArray, epoch_batches, sorted_batches
from hubflow.errors import StoreError
from hubflow.files import read_text
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import get_variable, paddle, variable_bytes
from hubflow.runtime.threads import compute_cores
from hubflow.schemas.references import TrainRequest
from hubflow.schemas.tasks import find_task_type
from hubflow.schemas.training import TrainSettings
from hubflow.store.manifest import draft_folder, write_atomically
from hubflow.store.store import Store, content_key
from hubflow.training.callbacks import TrainState
from hubflow.training.checkpoints import versions
from hubflow.training.loop import TrainStep, require_finite
from hubflow.training.program import TrainProgram

FOLDER = "preflights"


def passed(store: Store, request: TrainRequest, ranks: int) -> str | None:
    """The report of the request's preflight when it passed here, with so many ranks; None when it has not."""
    file = _file(store, request, ranks)
    return read_text(file) if file.exists() else None


def keep(store: Store, request: TrainRequest, ranks: int, facts: str) -> None:
    """Remember that the request's preflight passed here."""
    write_atomically(_file(store, request, ranks), facts.encode("utf-8"))


def forget(store: Store, request: TrainRequest, ranks: int) -> None:
    """Let the request's preflight be tried again."""
    _file(store, request, ranks).unlink(missing_ok=True)


def _file(store: Store, request: TrainRequest, ranks: int) -> Path:
    """By all that a preflight is a function of; not by the seed, which changes fresh weights and the order of rows alone.

    Object storage is not asked: another machine has other memory.
    """
    asked = {name: value for name, value in request.identity().items() if name != "seed"}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    machine = {"cores": compute_cores(), "memory": memory, "device": request.device, "ranks": ranks}
    return store.root / FOLDER / f"{content_key('preflight', asked, machine, versions())}.txt"


FEW_ROWS = 4
"""So many rows go through a program where it is enough that one does: of the shortest, or of the longest to evaluate."""


@dataclass(frozen=True)
class Preflight:
    """What one batch shows about the run to come.

    Attributes:
        rows: of the costliest update of the first epoch.
        tokens: of it, padding included; for images their number.
        step_seconds: its time, programs already prepared.
        weights_bytes: of module and head.
        state_bytes: of what the optimizer keeps beside them.
        memory_bytes: by how much the process grew at most for the update: activations, gradients and buffers.
    """

    rows: int
    tokens: int
    step_seconds: float
    weights_bytes: int
    state_bytes: int
    memory_bytes: int

    def __str__(self) -> str:
        tokens = f" of {self.tokens} tokens with padding" if self.tokens > self.rows else ""
        return (
            f"the costliest batch, {self.rows} rows{tokens}, takes {self.step_seconds:.2f} s and {size(self.memory_bytes)} "
            f"beside {size(self.weights_bytes)} of weights and {size(self.state_bytes)} of optimizer state; a checkpoint takes "
            f"{size(self.weights_bytes + self.state_bytes)}"
        )


def preflight(
    session: Session,
    update: TrainProgram,
    train_step: TrainStep,
    settings: TrainSettings,
    dev: EncodedSplit | None,
    folder: Path,
    export: Callable[[Session, Path], None],
) -> Preflight:
    """Compute one update, evaluate the longest rows, export once, and put everything back as it was.

    Args:
        session: with the weights to start from.
        update: its programs.
        train_step: of the run.
        settings: of training.
        dev: rows to evaluate on, or None.
        folder: of the run; the export is tried in a folder below it that is removed again.
        export: writes the session's inference program to a folder.

    Raises:
        TrainingError: when the loss or a gradient is not finite, naming the rows.
    """
    # At a rate of 0 weights stay as they are; copies of all that changes would be in memory beside the costliest batch.
    statistics = {name: get_variable(session.scope, name) for name in session.statistics}
    weights, total = _bytes_of(session, update)
    is_sequences = find_task_type(session.spec.task).averages_over_tokens
    batches = epoch_batches(train_step.train.lengths, settings.batch_size, train_step.seed, 0, is_sequences)
    rows = max(batches, key=lambda batch: len(batch) * int(train_step.train.lengths[batch].max()))
    state = TrainState(loss_scale=1.0 if settings.precision == "float16" else None)
    before = _resident_bytes()
    few = np.argsort(train_step.train.lengths, kind="stable")[:FEW_ROWS]
    train_step.run(update, state, few, 0.0, stop=False)  # prepares programs
    started = time.perf_counter()
    report = train_step.run(update, state, rows, 0.0, stop=False)
    seconds = time.perf_counter() - started
    require_finite(report, state, train_step.train.rows[rows])
    grown = max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
    if isinstance(session.place, paddle.CUDAPlace):
        grown = int(paddle.device.cuda.max_memory_allocated(session.place))
    if dev is not None:
        _evaluate_few(session, dev, next(sorted_batches(dev.lengths, FEW_ROWS)))
    if train_step.world.is_main_process:
        with draft_folder(folder / "preflight") as draft:
            export(session, draft)
    update.start_over()
    update.load_state(statistics)
    tokens = len(rows) * int(train_step.train.lengths[rows].max())
    return Preflight(len(rows), tokens, seconds, weights, total - weights, grown)


def _evaluate_few(session: Session, dev: EncodedSplit, rows: IntArray) -> None:
    task = session.task
    names = [*task.metric_variable_names(), "num_examples", "logits"]
    session.run(task.test_program(), dev.feed(rows), [task.test_variable(name) for name in names])


def require_room(session: Session, update: TrainProgram, folder: Path, keep: int) -> None:
    """Refuse to begin where the checkpoints will not fit: `keep` and the one being written, and as many best weights.

    Raises:
        StoreError: when the disk of `folder` has no room for them.
    """
    weights, checkpoint = _bytes_of(session, update)
    needed, free = (keep + 1) * (checkpoint + weights), shutil.disk_usage(folder).free
    if needed > free:
        raise StoreError(
            f"{folder}: checkpoints need {size(needed)} of disk, {size(free)} are free; free some, choose another `store`, "
            "or lower train.checkpoints.keep"
        )


def _bytes_of(session: Session, update: TrainProgram) -> tuple[int, int]:
    """Of module and head, and of a checkpoint of all."""
    return sum(variable_bytes(session.scope, name) for name in session.names.values()), update.state_bytes()


def size(count: int) -> str:
    """A number of bytes as a person reads it."""
    return f"{count / 2**20:,.0f} MiB" if count >= 10 * 2**20 else f"{count / 2**10:,.0f} KiB"


def _resident_bytes() -> int:
    """Memory of this process now; its highest so far where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()
