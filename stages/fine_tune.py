"""Stage fine_tune: train a task on encoded rows and keep the best weights with their history."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock, Timeout
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import CheckpointRef, EncodedRef, TaskRef
from hubflow.schemas.settings import TaskType, TrainSettings
from hubflow.stages.build_head import open_session
from hubflow.stages.console import Bar, progress_bar, say
from hubflow.stages.store import Artifact, Store, content_key
from hubflow.stages.tasks import Throttle, stage_task

if TYPE_CHECKING:
    from hubflow.stages.hub.encoded import EncodedSplit
    from hubflow.stages.hub.training import Callback, TrainState

FORMAT_VERSION = 2


def fine_tune(
    task: TaskRef,
    encoded: EncodedRef,
    settings: TrainSettings,
    store: str,
    seed: int = 0,
    device: str = "auto",
    reuse: bool = True,
    callbacks: Sequence["Callback"] = (),
) -> CheckpointRef:
    """Train a task on encoded rows and keep the best weights with their history.

    A run that was interrupted goes on after its last complete epoch.

    Raises:
        LabelMapError: when head and rows were made from different label maps.
        TrainingError: at the first loss that is not finite.
        DeviceError: when a GPU is asked for that is not there.
    """
    from hubflow.stages.hub.checkpoints import Checkpoints
    from hubflow.stages.hub.export import versions
    from hubflow.stages.hub.training import TrainPlan, train

    home = Store(store)
    label_map = LabelMap.load(home.open(encoded).folder / "label_map.json")
    label_map.require_same(task.label_map_sha256, "the encoded rows", "the head")
    best_metric = settings.best_metric or _default_metric(task.task, label_map)
    inputs = {"task": task.model_dump(), "encoded": encoded.model_dump(), "settings": settings.model_dump(), "seed": seed}
    key = content_key("fine_tune", FORMAT_VERSION, inputs)
    with _alone(home, key):
        artifact = home.find("checkpoints", key) if reuse else None
        if artifact is None:
            working = home.root / "training" / key
            if not reuse:
                shutil.rmtree(working, ignore_errors=True)
            session = open_session(task, home, device)
            rows = open_split(home, encoded, "train", settings.random_flip)
            plan = TrainPlan(settings, seed, label_map, best_metric, rows, _dev(home, encoded))
            checkpoints = Checkpoints(working)
            with _watched() as watchers:
                state = train(session, plan, checkpoints, [*watchers, *callbacks])
            facts = {**inputs, **_outcome(state, best_metric), "device": str(session.place), "versions": versions()}
            artifact = _keep(home, key, checkpoints.best, state, facts)
            shutil.rmtree(working)
    return _reference(artifact, task)


def open_split(store: Store, encoded: EncodedRef, split: str, random_flip: bool = False) -> "EncodedSplit":
    """Map one split's encoded rows into memory."""
    from hubflow.stages.hub.encoded import open_images, open_text
    from hubflow.stages.hub.module import ImageConfig, read_config

    artifact = store.open(encoded)
    path = artifact.folder / f"{split}.arrow"
    if encoded.module.module_kind == "text":
        return open_text(path, artifact.facts["pad_token_id"])
    config = read_config(store.open(encoded.module).folder, encoded.module.pretrained)
    assert isinstance(config, ImageConfig)
    return open_images(path, config.mean, config.std, random_flip)


@contextlib.contextmanager
def _alone(store: Store, key: str) -> Iterator[None]:
    """Hold the lock of one run's folder: of two alike, the second waits and then finds the result."""
    folder = store.root / "training"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"  another run trains the same in {folder / key}: waiting for it …")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _keep(store: Store, key: str, best: Path, state: "TrainState", facts: dict[str, Any]) -> Artifact:
    with store.create("checkpoints", key) as draft:
        shutil.copytree(best, draft.folder, dirs_exist_ok=True)
        pd.DataFrame(state.steps).to_parquet(draft.folder / "steps.parquet", index=False)
        pd.DataFrame(state.evaluations).to_parquet(draft.folder / "evaluations.parquet", index=False)
        draft.facts |= facts
    return store.made("checkpoints", key)


class Watcher:
    """A callback that shows how far training is: a bar in a terminal, a progress artifact in the Prefect UI."""

    def __init__(self, bar: Bar | None = None) -> None:
        self._bar, self._total = bar, 1
        self._artifact: Any = None
        self._throttle = Throttle(seconds=2.0)

    def on_train_begin(self, state: "TrainState", total_steps: int) -> None:
        """Open the artifact, and put the bar where a resumed run stands."""
        self._total = total_steps
        if self._bar is not None:
            self._bar.start(state.step, total_steps)
        if TaskRunContext.get() is not None:
            self._artifact = create_progress_artifact(100.0 * state.step / total_steps, description="fine-tuning steps")

    def on_step_end(self, state: "TrainState", loss: float, learning_rate: float) -> None:
        """Move on by one step."""
        if self._bar is not None:
            self._bar.advance(1, f"loss {loss:.4f}")
        if self._artifact is not None and self._throttle.is_due():
            update_progress_artifact(self._artifact, 100.0 * state.step / self._total)

    def on_epoch_end(self, state: "TrainState", metrics: dict[str, float]) -> None:
        """Show where the run stands at the end of an epoch."""
        if self._artifact is not None:
            update_progress_artifact(self._artifact, 100.0 * state.step / self._total)


@contextlib.contextmanager
def _watched() -> Iterator[list["Callback"]]:
    with progress_bar("training", 1) as bar:
        yield [Watcher(bar)]


def _default_metric(task: TaskType, label_map: LabelMap) -> str:
    """Entity F1 for sequences whose labels are IOB tags, accuracy for all else."""
    return "f1" if task == "sequence_labelling" and any(label.startswith("B-") for label in label_map.labels) else "accuracy"


def _dev(store: Store, encoded: EncodedRef) -> "EncodedSplit | None":
    return open_split(store, encoded, "dev") if "dev" in encoded.dataset.rows else None


def _outcome(state: "TrainState", best_metric: str) -> dict[str, Any]:
    return {"best_metric": best_metric, "best_value": state.best_value, "best_epoch": state.best_epoch, "steps": state.step}


def _reference(artifact: Artifact, task: TaskRef) -> CheckpointRef:
    names = ("best_metric", "best_value", "best_epoch", "steps")
    return CheckpointRef(
        path=artifact.path, sha256=artifact.sha256, task=task, **{name: artifact.facts[name] for name in names}
    )


def _describe(checkpoint: CheckpointRef) -> str:
    best = (
        "no dev split" if checkpoint.best_value is None else f"best {checkpoint.best_metric} on dev {checkpoint.best_value:.4f}"
    )
    return f"{checkpoint.steps} steps, {best} after epoch {checkpoint.best_epoch}"


fine_tune_task = stage_task(fine_tune, _describe, tags=("fine-tune",))
