"""evaluate_export: what an exported folder alone gives on a data set is what evaluate gave of the weights in it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import Run
from small_modules import some_tokens

from hubflow.errors import LabelMapError, SettingsError
from hubflow.evaluation.folder import read_details
from hubflow.schemas.references import DatasetRef, ExportRef
from hubflow.schemas.settings import DatasetSpec, EvaluateSettings
from hubflow.schemas.tasks import find_task_type
from hubflow.stages.evaluate_export import evaluate_export
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.manifest import file_sha256
from hubflow.store.store import Store
from hubflow.training.evaluation import evaluate_split

pytestmark = pytest.mark.slow


def alone(run: Run, folder: Path) -> Store:
    """A store that holds no more of a run than its export and its data set."""
    for path in (run.export.path, run.dataset.path):
        shutil.copytree(run.store.root / path, folder / path)
    return Store(folder)


@pytest.mark.parametrize("name", ["digits_run", "text_run"])
def test_the_export_alone_gives_the_metrics_that_evaluate_gave(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Run = request.getfixturevalue(name)
    opened = alone(run, tmp_path)
    found = evaluate_export.fn(run.export, run.dataset, EvaluateSettings(batch_size=7), str(tmp_path))
    expected = run.evaluation.metrics["test"]
    assert found.split == "test"
    assert found.metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found.metrics["accuracy"] == expected["accuracy"]
    frames = [
        pd.read_parquet(store.open(reference).folder / "test.parquet")
        for store, reference in ((opened, found), (run.store, run.evaluation))
    ]
    assert frames[0].columns.tolist() == frames[1].columns.tolist()
    for column in frames[0]:
        left, right = (frame[column] for frame in frames)
        if left.dtype.kind == "f":
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)
        else:
            assert left.tolist() == right.tolist()
    theirs, ours = read_details(run.store, run.evaluation)["test"], read_details(opened, found)["test"]
    assert ours.per_class == theirs.per_class
    assert ours.confusion == theirs.confusion
    assert evaluate_export.fn(run.export, run.dataset, EvaluateSettings(), str(tmp_path)) == found


def other_labels(run: Run, folder: Path, labels: dict[str, str]) -> DatasetRef:
    """The run's test rows as a data set of its own, its labels of other names and in another order."""
    frame = pd.read_csv(str(run.settings.data.test), sep="\t", dtype=str)
    path, listed = folder / "other.tsv", folder / "labels.txt"
    frame.assign(label=frame["label"].map(labels)).to_csv(path, sep="\t", index=False)
    listed.write_text("".join(f"{label}\n" for label in reversed(labels.values())), encoding="utf-8")
    spec = DatasetSpec(format="tsv", train=str(path), test=str(path), label_list=str(listed))
    return load_dataset.fn(spec, "text_classification", str(folder))


def test_labels_meet_by_name_and_unknown_ones_are_refused(text_run: Run, tmp_path: Path) -> None:
    store = alone(text_run, tmp_path)
    reordered = other_labels(text_run, tmp_path, {"0": "0", "1": "1"})
    assert reordered.label_map_sha256 != text_run.export.label_map_sha256
    found = evaluate_export.fn(text_run.export, reordered, EvaluateSettings(), str(tmp_path))
    assert found.metrics == pytest.approx(text_run.evaluation.metrics["test"], rel=1e-4, abs=1e-6)
    assert "is not that of the data set" in read_details(store, found)["test"].notes[-1]
    unknown = other_labels(text_run, tmp_path, {"0": "0", "1": "good"})
    with pytest.raises(LabelMapError, match=r"does not know: 'good' \(row \d+\); its labels are 0, 1"):
        evaluate_export.fn(text_run.export, unknown, EvaluateSettings(), str(tmp_path))


def test_rows_of_another_kind_and_splits_that_are_not_there_are_refused(text_run: Run, digits_run: Run, tmp_path: Path) -> None:
    alone(text_run, tmp_path)
    alone(digits_run, tmp_path)
    with pytest.raises(SettingsError, match="trained on text rows, the data set has image rows"):
        evaluate_export.fn(text_run.export, digits_run.dataset, EvaluateSettings(), str(tmp_path))
    with pytest.raises(SettingsError, match="no rows of it; it has train, dev, test"):
        evaluate_export.fn(text_run.export, text_run.dataset, EvaluateSettings(), str(tmp_path), "holdout")


def test_sentences_are_evaluated_as_the_trained_program_judges_them(tiny_exports: dict[str, Any], tmp_path: Path) -> None:
    exported = tiny_exports["token"]
    folder = shutil.copytree(exported.folder, tmp_path / "exports" / "token")
    tokens, tags = some_tokens(len(exported.split))
    rows = [{"tokens": words, "label": labels} for words, labels in zip(tokens, tags, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "labels.txt").write_text("\n".join(exported.label_map.labels), encoding="utf-8")
    files = {"train": str(tmp_path / "rows.jsonl"), "test": str(tmp_path / "rows.jsonl")}
    spec = DatasetSpec(format="jsonl", label_list=str(tmp_path / "labels.txt"), **files)
    dataset = load_dataset.fn(spec, "sequence_labelling", str(tmp_path))
    reference = ExportRef(
        path="exports/token",
        sha256=file_sha256(folder / "manifest.json"),
        task="sequence_labelling",
        num_classes=5,
        label_map_sha256=exported.label_map.sha256,
        metrics={},
    )
    found = evaluate_export.fn(reference, dataset, EvaluateSettings(batch_size=3), str(tmp_path))
    expected = evaluate_split(exported.session, exported.split, exported.label_map, 4)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-6)
    assert tuple(found.metrics) == tuple(find_task_type("sequence_labelling").metrics)
    evaluated = pd.read_parquet(tmp_path / found.path / "test.parquet")
    names = exported.label_map.labels
    assert [list(row) for row in evaluated["predicted"]] == [[names[tag] for tag in row] for row in expected.predicted]


def test_images_that_do_not_decode_are_left_out_and_counted(digits_run: Run, tmp_path: Path) -> None:
    store = alone(digits_run, tmp_path)
    rows = pd.read_parquet(store.open(digits_run.dataset).folder / "test.parquet").head(9)
    for row in rows.itertuples():
        path = tmp_path / "images" / str(row.label) / f"{row.row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row.image if row.Index != 4 else row.image[:40])
    spec = DatasetSpec(format="image_folder", train=str(tmp_path / "images"), test=str(tmp_path / "images"))
    dataset = load_dataset.fn(spec, "image_classification", str(tmp_path))
    found = evaluate_export.fn(digits_run.export, dataset, EvaluateSettings(), str(tmp_path))
    details = read_details(store, found)["test"]
    assert details.rows == 8
    assert "1 image(s) that do not decode were left out" in details.notes
    evaluated = pd.read_parquet(store.open(found).folder / "test.parquet")
    before = pd.read_parquet(digits_run.store.open(digits_run.evaluation).folder / "test.parquet").set_index("row")
    paths = pd.read_parquet(store.open(dataset).folder / "test.parquet")["path"].iloc[evaluated["position"]]
    for path, predicted in zip(paths, evaluated["predicted"], strict=True):
        assert predicted == before.loc[int(Path(path).stem), "predicted"]
