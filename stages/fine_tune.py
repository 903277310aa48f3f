"""Stage fine_tune: train a task on encoded rows and keep the best weights with their history."""

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import Timeout

from hubflow.deployment.pointer import require_fitting
from hubflow.errors import GivenUpError, SettingsError, TrainingStopped, WorkerError, WorkStoppedError
from hubflow.orchestration.progress import cancel_asked, is_followed, training_answers, watched
from hubflow.orchestration.tasks import stage
from hubflow.schemas.frames import require_evaluations, require_steps
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import CheckpointRef, EncodedRef, TaskRef, TrainRequest
from hubflow.schemas.tasks import find_task_type
from hubflow.schemas.training import HostsSettings, TrainSettings
from hubflow.schemas.urls import is_url
from hubflow.store.manifest import locked
from hubflow.store.store import Artifact, Store, content_key
from hubflow.training.callbacks import Callback, TrainState, require_callbacks
from hubflow.training.checkpoints import WEIGHTS, Checkpoints, has_checkpoint, require_or_tell
from hubflow.training.optimizers import schedule_of
from hubflow.workers.hosts import Hosts
from hubflow.workers.processes import run

FORMAT_VERSION = 4
TRAIN = "hubflow.jobs:train_in_worker"
TRAIN_REMEDY = (
    "Give a smaller train.batch_size, or the same one in more parts (train.gradient_accumulation_steps), a smaller "
    "module.max_seq_len, module.lora or a smaller module"
)
log = logging.getLogger(__name__)


def _describe(checkpoint: CheckpointRef) -> str:
    best = (
        "no dev split" if checkpoint.best_value is None else f"best {checkpoint.best_metric} on dev {checkpoint.best_value:.4f}"
    )
    return f"{checkpoint.steps} steps, {best} after epoch {checkpoint.best_epoch}"


@stage(_describe, label="fine-tune")
def fine_tune(
    task: TaskRef,
    encoded: EncodedRef,
    settings: TrainSettings,
    store: str,
    seed: int = 0,
    device: str = "auto",
    reuse: bool = True,
    callbacks: Sequence[Callback] = (),
    num_processes: int = 1,
    warm_start: CheckpointRef | None = None,
    hosts: HostsSettings | None = None,
) -> CheckpointRef:
    """Train a task on encoded rows and keep the best weights with their history (`TrainingSteps`, `Evaluations`).

    A run that was stopped resumes from its last checkpoint, with the same result as if it had not been stopped. With
    `warm_start` it begins with the weights of that checkpoint, module and head, in place of the module's own and a fresh head.

    Args:
        task: head and module to train.
        encoded: the rows to train on.
        settings: how the weights are trained.
        store: folder, or URL, of the store.
        seed: of what is random in training.
        device: `auto`, `cpu`, `gpu`, `gpu:N`, or `gpu:N,M` to train on several GPUs.
        reuse: take the weights that the store already holds for the same rows and settings; False trains from the first step.
        callbacks: called at each step and evaluation; with one process only.
        num_processes: number of processes that train together on the CPU.
        warm_start: checkpoint of the same task whose weights training begins with.
        hosts: other hosts that train together with this one, when they have joined (`hubflow join`).

    Returns:
        Reference to the best weights, with the metric that picked them and its value.

    Raises:
        LabelMapError: when head and rows were made from different label maps.
        SettingsError: when settings do not fit the module or the data, `warm_start` is of another task, or a callback has a
            method that would never be called.
        TrainingError: at the first loss or gradient that is not finite.
        TrainingStopped: when the run is asked to stop; it has written a checkpoint.
        ResumeError: when a checkpoint is required and there is none of a run with these data and settings.
        StoreError: when the store cannot be written; the checkpoints in it are unharmed.
        OutOfMemoryError: when memory runs out; the checkpoints in the store are unharmed.
        DeviceError: when a GPU, or a precision, is asked for that is not there.
        RendezvousError: when too few hosts have joined in time.
        WorkerError: when a process was lost or failed; on several hosts, more often than `hosts.max_restarts` says.
    """
    require_callbacks(callbacks)
    request = TrainRequest(
        task=task,
        encoded=encoded,
        settings=settings,
        store=store,
        seed=seed,
        device=device,
        num_processes=num_processes,
        warm_start=warm_start,
        hosts=hosts,
    )
    _require_sense(request, reuse)
    opened = Store(store)
    label_map = LabelMap.load(opened.open(encoded).folder / "label_map.json")
    label_map.require_same(task.label_map_sha256, "the encoded rows", "the head")
    if warm_start is not None:
        require_fitting(opened, warm_start, task)
    key = content_key("fine_tune", FORMAT_VERSION, request.identity())
    with _alone(opened, key):
        artifact = opened.find("checkpoints", key) if reuse else None
        working = opened.root / "training" / key
        if artifact is not None:
            shutil.rmtree(working, ignore_errors=True)  # of a run that was killed once its result was kept
            if settings.tracking.is_asked:
                log.warning("these weights were kept by an earlier run: train.tracking has nothing to follow")
            if callbacks or is_followed():
                log.warning("these weights were kept by an earlier run: callbacks are not called; reuse=False trains again")
        else:
            if not reuse:
                shutil.rmtree(working, ignore_errors=True)
            require_or_tell(working, request.identity(), settings.checkpoints.resume == "required")
            try:
                metric = settings.best_metric or find_task_type(task.task).default_best_metric(label_map.labels)
                with watched(metric, settings.batch_size, encoded.dataset.rows["train"]) as watchers:
                    done = _train(request, opened, working, watchers, callbacks, starts_over=not reuse)
            except GivenUpError:
                shutil.rmtree(working)
                raise
            artifact = _keep(opened, key, working, done, request)
            shutil.rmtree(working)
    return _reference(artifact, task)


