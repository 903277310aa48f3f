"""Flows and stages as plain functions, which no Prefect server records, with the results that they have in a run."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import digits_settings

from hubflow.console import show_progress
from hubflow.errors import DataError
from hubflow.flows import fine_tune
from hubflow.orchestration.run_context import run_name, runs_alone, without_prefect
from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages import dataset_from_frames
from hubflow.store.store import Store


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No server answers at the address that Prefect has."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield


def settings(folder: Path, **more: Any) -> FineTuneSettings:
    return FineTuneSettings.model_validate(digits_settings(folder, name="alone", **more))


@pytest.mark.slow
def test_a_whole_run_needs_no_server_and_says_how_it_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_progress(True)
    try:
        with without_prefect():
            first, again = (fine_tune(settings(tmp_path)) for _ in range(2))
    finally:
        show_progress(False)
    assert not runs_alone()
    assert run_name() is None
    assert first.metrics == again.metrics
    assert list(first.seconds) == list(again.seconds)
    assert first.reused == ()
    assert set(again.reused) >= {"load_dataset", "encode_dataset", "fine_tune", "evaluate", "export_inference_program"}
    assert Path(first.report).parent.name.endswith("-alone")
    assert json.loads(Path(first.report).with_name("run.json").read_text())["metrics"] == first.metrics
    printed = capsys.readouterr().err
    assert printed.count("export_inference_program …") == 2
    assert "epoch 2: loss" in printed
    assert "taken from the store" in printed


def test_a_fault_is_raised_as_it_is(tmp_path: Path) -> None:
    with without_prefect(), pytest.raises(DataError, match="no column 'wrong'"):
        fine_tune(settings(tmp_path, data={"format": "digits", "digits": [5, 6], "group_column": "wrong"}))


def test_stages_log_as_before_behind_the_block(tmp_path: Path) -> None:
    rows = {"text": ["a", "b", "c", "d"], "label": ["x", "y", "x", "y"]}
    with without_prefect():
        made = dataset_from_frames({"train": rows}, "text_classification", str(tmp_path))
    assert Store(str(tmp_path)).open(made).facts["rows"] == {"train": 3, "dev": 1}
    logger = logging.getLogger("hubflow")
    assert logger.propagate
    assert not logger.handlers or all(type(one).__name__ != "_Forwarder" for one in logger.handlers)
