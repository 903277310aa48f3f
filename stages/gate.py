"""Stage gate: evaluate a candidate and the export in use on the same rows, and decide by rules."""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hubflow.deployment.gate_rules import absolute_rules, class_rule, gain_rule, value_rule
from hubflow.deployment.pointer import VERDICTS, read_deployed, verdict_reference
from hubflow.errors import GateError, LabelMapError, SettingsError
from hubflow.evaluation.details import metric_options
from hubflow.evaluation.exported import evaluate_exported
from hubflow.metrics import StreamingMetrics
from hubflow.metrics.bootstrap import improvement, paired_interval
from hubflow.orchestration.events import verdict_event
from hubflow.orchestration.tasks import stage
from hubflow.schemas.deployment import VERDICT, GateSettings, Rule, Verdict
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import DatasetRef, Decision, ExportEvaluationRef, ExportRef, VerdictRef
from hubflow.schemas.settings import EvaluateSettings
from hubflow.schemas.tasks import TaskType, find_task_type, is_lower_better
from hubflow.store.store import Store, content_key
from hubflow.text import markdown_text

FORMAT_VERSION = 3


@dataclass(frozen=True)
class _Comparison:
    """What is known of the two models on the same rows.

    `deployed_value`, `difference` and `interval` are None where nothing is in use, or it cannot be evaluated on these rows.
    """

    candidate: ExportEvaluationRef
    deployed: ExportEvaluationRef | None
    metric: str
    rows: int
    candidate_value: float
    deployed_value: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    obstacle: str | None = None
    notes: tuple[str, ...] = ()


def _describe(verdict: VerdictRef) -> str:
    return f"{verdict.verdict.replace('_', ' ')}: {verdict.candidate.path}\n\n{markdown_text(verdict.reason)}"


@stage(_describe, event=verdict_event)
def gate(
    candidate: ExportRef,
    dataset: DatasetRef,
    settings: GateSettings,
    evaluate: EvaluateSettings,
    name: str,
    store: str,
    against: int | None = None,
    reuse: bool = True,
) -> VerdictRef:
    """Evaluate a candidate and the export in use under `name` on the same rows, and decide by the rules of the settings.

    The verdict is `promoted` when every rule is kept, `rejected` when one is broken, and `inconclusive` when none is broken but
    the outcome of one is not known: the interval of the difference, a paired bootstrap over the rows (sentences, of sequences;
    Efron and Tibshirani 1993), lies on both sides of the smallest gain, or a rule asks for what is not known. Where nothing is
    in use the absolute rules alone decide. Averages over labels are over the labels of the data set, for both.

    Args:
        candidate: the export to evaluate.
        dataset: whose rows both are evaluated on.
        settings: the rules.
        evaluate: how exports are evaluated.
        name: of the deployed pointer.
        store: folder, or URL, of the store.
        against: revision of the pointer to compare with; the latest by default.
        reuse: take what the store already holds for the same content and settings.

    Returns:
        Reference to `verdict.json` (`hubflow.schemas.deployment.Verdict`).

    Raises:
        SettingsError: when the metric cannot be compared row by row, or the data set has no such split.
        LabelMapError: when the data set has labels that the candidate does not know.
        StoreError: when an export or the data set is missing or altered.
    """
    opened = Store(store)
    history = read_deployed(store, name).history
    revision = len(history) if against is None else against
    deployed = history[revision - 1].export if revision else None
    inputs = {"candidate": candidate, "deployed": deployed, "dataset": dataset, "settings": settings}
    key = content_key("gate", FORMAT_VERSION, inputs, evaluate, name, revision)
    artifact = opened.find(VERDICTS, key) if reuse else None
    if artifact is None:
        compared = _compare(store, candidate, deployed, dataset, settings, evaluate, reuse)
        verdict = _decide(opened, compared, deployed, settings, name, revision)
        with opened.create(VERDICTS, key) as draft:
            (draft.folder / VERDICT).write_text(verdict.model_dump_json(indent=1) + "\n", encoding="utf-8")
            known = verdict.model_dump(mode="json", include={"verdict", "candidate", "name", "revision", "reason", "at"})
            draft.facts |= {**known, "deployed": deployed, "dataset": dataset}
        artifact = opened.load(VERDICTS, key)
    return verdict_reference(artifact)


def _compare(
    store: str,
    candidate: ExportRef,
    deployed: ExportRef | None,
    dataset: DatasetRef,
    settings: GateSettings,
    evaluate: EvaluateSettings,
    reuse: bool,
) -> _Comparison:
    opened, split = Store(store), settings.split
    metric = settings.metric or opened.open(candidate).facts.get("training", {}).get("best_metric")
    if metric is None:
        raise SettingsError(f"gate.metric: {candidate.path} does not say which metric it was trained for; name one")
    task = find_task_type(candidate.task)
    known = task.gated_metrics
    if metric not in known:
        raise SettingsError(f"gate.metric {metric!r} cannot be compared row by row; use one of {', '.join(known)}")
    ours = evaluate_exported(candidate, dataset, evaluate, store, split, reuse)
    labels = LabelMap.load(opened.open(dataset).folder / "label_map.json")
    frame = _frame(opened, ours)
    mine = _metrics(frame, task, labels, evaluate)
    value = mine.compute()[metric]
    found = _Comparison(ours, None, metric, len(frame), value)
    if deployed is None:
        return found
    try:
        theirs = evaluate_exported(deployed, dataset, evaluate, store, split, reuse)
    except (LabelMapError, SettingsError) as error:
        return replace(found, obstacle=str(error))
    other = _metrics(_paired(frame, _frame(opened, theirs), theirs), task, labels, evaluate)
    deployed_value, smaller = other.compute()[metric], is_lower_better(candidate.task, metric)
    return replace(
        found,
        deployed=theirs,
        deployed_value=deployed_value,
        difference=improvement(value, deployed_value, smaller),
        interval=paired_interval(mine, other, metric, smaller, settings.resamples, settings.confidence, settings.seed),
        notes=_label_notes(opened, candidate, deployed),
    )


