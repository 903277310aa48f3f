"""Assets on a real server: what a nightly makes, of what, and what a second one takes from the store."""

import time
from pathlib import Path
from typing import Any

import pytest
from runs import digits_settings

from hubflow.flows.nightly import nightly
from hubflow.orchestration.assets import note_asset
from hubflow.schemas.deployment import NightlySettings
from hubflow.schemas.references import DatasetRef
from hubflow.testing import FilledStore, make_reference


@pytest.fixture
def client(prefect_server: str) -> Any:
    """A client of the server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as made:
        yield made


def materializations(client: Any, prefix: str, count: int) -> list[dict[str, Any]]:
    """Events about assets below a prefix, once there are so many, the first one first."""
    resource = {"id_prefix": [prefix]}
    body = {"filter": {"event": {"prefix": ["prefect.asset.materialization"]}, "resource": resource}, "limit": 50}
    deadline, found = time.monotonic() + 60, []
    while len(found) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
        found = client.request("POST", "/events/filter", json=body).json()["events"]
    return sorted(found, key=lambda one: str(one["occurred"]))


def test_data_set_export_and_pointer_are_assets_each_made_of_the_one_before(client: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    values = digits_settings(store, name="digits", gate={"min_value": 0.0}, sample_rows=0)
    result = nightly(NightlySettings.model_validate(values))
    assert nightly(NightlySettings.model_validate(values)).outcome == "skipped"
    found = materializations(client, f"file://{store}", 3)
    keys = [f"file://{store}/{kind}/digits" for kind in ("datasets", "exports", "deployed")]
    assert [one["resource"]["prefect.resource.id"] for one in found] == keys
    assert {one["event"] for one in found} == {"prefect.asset.materialization.succeeded"}
    made_of = [
        {related["prefect.resource.id"] for related in one["related"] if related.get("prefect.resource.role") == "asset"}
        for one in found
    ]
    assert made_of == [set(), {keys[0]}, set(keys[:2])]  # the gate has compared the export on the data set
    assert found[1]["payload"]["path"] == result.candidate
    assert found[2]["payload"]["revision"] == 1
    assert [one["resource"]["prefect.resource.name"] for one in found][2] == "digits: in use"


def test_a_store_whose_path_cannot_be_a_key_has_no_assets(prefect_server: str, filled_store: FilledStore) -> None:
    from prefect import flow, task
    from prefect.context import AssetContext

    @task
    def made(store: str) -> set[Any]:
        note_asset(filled_store.dataset, store, was_reused=False)
        context = AssetContext.get()
        assert context is not None
        return {asset.key for asset in context.downstream_assets}

    @flow(name="own")
    def own(store: str) -> set[Any]:
        return made(store)  # type: ignore[no-any-return]

    assert own("/data/my store") == set()
    assert own("s3://bucket/store") == {"s3://bucket/store/datasets/own"}


def test_outside_a_run_there_are_none() -> None:
    note_asset(make_reference(DatasetRef), "/data/store", was_reused=False)
