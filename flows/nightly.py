"""Flow nightly: new data to a model that is judged against the one in use, and put to use, or kept back, by itself."""

from prefect import flow
from prefect.events import emit_event
from prefect.runtime import flow_run
from prefect.transactions import transaction

from hubflow.flows.fine_tune import Stopwatch
from hubflow.flows.slots import slot
from hubflow.flows.store_access import open_store
from hubflow.schemas.nightly import NightlyResult, NightlySettings
from hubflow.schemas.references import DatasetRef, ModuleRef, VerdictRef
from hubflow.schemas.signing import require_signing
from hubflow.schemas.urls import paths_of
from hubflow.stages.build_head import build_head_task
from hubflow.stages.encode_dataset import encode_dataset_task
from hubflow.stages.evaluate import evaluate_task
from hubflow.stages.export_inference_program import export_inference_program_task
from hubflow.stages.fine_tune import fine_tune_task
from hubflow.stages.gate import gate_task
from hubflow.stages.hub.trackers import require_places
from hubflow.stages.load_dataset import load_dataset_task
from hubflow.stages.load_module import load_module_task
from hubflow.stages.nights import begin_night, end_night, weights_to_start_from
from hubflow.stages.predict_sample import predict_sample_task
from hubflow.stages.promote import promote_task, read_deployed
from hubflow.stages.report import write_report_task
from hubflow.stages.run_context import require_lasting
from hubflow.stages.worker.processes import start_early


@flow(name="nightly", persist_result=False)
def nightly(settings: NightlySettings) -> NightlyResult:
    """Fine-tune on new data, judge the model against the one in use, and put it to use or keep it back; skip what is unchanged.

    It emits one event, `hubflow.nightly.` and the outcome: skipped, promoted, kept_back or undecided.
    """
    require_lasting(paths_of(settings))
    require_signing()
    require_places(settings.train.track)
    clock = Stopwatch()
    store, reuse = open_store(settings.store, settings.store_block), settings.reuse
    dataset = clock(load_dataset_task, settings.data, settings.task, store, reuse)
    module = clock(load_module_task, settings.module, store, reuse)
    result = _skipped(settings, dataset, module, store, clock) or _run(settings, dataset, module, store, clock)
    _announce(result)
    return result


def _run(settings: NightlySettings, dataset: DatasetRef, module: ModuleRef, store: str, clock: Stopwatch) -> NightlyResult:
    reuse, device, data, train = settings.reuse, settings.device, settings.data, settings.train
    start_early()
    night = begin_night(settings, dataset, module, store)
    encoded = clock(encode_dataset_task, dataset, module, settings.module, store, reuse, data.checks, data.max_invalid_share)
    task = clock(build_head_task, settings.task, module, dataset, settings.module, settings.head, store, reuse)
    warm, started_from = weights_to_start_from(settings, night, task, store)
    with slot(settings.slot, device):
        count = settings.processes
        checkpoint = clock(
            fine_tune_task, task, encoded, train, store, settings.seed, device, reuse, processes=count, warm_start=warm
        )
        evaluation = clock(evaluate_task, checkpoint, encoded, settings.evaluate, store, device, reuse)
    export = clock(export_inference_program_task, checkpoint, encoded, evaluation, store, reuse, settings.export)
    verdict = clock(gate_task, export, dataset, settings.gate, settings.evaluate, settings.name, store, night.revision, reuse)
    sample = None
    with transaction():  # a failure in it takes the promotion back
        if verdict.verdict == "promoted":
            clock(promote_task, verdict, store, f"flow run {flow_run.get_name()}")
        in_use = read_deployed(store, settings.name).export
        if in_use is not None and settings.sample_rows:
            sample = clock(predict_sample_task, in_use, dataset, settings.gate.split, settings.sample_rows, store, reuse)
        report = clock(write_report_task, settings, evaluation, encoded, export, clock.seconds, store, verdict, night.began)
        end_night(settings.name, night, verdict, report, store)
    return _result(settings, store, clock, verdict, started_from=started_from, sample=sample, report=report)


def _skipped(
    settings: NightlySettings, dataset: DatasetRef, module: ModuleRef, store: str, clock: Stopwatch
) -> NightlyResult | None:
    """The outcome of a night without anything new; None of all others."""
    night = begin_night(settings, dataset, module, store)
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
