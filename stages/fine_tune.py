"""Stage fine_tune: train a task on encoded rows and keep the best weights with their history."""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from hubflow.schemas.errors import GivenUpError, SettingsError
from hubflow.schemas.frames import require_evaluations, require_steps
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.metrics import measured_while_training
from hubflow.schemas.references import CheckpointRef, EncodedRef, TaskRef
from hubflow.schemas.requests import TrainRequest
from hubflow.schemas.settings import TaskType
from hubflow.schemas.training import TrainSettings
from hubflow.stages import preflights
from hubflow.stages.build_head import open_session
from hubflow.stages.hub.callbacks import Callback, TrainState
from hubflow.stages.hub.checkpoints import WEIGHTS, Checkpoints
from hubflow.stages.store import Artifact, Store, content_key
from hubflow.stages.tasks import stage_task
from hubflow.stages.unfinished import REQUEST, has_checkpoint, require_or_tell
from hubflow.stages.warm_start import require_fitting
from hubflow.stages.watching import Emitter, Replay, stoppable, watched

if TYPE_CHECKING:
    from hubflow.stages.hub.distributed import World
    from hubflow.stages.hub.encoded import EncodedSplit
    from hubflow.stages.hub.session import Session
    from hubflow.stages.hub.stepping import Stepper
    from hubflow.stages.hub.updates import Update

FORMAT_VERSION = 3
log = logging.getLogger(__name__)


def fine_tune(
    task: TaskRef,
    encoded: EncodedRef,
    settings: TrainSettings,
    store: str,
    seed: int = 0,
    device: str = "auto",
    reuse: bool = True,
    callbacks: Sequence[Callback] = (),
    processes: int = 1,
    warm_start: CheckpointRef | None = None,
) -> CheckpointRef:
    """Train a task on encoded rows and keep the best weights with their history (`TrainingSteps`, `Evaluations`).

    A run that was stopped goes on from its last checkpoint as if it had not been. With `warm_start` it begins with the weights
    of that checkpoint, module and head, in place of the module's own and a fresh head.

    Raises:
        LabelMapError: when head and rows were made from different label maps.
        SettingsError: when settings do not fit the module or the data, or `warm_start` is of another task.
        TrainingError: at the first loss or gradient that is not finite.
        ResumeError: when a checkpoint is required and there is none of a run with these data and settings.
        StoreError: when the store cannot be written; the checkpoints in it are unharmed.
        DeviceError: when a GPU, or a precision, is asked for that is not there.
    """
    request = TrainRequest(
        task=task,
        encoded=encoded,
        settings=settings,
        store=store,
        seed=seed,
        device=device,
        processes=processes,
        warm_start=warm_start,
    )
    _require_sense(request, reuse)
    home = Store(store)
    label_map = LabelMap.load(home.open(encoded).folder / "label_map.json")
    label_map.require_same(task.label_map_sha256, "the encoded rows", "the head")
    if warm_start is not None:
        require_fitting(home, warm_start, task)
    key = content_key("fine_tune", FORMAT_VERSION, request.identity())
    with _alone(home, key):
        artifact = home.find("checkpoints", key) if reuse else None
        working = home.root / "training" / key
        if artifact is not None:
            shutil.rmtree(working, ignore_errors=True)  # of a run that was killed once its result was kept
            if settings.track.is_asked:
                log.warning("these weights were kept by an earlier run: train.track has nothing to follow")
        else:
            if not reuse:
                shutil.rmtree(working, ignore_errors=True)
                preflights.forget(home, request)
            _check_at_once(request)
            require_or_tell(working, request.identity(), settings.checkpoints.resume == "required")
            working.mkdir(parents=True, exist_ok=True)
            (working / REQUEST).write_text(json.dumps(request.identity()), encoding="utf-8")
            try:
                with watched() as watchers:
                    state = _train(request, working, watchers, callbacks)
            except GivenUpError:
                shutil.rmtree(working)
                raise
            artifact = _keep(home, key, working, state, request)
            shutil.rmtree(working)
    return _reference(artifact, task)


