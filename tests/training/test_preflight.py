"""Preflight: tries every part on the costliest batch, tells what it costs, and leaves the run as it found it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_modules import SENTIMENT, settings, some_texts, text_split

from hubflow.data.encoded import TextSplit, epoch_batches
from hubflow.errors import StoreError, TrainingError
from hubflow.inference.export import write_export
from hubflow.programs.session import Session
from hubflow.schemas.labels import LabelMap
from hubflow.tasks.task import TaskSpec
from hubflow.training.callbacks import TrainState
from hubflow.training.checkpoints import Checkpoints
from hubflow.training.loop import TrainPlan, TrainStep, train
from hubflow.training.preflight import Preflight, preflight, require_room
from hubflow.training.program import TrainProgram

pytestmark = pytest.mark.slow

Export = Callable[[Session, Path], None]


def write(session: Session, folder: Path) -> None:
    write_export(session, folder, LabelMap(labels=SENTIMENT.labels), "text", {})


class Run:
    """A small run with a preflight."""

    def __init__(self, module: Path, folder: Path) -> None:
        self.module, self.folder = module, folder
        self.rows: TextSplit = text_split(folder / "rows", module, *some_texts(21))
        self.found: Preflight | None = None
        self.session: Session | None = None

    def start(self, name: str, export: Export = write, is_checked: bool = True, **values: Any) -> TrainState:
        chosen = settings(**values)
        self.session = Session(TaskSpec("text_classification", 2), self.module, "cpu")

        def check(session: Session, update: TrainProgram, train_step: TrainStep) -> None:
            require_room(session, update, self.folder / name, chosen.checkpoints.keep)
            if is_checked:
                self.found = preflight(session, update, train_step, chosen, self.rows, self.folder / name, export)

        plan = TrainPlan(chosen, 0, SENTIMENT, "loss", self.rows, self.rows)
        return train(self.session, plan, Checkpoints(self.folder / name), before=check)

    def weights(self) -> dict[str, np.ndarray[Any, Any]]:
        assert self.session is not None
        return self.session.weights()


@pytest.fixture
def run(tiny_bert: Path, tmp_path: Path) -> Run:
    return Run(tiny_bert, tmp_path)


@pytest.mark.parametrize("values", [{}, {"gradient_accumulation_steps": 2}, {"unfreeze_every_epochs": 1}, {"l2_sp": 0.1}])
def test_a_run_with_a_preflight_ends_as_one_without(run: Run, values: dict[str, Any]) -> None:
    with_it, first = run.start("with", **values), run.weights()
    without, second = run.start("without", is_checked=False, **values), run.weights()
    assert with_it == without
    assert all(first[name].tobytes() == second[name].tobytes() for name in second)
    assert sorted(path.name for path in (run.folder / "with").iterdir() if path.name.startswith(".")) == []


def test_it_tells_the_costliest_batch_and_what_is_kept(run: Run) -> None:
    run.start("run")
    assert run.found is not None
    batches = epoch_batches(run.rows.lengths, 8, 0, 0)
    assert run.found.tokens == max(len(batch) * int(run.rows.lengths[batch].max()) for batch in batches)
    assert run.found.weights_bytes == sum(array.nbytes for array in run.weights().values())
    assert run.found.state_bytes > 1.9 * run.found.weights_bytes  # two moments for nearly every weight
    assert "rows of" in str(run.found)


def test_an_export_that_cannot_be_made_ends_the_run_before_its_first_step(run: Run) -> None:
    def broken(session: Session, folder: Path) -> None:
        (folder / "half").write_text("written")
        raise OSError("no tokenizer")

    with pytest.raises(OSError, match="no tokenizer"):
        run.start("run", broken)
    assert list((run.folder / "run").iterdir()) == []


def test_weights_that_give_no_finite_loss_end_the_run_before_its_first_step(run: Run) -> None:
    # a module whose weights are broken
    def poison(session: Session, folder: Path) -> None:
        raise AssertionError("the export must not be reached")

    chosen = settings()
    session = Session(TaskSpec("text_classification", 2), run.module, "cpu")

    def check(session: Session, update: TrainProgram, train_step: TrainStep) -> None:
        state = update.state()
        update.load_state({name: np.full_like(array, np.nan) for name, array in state.items() if name == "head.output.bias"})
        preflight(session, update, train_step, chosen, None, run.folder / "run", poison)

    plan = TrainPlan(chosen, 0, SENTIMENT, "loss", run.rows, None)
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan.*rows of its batch"):
        train(session, plan, Checkpoints(run.folder / "run"), before=check)


def test_checkpoints_that_the_disk_has_no_room_for_are_refused(run: Run) -> None:
    with pytest.raises(StoreError, match=r"need [\d,]+ MiB of disk, [\d,]+ MiB are free"):
        run.start("run", checkpoints={"keep": 10**9})
