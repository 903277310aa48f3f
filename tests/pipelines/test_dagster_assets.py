"""Dagster assets that call stages as plain functions: each in a process of its own, and with no Prefect server."""

import sys
from pathlib import Path

import pandas as pd
import pytest
from dagster import DagsterEventType, DagsterInstance
from example_programs import PIPELINES, run_without_prefect
from reviews import review_frame

from hubflow.testing.modules import TinyModule

pytestmark = [pytest.mark.soak, pytest.mark.integration]


def test_assets_are_materialized_each_in_a_process_of_its_own(
    tmp_path: Path, hubflow_store: str, tiny_text_module: TinyModule
) -> None:
    review_frame().to_csv(tmp_path / "reviews.csv", index=False)
    new = pd.DataFrame({"id": [2**40, 7], "text": ["a great product", "an awful product"]})
    new.to_parquet(tmp_path / "new.parquet")
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    variables = {
        "DAGSTER_HOME": tmp_path / "dagster",
        "HUBFLOW_STORE": hubflow_store,
        "HUBFLOW_MODULE": tiny_text_module.name,
        "REVIEWS": tmp_path / "reviews.csv",
        "NEW_REVIEWS": tmp_path / "new.parquet",
    }
    command = [Path(sys.executable).parent / "dagster", "job", "execute"]
    run_without_prefect(
        [*command, "-f", PIPELINES / "dagster_assets.py", "-j", "all_assets"], tmp_path / "prefect", **variables
    )
    labelled = pd.read_parquet(f"{hubflow_store}/labelled.parquet")
    assert labelled["id"].tolist() == [2**40, 7]
    assert set(labelled["predicted"]) <= {"good", "bad"}  # of two epochs with a low learning rate: nothing is learnt
    with DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        (run,) = instance.get_runs()
        started, ended = (
            [entry.dagster_event for entry in instance.all_logs(run.run_id, of_type={kind})]
            for kind in (DagsterEventType.STEP_WORKER_STARTED, DagsterEventType.STEP_SUCCESS)
        )
    assert [event.step_key for event in ended] == ["reviews", "review_model", "labelled_reviews"]
    assert len({event.engine_event_data.metadata["pid"].value for event in started}) == len(ended)