def _require_sense(request: TrainRequest, reuse: bool) -> None:
    """Refuse what contradicts itself before anything is read or removed."""
    settings, gpus = request.settings, gpus_of(request.device)
    if not reuse and settings.checkpoints.resume == "required":
        raise SettingsError("reuse is false, which starts over, and train.checkpoints.resume is `required`; choose one")
    if request.processes > 1 and request.device != "cpu":
        raise SettingsError(
            f"processes is {request.processes}, which is for `device: cpu`, but the device is {request.device!r}; "
            "to train on several GPUs name them, as in `device: gpu:0,1`"
        )
    if len(set(gpus)) != len(gpus):
        raise SettingsError(f"device {request.device!r} names a GPU twice")
    known = measured_while_training(request.task.task, request.task.num_classes)
    if settings.best_metric not in (None, *known):
        raise SettingsError(f"train.best_metric {settings.best_metric!r} is not measured; use one of {', '.join(known)}")


def _check_at_once(request: TrainRequest) -> None:
    """Find what would end the run before its first step, while nothing is written and no process started."""
    from hubflow.stages.hub.course import Course
    from hubflow.stages.hub.evaluation import require_defined
    from hubflow.stages.hub.module import module_blocks, read_config
    from hubflow.stages.hub.objective import class_weights_of
    from hubflow.stages.hub.precision import require_precision
    from hubflow.stages.hub.runtime import place_of

    home, settings, encoded = Store(request.store), request.settings, request.encoded
    place = place_of(request.device)
    require_precision(settings.precision, place, request.task.task == "image_classification")
    blocks = module_blocks(read_config(home.open(request.task.module).folder, request.task.module.pretrained))
    rows = open_split(home, encoded, "train")
    Course(settings, blocks, len(rows), "dev" in encoded.dataset.rows, settings.best_metric or "")
    label_map = LabelMap.load(home.open(encoded).folder / "label_map.json")
    class_weights_of(settings, label_map, rows)
    if "dev" in encoded.dataset.rows:
        metric = settings.best_metric or _default_metric(request.task.task, label_map)
        require_defined(metric, open_split(home, encoded, "dev"), label_map)


def _train(request: TrainRequest, working: Path, watchers: Sequence[Callback], callbacks: Sequence[Callback]) -> TrainState:
    from hubflow.stages.hub.distributed import World

    processes = max(request.processes, len(gpus_of(request.device)))
    if processes == 1:
        return stoppable(lambda stop: run_training(request, working, [*watchers, *callbacks], World.alone(), stop))
    if callbacks:
        raise SettingsError(
            f"callbacks cannot follow a run of {processes} processes; use train.track, or callbacks with processes: 1"
        )
    return stoppable(lambda stop: _launch(request, working, processes, watchers, stop))


def _launch(
    request: TrainRequest, working: Path, processes: int, watchers: Sequence[Callback], stop_asked: Callable[[], bool]
) -> TrainState:
    from hubflow.stages.hub.training import TrainingStopped
    from hubflow.stages.launch import launch

    gpus = ",".join(gpus_of(request.device)) or None
    outcome = launch(request.model_dump(mode="json"), working, processes, gpus, Replay(watchers), stop_asked)
    if outcome == "stopped":
        where = "from its last checkpoint" if has_checkpoint(working) else "from the beginning: no checkpoint is written yet"
        raise TrainingStopped(f"the processes were stopped; the same run goes on {where}")
    saved = Checkpoints(working).load()
    assert saved is not None, "a launch that ends without an error has written its last checkpoint"
    return TrainState(**saved[1]["state"])


