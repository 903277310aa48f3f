"""Night after night: which data sets are compared, whatever the store already holds, and which are not."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hubflow.data.profile import NOTHING
from hubflow.errors import ContractError, SettingsError
from hubflow.schemas.data_checks import DataChecks, DriftLimits, DriftSettings
from hubflow.schemas.settings import DatasetSpec, ModuleSpec
from hubflow.stages.dataset_from_frames import dataset_from_frames
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module

THREEFOLD = DataChecks(drift=DriftSettings(rows=DriftLimits(fail=3.0)))


@pytest.fixture
def night(tmp_path: Path) -> Any:
    """Loads a file of so many rows, always at the same place."""

    def load(rows: int, words: int = 2) -> Any:
        path = tmp_path / "reviews.csv"
        lines = "".join(f'"{"good film " * words}{row}",{row % 2}\n' for row in range(rows))
        path.write_text(f"text,label\n{lines}", encoding="utf-8")
        spec = DatasetSpec(format="csv", train=str(path), dev_fraction=0, checks=THREEFOLD)
        return load_dataset.fn(spec, "text_classification", str(tmp_path / "store"))

    return load


def report(store: Path) -> dict[str, Any]:
    path = max((store / "data-reports").glob("*/report.json"), key=lambda path: path.stat().st_mtime_ns)
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_rows_that_the_store_holds_are_compared_with_the_last_ones_too(night: Any, tmp_path: Path) -> None:
    first = night(600)
    night(1000)
    night(2000)
    with pytest.raises(ContractError, match="rows: expected about what the last data set had"):
        night(600)
    assert report(tmp_path / "store")["error"].startswith("drift.rows")
    night(800)  # which the refused night did not become the measure of
    assert night(600) == first
    assert night(601)
    assert report(tmp_path / "store")["facts"]["drift"]["measures"][0]["counts"] == [600, 601]


def test_the_same_rows_again_are_compared_with_those_before_them(night: Any, tmp_path: Path) -> None:
    night(600)
    assert report(tmp_path / "store")["facts"]["drift"]["note"] == NOTHING
    night(700)
    before = report(tmp_path / "store")["facts"]["drift"]
    night(700)
    assert report(tmp_path / "store")["facts"]["drift"] == before


def test_rows_that_encoding_refuses_are_not_what_the_next_are_compared_with(
    night: Any, tmp_path: Path, tiny_bert: Path
) -> None:
    store, spec = str(tmp_path / "store"), ModuleSpec(name=str(tiny_bert), max_seq_len=16)
    module = load_module.fn(spec, store)
    night(600)
    long = night(900, words=20)
    with pytest.raises(ContractError, match="truncated_rows"):
        encode_dataset.fn(long, module, spec, store, checks=DataChecks(truncated_rows="fail"))
    night(700)
    assert report(tmp_path / "store")["facts"]["drift"]["measures"][0]["counts"] == [600, 700]


def test_frames_are_compared_by_their_name_and_columns_wherever_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pd.DataFrame({"text": [f"good film {row}" for row in range(600)], "label": ["a", "b"] * 300})

    def keep(frame: pd.DataFrame, source: str) -> dict[str, Any]:
        dataset_from_frames.fn({"train": frame}, "text_classification", str(tmp_path / "store"), source=source)
        return dict(report(tmp_path / "store")["facts"]["drift"])

    assert keep(rows, "reviews")["note"] == NOTHING
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert keep(rows.iloc[:500], "reviews")["measures"]
    assert keep(rows, "tickets")["note"] == NOTHING
    assert keep(rows.assign(id=1), "reviews")["note"] == NOTHING


def test_a_wrong_argument_of_dataset_from_frames_is_named(tmp_path: Path) -> None:
    rows = pd.DataFrame({"text": ["a", "b"], "label": ["a", "b"]})
    with pytest.raises(SettingsError, match="max_invalid_fraction"):
        dataset_from_frames.fn({"train": rows}, "text_classification", str(tmp_path), max_invalid_fraction=1.5)
