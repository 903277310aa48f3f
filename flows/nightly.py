"""Flow nightly: fine-tune on new data, evaluate against the model in use, and promote or reject."""

from functools import partial

from prefect.runtime import flow_run
from prefect.transactions import transaction

from hubflow import stages
from hubflow.deployment.nightly import OWN_WEIGHTS, deployed_weights, finish_nightly, start_nightly
from hubflow.deployment.pointer import override, read_deployed
from hubflow.evaluation.folder import require_evaluable
from hubflow.orchestration.approval import Approval, ask_person
from hubflow.orchestration.artifacts import report_link
from hubflow.orchestration.events import MODEL, Event, emit, pointer_event
from hubflow.orchestration.parameters import settings_flow
from hubflow.orchestration.registry import move_with_registry, registry_of
from hubflow.orchestration.run_context import Run, open_run
from hubflow.orchestration.tasks import slot
from hubflow.schemas.deployment import NightlyResult, NightlyRun, NightlySettings
from hubflow.schemas.references import DatasetRef, ModuleRef, VerdictRef
from hubflow.workers.processes import start_early


@settings_flow("nightly")
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
    with open_run(settings) as run:
        registry_of(settings.name, run.store, settings.registry_block)  # a missing block is an error before anything is trained
        dataset = stages.load_dataset(settings.data, settings.task, run.store, run.reuse)
        module = stages.load_module(settings.module, run.store, run.reuse)
        night = start_nightly(settings.name, dataset, module, run.store, settings.result_settings(), run.reuse)
        is_unchanged = night.is_done and night.verdict is not None
        result = _skipped(settings, night, run) if is_unchanged else _run(settings, dataset, module, night, run)
    _announce(result)
    return result


def _run(settings: NightlySettings, dataset: DatasetRef, module: ModuleRef, night: NightlyRun, run: Run) -> NightlyResult:
    start_early()
    store, reuse, device, data = run.store, run.reuse, run.device, settings.data
    require_evaluable(settings.evaluate, dataset, store, settings.task)
    encoded = stages.encode_dataset(dataset, module, settings.module, store, reuse, data.checks, data.max_invalid_fraction)
    task = stages.build_head(settings.task, module, dataset, settings.module, settings.head, store, reuse)
    warm, started_from = None, OWN_WEIGHTS
    if settings.start_from == "deployed":
        warm, started_from = deployed_weights(settings.name, night.revision, task, store)
    with slot(settings.concurrency, device):
        checkpoint = stages.fine_tune(
            task,
            encoded,
            settings.train,
            store,
            settings.seed,
            device,
            reuse,
            num_processes=settings.num_processes,
            hosts=settings.hosts,
            warm_start=warm,
        )
        evaluation = stages.evaluate(checkpoint, encoded, settings.evaluate, store, device, reuse)
    export = stages.export_inference_program(checkpoint, encoded, evaluation, store, reuse, settings.export)
    verdict = stages.gate(export, dataset, settings.gate, settings.evaluate, settings.name, store, night.revision, reuse)

    def write_report() -> str:
        return stages.write_report(
            evaluation,
            encoded,
            export,
            store,
            settings.name,
            settings.report,
            verdict,
            run.seconds,
            run_settings=settings,
            began=night.began,
        )

    sample, decision = None, None
    if verdict.verdict == "inconclusive" and settings.approval.how != "never":
        decision = _ask(settings, verdict, dataset, write_report(), store)
    with transaction():  # a failure in it takes the promotion back
        if verdict.verdict == "promoted":
            stages.promote(verdict, store, f"flow run {flow_run.get_name()}", settings.registry_block)
        in_use = read_deployed(store, settings.name).export
        if in_use is not None and settings.sample_rows:
            sample = stages.predict_sample(in_use, dataset, settings.gate.split, settings.sample_rows, store, reuse)
        report = write_report()
        finish_nightly(settings.name, night, verdict, report, store)
    return _result(settings, run, verdict, decision, started_from=started_from, sample=sample, report=report)


def _ask(settings: NightlySettings, verdict: VerdictRef, dataset: DatasetRef, report: str, store: str) -> Approval | None:
    """A person's decision about an inconclusive verdict, which is done; None where the candidate is in use already."""
    in_use = read_deployed(store, settings.name).export
    if in_use is not None and in_use.sha256 == verdict.candidate.sha256:
        return None
    base, path = settings.report.base_url, report.removeprefix(store).lstrip("/")
    link = report if base is None else report_link(base, path, report)
    decision = ask_person(settings.approval, verdict, dataset, settings.evaluate, link, store)
    if decision.decision == "promote":
        change = partial(override, verdict.candidate, settings.name, store, decision.reason, decision.by, verdict)
        change = partial(change, against=verdict.revision, registry_block=settings.registry_block)
        emit(pointer_event(move_with_registry(change, settings.name, store, settings.registry_block)))
    else:
        payload = {"reason": decision.reason, "by": decision.by, "verdict": verdict.model_dump(mode="json")}
        emit(Event("hubflow.model.rejected", f"{MODEL}{settings.name}", payload))
    return decision


def _skipped(settings: NightlySettings, night: NightlyRun, run: Run) -> NightlyResult:
    """The outcome of a run without anything new."""
    verdict = night.verdict
    assert verdict is not None
    reason = f"data, module and settings are those of {night.at:%Y-%m-%d %H:%M} UTC, when the verdict was {verdict.verdict}"
    deployed = read_deployed(run.store, settings.name)
    return NightlyResult(
        outcome="skipped",
        reason=reason,
        name=settings.name,
        store=run.store,
        deployed=deployed.export and deployed.export.path,
        revision=deployed.revision,
        verdict=verdict.path,
        report=night.report,
        seconds=run.seconds,
    )


def _result(
    settings: NightlySettings,
    run: Run,
    verdict: VerdictRef,
    decision: Approval | None,
    started_from: str,
    sample: str | None,
    report: str,
) -> NightlyResult:
    deployed = read_deployed(run.store, settings.name)
    outcome, reason = verdict.verdict, verdict.reason
    if decision is not None:
        outcome = "promoted" if decision.decision == "promote" else "rejected"
        reason = f"{decision.by} decided: {decision.reason} (the gate: {verdict.reason})"
    return NightlyResult(
        outcome=outcome,
        reason=reason,
        name=settings.name,
        store=run.store,
        started_from=started_from,
        candidate=verdict.candidate.path,
        deployed=deployed.export and deployed.export.path,
        revision=deployed.revision,
        verdict=verdict.path,
        sample=sample,
        report=report,
        seconds=run.seconds,
    )


def _announce(result: NightlyResult) -> None:
    """Tell Prefect's server the outcome as an event, which automations can act on."""
    emit(Event(f"hubflow.nightly.{result.outcome}", f"{MODEL}{result.name}", result.model_dump(mode="json")))