def _frame(store: Store, evaluation: ExportEvaluationRef) -> pd.DataFrame:
    path = store.open(evaluation).folder / f"{evaluation.split}.parquet"
    return pd.read_parquet(path, columns=["position", "loss", "label", "predicted"]).sort_values("position", ignore_index=True)


def _paired(ours: pd.DataFrame, theirs: pd.DataFrame, evaluation: ExportEvaluationRef) -> pd.DataFrame:
    """The rows of the deployed model, once they are known to be those of the candidate, in its order."""
    if not ours["position"].equals(theirs["position"]):
        raise GateError(
            f"{evaluation.export.path} was evaluated on {len(theirs)} rows of {evaluation.split}, the candidate on "
            f"{len(ours)}, and they are not the same; evaluate both again with `reuse: false`"
        )
    return theirs


def _metrics(frame: pd.DataFrame, task: TaskType, labels: LabelMap, evaluate: EvaluateSettings) -> StreamingMetrics:
    """Metrics of evaluated rows, averages over the labels of the data set; a prediction that is none of them is wrong."""
    truth, predicted = frame["label"].tolist(), frame["predicted"].tolist()
    is_sequence = bool(truth) and not isinstance(truth[0], str)
    known, given = set(labels.labels), (tag for row in predicted for tag in row) if is_sequence else predicted
    others = [label for label in dict.fromkeys(given) if label not in known]
    index = {label: label_id for label_id, label in enumerate([*labels.labels, *others])}

    def ids(values: Iterable[str]) -> NDArray[np.int64]:
        return np.array([index[label] for label in values], np.int64)

    truth_ids, predicted_ids = ([ids(row) for row in rows] if is_sequence else ids(rows) for rows in (truth, predicted))
    metrics: StreamingMetrics = task.streaming_metrics(truth_ids, labels, metric_options(evaluate), others)
    metrics.update_predicted(np.arange(len(frame)), predicted_ids, frame["loss"].to_numpy())
    return metrics


def _label_notes(store: Store, candidate: ExportRef, deployed: ExportRef) -> tuple[str, ...]:
    if candidate.label_map_sha256 == deployed.label_map_sha256:
        return ()
    ours, theirs = (LabelMap.load(store.open(one).folder / "label_map.json").labels for one in (candidate, deployed))
    gone, new = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
    what = [f"{text} {', '.join(names)}" for text, names in (("without", gone), ("new:", new)) if names]
    difference = "; ".join(what) or "the same labels in another order"
    return (f"the candidate's label map is not that of the deployed model: {difference}; labels were matched by name",)


def _decide(
    store: Store, compared: _Comparison, deployed: ExportRef | None, settings: GateSettings, name: str, revision: int
) -> Verdict:
    rules = [
        *value_rule(
            settings,
            compared.metric,
            compared.candidate_value,
            is_lower_better(compared.candidate.export.task, compared.metric),
        ),
        *absolute_rules(settings, store.open(compared.candidate.export).sealed),
    ]
    notes = list(compared.notes)
    if deployed is None:
        notes.append(f"nothing is in use as {name!r} yet: the absolute rules alone decide")
    else:
        rules += gain_rule(settings, compared.metric, compared.difference, compared.interval, compared.obstacle)
        rules += class_rule(settings, store, compared.candidate, compared.deployed)
    decision, reason = _verdict_of(rules, deployed is None)
    return Verdict(
        verdict=decision,
        reason=reason,
        name=name,
        revision=revision,
        candidate=compared.candidate.export,
        deployed=deployed,
        split=settings.split,
        rows=compared.rows,
        metric=compared.metric,
        candidate_value=compared.candidate_value,
        deployed_value=compared.deployed_value,
        difference=compared.difference,
        interval=compared.interval,
        confidence=settings.confidence,
        resamples=settings.resamples,
        threshold=settings.min_gain,
        rules=tuple(rules),
        notes=tuple(notes),
        at=datetime.datetime.now(datetime.UTC),
    )


def _verdict_of(rules: list[Rule], is_first: bool) -> tuple[Decision, str]:
    broken, open_ones = ([rule.text for rule in rules if rule.outcome == one] for one in ("failed", "inconclusive"))
    if broken:
        return "rejected", "; ".join(broken)
    if open_ones:
        return "inconclusive", "; ".join(open_ones)
    kept = "; ".join(rule.text for rule in rules)
    first = "nothing was in use yet" if is_first else ""
    return "promoted", "; ".join(part for part in (first, kept or "no rule is set") if part)
