"""Where commands run: homes that cannot be written, terminals without UTF-8, runs that a worker starts, other folders."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import digits_settings, text_settings

from hubflow import temporary_server
from hubflow.schemas.errors import SettingsError
from hubflow.schemas.nightly import NightlySettings
from hubflow.schemas.settings import DatasetSpec, FineTuneSettings, ModuleSpec, PredictSettings
from hubflow.schemas.sweep import SweepSettings
from hubflow.schemas.training import TrackSettings
from hubflow.schemas.urls import is_relative, paths_of
from hubflow.stages.run_context import require_lasting

WIDE = "größe ✓ 大小"


def hubflow(*arguments: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = [str(Path(sys.executable).with_name("hubflow")), *arguments]
    given = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, timeout=300, check=False)


def config(folder: Path, values: dict[str, Any]) -> str:
    (folder / "run.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return str(folder / "run.yaml")


# Homes


@pytest.mark.parametrize("command", ["fine-tune", "nightly", "demo"])
def test_a_home_that_cannot_be_written_is_told_with_the_variable_that_helps(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    given = [] if command == "demo" else [config(tmp_path, digits_settings(tmp_path / "store"))]
    hidden = {"HOME": str(tmp_path / "file" / "home"), "PREFECT_HOME": "", "PREFECT_API_URL": ""}
    environment = {name: value for name, value in hidden.items() if value}
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("hubflow")), command, *given, "--json"],
        cwd=tmp_path,
        env={**outside, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "set PREFECT_HOME to a folder that can be written" in json.loads(done.stdout)["error"]
    assert str(tmp_path / "file" / "home" / ".prefect") in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_nobody_knows_is_told_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", "~nobody-of-this-name/prefect")
    with pytest.raises(temporary_server.ServerError, match="set PREFECT_HOME to a folder that can be written"):
        temporary_server.require_prefect_home()


# Terminals


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_no_character_ends_a_command_where_the_terminal_lacks_it(encoding: str, tmp_path: Path) -> None:
    (tmp_path / WIDE).mkdir()
    rows = "".join(f"a fine film {number}\t{WIDE}\na dull film {number}\tübel\n" for number in range(10))
    (tmp_path / WIDE / "train.tsv").write_text(f"text\tlabel\n{rows}", encoding="utf-8")
    sound = text_settings(tmp_path, tmp_path / "no module")
    data = {"format": "tsv", "train": f"{WIDE}/train.tsv"}
    digits = config(tmp_path, {**digits_settings(tmp_path / WIDE / "store"), "name": "digits"})
    (tmp_path / "digits.yaml").write_bytes(Path(digits).read_bytes())
    faulty = config(tmp_path, {**sound, "data": data, "module": {"name": f"./{WIDE}"}})
    streams = {"PYTHONIOENCODING": encoding}
    checked = hubflow("check", faulty, "--json", folder=tmp_path, **streams)
    assert checked.returncode == 2
    assert f"./{WIDE}" in json.loads(checked.stdout)["faults"][0]
    assert b"Traceback" not in checked.stderr
    shown = hubflow("check", str(tmp_path / "digits.yaml"), folder=tmp_path, **streams)
    assert shown.returncode == 0, shown.stderr
    assert b"sound." in shown.stdout
    told = hubflow("predict", f"/{WIDE}", f"{WIDE}.tsv", folder=tmp_path, **streams)
    assert told.returncode == 2
    assert b"no such folder" in told.stderr
    assert b"Traceback" not in told.stderr


def test_a_fine_tune_ends_well_in_a_terminal_of_ascii_with_a_store_of_other_letters(
    tmp_path: Path, prefect_server: str
) -> None:
    store = tmp_path / WIDE
    values = config(tmp_path, digits_settings(store, train={"max_steps": 2, "batch_size": 16}))
    streams = {"PYTHONIOENCODING": "ascii", "PREFECT_API_URL": prefect_server}
    done = hubflow("fine-tune", values, "--json", folder=tmp_path, **streams)
    assert done.returncode == 0, done.stderr
    assert b"fine_tune" in done.stderr
    result = json.loads(done.stdout.decode("ascii"))
    assert Path(result["export"]).parent == store / "exports"
    again = hubflow("fine-tune", values, folder=tmp_path, **streams)
    assert again.returncode == 0, again.stderr
    assert b"reused    load_dataset, load_module, encode_dataset, build_head, fine_tune, evaluate, export" in again.stdout
    labelled = hubflow("predict", result["export"], str(tmp_path / "nothing"), folder=tmp_path, **streams)
    assert labelled.returncode == 2
    assert b"no such folder" in labelled.stderr


# Runs that a worker starts


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("store", True),
        ("./store", True),
        ("../data/train.tsv", True),
        ("/data/store", False),
        ("~/store", False),
        ("s3://bucket/prefix", False),
        ("https://host/mlflow", False),
        ("sqlite:///mlflow.db", True),
        ("sqlite:////data/mlflow.db", False),
        ("file:///data/mlflow", False),
        ("file:mlruns", True),
        ("hf://org/name", False),
    ],
)
def test_which_addresses_depend_on_the_working_folder(address: str, expected: bool) -> None:
    assert is_relative(address) is expected


DATA = DatasetSpec(format="tsv", train="train.tsv", dev=Path("dev.tsv"), label_list="labels.txt")


def settings_of(flow: str) -> Any:
    values: dict[str, Any] = {
        "task": "text_classification",
        "module": ModuleSpec(name=Path("modules/bert")),
        "data": DATA,
        "train": {"track": {"history": "history.csv", "tensorboard": "events", "mlflow": "sqlite:///mlflow.db"}},
    }
    if flow == "predict":
        return PredictSettings(export="exports/key", data=["a.tsv", "*.csv"], output=Path("out.csv"))
    if flow == "sweep":
        return SweepSettings.model_validate({"base": values, "space": {"seed": {"low": 1, "high": 2}}})
    return (NightlySettings if flow == "nightly" else FineTuneSettings).model_validate(values)


WRITTEN = {
    "fine-tune": ["train.track.history", "train.track.tensorboard", "train.track.mlflow", "store"],
    "nightly": ["train.track.history", "train.track.tensorboard", "train.track.mlflow", "store"],
    "sweep": ["base.train.track.history", "base.train.track.tensorboard", "base.train.track.mlflow", "base.store"],
    "predict": ["output"],
}
READ = {
    "fine-tune": ["module.name", "data.train", "data.dev", "data.label_list"],
    "nightly": ["module.name", "data.train", "data.dev", "data.label_list"],
    "sweep": ["base.module.name", "base.data.train", "base.data.dev", "base.data.label_list"],
    "predict": ["export", "data"],
}


@pytest.mark.parametrize("flow", WRITTEN)
def test_relative_paths_are_refused_by_name_in_a_run_that_a_worker_started_and_in_no_other(
    flow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    require_lasting(paths_of(settings_of(flow)))
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "00000000-0000-0000-0000-000000000000")
    with pytest.raises(SettingsError) as refusal:
        require_lasting(paths_of(settings_of(flow)))
    told = str(refusal.value)
    assert f"here {tmp_path}" in told
    assert [name for name in WRITTEN[flow] if f"\n  - {name}: what is written to the relative path" not in told] == []
    assert [name for name in READ[flow] if f"\n  - {name}: there is no" not in told] == []


def test_inputs_that_are_there_short_names_and_absolute_paths_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "00000000-0000-0000-0000-000000000000")
    for name in ("a.tsv", "b.csv"):
        (tmp_path / name).write_text("text\n")
    output = tmp_path / "out.csv"
    require_lasting(paths_of(PredictSettings(export="s3://b/s/exports/k", data=["a.tsv", "*.csv"], output=output)))
    require_lasting(paths_of(FineTuneSettings.model_validate(digits_settings(tmp_path / "store"))))
    require_lasting(paths_of(TrackSettings(mlflow="https://host", history="~/history.csv")))


# Paths


def test_path_objects_are_taken_wherever_a_path_is_text_and_change_no_key(tmp_path: Path) -> None:
    as_paths, as_text = (
        FineTuneSettings(
            task="text_classification",
            module=ModuleSpec(name=kind(tmp_path / "bert")),
            data=DatasetSpec(format="tsv", train=kind(tmp_path / "a.tsv"), label_list=kind(tmp_path / "labels.txt")),
            train={"track": {"history": kind(tmp_path / "h.csv"), "tensorboard": kind(tmp_path)}},
            store=kind(tmp_path / "store"),
        )
        for kind in (Path, str)
    )
    assert as_paths == as_text
    assert as_paths.model_dump_json() == as_text.model_dump_json()
    assert isinstance(as_paths.data.train, str)
    assert PredictSettings(export=tmp_path, data=tmp_path, output=tmp_path / "o.csv").data == str(tmp_path)
    assert PredictSettings(export=tmp_path, data=[tmp_path]).data == (str(tmp_path),)
    for model in (FineTuneSettings, PredictSettings):
        schema = json.dumps(model.model_json_schema())
        assert '"format": "path"' not in schema
