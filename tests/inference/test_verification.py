"""The verification of an export: what it records, and that an export which fails it is not kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as pq
import pytest
from runs import Run, digits_settings, run_stages
from small_exports import Exported

from hubflow.errors import ExportError, StoreError
from hubflow.inference.verification import Trained, probes_of, read_verification, verify_export
from hubflow.schemas.export import ExportSettings, Probe, VerificationRequest
from hubflow.schemas.references import EvaluationRef
from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages.export_inference_program import export_inference_program
from hubflow.store.manifest import seal
from hubflow.workers.processes import run as run_in_worker

QUICK = ExportSettings(latency_rounds=3)


def verify_in_process(request: VerificationRequest) -> None:
    """As the stage has it done."""
    run_in_worker("hubflow.inference.verification_worker:verify_in_worker", request.model_dump(mode="json"))


@pytest.mark.parametrize("name", ["digits_run", "text_run"], ids=["images", "texts"])
def test_a_proof_is_in_the_folder_and_holds_the_metric_of_the_evaluation(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    verification = read_verification(run.export_folder)
    assert verification is not None
    assert (verification.split, verification.rows) == ("test", run.dataset.rows["test"])
    assert verification.max_abs_difference <= verification.tolerance == 1e-4
    assert verification.metric.name == "accuracy"
    assert (
        verification.metric.trained == verification.metric.exported == pytest.approx(run.evaluation.metrics["test"]["accuracy"])
    )
    assert verification.metric.differing_labels == 0
    assert [probe.rows for probe in verification.probes][:3] == [1, 1, 7]
    assert {size: one.rounds for size, one in verification.latency_ms.items()} == {"1": 20, "32": 20}
    assert all(0 < one.median <= one.p95 for one in verification.latency_ms.values())
    assert 0 < verification.imports_memory_bytes <= verification.peak_memory_bytes
    assert verification.size_bytes == sum(path.stat().st_size for path in run.export_folder.glob("program.*"))
    if name == "text_run":
        assert any(probe.length is not None and probe.length % 2 for probe in verification.probes)


def test_probes_are_the_longest_the_shortest_seven_and_one_of_odd_length() -> None:
    lengths = np.array([4, 9, 6, 2, 8, 12, 10, 6, 7, 4])
    longest, shortest, seven, odd = probes_of(lengths, 16)
    assert (lengths[list(longest.rows)], lengths[list(shortest.rows)]) == ([12], [2])
    assert len(set(seven.rows)) == 7
    assert {longest.rows[0], shortest.rows[0]} <= set(seven.rows)
    assert lengths[list(odd.rows)] == [9]
    assert probes_of(np.array([4, 6]), 16)[-1] == Probe(rows=(0,), longer_padding=True)
    assert len(probes_of(np.array([16, 16]), 16)) == 3
    assert len(probes_of(np.ones(3, np.int64), None)) == 3


def trained_of(exported: Exported, split: str = "test") -> Trained:
    from hubflow.inference.verification_worker import predicted_ids

    session, rows = exported.session, exported.split
    task = session.task
    fetch = [task.test_variable("probs")]
    predicted = predicted_ids(lambda feed: session.run(task.test_program(), feed, fetch)[0], rows, len(rows), 4)
    labels = getattr(rows, "word_labels", None)
    words = None if labels is None else np.array([len(labels[row]) for row in range(len(rows))])
    truth = rows.label if labels is None else np.concatenate([labels[row] for row in range(len(rows))])  # type: ignore[attr-defined]
    file = next(exported.folder.parents[2].glob("rows/**/*.arrow"))
    return Trained(session, exported.label_map, split, file, rows, predicted, truth, words, "f1")  # type: ignore[arg-type]


def test_sequences_are_compared_token_by_token_and_by_their_entities(tiny_exports: dict[str, Exported]) -> None:
    trained = trained_of(tiny_exports["token"])
    verification = verify_export(verify_in_process, trained, tiny_exports["token"].folder, QUICK)
    assert (verification.metric.name, verification.metric.differing_labels) == ("f1", 0)
    assert verification.metric.trained == verification.metric.exported
    assert verification.max_abs_difference < 1e-5
    assert verification.latency_ms["32"].rounds == 3


def test_a_program_with_other_weights_is_refused_by_its_probabilities(tiny_exports: dict[str, Exported]) -> None:
    exported = tiny_exports["text"]
    trained = trained_of(exported)
    before = exported.session.weights()
    try:
        exported.session.put({**before, "head.output.bias": before["head.output.bias"] + np.float32([0.0, 0.01])}, "a test")
        with pytest.raises(ExportError, match=r"batch of 7 row\(s\) are up to 0\.00\d+ apart"):
            verify_export(verify_in_process, trained, exported.folder, QUICK)
    finally:
        exported.session.put(before, "a test")


def test_an_export_that_cannot_be_loaded_is_refused_as_its_process_said(
    tiny_exports: dict[str, Exported], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_exports["text"].folder, tmp_path / "export")
    (folder / "signature.json").write_text("{")
    with pytest.raises(StoreError, match=r"signature\.json: Invalid JSON"):
        verify_export(verify_in_process, trained_of(tiny_exports["text"]), folder, QUICK)


def test_an_export_with_another_metric_is_not_kept(digits_run: Run) -> None:
    store, name = digits_run.store, "evaluations/swapped"
    folder = shutil.copytree(store.root / digits_run.evaluation.path, store.root / name)
    table = pq.read_table(folder / "test.parquet")
    labels = table.column("predicted").to_pylist()
    other = arrow.array(["6" if label == "5" else "5" for label in labels], table.schema.field("predicted").type)
    pq.write_table(table.set_column(table.schema.get_field_index("predicted"), "predicted", other), folder / "test.parquet")
    seal(folder, "evaluations", json.loads((folder / "manifest.json").read_text())["facts"])
    swapped = EvaluationRef(
        path=name,
        sha256=store.find("evaluations", "swapped").sha256,  # type: ignore[union-attr]
        checkpoint=digits_run.evaluation.checkpoint,
        metrics={"test": {"accuracy": 0.0}},
    )
    kept = sorted((store.root / "exports").iterdir())
    with pytest.raises(ExportError, match=r"accuracy is 0.9.*, that of the trained program 0.0.* labels differ"):
        export_inference_program.fn(digits_run.checkpoint, digits_run.encoded, swapped, digits_run.settings.store)
    assert sorted((store.root / "exports").iterdir()) == kept
    shutil.rmtree(folder)


@pytest.mark.slow
def test_without_test_and_dev_rows_the_proof_is_of_training_rows(tmp_path: Path) -> None:
    data = {"format": "digits", "digits": [5, 6], "max_rows": 20, "dev_fraction": 0, "test_fraction": 0}
    settings = digits_settings(tmp_path, data=data, train={"epochs": 1, "batch_size": 16})
    run = run_stages(FineTuneSettings.model_validate(settings))
    verification = read_verification(run.export_folder)
    assert verification is not None
    assert (verification.split, verification.rows, verification.metric.differing_labels) == (
        "train",
        run.dataset.rows["train"],
        0,
    )


def test_an_older_export_has_no_proof_and_a_damaged_one_is_an_error(tmp_path: Path) -> None:
    assert read_verification(tmp_path) is None
    (tmp_path / "verification.json").write_text("{}")
    with pytest.raises(StoreError, match=r"verification\.json: no readable verification"):
        read_verification(tmp_path)
