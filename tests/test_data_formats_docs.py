"""docs/how-to/data-formats.md is true: its samples are read, its Python runs, its settings are settings."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from hubflow.data.readers.reading import read_rows
from hubflow.schemas.data_checks import DataChecks
from hubflow.schemas.labels import clean_label, label_text
from hubflow.schemas.settings import DatasetSpec, PredictSettings
from hubflow.store.store import Store

TEXT = (Path(__file__).parents[1] / "docs" / "how-to" / "data-formats.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    _, found, rest = TEXT.partition(f"\n## {heading}")
    assert found, heading
    return rest.partition("\n## ")[0]


def blocks(heading: str, kind: str) -> list[str]:
    return [str(found) for found in re.findall(rf"```{kind}\n(.*?)```", section(heading), re.DOTALL)]


def read(path: Path, content: str, format: str) -> pd.DataFrame:
    path.write_text(content, encoding="utf-8")
    return read_rows(DatasetSpec.model_validate({"format": format, "train": str(path)}), path, "train")


def test_the_samples_of_delimited_text_and_json_are_read(tmp_path: Path) -> None:
    (sample,) = blocks("Delimited text", "csv")
    rows = read(tmp_path / "a.csv", sample, "csv")
    assert rows[["text", "label", "customer"]].to_numpy().tolist() == [
        ['a fine film, "really"', "pos", "17"],
        ["dull", "neg", "18"],
    ]
    for sample in blocks("JSON", "json"):
        rows = read(tmp_path / "a.json", sample, "jsonl")
        assert rows[["text", "label"]].to_numpy().tolist() == [["a fine film", "pos"], ["dull", "neg"]]


def test_the_settings_of_delimited_text_are_settings_of_training_and_prediction() -> None:
    names = re.findall(r"^\| `(\w+)` \|", section("Delimited text"), re.MULTILINE)
    assert len(names) == 5
    assert set(names) <= set(DatasetSpec.model_fields) & set(PredictSettings.model_fields)
    for settings in blocks("Compressed files", "yaml"):
        DatasetSpec.model_validate(yaml.safe_load(settings)["data"])
    checks = re.findall(r"`(\w+)` \(warn\)", TEXT)
    assert {"open_quotes", "kept_quotes", "similar_labels"} <= set(checks)
    assert all(getattr(DataChecks(), name) == "warn" for name in checks)


@pytest.mark.slow
def test_the_python_of_frames_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("Data frames in memory", "python")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - of our own page
    kept = pd.read_parquet(Store("hubflow-store").open(names["dataset"]).folder / "train.parquet")
    assert kept["label"].tolist() == ["1", "0", "1", "0"]
    assert kept["id"].tolist() == [7, 8, 9, 10]


def test_the_table_of_labels_is_the_rule() -> None:
    lines = re.findall(r"^\| (.*?) \| `([^`]*)`", section("Labels"), re.MULTILINE)
    tried = 0
    for given, label in lines:
        for written in re.findall(r"`([^`]*)`", given):
            values = [json.loads(written)] if re.fullmatch(r'".*"|[\d.]+|true', written) else [written]
            assert [clean_label(label_text(value)) for value in values] == [label]
            tried += 1
    assert tried >= 8
