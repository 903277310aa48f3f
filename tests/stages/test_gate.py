"""The gate: both models on the same rows, rules that pass, fail or stay inconclusive, and a verdict that a person can read."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from runs import Run
from verdicts import store_with_exports

from hubflow.deployment.pointer import export_reference, override, read_verdict
from hubflow.errors import LabelMapError, SettingsError
from hubflow.schemas.deployment import GateSettings, Rule, Verdict
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import DatasetRef, ExportRef
from hubflow.schemas.settings import EvaluateSettings
from hubflow.schemas.training import TrainSettings
from hubflow.stages.evaluate import evaluate
from hubflow.stages.export_inference_program import export_inference_program
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.gate import gate
from hubflow.store.store import Store


@dataclass(frozen=True)
class Models:
    """A store with a good export and one that is hardly trained, and the rows that both are evaluated on."""

    store: str
    good: ExportRef
    poor: ExportRef
    dataset: DatasetRef

    def run_gate(self, candidate: ExportRef, name: str, **rules: Any) -> Verdict:
        """The verdict about a candidate against what is in use as `name`."""
        settings = GateSettings.model_validate({"metric": "accuracy", **rules})
        verdict = gate.fn(candidate, self.dataset, settings, EvaluateSettings(), name, self.store)
        return read_verdict(Store(self.store), verdict)


def with_verification(store: str, export: ExportRef, key: str, verification: dict[str, Any] | None) -> ExportRef:
    """An export once more, with another verification, or none."""
    opened = Store(store)
    source = opened.open(export)
    left_out = shutil.ignore_patterns("manifest.json", "verification.json")
    with opened.create("exports", key) as draft:
        shutil.copytree(source.folder, draft.folder, ignore=left_out, dirs_exist_ok=True)
        if verification is not None:
            (draft.folder / "verification.json").write_text(json.dumps(verification))
        draft.facts |= source.facts
    return export_reference(opened.load("exports", key))


@pytest.fixture(scope="module")
def models(digits_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Models:
    run = digits_run
    store, _ = store_with_exports(run, tmp_path_factory.mktemp("gate"))
    settings = TrainSettings.model_validate({"max_steps": 1, "batch_size": 16, "learning_rate": 1e-6})
    checkpoint = fine_tune.fn(run.task, run.encoded, settings, store, 0, "cpu")
    evaluated = evaluate.fn(checkpoint, run.encoded, run.settings.evaluate, store, "cpu")
    poor = export_inference_program.fn(checkpoint, run.encoded, evaluated, store)
    override(run.export, "good", store, "first")
    override(poor, "poor", store, "first")
    return Models(store, run.export, poor, run.dataset)


def rule(verdict: Verdict, name: str) -> Rule:
    (found,) = [one for one in verdict.rules if one.name == name]
    return found


def test_where_nothing_is_in_use_the_absolute_rules_alone_decide_and_that_is_said(models: Models) -> None:
    passed = models.run_gate(models.good, "new", min_value=0.7, max_class_f1_drop=0.0)
    assert passed.verdict == "promoted"
    assert passed.reason.startswith("nothing was in use yet; accuracy ")
    assert [one.name for one in passed.rules] == ["min_value"]
    assert (passed.deployed, passed.deployed_value, passed.interval, passed.revision) == (None, None, None, 0)
    assert "nothing is in use as 'new' yet: the absolute rules alone decide" in passed.notes
    failed = models.run_gate(models.poor, "new", min_value=0.7)
    assert failed.verdict == "rejected"
    assert "at least 0.7 asked for" in failed.reason


def test_a_better_candidate_is_promoted_with_both_values_and_the_interval_of_the_difference(models: Models) -> None:
    verdict = models.run_gate(models.good, "poor", max_class_f1_drop=0.1)
    assert verdict.verdict == "promoted"
    assert verdict.candidate_value == pytest.approx(models.good.metrics["test"]["accuracy"])
    assert verdict.deployed_value == pytest.approx(models.poor.metrics["test"]["accuracy"])
    assert verdict.difference == pytest.approx(verdict.candidate_value - verdict.deployed_value)
    assert verdict.interval is not None
    assert 0 < verdict.interval[0] < verdict.difference < verdict.interval[1]
    assert (verdict.rows, verdict.revision, verdict.deployed) == (models.dataset.rows["test"], 1, models.poor)


def test_a_worse_candidate_is_kept_back_and_each_label_that_lost_is_named(models: Models) -> None:
    verdict = models.run_gate(models.poor, "good", max_class_f1_drop=0.05)
    assert verdict.verdict == "rejected"
    assert rule(verdict, "min_gain").outcome == "failed"
    lost = rule(verdict, "max_class_f1_drop")
    assert lost.outcome == "failed"
    assert "no label may lose more than 0.05" in lost.text


def test_the_same_model_is_as_good_but_no_gain_can_be_shown(models: Models) -> None:
    assert models.run_gate(models.good, "good").interval == (0.0, 0.0)
    assert models.run_gate(models.good, "good").verdict == "promoted"
    assert models.run_gate(models.good, "good", min_gain=0.01).verdict == "rejected"


def test_what_the_rows_cannot_tell_is_undecided(models: Models) -> None:
    shown = models.run_gate(models.good, "poor")
    assert shown.interval is not None
    assert shown.difference is not None
    verdict = models.run_gate(models.good, "poor", min_gain=shown.difference)
    assert verdict.verdict == "inconclusive"
    assert "not distinguishable from" in verdict.reason


def test_a_smaller_loss_is_a_gain(models: Models) -> None:
    verdict = models.run_gate(models.good, "poor", metric="loss", min_value=1.0)
    assert verdict.candidate_value == pytest.approx(models.good.metrics["test"]["loss"], rel=1e-3)
    assert verdict.difference is not None
    assert verdict.difference > 0
    assert rule(verdict, "min_value").text.endswith("at most 1 asked for")
    assert verdict.verdict == "promoted"


VERIFICATION = {"latency_ms": {"1": {"median": 3.0, "p95": 4.0}, "32": {"median": 30.0, "p95": 41.0}}, "size_bytes": 2_500_000}


@pytest.mark.parametrize(
    ("key", "verification", "rules", "outcome"),
    [
        ("quick", VERIFICATION, {"max_latency_ms": {1: 5, 32: 40}, "max_size_mb": 3}, "promoted"),
        ("slow", VERIFICATION, {"max_latency_ms": {1: 2}}, "rejected"),
        ("large", VERIFICATION, {"max_size_mb": 2.4}, "rejected"),
        ("unmeasured", VERIFICATION, {"max_latency_ms": {8: 2}}, "inconclusive"),
        ("unproven", None, {"max_latency_ms": {1: 5}}, "inconclusive"),
    ],
)
def test_ceilings_are_held_against_the_proof_and_cannot_be_evaluated_without(
    key: str, verification: dict[str, Any] | None, rules: dict[str, Any], outcome: str, models: Models
) -> None:
    verdict = models.run_gate(with_verification(models.store, models.good, key, verification), "new", **rules)
    assert verdict.verdict == outcome
    if outcome == "inconclusive":
        assert "is not known: the export has no verification.json that says it" in verdict.reason


def relabelled(models: Models, export: ExportRef, key: str, labels: list[str]) -> ExportRef:
    """An export that knows other labels."""
    store = Store(models.store)
    source = store.open(export)
    with store.create("exports", key) as draft:
        shutil.copytree(source.folder, draft.folder, ignore=shutil.ignore_patterns("manifest.json"), dirs_exist_ok=True)
        (draft.folder / "label_map.json").write_text(json.dumps(labels))
        draft.facts |= {**source.facts, "label_map_sha256": LabelMap(labels=tuple(labels)).sha256}
    return export_reference(store.load("exports", key))


def test_a_deployed_model_that_does_not_know_a_label_cannot_be_compared_and_the_verdict_says_so(models: Models) -> None:
    override(relabelled(models, models.good, "older", ["5", "6", "4"]), "older", models.store, "first")
    verdict = models.run_gate(models.good, "older", max_class_f1_drop=0.1)
    assert verdict.verdict == "inconclusive"
    assert "label(s) that the export does not know: '7'" in verdict.reason
    assert "hubflow promote … --override" in verdict.reason
    assert verdict.deployed_value is None
    assert models.run_gate(models.poor, "older", min_value=0.99).verdict == "rejected"


def test_labels_in_another_order_are_matched_by_name(models: Models) -> None:
    override(relabelled(models, models.good, "turned", ["7", "6", "5"]), "turned", models.store, "first")
    verdict = models.run_gate(models.good, "turned")
    assert verdict.deployed_value is not None
    assert verdict.deployed_value < 0.5
    assert any("the same labels in another order; labels were matched by name" in note for note in verdict.notes)


def test_a_candidate_that_does_not_know_a_label_of_the_rows_is_an_error(models: Models) -> None:
    with pytest.raises(LabelMapError, match="does not know"):
        models.run_gate(relabelled(models, models.good, "newer", ["5", "6", "4"]), "good")


def test_a_metric_that_is_no_sum_over_rows_is_refused_with_those_that_are(models: Models) -> None:
    with pytest.raises(SettingsError, match=r"'roc_auc' cannot be compared row by row; use one of accuracy"):
        models.run_gate(models.good, "good", metric="roc_auc")


def test_the_verdict_is_kept_beside_the_export_and_found_again(models: Models) -> None:
    settings = GateSettings(metric="accuracy", min_value=0.5)
    first, again = (gate.fn(models.good, models.dataset, settings, EvaluateSettings(), "kept", models.store) for _ in range(2))
    assert first == again
    kept = json.loads(Path(models.store, first.path, "verdict.json").read_text(encoding="utf-8"))
    assert (kept["verdict"], kept["metric"], kept["threshold"]) == ("promoted", "accuracy", 0.0)
    Path(models.store, first.path, "verdict.json").write_text("{}")
    assert gate.fn(models.good, models.dataset, settings, EvaluateSettings(), "kept", models.store).verdict == "promoted"


def test_an_earlier_revision_can_be_evaluated_against(models: Models) -> None:
    override(models.poor, "moved", models.store, "first")
    override(models.good, "moved", models.store, "second")
    settings = GateSettings(metric="accuracy")
    verdict = gate.fn(models.good, models.dataset, settings, EvaluateSettings(), "moved", models.store, against=1)
    assert verdict.revision == 1
    assert read_verdict(Store(models.store), verdict).deployed == models.poor


def test_too_few_resamples_for_the_confidence_are_refused() -> None:
    with pytest.raises(ValueError, match="100 resamples are too few"):
        GateSettings(resamples=100, confidence=0.99)
