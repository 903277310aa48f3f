"""Jobs: what worker processes do for the stages, which is training, evaluation and export."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hubflow.evaluation.custom_metrics import custom_metrics
from hubflow.evaluation.details import metric_options
from hubflow.evaluation.folder import keep_split, write_details
from hubflow.evaluation.slices import EvaluatedSplit
from hubflow.inference.export import write_export
from hubflow.inference.verification import verify_export, what_was_trained
from hubflow.modules.module import module_blocks, read_config
from hubflow.modules.tokenizer import WordWindows, encode_word_windows, load_tokenizer
from hubflow.programs.precision import require_precision
from hubflow.programs.session import Session, computes_by_kernels, open_session, open_split
from hubflow.runtime.paddle_import import place_of
from hubflow.runtime.threads import compute_sub_batches
from hubflow.schemas.evaluation import SplitDetails
from hubflow.schemas.export import VERIFICATION, ExportSettings, VerificationRequest
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import CheckpointRef, EncodedRef, EvaluationRef, TrainRequest
from hubflow.schemas.settings import EvaluateSettings
from hubflow.schemas.tasks import find_task_type
from hubflow.store.manifest import write_atomically
from hubflow.store.store import Store
from hubflow.training import preflight as preflights
from hubflow.training.callbacks import Callback, Step, TrainState
from hubflow.training.checkpoints import REQUEST, Checkpoints, environment, versions
from hubflow.training.distributed import World, join, rank_device
from hubflow.training.evaluation import evaluate_split, require_defined
from hubflow.training.loop import TrainerControl, TrainPlan, TrainStep, train
from hubflow.training.preflight import preflight, require_room
from hubflow.training.program import TrainProgram, class_weights_of
from hubflow.training.trackers.trackers import trackers
from hubflow.workers.connection import Connection


def evaluate_in_worker(request: dict[str, Any], connection: Connection) -> dict[str, dict[str, float]]:
    """Write the folder of an evaluation, all but its manifest.

    Args:
        request: `checkpoint`, `encoded`, `settings` and `device` as the stage has them, `store` (a folder here), and
            `folder` to write.
        connection: to the stage, which shows how far it is.

    Returns:
        Metrics by split.

    Raises:
        HubflowError: as the stage does.
    """
    checkpoint, encoded = (
        CheckpointRef.model_validate(request["checkpoint"]),
        EncodedRef.model_validate(request["encoded"]),
    )
    settings, folder, store = (
        EvaluateSettings.model_validate(request["settings"]),
        Path(request["folder"]),
        Store(request["store"]),
    )
    label_map, own = LabelMap.load(store.open(encoded).folder / "label_map.json"), custom_metrics(settings.metrics)
    session = open_session(checkpoint.task, store, request["device"], sub_batches=compute_sub_batches())
    session.load(store.open(checkpoint).folder)
    source, options = store.open(encoded.dataset).folder, metric_options(settings)
    metrics: dict[str, dict[str, float]] = {}
    details: dict[str, SplitDetails] = {}
    for split in [name for name in encoded.dataset.rows if name != "train"]:
        rows = open_split(store, encoded, split)
        connection.call("begin", title=f"evaluating {split}", total=len(rows))
        windows = _windows(store, encoded, split, settings.stride)

        def advance(count: int) -> None:
            connection.call("advance", units=count)

        found = evaluate_split(session, rows, label_map, settings.batch_size, advance, options, windows)
        places = getattr(rows, "positions", None)  # of images: those that do not decode are left out
        places = np.arange(len(rows)) if places is None else places
        data, kind = source / f"{split}.parquet", encoded.dataset.rows_kind
        evaluated = EvaluatedSplit(found.streamed, label_map, data, kind, places, rows.rows)
        details[split], given = keep_split(folder, evaluated, settings, own)
        metrics[split] = {**found.metrics, **given}
    write_details(folder, details)
    label_map.save(folder / "label_map.json")
    return metrics


def _windows(store: Store, encoded: EncodedRef, split: str, stride: int | None) -> WordWindows | None:
    """The sentences of a split in windows, where the settings have a stride."""
    if stride is None:
        return None
    assert encoded.max_seq_len is not None
    sentences = pq.read_table(store.open(encoded.dataset).folder / f"{split}.parquet", columns=["tokens"]).column("tokens")
    tokenizer = load_tokenizer(store.open(encoded.module).folder)
    return encode_word_windows(tokenizer, sentences.to_pylist(), encoded.max_seq_len, stride)


def export_in_worker(request: dict[str, Any], connection: Connection) -> None:
    """Write the exported folder, all but its card and its manifest, and hold the program to the trained one.

    Args:
        request: `checkpoint`, `encoded`, `evaluation` and `settings` as the stage has them, `sizes` of the inputs, `store` (a
            folder here), `folder` to write, and whether to `verify` it.
        connection: to the stage, which has the exported program tried by another process when it is called with `verify`.

    Raises:
        HubflowError: as the stage does.
    """
    checkpoint, encoded = CheckpointRef.model_validate(request["checkpoint"]), EncodedRef.model_validate(request["encoded"])
    evaluation = EvaluationRef.model_validate(request["evaluation"])
    settings, folder, store = (
        ExportSettings.model_validate(request["settings"]),
        Path(request["folder"]),
        Store(request["store"]),
    )
    label_map = LabelMap.load(store.open(encoded).folder / "label_map.json")
    trained = store.open(checkpoint).folder
    session = open_session(checkpoint.task, store, "cpu")
    session.load(trained)
    written = session
    if settings.precision != "float32":
        written = open_session(checkpoint.task, store, "cpu", settings.precision)
        written.load(trained)
    write_export(written, folder, label_map, encoded.dataset.rows_kind, request["sizes"])
    if not request["verify"]:
        return

    def verify(asked: VerificationRequest) -> None:
        connection.call("verify", request=asked.model_dump(mode="json"))

    verification = verify_export(verify, what_was_trained(session, store, encoded, evaluation, label_map), folder, settings)
    (folder / VERIFICATION).write_text(verification.model_dump_json(indent=1) + "\n", encoding="utf-8")


log = logging.getLogger(__name__)


def train_in_worker(request: dict[str, Any], connection: Connection) -> dict[str, Any]:
    """Train, as the only process or as one of several; of those the one of rank 0 has callbacks, and writes.

    Args:
        request: `train` (a `TrainRequest`), `folder` (of the run), `callbacks` (the class of each on the other side), and
            `starts_over`.
        connection: to the stage.

    Returns:
        The last `TrainState`, and what the result was made with.

    Raises:
        HubflowError: as the stage does.
    """
    asked, working = TrainRequest.model_validate(request["train"]), Path(request["folder"])
    _require_trainable(asked)
    world = join(connection)
    store = Store(asked.store)
    if world.is_main_process:
        if request["starts_over"]:
            preflights.forget(store, asked, world.size)
        write_atomically(working / REQUEST, json.dumps(asked.identity()).encode())
    callbacks = _remote_callbacks(connection, request["callbacks"]) if world.is_main_process else []
    state = run_training(asked, store, working, callbacks, world)
    rows = len(open_split(store, asked.encoded, "train"))
    facts = {"device": str(place_of(asked.device)), "versions": versions(), "environment": environment()}
    return {"state": asdict(state), "train_rows": rows, "facts": {**facts, "num_processes": world.size}}


def _require_trainable(request: TrainRequest) -> None:
    """Find what would end the run before its first step, while nothing is written."""
    store, settings, encoded = Store(request.store), request.settings, request.encoded
    place = place_of(request.device)
    is_image, has_kernels = request.task.module.module_kind == "image", computes_by_kernels(settings.precision, place)
    require_precision(settings.precision, place, is_image, has_kernels)
    blocks = module_blocks(read_config(store.open(request.task.module).folder, request.task.module.pretrained))
    rows = open_split(store, encoded, "train")
    TrainerControl(settings, blocks, len(rows), "dev" in encoded.dataset.rows, settings.best_metric or "")
    label_map = LabelMap.load(store.open(encoded).folder / "label_map.json")
    class_weights_of(settings, label_map, rows)
    if "dev" in encoded.dataset.rows:
        metric = settings.best_metric or find_task_type(request.task.task).default_best_metric(label_map.labels)
        require_defined(metric, open_split(store, encoded, "dev"), label_map)


def run_training(request: TrainRequest, store: Store, working: Path, callbacks: Sequence[Callback], world: World) -> TrainState:
    """Train in this process."""
    settings, encoded = request.settings, request.encoded
    label_map = LabelMap.load(store.open(encoded).folder / "label_map.json")
    device = rank_device() if world.size > 1 else request.device
    session = open_session(request.task, store, device, settings.precision, compute_sub_batches(), trains=True)
    rows = open_split(store, encoded, "train", settings.random_flip)
    dev = open_split(store, encoded, "dev") if "dev" in encoded.dataset.rows else None
    best_metric = settings.best_metric or find_task_type(request.task.task).default_best_metric(label_map.labels)
    warm = None if request.warm_start is None else store.open(request.warm_start).folder
    plan = TrainPlan(settings, request.seed, label_map, best_metric, rows, dev, request.identity(), warm)

    def export(trained: Session, folder: Path) -> None:
        write_export(trained, folder, label_map, encoded.dataset.rows_kind, {})

    def check(trained: Session, update: TrainProgram, train_step: TrainStep) -> None:
        if world.is_main_process:
            require_room(trained, update, working, settings.checkpoints.keep)
        if not settings.preflight:
            return
        if (known := world.broadcast(lambda: preflights.passed(store, request, world.size))) is not None:
            log.info("preflight: passed before, on the same rows, settings, versions and machine: %s", known)
            return
        facts = preflight(trained, update, train_step, settings, dev, working, export)
        if world.is_main_process:  # no process is past the updates of a preflight that the others have not begun
            log.info("preflight: %s", facts)
            preflights.keep(store, request, world.size, str(facts))

    tracked = trackers(settings.tracking, working.name, settings.result_settings()) if world.is_main_process else []
    checkpoints = world.main_process_first(lambda: Checkpoints(working, settings.checkpoints.keep))
    return train(session, plan, checkpoints, [*tracked, *callbacks], world, before=check)


def _remote_callbacks(connection: Connection, names: Sequence[str]) -> list[Callback]:
    """The callbacks on the other side as the training loop sees them: one sends the events, one for each keeps its state."""
    kinds = [type(name, (_RemoteState,), {}) for name in names]  # a checkpoint knows the state of a callback by its class
    return [_RemoteEvents(connection), *(kind(connection, position) for position, kind in enumerate(kinds))]


class _RemoteEvents(Callback):
    """Has the other side's callbacks called; the loop goes on when they have returned."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sent = (0, 0)

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        """Send where the run stands."""
        self._send("on_train_begin", state, total_steps)

    def on_step_end(self, state: TrainState, step: Step) -> None:
        """Send how the step went."""
        self._send("on_step_end", state, asdict(step))

    def on_evaluate(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Send what dev gave."""
        self._send("on_evaluate", state, metrics)

    def on_train_end(self, state: TrainState) -> None:
        """Send that all is done."""
        self._send("on_train_end", state)

    def _send(self, method: str, state: TrainState, *arguments: Any) -> None:
        steps, evaluations = self._sent
        new = {"steps": state.steps[steps:], "evaluations": state.evaluations[evaluations:]}
        self._sent = len(state.steps), len(state.evaluations)
        fields = {name: value for name, value in vars(state).items() if name not in new}
        self._connection.call("event", method=method, arguments=arguments, state=fields, new=new)


class _RemoteState(Callback):
    """The state of one callback on the other side."""

    def __init__(self, connection: Connection, position: int) -> None:
        self._connection, self._position = connection, position

    def state_dict(self) -> dict[str, Any]:
        """Ask for it."""
        return dict(self._connection.call("state_dict", position=self._position))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hand it back."""
        self._connection.call("load_state_dict", position=self._position, state=state)
