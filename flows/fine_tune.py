"""Flow fine-tune: data and module to evaluated weights and an exported program, one stage after the other."""

import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import flow

from hubflow import stages
from hubflow.evaluation.folder import require_evaluable
from hubflow.inference.export import require_onnx
from hubflow.orchestration.run_context import open_store, require_lasting
from hubflow.schemas.references import CheckpointRef, EncodedRef, EvaluationRef, FineTuneResult
from hubflow.schemas.settings import FineTuneSettings
from hubflow.schemas.urls import paths_of
from hubflow.store.signing import require_signing
from hubflow.store.store import noted_lookups
from hubflow.training.trackers.trackers import require_places
from hubflow.workers.processes import start_early

P = ParamSpec("P")
R = TypeVar("R")


@flow(name="fine-tune", persist_result=False)
def fine_tune(settings: FineTuneSettings) -> FineTuneResult:
    """Fine-tune a pretrained module on labelled data, evaluate it on every split, and export its inference program.

    Every stage takes its result from the store where the same content and settings gave it before (`settings.reuse`). A run
    that was stopped resumes from its last checkpoint.

    Args:
        settings: data, module, head, training, evaluation, export and store.

    Returns:
        Where the store, the export and the report are, the metrics by split, and the seconds of each stage.

    Raises:
        SettingsError: when settings contradict each other, the data or the module.
        DataError: when a source of rows is missing or cannot be read.
        ContractError: when rows break their contract.
        ModuleError: when the module is not known or cannot be read.
        TrainingError: when a loss or a gradient is not finite.
        ExportError: when the exported program does not give what the trained one gives.
        StoreError: when the store cannot be written.
        HubflowError: base class of these and of every other error that hubflow raises on purpose.
    """
    settings.require_fitting_task()
    require_lasting(paths_of(settings))
    require_signing()
    require_places(settings.train.tracking)
    start_early()
    if settings.export.onnx:
        require_onnx()
    clock, store, reuse = Stopwatch(), open_store(settings.store, settings.store_block), settings.reuse
    encoded, checkpoint, evaluation = train_and_evaluate(settings, store, clock)
    export = clock(stages.export_inference_program, checkpoint, encoded, evaluation, store, reuse, settings.export)
    report = clock(stages.write_report, settings, evaluation, encoded, export, clock.seconds, store)
    return FineTuneResult(
        name=settings.name,
        store=store,
        export=f"{store}/{export.path}",
        report=report,
        metrics=evaluation.metrics,
        seconds=clock.seconds,
        reused=tuple(clock.reused),
        evaluation=evaluation,
        exported=export,
    )


def train_and_evaluate(
    settings: FineTuneSettings, store: str, clock: "Stopwatch"
) -> tuple[EncodedRef, CheckpointRef, EvaluationRef]:
    """The stages from data and module to evaluated weights, one after the other."""
    reuse, device = settings.reuse, settings.device
    dataset = clock(stages.load_dataset, settings.data, settings.task, store, reuse)
    require_evaluable(settings.evaluate, dataset, store)
    module = clock(stages.load_module, settings.module, store, reuse)
    data = settings.data
    encoded = clock(
        stages.encode_dataset, dataset, module, settings.module, store, reuse, data.checks, data.max_invalid_fraction
    )
    task = clock(stages.build_head, settings.task, module, dataset, settings.module, settings.head, store, reuse)
    train, seed = settings.train, settings.seed
    checkpoint = clock(stages.fine_tune, task, encoded, train, store, seed, device, reuse, processes=settings.processes)
    evaluation = clock(stages.evaluate, checkpoint, encoded, settings.evaluate, store, device, reuse)
    return encoded, checkpoint, evaluation


class Stopwatch:
    """Calls stages and remembers how many seconds each took, and which took its result from the store."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.reused: list[str] = []

    def __call__(self, stage: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        started, name = time.perf_counter(), getattr(stage, "name", "stage")
        try:
            with noted_lookups() as found:
                result = stage(*args, **kwargs)
        finally:
            self.seconds[name] = round(time.perf_counter() - started, 3)
        if getattr(result, "path", None) in found:
            self.reused.append(name)
        return result
