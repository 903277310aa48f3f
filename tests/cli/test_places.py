"""Where commands run: homes that cannot be written, terminals without UTF-8, runs that a worker starts, other folders."""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_lines import as_user
from PIL import Image
from prefect import flow
from runs import Run, digits_settings, text_settings

from hubflow.data.staging import staging_folder
from hubflow.errors import SettingsError
from hubflow.flows.fine_tune import fine_tune as fine_tune_flow
from hubflow.flows.predict import predict as predict_flow
from hubflow.orchestration import temporary_server
from hubflow.orchestration.run_context import artifact_key, require_lasting
from hubflow.schemas.deployment import NightlySettings
from hubflow.schemas.settings import DatasetSpec, FineTuneSettings, ModuleSpec, PredictSettings
from hubflow.schemas.sweep import SweepSettings
from hubflow.schemas.training import TrackingSettings
from hubflow.schemas.urls import is_relative, paths_of
from hubflow.stages.build_head import build_head
from hubflow.stages.encode_dataset import encode_dataset
from hubflow.stages.evaluate import evaluate
from hubflow.stages.export_inference_program import export_inference_program
from hubflow.stages.fine_tune import fine_tune
from hubflow.stages.load_dataset import load_dataset
from hubflow.stages.load_module import load_module
from hubflow.store.manifest import verify_folder
from hubflow.store.store import Store, noted_lookups

WIDE = "größe ✓ 大小"


def hubflow(*arguments: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    command = [str(Path(sys.executable).with_name("hubflow")), *arguments]
    given = {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, timeout=300, check=False)


def config(folder: Path, values: dict[str, Any]) -> str:
    (folder / "run.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return str(folder / "run.yaml")


# Homes


@pytest.mark.slow
@pytest.mark.parametrize("command", ["fine-tune", "nightly"])
def test_a_home_that_cannot_be_written_is_told_with_the_variable_that_helps(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    hidden = {"HOME": str(tmp_path / "file" / "home"), "PREFECT_HOME": "", "PREFECT_API_URL": ""}
    environment = {name: value for name, value in hidden.items() if value}
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("hubflow")),
            command,
            config(tmp_path, digits_settings(tmp_path / "store")),
            "--json",
        ],
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


@pytest.mark.slow
@pytest.mark.parametrize("encoding", [pytest.param(one, marks=pytest.mark.soak) for one in ("ascii", "latin-1", "cp1252")])
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
    assert WIDE in json.loads(checked.stdout)["faults"][0]
    assert b"Traceback" not in checked.stderr
    shown = hubflow("check", str(tmp_path / "digits.yaml"), folder=tmp_path, **streams)
    assert shown.returncode == 0, shown.stderr
    assert b"sound." in shown.stdout
    told = hubflow("predict", f"/{WIDE}", f"{WIDE}.tsv", folder=tmp_path, **streams)
    assert told.returncode == 2
    assert b"no such folder" in told.stderr
    assert b"Traceback" not in told.stderr


@pytest.mark.soak
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
        "train": {"tracking": {"history": "history.csv", "tensorboard": "events", "mlflow": "sqlite:///mlflow.db"}},
    }
    if flow == "predict":
        return PredictSettings(export="exports/key", data=["a.tsv", "*.csv"], output=Path("out.csv"))
    if flow == "sweep":
        return SweepSettings.model_validate({"base": values, "space": {"seed": {"low": 1, "high": 2}}})
    return (NightlySettings if flow == "nightly" else FineTuneSettings).model_validate(values)


