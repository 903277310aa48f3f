"""The flows with a store on object storage, their credentials in a Prefect block: used there alone, and written nowhere."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from fsspec.config import conf
from object_storage import KEY, SECRET, Fault, ObjectStorage, faulty_proxy
from prefect.blocks.system import Secret
from pydantic import ValidationError
from runs import WORDS, text_settings
from small_modules import make_tiny_bert

from hubflow.blocks import HubflowStore
from hubflow.data.profile import ONLY_THIS
from hubflow.errors import SettingsError, StoreError
from hubflow.flows.fine_tune import fine_tune
from hubflow.flows.predict import predict
from hubflow.orchestration.run_context import open_store
from hubflow.schemas.references import FineTuneResult
from hubflow.schemas.settings import FineTuneSettings, PredictSettings

BLOCK = "store-credentials"


@dataclass(frozen=True)
class Outcome:
    """A fine-tune of machine one."""

    storage: ObjectStorage
    settings: FineTuneSettings
    result: FineTuneResult


@pytest.fixture(scope="module")
def outcome(prefect_server: str, s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Fine-tune with nothing in the environment: who asks is known from the block alone."""
    folder = tmp_path_factory.mktemp("s3")
    with pytest.MonkeyPatch.context() as patch:
        storage = ObjectStorage.prepared(s3_server, folder, patch)
        storage.forget_credentials()
        options = {"key": KEY, "secret": SECRET, "endpoint_url": storage.endpoint}
        HubflowStore(url=f"s3://{storage.bucket}", options=options).save(BLOCK, overwrite=True)
        module = make_tiny_bert(folder / "bert", WORDS)
        given = text_settings(folder, module) | {"store": storage.url, "store_block": BLOCK}
        given["data"]["max_invalid_fraction"] = 0.5
        with Path(given["data"]["dev"]).open("a", encoding="utf-8") as stream:
            stream.write("999\t\t1\n")  # a row without text, to be quarantined
        settings = FineTuneSettings.model_validate(given)
        yield Outcome(storage, settings, fine_tune(settings))


def test_everything_a_run_leaves_is_on_the_storage(outcome: Outcome) -> None:
    kept, result = outcome.storage, outcome.result
    kinds = {path.split("/")[0] for path in kept.objects()}
    assert kinds == {
        *("datasets", "modules", "encoded", "tasks", "checkpoints", "evaluations", "exports"),
        *("runs", "profiles", "data-reports", "quarantine"),
    }
    assert result.store == kept.url
    assert result.export == f"{kept.url}/{result.exported.path}"
    assert b"<html" in kept.read(result.report.removeprefix(f"{kept.url}/"))
    assert f"{result.exported.path}/program.json" in kept.objects()
    assert not any("probe" in path or "training" in path for path in kept.objects())


def test_another_machine_takes_what_is_there_and_trains_nothing(outcome: Outcome) -> None:
    outcome.storage.be("two")
    before = outcome.storage.objects("checkpoints")
    again = fine_tune(outcome.settings)
    assert (again.evaluation, again.exported) == (outcome.result.evaluation, outcome.result.exported)
    assert outcome.storage.objects("checkpoints") == before
    (dataset,) = [path.split("/")[1] for path in outcome.storage.objects("datasets") if path.endswith("manifest.json")]
    drift = json.loads(outcome.storage.read(f"data-reports/{dataset}/report.json"))["facts"]["drift"]
    assert drift["note"] == ONLY_THIS  # so the profile that machine one kept was read


def test_a_third_machine_labels_rows_with_the_exported_folder_by_its_url(outcome: Outcome, tmp_path: Path) -> None:
    outcome.storage.be("three")
    (tmp_path / "rows.tsv").write_text("text\na fine film\n", encoding="utf-8")
    asked = {"export": outcome.result.export, "data": str(tmp_path / "rows.tsv"), "store_block": BLOCK}
    result = predict(PredictSettings.model_validate(asked))
    assert len(pd.read_parquet(result.output)) == 1


