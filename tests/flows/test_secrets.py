"""What is secret stays where it is kept: it is in no parameter, log, artifact, event, state, report or file of the store."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import mlflow_server
from object_storage import KEY, SECRET, ObjectStorage
from runs import digits_settings

from hubflow.blocks import HubflowStore, ModelRegistry
from hubflow.flows.nightly import nightly
from hubflow.schemas.deployment import NightlySettings

PASSWORD = "correct-horse-battery-staple"
WORDS = (SECRET, PASSWORD)


@pytest.fixture
def night(
    prefect_server: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[ObjectStorage]:
    """A nightly on object storage with a model registry and a tracking server that ask for passwords, and one that fails."""
    caplog.set_level(logging.DEBUG)
    storage = ObjectStorage.prepared(s3_server, tmp_path, monkeypatch)
    storage.forget_credentials()
    (tmp_path / "mlflow").mkdir()
    with mlflow_server(tmp_path / "mlflow", f"ada:{PASSWORD}") as address:
        monkeypatch.setenv("HUBFLOW_TRUST_TRACKING_URIS", address)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        options = {"key": KEY, "secret": SECRET, "endpoint_url": storage.endpoint}
        HubflowStore(url=storage.url, options=options).save("secret-store", overwrite=True)
        ModelRegistry(uri=address, username="ada", password=PASSWORD).save("secret-registry", overwrite=True)
        values = digits_settings(tmp_path, name="secrets", gate={"min_value": 0.0}, store_block="secret-store")
        del values["store"]  # that of the block
        values |= {"registry_block": "secret-registry"}
        values["train"]["tracking"] = {"mlflow": address}
        settings = NightlySettings.model_validate(values)
        assert nightly(settings).outcome == "promoted"
        with pytest.raises(Exception, match="not-there"):
            nightly(settings.model_copy(update={"module": settings.module.model_copy(update={"name": "not-there"})}))
        yield storage


def everything_on(client: Any) -> dict[str, str]:
    """What the server tells of runs, their states, tasks, logs, artifacts, events and variables, as text."""
    newest_first = {
        **{"flow_runs": "EXPECTED_START_TIME_DESC", "task_runs": "EXPECTED_START_TIME_DESC"},
        **{"logs": "TIMESTAMP_DESC", "artifacts": "CREATED_DESC", "variables": "CREATED_DESC", "deployments": "CREATED_DESC"},
    }
    found = {
        kind: json.dumps(client.request("POST", f"/{kind}/filter", json={"limit": 200, "sort": order}).json())
        for kind, order in newest_first.items()
    }
    return found | {"events": json.dumps(client.request("POST", "/events/filter", json={"limit": 50}).json())}


@pytest.mark.soak
def test_no_secret_is_in_what_a_run_leaves(night: ObjectStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from prefect.client.orchestration import get_client

    time.sleep(3)  # logs and events are sent every now and then
    with get_client(sync_client=True) as client:
        found = everything_on(client)
    for name in ("flow_runs", "task_runs", "logs", "artifacts", "events"):
        assert "secrets" in found[name], f"nothing of the run is in {name}"
    objects = {path: night.read(path) for path in night.objects()}
    assert any(path.startswith("runs/") and path.endswith("report.html") for path in objects)
    assert any(path.endswith("manifest.json") for path in objects)
    own = [path for path in tmp_path.rglob("*") if path.is_file() and "mlflow" not in path.relative_to(tmp_path).parts]
    for word in WORDS:
        assert [name for name, text in found.items() if word in text] == []
        assert [path for path, content in objects.items() if word.encode() in content] == []
        assert [path for path in own if word.encode() in path.read_bytes()] == []
        assert [one for one in caplog.records if one.name.startswith(("hubflow", "prefect")) and word in one.getMessage()] == []
