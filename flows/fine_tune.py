"""Flow fine-tune: data and module to evaluated weights and an exported program, one stage after the other."""

from hubflow import stages
from hubflow.evaluation.folder import require_evaluable
from hubflow.orchestration.parameters import settings_flow
from hubflow.orchestration.run_context import Run, open_run
from hubflow.schemas.references import CheckpointRef, EncodedRef, EvaluationRef, FineTuneResult
from hubflow.schemas.settings import FineTuneSettings
from hubflow.workers.processes import start_early


@settings_flow("fine-tune")
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
    with open_run(settings) as run:
        encoded, checkpoint, evaluation = train_and_evaluate(settings, run)
        export = stages.export_inference_program(checkpoint, encoded, evaluation, run.store, run.reuse, settings.export)
        report = stages.write_report(
            evaluation,
            encoded,
            export,
            run.store,
            settings.name,
            settings.report,
            seconds=run.seconds,
            run_settings=settings,
        )
    return FineTuneResult(
        name=settings.name,
        store=run.store,
        export=f"{run.store}/{export.path}",
        report=report,
        metrics=evaluation.metrics,
        seconds=run.seconds,
        reused=tuple(run.reused),
        evaluation=evaluation,
        exported=export,
    )


def train_and_evaluate(settings: FineTuneSettings, run: Run) -> tuple[EncodedRef, CheckpointRef, EvaluationRef]:
    """The stages from data and module to evaluated weights, one after the other.

    Args:
        settings: data, module, head, training and evaluation.
        run: that the stages are part of.

    Returns:
        The encoded rows, the best weights, and how good they are.
    """
    start_early()
    data, module_spec = settings.data, settings.module
    dataset = stages.load_dataset(data, settings.task, run.store, run.reuse)
    require_evaluable(settings.evaluate, dataset, run.store, settings.task)
    module = stages.load_module(module_spec, run.store, run.reuse)
    encoded = stages.encode_dataset(dataset, module, module_spec, run.store, run.reuse, data.checks, data.max_invalid_fraction)
    task = stages.build_head(settings.task, module, dataset, module_spec, settings.head, run.store, run.reuse)
    checkpoint = stages.fine_tune(
        task,
        encoded,
        settings.train,
        run.store,
        settings.seed,
        run.device,
        run.reuse,
        num_processes=settings.num_processes,
        hosts=settings.hosts,
    )
    evaluation = stages.evaluate(checkpoint, encoded, settings.evaluate, run.store, run.device, run.reuse)
    return encoded, checkpoint, evaluation
