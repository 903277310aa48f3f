"""URLs in settings: which are of a store, which lie below another, and which are refused without being shown."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from hubflow.errors import SettingsError
from hubflow.schemas.parsing import parse_settings
from hubflow.schemas.settings import DatasetSpec, FineTuneSettings, ModuleSpec, PredictSettings, ReportSettings
from hubflow.schemas.training import TrackingSettings, TrainSettings
from hubflow.schemas.urls import is_under, url_fault


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket",
        "s3://bucket/",
        "s3a://bucket/a prefix/über",
        "s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/name/prefix",
        "gs://bucket/x",
        "gcs://bucket/x",
        "az://container/x",
        "abfs://container/x",
        "abfss://container@account.dfs.core.windows.net/x",
    ],
)
def test_urls_of_stores(url: str) -> None:
    assert url_fault(url) is None


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        *(
            (f"{scheme}://host/x", "trust.store_schemes")
            for scheme in ("http", "https", "ftp", "sftp", "smb", "webhdfs", "hdfs")
        ),
        *(
            (f"{scheme}://host/x", "trust.store_schemes")
            for scheme in ("local", "memory", "github", "reference", "S3", "FILE", "data")
        ),
        ("http://169.254.169.254/latest", "trust.store_schemes"),
        ("s3://key:hush@bucket/x", "holds a user"),
        ("s3://hush@bucket/x", "holds a user"),
        ("s3://key:hu/sh@bucket/x", "holds a user"),
        ("abfs://container:hush@account/x", "holds a user"),
        ("abfs://container@account@hush/x", "holds a user"),
        ("s3://bucket:9000/hush", "a port"),
        ("s3://[::1]/hush", "a port"),
        ("s3://bucket/x?secret=hush", "a query"),
        ("s3://bucket/x#hush", "a query"),
        ("s3://bucket/../x", "no URL of a store"),
        ("s3://bucket/./x", "no URL of a store"),
        ("s3://bucket/%2e%2E/x", "no URL of a store"),
        ("s3://bucket/a%2fb", "no URL of a store"),
        ("s3://bucket/a%5c..", "no URL of a store"),
        ("s3://bucket//x", "no URL of a store"),
        ("s3://bucket\\x", "no URL of a store"),
        ("s3://buc\tket/x", "no URL of a store"),
        ("s3://bucket/x\n", "no URL of a store"),
        ("s3://bucket/\u200b", "no URL of a store"),
        ("s3://../x", "no URL of a store"),
        ("s3:///x", "no URL of a store"),
        ("s3://", "no URL of a store"),
        ("local:///etc", "no URL of a store"),
        ("simplecache::s3://bucket/x", "no URL of a store"),
        ("s3://bucket/x::ftp", "no URL of a store"),
    ],
)
def test_what_is_none_of_a_store_is_refused_and_a_secret_not_shown(url: str, fault: str) -> None:
    found = url_fault(url)
    assert found is not None
    assert fault in found
    assert "hush" not in found


def test_the_owner_of_the_machine_allows_schemes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBFLOW_TRUST_STORE_SCHEMES", "memory,s3")
    assert url_fault("memory://x") is None
    assert "begins with memory:// or s3://" in str(url_fault("gs://bucket"))
    monkeypatch.setenv("HUBFLOW_TRUST_STORE_SCHEMES", "s3://")
    with pytest.raises(SettingsError, match=r"trust\.store_schemes"):
        url_fault("s3://bucket")


@pytest.mark.parametrize(
    ("address", "is_below"),
    [
        ("s3://bucket/prefix", True),
        ("s3://bucket/prefix/", True),
        ("s3://bucket/prefix/x/y", True),
        ("s3://bucket/prefix-evil", False),
        ("s3://bucket-evil/prefix", False),
        ("s3://bucket", False),
        ("s3://BUCKET/prefix", False),
        ("s3://bucket/Prefix/x", False),
        ("S3://bucket/prefix/x", False),
        ("s3a://bucket/prefix/x", False),
        ("gs://bucket/prefix/x", False),
        ("s3://bucket/prefix/../x", False),
        ("s3://bucket/prefix/%2e%2e/x", False),
        ("s3://bucket/pr%65fix/x", False),
        ("s3://me@bucket/prefix/x", False),
        ("s3://bucket:80/prefix/x", False),
        ("ftp://s3://bucket/prefix", False),
        ("s3://bucket/prefix/x::ftp://host", False),
    ],
)
def test_a_url_lies_below_a_prefix_by_whole_parts(address: str, is_below: bool) -> None:
    assert is_under(address, "s3://bucket/prefix") is is_below
    assert is_under(address, "s3://bucket/prefix/") is is_below


def test_nothing_lies_below_a_prefix_that_is_none_of_a_store() -> None:
    assert not is_under("ftp://host/x", "ftp://host")


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (DatasetSpec, {"format": "csv", "train": "http://169.254.169.254/hush"}),
        (DatasetSpec, {"format": "csv", "train": "x.csv", "dev": "s3://key:hush@bucket/x.csv"}),
        (DatasetSpec, {"format": "csv", "train": "x.csv", "label_list": "ftp://host/hush"}),
        (DatasetSpec, {"format": "image_list", "train": "x.csv", "image_root": "https://host/hush"}),
        (ModuleSpec, {"name": "https://host/hush"}),
        (ModuleSpec, {"name": "s3://bucket/hush"}),
        (PredictSettings, {"export": "e", "data": ["x.csv", "simplecache::http://host/hush"]}),
        (PredictSettings, {"export": "e", "data": "x.csv", "output": "s3://bucket/hush.csv"}),
        (PredictSettings, {"export": "http://host/hush", "data": "x.csv"}),
        (TrackingSettings, {"history": "s3://bucket/hush.csv"}),
        (TrackingSettings, {"tensorboard": "gs://bucket/hush"}),
        (TrackingSettings, {"mlflow": "https://me:hush@host"}),
        (TrackingSettings, {"mlflow": "postgresql://me:hush@host/db"}),
        (TrackingSettings, {"mlflow": "postgresql://host/db?PASSWORD=hush"}),
        (ReportSettings, {"base_url": "https://me:hush@host/store"}),
        (ReportSettings, {"base_url": "https://hush@host/store"}),
        (ReportSettings, {"base_url": "https://host/store?token=hush"}),
        (ReportSettings, {"base_url": "https://host/#hush"}),
        (ReportSettings, {"base_url": "javascript:alert('hush')"}),
        (ReportSettings, {"base_url": "https://host/x) [click](http://hush"}),
        (ReportSettings, {"base_url": "https:///hush"}),
        (ReportSettings, {"base_url": "ftp://host/hush"}),
    ],
)
def test_a_url_where_none_is_opened_or_with_a_secret_is_refused(model: type[BaseModel], given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings(model, given)
    assert "http://host" not in str(refused.value) or "trust.store_schemes" in str(refused.value)
    if "trust.store_schemes" not in str(refused.value):
        assert "hush" not in str(refused.value)


@pytest.mark.parametrize("url", ["https://host/store", "http://[::1]:8000", "http://127.0.0.1:8000/a/@b/"])
def test_where_a_store_is_served(url: str) -> None:
    assert ReportSettings(base_url=url).base_url == url


@pytest.mark.parametrize("uri", ["sqlite:////data/mlflow.db", "/data/mlruns", "mlruns", "file:///data/mlruns"])
def test_mlflow_keeps_files_on_this_machine(uri: str) -> None:
    assert TrackingSettings(mlflow=uri).mlflow == uri


ALLOWED = ("https://mlflow.example:5000/team", "postgresql://me@host/db", "databricks://profile")


@pytest.mark.parametrize("uri", [*ALLOWED, "https://mlflow.example:5000/team/", "https://mlflow.example:5000/team/a"])
def test_mlflow_servers_are_those_that_the_owner_of_the_machine_allows(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"tracking\.mlflow: the owner of the machine allows no runs.*trust\.tracking_uris"):
        parse_settings(TrainSettings, {"tracking": {"mlflow": uri}})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert TrackingSettings(mlflow=uri).mlflow == uri
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("HUBFLOW_TRUST_TRACKING_URIS", ",".join(ALLOWED))
    assert TrackingSettings(mlflow=uri).mlflow == uri


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254",
        "http://127.0.0.1:4200/api",
        "http://mlflow.example:5000/team",
        "https://mlflow.example:5000",
        "https://mlflow.example:5000/team-2",
        "https://mlflow.example:5000/team/../other",
        "https://mlflow.example:5000/team/%2e%2e/other",
        "https://mlflow.example:5000/team/a?b=",
        "https://mlflow.example:5000/team/#",
        "https://mlflow.example:5000/team\\@evil",
        "https://mlflow.example:5000/team@evil",
        "https://mlflow.example:5000.evil/team",
        "HTTPS://mlflow.example:5000/team",
        "databricks",
        "databricks-uc",
        "uc:http://host",
        "mssql://host/db",
        "sqlite+pysqlcipher://host/db",
        "ftp://host",
    ],
)
def test_mlflow_is_no_other_server(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBFLOW_TRUST_TRACKING_URIS", ",".join(ALLOWED))
    with pytest.raises(ValidationError, match=r"trust\.tracking_uris"):
        TrackingSettings(mlflow=uri)


def test_hub_modules_have_names_of_their_own() -> None:
    assert ModuleSpec(name="hf://org/name@main").name == "hf://org/name@main"
    with pytest.raises(ValidationError):
        DatasetSpec(format="csv", train="http://x/y.csv")
    assert FineTuneSettings.model_json_schema()["properties"]["store"]["minLength"] == 1