def _require_sense(request: TrainRequest, reuse: bool) -> None:
    """Refuse what contradicts itself before anything is read or removed."""
    settings, gpus = request.settings, gpus_of(request.device)
    if not reuse and settings.checkpoints.resume == "required":
        raise SettingsError("reuse is false, which starts over, and train.checkpoints.resume is `required`; choose one")
    if request.num_processes > 1 and request.device != "cpu":
        raise SettingsError(
            f"num_processes is {request.num_processes}, which is for `device: cpu`, but the device is {request.device!r}; "
            "to train on several GPUs name them, as in `device: gpu:0,1`"
        )
    if request.hosts is not None and (request.num_processes > 1 or (request.device != "cpu" and not gpus)):
        raise SettingsError(
            f"hosts: each host trains in one process on its CPU, or in one for each GPU that `device` names; found device "
            f"{request.device!r} and num_processes {request.num_processes}. Set `device: cpu`, or GPUs as in `device: gpu:0,1`"
        )
    if len(set(gpus)) != len(gpus):
        raise SettingsError(f"device {request.device!r} names a GPU twice")
    known = find_task_type(request.task.task).measured_while_training(request.task.num_classes)
    if settings.best_metric not in (None, *known):
        raise SettingsError(f"train.best_metric {settings.best_metric!r} is not measured; use one of {', '.join(known)}")


def _train(
    request: TrainRequest,
    store: Store,
    working: Path,
    watchers: Sequence[Callback],
    callbacks: Sequence[Callback],
    starts_over: bool,
) -> dict[str, Any]:
    """Have the training done by processes of its own; what `train_in_worker` gives."""
    for reference in (request.task, request.task.module, request.encoded.module):
        store.open(reference)  # from storage elsewhere it is fetched here
    gpus = gpus_of(request.device)
    processes = max(request.num_processes, len(gpus))
    if (processes > 1 or request.hosts is not None) and callbacks:
        several = f"{processes} processes" if request.hosts is None else f"{request.hosts.count} hosts"
        raise SettingsError(f"callbacks cannot follow a run of {several}; use train.tracking, or callbacks in one process")
    shared = request.store if is_url(request.store) else str(store.root)  # on the other hosts, which have a cache of their own
    here, elsewhere = (
        request.model_copy(update={"store": address}).model_dump(mode="json") for address in (str(store.root), shared)
    )
    asked = {
        "train": here,
        "folder": str(working),
        "callbacks": [type(callback).__qualname__ for callback in callbacks],
        "starts_over": starts_over,
    }
    answers = training_answers(watchers, callbacks)

    def trained(hosts: Hosts | None) -> dict[str, Any]:
        return dict(
            run(
                TRAIN,
                asked,
                answers,
                cancel_asked,
                processes,
                gpus=gpus if processes > 1 or hosts is not None else (),
                device=request.device,
                work="training",
                memory_remedy=TRAIN_REMEDY,
                hosts=hosts,
                elsewhere={"train": elsewhere},
            )
        )

    try:
        return trained(None) if request.hosts is None else _on_hosts(request.hosts, max(1, len(gpus)), trained)
    except WorkStoppedError as error:
        where = "from its last checkpoint" if has_checkpoint(working) else "from the beginning: no checkpoint is written yet"
        raise TrainingStopped(f"training was stopped; the same run goes on {where}") from error