WRITTEN = {
    "fine-tune": ["train.tracking.history", "train.tracking.tensorboard", "train.tracking.mlflow", "store"],
    "nightly": ["train.tracking.history", "train.tracking.tensorboard", "train.tracking.mlflow", "store"],
    "sweep": ["base.train.tracking.history", "base.train.tracking.tensorboard", "base.train.tracking.mlflow", "base.store"],
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
    monkeypatch.setenv("HUBFLOW_TRUST_TRACKING_URIS", "https://host")
    for name in ("a.tsv", "b.csv"):
        (tmp_path / name).write_text("text\n")
    output = tmp_path / "out.csv"
    require_lasting(paths_of(PredictSettings(export="s3://b/s/exports/k", data=["a.tsv", "*.csv"], output=output)))
    require_lasting(paths_of(FineTuneSettings.model_validate(digits_settings(tmp_path / "store"))))
    require_lasting(paths_of(TrackingSettings(mlflow="https://host", history="~/history.csv")))


# Paths


def test_path_objects_are_taken_wherever_a_path_is_text_and_change_no_key(tmp_path: Path) -> None:
    as_paths, as_text = (
        FineTuneSettings(
            task="text_classification",
            module=ModuleSpec(name=kind(tmp_path / "bert")),
            data=DatasetSpec(format="tsv", train=kind(tmp_path / "a.tsv"), label_list=kind(tmp_path / "labels.txt")),
            train={"tracking": {"history": kind(tmp_path / "h.csv"), "tensorboard": kind(tmp_path)}},
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


# Stores that move, are shared, and lie under a clock that is set back


def reviews(path: Path, rows: int = 40) -> DatasetSpec:
    lines = "".join(f"film {number}\t{number % 2}\n" for number in range(rows))
    path.write_text(f"text\tlabel\n{lines}", encoding="utf-8")
    return DatasetSpec(format="tsv", train=path)


def test_a_store_that_is_moved_is_used_as_it_is(digits_run: Run, tmp_path: Path) -> None:
    moved = tmp_path / "another place"
    shutil.copytree(digits_run.settings.store, moved)
    settings = digits_run.settings
    with noted_lookups() as found:
        dataset = load_dataset.fn(settings.data, settings.task, moved)
        module = load_module.fn(settings.module, moved)
        encoded = encode_dataset.fn(dataset, module, settings.module, moved)
        task = build_head.fn(settings.task, module, dataset, settings.module, settings.head, moved)
        checkpoint = fine_tune.fn(task, encoded, settings.train, moved, settings.seed, "cpu")
        evaluation = evaluate.fn(checkpoint, encoded, settings.evaluate, moved, "cpu")
        export = export_inference_program.fn(checkpoint, encoded, evaluation, moved)
    assert export == digits_run.export
    assert {one.path for one in (dataset, module, encoded, task, checkpoint, evaluation, export)} <= found


def test_a_clock_that_is_set_back_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def at(day: int) -> type[datetime.datetime]:
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.datetime(2026, 11, day, tzinfo=tz)

        return Clock

    store, kept = tmp_path / "store", []
    for day, rows in ((20, 40), (10, 60), (21, 80)):
        monkeypatch.setattr("hubflow.data.profile.datetime.datetime", at(day))
        kept.append(load_dataset.fn(reviews(tmp_path / "train.tsv", rows), "text_classification", store))
    assert len(list((store / "profiles").glob("*/*.json"))) == 3
    for reference in kept:
        assert Store(store).open(reference)
    again = load_dataset.fn(reviews(tmp_path / "train.tsv", 60), "text_classification", store)
    assert again == kept[1]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be other users")
@pytest.mark.parametrize(
    ("mode", "umask", "is_shared"),
    [(0o2775, 0o002, True), (0o2775, 0o027, False), (0o1777, 0o022, False), (0o1777, 0o077, False)],
)
def test_two_users_share_a_store_or_are_told_that_they_do_not(mode: int, umask: int, is_shared: bool, tmp_path: Path) -> None:
    """Each user is a child process; what the first one made is never harmed."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as public:  # pytest's folders are their owner's alone
        os.chmod(public, 0o755)  # noqa: S103  # for the other users
        store, spec = Path(public, "store"), reviews(Path(public, "train.tsv"))
        os.chmod(str(spec.train), 0o644)
        store.mkdir()
        os.chown(store, 0, 3000)
        os.chmod(store, mode)

        def load(reuse: bool = True) -> str:
            return load_dataset.fn(spec, "text_classification", store, reuse).path

        def swap() -> str:
            place = Store(store)
            return str(place.compare_and_swap("deployed/x.json", place.read_bytes("deployed/x.json"), b"1"))

        first, path = as_user(2001, umask, load)
        assert first == "done", path
        before = verify_folder(store / path)
        assert as_user(2001, umask, swap) == ("done", "True")
        for work in (load, lambda: load(False), swap):
            outcome, told = as_user(2002, umask, work)
            assert outcome == ("done" if is_shared else "StoreError"), told
        with staging_folder(store):  # of a user who is at work
            outcome, told = as_user(2002, umask, load)
            assert outcome == ("done" if is_shared else "StoreError"), told
        assert as_user(2001, umask, load) == ("done", path)
        assert verify_folder(store / path).files == before.files


# Twice in one process, from other folders


@pytest.mark.soak
def test_flows_run_again_in_the_same_process_from_another_folder(
    tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = digits_settings(Path("störe 1"), train={"max_steps": 2, "batch_size": 16})
    settings = FineTuneSettings.model_validate(values)
    results = []
    for name in ("first folder", "zweiter Ördner"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        results.append(fine_tune_flow(settings))
        assert results[-1].store == str(tmp_path / name / "störe 1")
        assert results[-1].reused == ()
        assert Path(results[-1].report).is_file()
    again = fine_tune_flow(settings)
    assert "fine_tune" in again.reused
    assert [one.metrics for one in results] == [again.metrics] * 2
    monkeypatch.chdir(tmp_path)
    for folder in (1, 2):
        export = Path(results[folder - 1].export).relative_to(tmp_path)
        Image.new("L", (8, 8), 120).save(tmp_path / "one.png")
        (tmp_path / "list.txt").write_text("one.png 5\n")
        done = predict_flow(PredictSettings(export=export, data=Path("list.txt"), output=Path(f"out {folder}.csv")))
        assert done.rows == 1
        assert done.output == str(tmp_path / f"out {folder}.csv")


def test_two_names_on_one_server_and_one_store_keep_histories_of_their_own(tmp_path: Path, prefect_server: str) -> None:
    @flow(name="any")
    def load(settings: FineTuneSettings) -> str:
        load_dataset(settings.data, settings.task, settings.store)
        return artifact_key("metrics")

    keys = []
    for name, rows in (("reviews", 40), ("Orders.v2", 90), ("orders-v2", 90), ("reviews", 60)):
        values = {**text_settings(tmp_path, tmp_path / "bert"), "name": name}
        values["data"] = reviews(tmp_path / "train.tsv", rows)
        keys.append(load(FineTuneSettings.model_validate(values)))
    assert keys[0] == keys[3] == "reviews-metrics"
    assert len(set(keys)) == 3
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)
    reports = [json.loads(path.read_text()) for path in (tmp_path / "store" / "data-reports").glob("*/report.json")]
    drift = {report["splits"]["train"]["read"]: report["facts"]["drift"] for report in reports}
    assert drift[90]["compared_with"] is None  # the first of its name, although the others have the same file
    assert [one["counts"] for one in drift[60]["measures"] if one["split"] == "train" and one["kind"] == "rows"] == [[36, 54]]