def run_training(
    request: TrainRequest,
    working: Path,
    callbacks: Sequence[Callback],
    world: "World",
    stop_asked: Callable[[], bool] = lambda: False,
) -> TrainState:
    """Train in this process, alone or as one of several: of those the one of rank 0 has callbacks, and writes.

    Raises:
        HubflowError: as `fine_tune`.
    """
    from hubflow.stages.hub.cores import compute_lanes
    from hubflow.stages.hub.distributed import in_turn, rank_device
    from hubflow.stages.hub.export_folder import write_export
    from hubflow.stages.hub.preflight import preflight, require_room
    from hubflow.stages.hub.trackers import trackers
    from hubflow.stages.hub.training import TrainPlan, train

    home, settings, encoded = Store(request.store), request.settings, request.encoded
    source = home.open(encoded)
    label_map = LabelMap.load(source.folder / "label_map.json")
    device = rank_device() if world.size > 1 else request.device
    session = open_session(request.task, home, device, settings.precision, compute_lanes())
    rows = open_split(home, encoded, "train", settings.random_flip)
    dev = open_split(home, encoded, "dev") if "dev" in encoded.dataset.rows else None
    best_metric = settings.best_metric or _default_metric(request.task.task, label_map)
    warm = None if request.warm_start is None else home.open(request.warm_start).folder
    plan = TrainPlan(settings, request.seed, label_map, best_metric, rows, dev, request.identity(), warm)

    def export(trained: "Session", folder: Path) -> None:
        write_export(trained, folder, label_map, encoded.dataset.rows_kind, {})

    def check(trained: "Session", update: "Update", stepper: "Stepper") -> None:
        require_room(trained, update, working, settings.checkpoints.keep)
        if not settings.preflight:
            return
        if (known := preflights.passed(home, request)) is not None:
            log.info("preflight: passed before, on the same rows, settings, versions and machine: %s", known)
            return
        facts = preflight(trained, update, stepper, settings, dev, working, export)
        if world.leads:  # no process is past the updates of a preflight that the others have not begun
            log.info("preflight: %s", facts)
            preflights.keep(home, request, str(facts))

    tracked = trackers(settings.track, working.name, settings.result_settings()) if world.leads else []
    checkpoints = in_turn(world, lambda: Checkpoints(working, settings.checkpoints.keep))
    return train(session, plan, checkpoints, [*tracked, *callbacks], world, stop_asked, check)


def train_rank(request: dict[str, Any], world: "World", emit: Callable[[dict[str, Any]], None] | None) -> None:
    """One process of a run of several, as `hubflow.stages.training_worker` calls it."""
    asked = TrainRequest.model_validate(request)
    key = content_key("fine_tune", FORMAT_VERSION, asked.identity())
    run_training(asked, Store(asked.store).root / "training" / key, [Emitter(emit)] if emit else [], world)


def gpus_of(device: str) -> list[str]:
    """Numbers of the GPUs that a device setting names one by one; none for `auto`, `cpu` and `gpu`."""
    return [number for number in device.partition(":")[2].split(",") if number]


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
        log.info("another run trains the same in %s: waiting for it", folder / key)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _keep(store: Store, key: str, working: Path, state: TrainState, request: TrainRequest) -> Artifact:
    from hubflow.stages.hub.export_folder import versions
    from hubflow.stages.hub.resuming import environment
    from hubflow.stages.hub.runtime import place_of

    checkpoints = Checkpoints(working, request.settings.checkpoints.keep)
    label_map = LabelMap.load(store.open(request.encoded).folder / "label_map.json")
    metric = request.settings.best_metric or _default_metric(request.task.task, label_map)
    outcome = {"best_metric": metric, "best_value": state.best_value, "best_epoch": state.best_epoch, "steps": state.step}
    with store.create("checkpoints", key) as draft:
        shutil.copy2(checkpoints.best(state.best_step) / WEIGHTS, draft.folder / WEIGHTS)
        steps, evaluations = pd.DataFrame(state.steps), pd.DataFrame(state.evaluations)
        require_steps(steps, "steps.parquet", _rates(store, request))
        require_evaluations(evaluations, "evaluations.parquet")
        steps.to_parquet(draft.folder / "steps.parquet", index=False)
        evaluations.to_parquet(draft.folder / "evaluations.parquet", index=False)
        how = {
            "device": str(place_of(request.device)),
            "processes": request.processes,
            "versions": versions(),
            "environment": environment(),
        }
        draft.facts |= {**request.identity(), **outcome, **how}
    return store.made("checkpoints", key)


def _rates(store: Store, request: TrainRequest) -> Callable[[Any], Any]:
    """The learning rate of steps, by the schedule."""
    from hubflow.stages.hub.schedules import schedule_of

    settings, rows = request.settings, len(open_split(store, request.encoded, "train"))
    schedule = schedule_of(settings, settings.max_steps or settings.epochs * -(-rows // settings.batch_size))
    return lambda steps: np.array([schedule.at(int(step) - 1) for step in steps])


def _default_metric(task: TaskType, label_map: LabelMap) -> str:
    """Entity F1 for sequences whose labels are IOB tags, accuracy for all else."""
    return "f1" if task == "sequence_labelling" and any(label.startswith("B-") for label in label_map.labels) else "accuracy"


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


fine_tune_task = stage_task(fine_tune, _describe)