def _on_hosts(settings: HostsSettings, ranks: int, train: Callable[[Hosts], dict[str, Any]]) -> dict[str, Any]:
    """Train with the hosts that join; when one was lost, or a rank failed, go on with those that join then.

    A sum over hosts that waits longer than gloo does (30 seconds) fails without a word of which host is late.
    """
    for restart in range(settings.max_restarts + 1):
        with Hosts(settings, ranks) as hosts:
            hosts.gather(cancel_asked)
            try:
                return train(hosts)
            except WorkerError as error:
                if restart == settings.max_restarts:
                    raise
                log.warning("%s; training goes on from its last checkpoint with the hosts that join now", error)
    raise AssertionError("unreachable")


def gpus_of(device: str) -> list[str]:
    """Numbers of the GPUs that a device setting names one by one; none for `auto`, `cpu` and `gpu`."""
    return [number for number in device.partition(":")[2].split(",") if number]


@contextlib.contextmanager
def _alone(store: Store, key: str) -> Iterator[None]:
    """Hold the lock of one run's folder: of two alike, the second waits and then finds the result."""
    folder = store.root / "training"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f"{key}.lock"
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(lock, timeout=0))
        except Timeout:
            log.info("another run trains the same in %s: waiting for it", folder / key)
            held.enter_context(locked(lock))
        yield


def _keep(store: Store, key: str, working: Path, done: Mapping[str, Any], request: TrainRequest) -> Artifact:
    state = TrainState(**done["state"])
    checkpoints = Checkpoints(working, request.settings.checkpoints.keep)
    label_map = LabelMap.load(store.open(request.encoded).folder / "label_map.json")
    metric = request.settings.best_metric or find_task_type(request.task.task).default_best_metric(label_map.labels)
    outcome = {"best_metric": metric, "best_value": state.best_value, "best_epoch": state.best_epoch, "steps": state.step}
    with store.create("checkpoints", key) as draft:
        shutil.copy2(checkpoints.best(state.best_step) / WEIGHTS, draft.folder / WEIGHTS)
        steps, evaluations = pd.DataFrame(state.steps), pd.DataFrame(state.evaluations)
        require_steps(steps, "steps.parquet", _rates(request, done["train_rows"]))
        require_evaluations(evaluations, "evaluations.parquet", request.task.task)
        steps.to_parquet(draft.folder / "steps.parquet", index=False)
        evaluations.to_parquet(draft.folder / "evaluations.parquet", index=False)
        draft.facts |= {**request.identity(), **outcome, **done["facts"]}
    return store.load("checkpoints", key)


def _rates(request: TrainRequest, rows: int) -> Callable[[Any], Any]:
    """The learning rate of steps, by the schedule."""
    settings = request.settings
    schedule = schedule_of(settings, settings.max_steps or settings.epochs * -(-rows // settings.batch_size))
    return lambda steps: np.array([schedule.at(int(step) - 1) for step in steps])


def _reference(artifact: Artifact, task: TaskRef) -> CheckpointRef:
    names = ("best_metric", "best_value", "best_epoch", "steps")
    return CheckpointRef(
        path=artifact.path, sha256=artifact.sha256, task=task, **{name: artifact.facts[name] for name in names}
    )