def test_no_secret_is_written_anywhere(outcome: Outcome) -> None:
    kept = outcome.storage
    assert SECRET not in outcome.result.model_dump_json()
    for path in kept.objects():
        assert SECRET.encode() not in kept.read(path), path
    files = [path for path in kept.caches.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("block", "store", "message"),
    [
        (
            "absent-block",
            "s3://b/x",
            r"Unable to find block document named absent-block .*HubflowStore\(…\)",
        ),
        ("a-secret", "s3://b/x", "Unable to find block document named a-secret"),
        (BLOCK, "folder", "which needs no credentials"),
        (BLOCK, "s3://{bucket}-evil/store", r"is for s3://{bucket} and what is below it"),
        (BLOCK, "s3://{bucket}/../evil", r"is no URL of a store"),
        (BLOCK, "s3://{bucket}/%2e%2e/evil", r"is no URL of a store"),
        (BLOCK, "S3://{bucket}/store", "trust.store_schemes"),
        (BLOCK, "s3a://{bucket}/store", r"is for s3://{bucket} and what is below it"),
        (BLOCK, "ftp://127.0.0.1/x", "trust.store_schemes"),
        (BLOCK, "simplecache::s3://{bucket}/store", "is no URL of a store"),
        (BLOCK, "s3://me@{bucket}/store", "holds a user"),
    ],
)
def test_a_block_is_used_for_its_url_alone(outcome: Outcome, block: str, store: str, message: str) -> None:
    Secret(value={"key": KEY, "secret": SECRET}).save("a-secret", overwrite=True)
    bucket = outcome.storage.bucket
    with pytest.raises(SettingsError, match=message.format(bucket=bucket)) as refused:
        fine_tune(outcome.settings.model_copy(update={"store": store.format(bucket=bucket), "store_block": block}))
    assert SECRET not in str(refused.value)


def test_a_login_to_something_else_is_lent_to_no_server_of_the_run(prefect_server: str) -> None:
    """The password of a Secret that is not for stores went to an FTP server that a run named."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        login = {"username": "admin", "password": SECRET, "port": server.getsockname()[1], "timeout": 2}
        Secret(value=login).save("other-login", overwrite=True)
        server.settimeout(0.1)
        with pytest.raises(SettingsError, match=r"trust\.store_schemes"):
            open_store("ftp://127.0.0.1/x", "other-login")
        with pytest.raises(TimeoutError):
            server.accept()


def test_keys_of_a_block_go_to_no_endpoint_of_the_environment(
    outcome: Outcome, s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = {"config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 1}, "region": "us-east-1"}
    HubflowStore(url="s3://bucket-of-amazon", options={"key": KEY, "secret": SECRET, **config}).save("no-endpoint")
    with faulty_proxy(s3_server) as elsewhere:
        monkeypatch.setenv("AWS_ENDPOINT_URL", elsewhere.endpoint)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", elsewhere.endpoint)
        monkeypatch.setitem(
            conf, "s3", {"endpoint_url": elsewhere.endpoint, "client_kwargs": {"endpoint_url": elsewhere.endpoint}}
        )
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # Amazon is not asked
        with pytest.raises(StoreError, match="cannot be written"):
            open_store("s3://bucket-of-amazon/store", "no-endpoint")
    assert elsewhere.requests == []


@pytest.mark.parametrize("url", ["ftp://host/x", "folder/x", "s3://key:hush@bucket", "s3://bucket/../x", "s3://b::ftp://x"])
def test_a_block_for_no_store_is_not_made(url: str) -> None:
    with pytest.raises(ValidationError, match="URL") as refused:
        HubflowStore(url=url, options={"secret": SECRET})
    assert "hush" not in str(refused.value)
    assert SECRET not in str(refused.value)


def test_the_name_of_a_block_leads_to_no_block_of_another_type(outcome: Outcome) -> None:
    with pytest.raises(ValidationError, match="store_block"):
        PredictSettings(export="s3://b/s/exports/k", data="x.csv", store_block="../../secret/block_documents/name/a-secret")
    given = outcome.settings.model_dump() | {"store_block": "secret/a-secret"}
    with pytest.raises(ValidationError, match="store_block"):
        FineTuneSettings.model_validate(given)


@pytest.mark.soak
def test_a_run_whose_network_stops_ends_and_the_next_one_goes_on(outcome: Outcome, s3_server: str) -> None:
    """The network stops while weights are sent, after the training: they are not trained again."""
    storage = outcome.storage
    with faulty_proxy(s3_server) as proxy:
        options = {"key": KEY, "secret": SECRET, "endpoint_url": proxy.endpoint}
        HubflowStore(url=f"s3://{storage.bucket}/far", options=options).save("far", overwrite=True)
        settings = outcome.settings.model_copy(update={"store": f"s3://{storage.bucket}/far/store", "store_block": "far"})
        gone = threading.Event()

        def fault(method: str, path: str, _times: int) -> Fault | None:
            if method == "PUT" and "/checkpoints/" in path:
                gone.set()
            return "reset" if gone.is_set() else None

        proxy.fault = fault
        with pytest.raises(StoreError, match=r"/far/store/checkpoints/.* cannot be written .*check the URL, the network"):
            fine_tune(settings)
        proxy.fault = lambda _method, _path, _times: None
        result = fine_tune(settings)
    assert "fine_tune" in result.reused
    assert result.metrics == outcome.result.metrics
    assert result.exported.path == outcome.result.exported.path
