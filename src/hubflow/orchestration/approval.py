"""A person's decision about a model that the gate is inconclusive about: asked for in Prefect's form, while the run waits."""

import datetime
from pathlib import Path
from typing import Literal

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run, suspend_flow_run
from prefect.input import RunInput
from prefect.states import Running
from pydantic import Field

from hubflow.deployment.pointer import read_verdict
from hubflow.evaluation.exported import evaluate_exported
from hubflow.evaluation.folder import read_details
from hubflow.schemas.deployment import ApprovalSettings, Verdict
from hubflow.schemas.references import DatasetRef, VerdictRef
from hubflow.schemas.settings import EvaluateSettings
from hubflow.store.store import Store
from hubflow.text import markdown_text

POLL_SECONDS = 5
MAX_LABELS = 5


class Approval(RunInput):
    """What a person decides: the form on the page of a flow run that waits."""

    decision: Literal["promote", "reject"] = Field(title="Decision", description="Whether the candidate is put in use")
    reason: str = Field(min_length=1, title="Reason", description="Why; it is kept in the history of the deployed pointer")
    by: str = Field(min_length=1, title="Who decides", description="Your name")


def ask_person(
    settings: ApprovalSettings, verdict: VerdictRef, dataset: DatasetRef, evaluate: EvaluateSettings, report: str, store: str
) -> Approval:
    """Have the flow run wait until a person has decided, on its page in Prefect's UI or through Prefect's API.

    Args:
        settings: how to wait, for how long, and what is done then.
        verdict: of the gate.
        dataset: that both models were evaluated on.
        evaluate: how they were evaluated.
        report: absolute path, or URL, of the report.
        store: folder, or URL, of the store.

    Returns:
        The decision; that of `on_timeout`, by nobody, when none came in time.
    """
    form = Approval.with_initial_data(description=_question(verdict, dataset, evaluate, report, store))
    seconds = int(settings.timeout_hours * 3600)
    key = f"approval-{Path(verdict.path).name}"  # a run that goes on against another model asks anew
    try:
        if settings.how == "suspend":
            answer = suspend_flow_run(wait_for_input=form, timeout=seconds, key=key)
        else:
            answer = pause_flow_run(wait_for_input=form, timeout=seconds, poll_interval=POLL_SECONDS, key=key)
    except FlowPauseTimeout:
        _go_on()
        return Approval(
            decision=settings.on_timeout, reason=f"nobody decided within {settings.timeout_hours:g} h", by="the timeout"
        )
    assert answer is not None
    return Approval(decision=answer.decision, reason=answer.reason, by=answer.by)


def _go_on() -> None:
    """Tell the server that the run no longer waits."""
    context = FlowRunContext.get()
    if context is not None and context.flow_run is not None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(context.flow_run.id, Running(), force=True)


def _question(ref: VerdictRef, dataset: DatasetRef, evaluate: EvaluateSettings, report: str, store: str) -> str:
    """What a person has to know to decide, as Markdown; what comes from data is shown as text."""
    verdict = read_verdict(Store(store), ref)
    values = [_shown(verdict.candidate_value), _shown(verdict.deployed_value)]
    lines = [
        f"### {markdown_text(verdict.name)}: put the candidate in use?",
        "",
        markdown_text(verdict.reason),
        "",
        "| | candidate | in use |",
        "|---|---|---|",
        f"| {markdown_text(verdict.metric)} on {verdict.rows} rows of {verdict.split} | {values[0]} | {values[1]} |",
    ]
    if verdict.difference is not None and verdict.interval is not None:
        low, high = verdict.interval
        lines += ["", f"Difference {verdict.difference:+.4f}, {verdict.confidence:.0%} interval {low:+.4f} to {high:+.4f}."]
    lines += ["", *(f"- {rule.outcome}: {markdown_text(rule.text)}" for rule in verdict.rules)]
    lines += _worst_labels(verdict, dataset, evaluate, store)
    link = f"[Report]({report})" if "://" in report else f"Report: {markdown_text(report)}"
    return "\n".join([*lines, "", link, "", f"Asked at {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC."])


def _worst_labels(verdict: Verdict, dataset: DatasetRef, evaluate: EvaluateSettings, store: str) -> list[str]:
    """The labels, or types of entity, whose F1 falls most."""
    if verdict.deployed is None or verdict.deployed_value is None:
        return []
    opened, split = Store(store), verdict.split
    ours, theirs = (
        read_details(opened, evaluate_exported(one, dataset, evaluate, store, split, reuse=True))[split].per_class
        for one in (verdict.candidate, verdict.deployed)
    )
    changes = sorted((ours[name].f1 - theirs[name].f1, name) for name in ours if name in theirs and theirs[name].support)
    lines = [
        "",
        "Worst differences by label:",
        "",
        "| label | rows | F1 of the candidate | in use | change |",
        "|---|---|---|---|---|",
    ]
    return lines + [
        f"| {markdown_text(name)} | {theirs[name].support} | {ours[name].f1:.4f} | {theirs[name].f1:.4f} | {change:+.4f} |"
        for change, name in changes[:MAX_LABELS]
    ]


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4f}"
