"""Runs that stop before their end: what is required or told of them, and a store that is full or cannot be written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runs import Run

from hubflow.errors import ResumeError
from hubflow.schemas.references import TrainRequest
from hubflow.schemas.training import CheckpointSettings, TrainSettings
from hubflow.stages.fine_tune import fine_tune
from hubflow.store.manifest import verify_folder
from hubflow.training.callbacks import Callback, Step, TrainState

pytestmark = pytest.mark.slow

EVERY_STEP = CheckpointSettings(every_steps=1)
TROUBLE = """
import importlib, json, sys
from pathlib import Path
from hubflow.errors import HubflowError
from hubflow.schemas.references import TrainRequest

request, kind = TrainRequest.model_validate_json(sys.argv[1]), sys.argv[2]
store = Path(request.store)
stage = importlib.import_module("hubflow.stages.fine_tune")  # the package has the stage itself under this name
stage.TRAIN = f"trouble_targets:{kind}"
try:
    stage.fine_tune.fn(request.task, request.encoded, request.settings, request.store, request.seed, "cpu")
except HubflowError as error:
    for folder in store.glob("training/*/"):
        folder.chmod(0o755)
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
"""


class Cut(Callback):
    """Ends a run with an error after a step."""

    def __init__(self, after: int) -> None:
        self.after, self.first = after, 0

    def on_step_end(self, state: TrainState, step: Step) -> None:
        self.first = self.first or step.step
        if step.step == self.after:
            raise RuntimeError("cut")


def request_in(store: Path, run: Run, **settings: object) -> TrainRequest:
    """The training of a run, in a copy of its store that lacks what was trained."""
    if not store.exists():
        shutil.copytree(run.settings.store, store, ignore=shutil.ignore_patterns("checkpoints", "training"))
    train = run.settings.train.model_copy(update={"checkpoints": EVERY_STEP, **settings})
    return TrainRequest(
        task=run.task, encoded=run.encoded, settings=train, store=str(store), seed=run.settings.seed, device="cpu"
    )


def go(request: TrainRequest, after: int | None = None, resume: str = "auto") -> Cut:
    checkpoints = CheckpointSettings.model_validate({"every_steps": 1, "resume": resume})
    settings: TrainSettings = request.settings.model_copy(update={"checkpoints": checkpoints})
    watch = Cut(after or 0)
    fine_tune.fn(request.task, request.encoded, settings, request.store, request.seed, "cpu", callbacks=[watch])
    return watch


def cut(request: TrainRequest, after: int) -> None:
    with pytest.raises(RuntimeError, match="cut"):
        go(request, after)


def contents(folder: Path) -> dict[str, bytes]:
    """Weights and history of a checkpoint."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}


def made(store: Path) -> dict[str, bytes]:
    """Weights and history of the one checkpoint of a store."""
    (folder,) = store.glob("checkpoints/*")
    return contents(folder)


def test_where_a_checkpoint_is_required_and_no_run_was_stopped_training_does_not_begin(digits_run: Run, tmp_path: Path) -> None:
    request = request_in(tmp_path / "store", digits_run)
    with pytest.raises(
        ResumeError, match=r"train\.checkpoints\.resume is `required`, but no stopped run is kept in .*training"
    ):
        go(request, resume="required")


def test_where_a_checkpoint_is_required_the_nearest_stopped_run_is_named_with_what_differs(
    digits_run: Run, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    cut(request_in(store, digits_run), after=4)
    other = request_in(store, digits_run, learning_rate=2e-3)
    with pytest.raises(ResumeError) as refusal:
        go(other, resume="required")
    assert "differs in 1 value(s)" in str(refusal.value)
    assert "settings.learning_rate: 0.001 in the checkpoint, 0.002 now" in str(refusal.value)


def test_a_stopped_run_of_other_settings_is_left_alone_and_told_of_and_can_be_gone_on_with(
    digits_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store"
    request = request_in(store, digits_run)
    cut(request, after=4)
    cut(request_in(store, digits_run, learning_rate=2e-3), after=1)
    (told,) = [record.getMessage() for record in caplog.records if "is left alone" in record.getMessage()]
    assert "it differs in 1 value(s)" in told
    assert "settings.learning_rate: 0.001 in the checkpoint, 0.002 now" in told
    watch = go(request, resume="required")
    assert watch.first == 4  # the fourth step was not written down: the callback ended the run before that
    assert made(store) == contents(digits_run.store.open(digits_run.checkpoint).folder)


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_store_that_fills_up_or_turns_read_only_keeps_its_checkpoints_and_the_run_goes_on_once_it_can(
    kind: str, digits_run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("trouble")
    for folder in (home, *home.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)  # so that another user may look in
    request = request_in(home / "store", digits_run)
    expected = contents(digits_run.store.open(digits_run.checkpoint).folder)
    command = [sys.executable, "-c", TROUBLE, request.model_dump_json(), kind.replace("-", "_")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "workers")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["error"] == "StoreError", done.stderr
    reason = {"full": "File too large", "read-only": "Permission denied"}[kind]
    assert "last-00000008 could not be written" in told["message"]
    assert reason in told["message"]
    assert "the earlier checkpoints are unharmed" in told["message"]
    kept = sorted(home.glob("store/training/*/last-*"))
    assert [path.name for path in kept] == ["last-00000006", "last-00000007"]
    assert all(verify_folder(path) for path in kept)
    assert go(request).first == 8
    assert made(home / "store") == expected


@pytest.mark.parametrize("megabytes", [2, *(pytest.param(number, marks=pytest.mark.soak) for number in (20, 40))])
def test_a_run_whose_memory_runs_out_says_what_to_change_and_goes_on_once_there_is_more(
    megabytes: int, text_run: Run, tmp_path: Path
) -> None:
    request = request_in(tmp_path / "store", text_run)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "workers"), "MORE_MEGABYTES": str(megabytes)}
    command = [sys.executable, "-c", TROUBLE, request.model_dump_json(), "starved"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.stdout, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["error"] == "OutOfMemoryError", told["message"]
    assert told["message"].startswith("training ran out of memory"), told["message"]
    for setting in ("train.batch_size", "train.gradient_accumulation_steps", "module.max_seq_len"):
        assert setting in told["message"]
    assert all(verify_folder(path) for path in (tmp_path / "store").glob("training/*/last-*"))
    assert go(request).first == 1
    assert made(tmp_path / "store") == contents(text_run.store.open(text_run.checkpoint).folder)
