"""Stages as tasks: a caller gets the result; runs, tasks and states carry names that a person can read."""

from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from runs import digits_settings

from hubflow.flows import fine_tune
from hubflow.schemas.references import DatasetRef
from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages import dataset_from_frames

pytestmark = pytest.mark.usefixtures("prefect_server")
ROWS = {"text": ["a", "b", "c", "d"], "label": ["x", "y", "x", "y"]}
ARGUMENTS: tuple[Any, ...] = ({"train": ROWS}, "text_classification")


@task
def own_task(store: str) -> DatasetRef:
    return dataset_from_frames.fn(*ARGUMENTS, store)  # type: ignore[call-arg]


@flow(name="ways-to-call")
def every_way(store: str) -> list[Any]:
    first = dataset_from_frames(*ARGUMENTS, store)
    return [
        first,
        dataset_from_frames(*ARGUMENTS, store),
        dataset_from_frames.submit(*ARGUMENTS, store).result(),
        dataset_from_frames.with_options(retries=1)(*ARGUMENTS, store),
        dataset_from_frames(*ARGUMENTS, store, return_state=True).result(),
        *(one.result() for one in dataset_from_frames.map(*map(_unmapped, (*ARGUMENTS, store)), labels=[["x", "y"]] * 2)),
        own_task(store),
    ]


def _unmapped(value: Any) -> Any:
    from prefect import unmapped

    return unmapped(value)


def states(name: str) -> dict[str, list[str]]:
    """State names of the newest run of a flow, by task run."""
    with get_client(sync_client=True) as client:
        runs = [
            run for run in client.read_flow_runs(sort="EXPECTED_START_TIME_DESC") if client.read_flow(run.flow_id).name == name
        ]
        newest = max(runs, key=lambda run: run.created)
        found: dict[str, list[str]] = {"": [newest.name, *sorted(newest.tags)]}
        own = FlowRunFilter(id=FlowRunFilterId(any_=[newest.id]))
        for one in sorted(client.read_task_runs(flow_run_filter=own), key=lambda one: one.start_time):
            found.setdefault(one.name, []).append(one.state_name)
    return found


def test_every_way_to_call_a_stage_gives_its_result(hubflow_store: str) -> None:
    found = every_way(hubflow_store)
    assert all(isinstance(one, DatasetRef) for one in found)
    assert len({one.path for one in found[:5] + found[7:]}) == 1
    names = states("ways-to-call")
    assert names["load data ways-to-call"][:5] == ["Completed", *["Cached from store"] * 4]
    assert [name for one, names in names.items() if one.startswith("own_task") for name in names] == ["Completed"]


def test_a_flow_run_and_its_tasks_are_named_by_the_settings(hubflow_store: str) -> None:
    settings = digits_settings(hubflow_store, name="night-digits")  # type: ignore[arg-type]
    for expected in ("Completed", "Cached from store"):
        fine_tune(FineTuneSettings.model_validate(settings))
        found = states("fine-tune")
        run, *tags = found.pop("")
        assert run.startswith("night-digits-20")
        assert tags == ["hubflow", "image_classification", "night-digits"]
        assert found["encode night-digits"] == found["fine-tune night-digits"] == [expected]
        assert found["report night-digits"] == ["Completed"]
