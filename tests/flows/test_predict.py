"""The flow predict on a real Prefect server: parts over threads, or over a real Dask cluster, and where the outcome is told."""

import asyncio
import os
from pathlib import Path

import pandas as pd
import pytest
from listeners import beyond_loopback, listeners_below, observed
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, TaskRunFilter, TaskRunFilterName
from runs import Run, write_reviews

from hubflow.errors import StoreError
from hubflow.flows.predict import predict
from hubflow.schemas.settings import PredictResult, PredictSettings
from hubflow.stages.predict import predict as predict_plainly

pytestmark = pytest.mark.usefixtures("prefect_server")


def settings(run: Run, data: Path, **more: object) -> PredictSettings:
    return PredictSettings.model_validate({"export": str(run.export_folder), "data": str(data), **more})


def test_the_flow_labels_a_file_part_by_part(text_run: Run, tmp_path: Path) -> None:
    data = write_reviews(tmp_path / "rows.tsv", 7)
    state = predict(settings(text_run, data, rows_per_shard=3), return_state=True)
    result: PredictResult = state.result()
    assert result.output == f"{data}.predictions.parquet"
    assert result.rows == len(pd.read_parquet(result.output)) == 7
    assert "accuracy" in result.metrics
    assert parts_of(state.state_details.flow_run_id) == 3
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".rows.tsv.predictions.parquet.hubflow", "rows.tsv", "rows.tsv.predictions.parquet"]


@pytest.mark.soak
def test_a_dask_cluster_of_two_processes_gives_the_same_file(text_run: Run, tmp_path: Path) -> None:
    data = write_reviews(tmp_path / "rows.tsv", 24)
    plain = Path(predict_plainly.fn(settings(text_run, data, rows_per_shard=4)).output)
    over = settings(
        text_run, data, rows_per_shard=4, output=str(tmp_path / "dask.parquet"), runner={"kind": "dask", "workers": 2}
    )
    environment = dict(os.environ)
    open_before = beyond_loopback(listeners_below(os.getpid()))
    with observed(os.getpid()) as seen:
        state = predict(over, return_state=True)
    assert beyond_loopback(seen) <= open_before
    assert len(seen) > 4, "the scheduler, a nanny and a worker for each process"
    result: PredictResult = state.result()
    left = {name for name, value in os.environ.items() if value != environment.get(name)}
    assert left <= {"__DASK_PARENT_PID"}  # Dask would leave one thread to processes that are started later
    assert parts_of(state.state_details.flow_run_id) == 6
    pd.testing.assert_frame_equal(pd.read_parquet(result.output), pd.read_parquet(plain), rtol=0, atol=1e-5)


def test_a_part_that_fails_is_told_by_the_flow(text_run: Run, tmp_path: Path) -> None:
    data = write_reviews(tmp_path / "rows.tsv", 8)
    output = tmp_path / "out.parquet"
    (tmp_path / ".out.parquet.hubflow").mkdir()  # no record can take its place, which is written with the output
    with pytest.raises(StoreError, match=r"\.out\.parquet\.hubflow could not be written"):
        predict(settings(text_run, data, rows_per_shard=3, output=str(output)))
    assert len(list((tmp_path / ".out.parquet.parts").glob("*.json"))) == 3


def parts_of(flow_run_id: object) -> int:
    """How many runs of the task predict_part a flow run had."""

    async def read() -> int:
        async with get_client() as client:
            runs = await client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])),
                task_run_filter=TaskRunFilter(name=TaskRunFilterName(like_="predict_part")),
            )
            return len(runs)

    return asyncio.run(read())
