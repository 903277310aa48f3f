"""Flow nightly: fine-tune on new data, evaluate against the model in use, and promote or reject."""

from prefect import flow
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.transactions import transaction

from hubflow import stages
from hubflow.deployment.nightly import finish_nightly, start_nightly, weights_to_start_from
from hubflow.deployment.pointer import read_deployed
from hubflow.flows.fine_tune import Stopwatch
from hubflow.orchestration.run_context import open_store, require_lasting
from hubflow.orchestration.tasks import slot
from hubflow.schemas.deployment import NightlyResult, NightlySettings
from hubflow.schemas.references import DatasetRef, ModuleRef, VerdictRef
from hubflow.schemas.urls import paths_of
from hubflow.store.signing import require_signing
from hubflow.training.trackers.trackers import require_places
from hubflow.workers.processes import start_early


@flow(name="nightly", persist_result=False)
def nightly(settings: NightlySettings) -> NightlyResult:
    """Fine-tune on new data, evaluate the model against the one in use, and promote or reject it; skip what is unchanged.

    It emits one event, `hubflow.nightly.` and the outcome: skipped, promoted, rejected or inconclusive. When a stage after the
    promotion fails, the promotion is taken back.

    Args:
        settings: those of a fine-tune, with the rules of the gate, the name of the deployed pointer and the concurrency limit.

    Returns:
        The outcome and its reason, the candidate, the export in use, and where the verdict and the report are.

    Raises:
        ConcurrencyError: when the concurrency limit is missing and must not be made.
        PromotionError: when another run moved the deployed pointer in the meantime.
        HubflowError: as `fine_tune` does; the export in use stays in use.
    """
    settings.require_fitting_task()
    require_lasting(paths_of(settings))
    require_signing()
    require_places(settings.train.tracking)
    clock = Stopwatch()
    store, reuse = open_store(settings.store, settings.store_block), settings.reuse
    dataset = clock(stages.load_dataset, settings.data, settings.task, store, reuse)
    module = clock(stages.load_module, settings.module, store, reuse)
    result = _skipped(settings, dataset, module, store, clock) or _run(settings, dataset, module, store, clock)
    _announce(result)
    return result


def _run(settings: NightlySettings, dataset: DatasetRef, module: ModuleRef, store: str, clock: Stopwatch) -> NightlyResult:
    reuse, device, data, train = settings.reuse, settings.device, settings.data, settings.train
    start_early()
    night = start_nightly(settings, dataset, module, store)
    encoded = clock(
        stages.encode_dataset, dataset, module, settings.module, store, reuse, data.checks, data.max_invalid_fraction
    )
    task = clock(stages.build_head, settings.task, module, dataset, settings.module, settings.head, store, reuse)
    warm, started_from = weights_to_start_from(settings, night, task, store)
    with slot(settings.slot, device):
        count = settings.processes
        checkpoint = clock(
            stages.fine_tune, task, encoded, train, store, settings.seed, device, reuse, processes=count, warm_start=warm
        )
        evaluation = clock(stages.evaluate, checkpoint, encoded, settings.evaluate, store, device, reuse)
    export = clock(stages.export_inference_program, checkpoint, encoded, evaluation, store, reuse, settings.export)
    verdict = clock(stages.gate, export, dataset, settings.gate, settings.evaluate, settings.name, store, night.revision, reuse)
    sample = None
    with transaction():  # a failure in it takes the promotion back
        if verdict.verdict == "promoted":
            clock(stages.promote, verdict, store, f"flow run {flow_run.get_name()}")
        in_use = read_deployed(store, settings.name).export
        if in_use is not None and settings.sample_rows:
            sample = clock(stages.predict_sample, in_use, dataset, settings.gate.split, settings.sample_rows, store, reuse)
        report = clock(stages.write_report, settings, evaluation, encoded, export, clock.seconds, store, verdict, night.began)
        finish_nightly(settings.name, night, verdict, report, store)
    return _result(settings, store, clock, verdict, started_from=started_from, sample=sample, report=report)


def _skipped(
    settings: NightlySettings, dataset: DatasetRef, module: ModuleRef, store: str, clock: Stopwatch
) -> NightlyResult | None:
    """The outcome of a night without anything new; None of all others."""
    night = start_nightly(settings, dataset, module, store)
    if not night.is_done or night.verdict is None:
        return None
    told = f"data, module and settings are those of {night.at:%Y-%m-%d %H:%M} UTC, when the verdict was {night.verdict.verdict}"
    deployed = read_deployed(store, settings.name)
    return NightlyResult(
        outcome="skipped",
        reason=told,
        name=settings.name,
        store=store,
        deployed=deployed.export and deployed.export.path,
        revision=deployed.revision,
        verdict=night.verdict.path,
        report=night.report,
        seconds=clock.seconds,
    )


def _result(
    settings: NightlySettings,
    store: str,
    clock: Stopwatch,
    verdict: VerdictRef,
    started_from: str,
    sample: str | None,
    report: str,
) -> NightlyResult:
    deployed = read_deployed(store, settings.name)
    return NightlyResult(
        outcome=verdict.verdict,
        reason=verdict.reason,
        name=settings.name,
        store=store,
        started_from=started_from,
        candidate=verdict.candidate.path,
        deployed=deployed.export and deployed.export.path,
        revision=deployed.revision,
        verdict=verdict.path,
        sample=sample,
        report=report,
        seconds=clock.seconds,
    )


def _announce(result: NightlyResult) -> None:
    """Tell Prefect's server the outcome as an event, which automations can act on."""
    emit_event(
        event=f"hubflow.nightly.{result.outcome}",
        resource={"prefect.resource.id": f"hubflow.deployed.{result.name}", "prefect.resource.name": result.name},
        payload=result.model_dump(mode="json"),
    )
