"""The trackers in real files and a real tracking store, followed through a run that is killed and resumed. No network."""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow_server import mlflow_server
from object_storage import Fault, FaultyProxy, faulty_proxy
from pydantic import ValidationError

from hubflow.errors import HubflowError
from hubflow.schemas.settings import TrainSettings
from hubflow.schemas.training import TrackingSettings
from hubflow.training.callbacks import Callback, Step, TrainState
from hubflow.training.trackers.mlflow import flat
from hubflow.training.trackers.trackers import HistoryFile, MlflowTracker, TensorBoardTracker, trackers

TOTAL = 20
LOGGED, EVALUATED = [1, 3, 6, 9, 12, 15, 18], [5, 10, 15, 20]


class Run:
    """The calls of the training loop, and the checkpoint that it keeps at each evaluation, before or after its callbacks."""

    def __init__(self, checkpoint_first: bool = False) -> None:
        self.checkpoint_first = checkpoint_first
        self.kept: str | None = None

    def go(self, callbacks: Sequence[Callback], until: int = TOTAL) -> TrainState:
        """Train from the checkpoint, if there is one, to step `until`; the end is told only of a complete run."""
        state = TrainState()
        if self.kept is not None:
            saved, of_callbacks = json.loads(self.kept)
            state = TrainState(**saved)
            for callback, its in zip(callbacks, of_callbacks, strict=True):
                callback.load_state_dict(its)
        for callback in callbacks:
            callback.on_train_begin(state, TOTAL)
        while state.step < until:
            self._step(state, callbacks)
        if until == TOTAL:
            for callback in callbacks:
                callback.on_train_end(state)
        return state

    def _step(self, state: TrainState, callbacks: Sequence[Callback]) -> None:
        state.step += 1
        step = Step(state.step, (state.step - 1) // 10 + 1, 1 / (state.step + 2), state.step * 1e-5, state.step**0.5)
        if step.step in LOGGED:
            state.steps.append(asdict(step))
        for callback in callbacks:
            callback.on_step_end(state, step)
        if state.step not in EVALUATED:
            return
        metrics = {"loss": 3 / state.step, "f1_macro": state.step / 100}
        state.evaluations.append({"epoch": step.epoch, "step": state.step, **metrics})
        if self.checkpoint_first:
            self._keep(state, callbacks)
        for callback in callbacks:
            callback.on_evaluate(state, metrics)
        if not self.checkpoint_first:
            self._keep(state, callbacks)

    def _keep(self, state: TrainState, callbacks: Sequence[Callback]) -> None:
        self.kept = json.dumps([asdict(state), [callback.state_dict() for callback in callbacks]])


def expected() -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {
        "train/loss": [(step, 1 / (step + 2)) for step in LOGGED],
        "train/learning_rate": [(step, step * 1e-5) for step in LOGGED],
        "train/grad_norm": [(step, step**0.5) for step in LOGGED],
        "dev/loss": [(step, 3 / step) for step in EVALUATED],
        "dev/f1_macro": [(step, step / 100) for step in EVALUATED],
    }
    return found


# History file


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


@pytest.mark.parametrize("name", ["history.csv", "history.parquet"])
def test_the_history_file_holds_steps_and_evaluations_merged_on_their_step(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / name
    Run().go([HistoryFile(path)])
    table = read(path)
    assert list(table) == ["step", "epoch", "loss", "learning_rate", "grad_norm", "dev_loss", "dev_f1_macro"]
    assert table["step"].tolist() == sorted({*LOGGED, *EVALUATED})
    assert table["epoch"].tolist() == [(step - 1) // 10 + 1 for step in table["step"]]
    for group, prefix in (("train", ""), ("dev", "dev_")):
        for key, points in expected().items():
            if key.startswith(group):
                column = table.set_index("step")[prefix + key.split("/")[1]].dropna()
                assert list(column.items()) == points
    assert sorted(file.name for file in path.parent.iterdir()) == [f".{name}.hubflow", name]


@pytest.mark.parametrize("checkpoint_first", [False, True])
@pytest.mark.parametrize("killed_at", [2, 5, 9, 14, 15, 16])
@pytest.mark.parametrize("name", ["history.csv", "history.parquet"])
def test_a_resumed_run_leaves_the_same_history_file(tmp_path: Path, name: str, killed_at: int, checkpoint_first: bool) -> None:
    whole, broken = tmp_path / "whole" / name, tmp_path / "broken" / name
    Run().go([HistoryFile(whole)])
    run = Run(checkpoint_first)
    run.go([HistoryFile(broken, every_seconds=0)], until=killed_at)
    run.go([HistoryFile(broken)])
    assert broken.read_bytes() == whole.read_bytes()


def test_steps_reach_the_file_before_the_first_evaluation_and_no_oftener_than_asked(tmp_path: Path) -> None:
    soon, late = tmp_path / "soon.csv", tmp_path / "late.csv"
    Run().go([HistoryFile(soon, every_seconds=0), HistoryFile(late, every_seconds=3600)], until=4)
    assert read(soon)["step"].tolist() == [1, 3]
    assert read(late).empty
    assert list(read(late)) == ["step", "epoch", "loss", "learning_rate", "grad_norm"]


def test_a_run_without_dev_split_has_no_dev_columns(tmp_path: Path) -> None:
    state = TrainState(step=1, steps=[asdict(Step(1, 1, 0.5, 1e-5, 2.0))])
    HistoryFile(tmp_path / "h.csv").on_train_end(state)
    assert (tmp_path / "h.csv").read_text() == '"step","epoch","loss","learning_rate","grad_norm"\n1,1,0.5,0.00001,2\n'


def test_a_history_file_that_cannot_be_written_is_told_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HubflowError, match=r"tracking\.history: .*h\.csv could not be written"):
        HistoryFile(tmp_path / "file" / "h.csv").on_train_begin(TrainState(), TOTAL)
    with pytest.raises(HubflowError, match=r"neither in \.csv nor in \.parquet"):
        HistoryFile(tmp_path / "h.json")


# TensorBoard


def events(folder: Path) -> Iterator[Any]:
    """The events of a folder in TensorBoard's order: of file names, then of writing."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.glob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: a START makes it forget all from its step on."""
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        if event.HasField("session_log") and event.session_log.status == event.session_log.START:
            found = {tag: [point for point in points if point[0] < event.step] for tag, points in found.items()}
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, pytest.approx(value.simple_value, rel=1e-6)))
    return {tag: points for tag, points in found.items() if points}


def test_tensorboard_gets_each_logged_step_and_evaluation(tmp_path: Path) -> None:
    Run().go([TensorBoardTracker(tmp_path)])
    assert shown(tmp_path) == expected()
    assert next(events(tmp_path)).file_version == "brain.Event:2"


@pytest.mark.parametrize("checkpoint_first", [False, True])
@pytest.mark.parametrize("killed_at", [2, 5, 9, 14, 15, 16])
def test_a_resumed_run_shows_no_step_twice_in_tensorboard(tmp_path: Path, killed_at: int, checkpoint_first: bool) -> None:
    run = Run(checkpoint_first)
    run.go([TensorBoardTracker(tmp_path)], until=killed_at)
    run.go([TensorBoardTracker(tmp_path)])
    assert len(list(tmp_path.iterdir())) == 2
    assert shown(tmp_path) == expected()


def test_a_run_resumed_into_another_tensorboard_folder_has_all_its_history_there(tmp_path: Path) -> None:
    run = Run()
    run.go([TensorBoardTracker(tmp_path / "a")], until=12)
    run.go([TensorBoardTracker(tmp_path / "b")])
    assert shown(tmp_path / "b") == expected()


def test_a_tensorboard_folder_that_cannot_be_written_is_told_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HubflowError, match=r"tracking\.tensorboard: .*file/run cannot be written"):
        TensorBoardTracker(tmp_path / "file" / "run").on_train_begin(TrainState(), TOTAL)


# MLflow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def runs_of(store: str, experiment: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def sent(store: str, run: Any) -> dict[str, list[tuple[int, float]]]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    return {
        key: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }


@pytest.mark.slow
def test_mlflow_holds_parameters_and_metrics_of_a_finished_run(store: str) -> None:
    from mlflow.telemetry import get_telemetry_client

    settings = TrainSettings(class_weights={"I'm": 1.0, "you": 2.0}).result_settings()
    Run().go([MlflowTracker(store, "whole", "first", {"train": settings, "seed": 7})])
    (run,) = runs_of(store, "whole")
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert sent(store, run) == expected()
    assert run.data.params["train.optimizer.name"] == "adamw"
    assert run.data.params["train.max_steps"] == "null"
    assert run.data.params["train.class_weights"] == '{"I\'m": 1.0, "you": 2.0}'
    assert run.data.params["seed"] == "7"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert get_telemetry_client() is None


@pytest.mark.parametrize(("killed_at", "checkpoint_first"), [(5, True), (9, False), (15, False)])
def test_a_resumed_run_goes_on_in_the_same_mlflow_run(store: str, killed_at: int, checkpoint_first: bool) -> None:
    experiment = f"killed-{killed_at}-{checkpoint_first}"
    run = Run(checkpoint_first)
    run.go([MlflowTracker(store, experiment, "r", {"seed": 1})], until=killed_at)
    assert [found.info.status for found in runs_of(store, experiment)] == ["RUNNING"]
    run.go([MlflowTracker(store, experiment, "r", {"seed": 1})])
    (found,) = runs_of(store, experiment)
    assert found.info.status == "FINISHED"
    assert sent(store, found) == expected()


def test_a_run_that_mlflow_no_longer_has_begins_again_with_all_its_history(store: str) -> None:
    from mlflow import MlflowClient

    run = Run()
    run.go([MlflowTracker(store, "deleted", "r", {})], until=12)
    MlflowClient(tracking_uri=store).delete_run(runs_of(store, "deleted")[0].info.run_id)
    run.go([MlflowTracker(store, "deleted", "r", {})])
    (found,) = runs_of(store, "deleted")
    assert sent(store, found) == expected()


def test_a_tracking_store_that_mlflow_refuses_is_told_without_its_password(store: str) -> None:
    with pytest.raises(HubflowError, match=r"tracking\.mlflow: .*check its URI") as told:
        MlflowTracker("weird://me:secret@host", "e", "r", {}).on_train_begin(TrainState(), TOTAL)
    assert "secret" not in str(told.value)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server of MLflow on loopback; gives its address."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture
def proxy(server: str) -> Iterator[FaultyProxy]:
    """A network to the server that fails when it is told to."""
    with faulty_proxy(server) as proxy:
        yield proxy


class At(Callback):
    """Does something after a step."""

    def __init__(self, actions: dict[int, Callable[[], None]]) -> None:
        self.actions = actions

    def on_step_end(self, state: TrainState, step: Step) -> None:
        self.actions.get(step.step, lambda: None)()


def waits(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setenv("HUBFLOW_LIMITS_TRACKING_TIMEOUT_SECONDS", str(seconds))


@pytest.mark.slow
@pytest.mark.integration
def test_a_server_of_mlflow_gets_what_a_file_gets(server: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    waits(monkeypatch, 120)
    before = dict(os.environ)
    run = Run()
    run.go([MlflowTracker(proxy.endpoint, "served", "r", {"seed": 1})], until=9)
    run.go([MlflowTracker(proxy.endpoint, "served", "r", {"seed": 1})])
    (found,) = runs_of(server, "served")
    assert (found.info.status, found.data.params) == ("FINISHED", {"seed": "1"})
    assert sent(server, found) == expected()
    assert os.environ == before | {"MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["silence", "stall", "reset", 500, 503])
def test_training_does_not_wait_for_a_server_that_does_not_answer(
    proxy: FaultyProxy, fault: Fault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It held a run for 200 seconds, and then ended it."""
    waits(monkeypatch, 1)
    proxy.fault = lambda _method, _path, _times: fault
    started = time.monotonic()
    state = Run().go([MlflowTracker(proxy.endpoint, "absent", "r", {})])
    assert time.monotonic() - started < 30
    assert len(state.evaluations) == len(EVALUATED)
    first, *more = [
        record.getMessage() for record in caplog.records if record.levelname == "WARNING" and "hubflow" in record.name
    ]
    assert first.startswith("tracking.mlflow: the tracking server has not answered for 1 s (limits.tracking_timeout_seconds)")
    assert len(more) == 1
    assert more[0].startswith("tracking.mlflow: training has ended, and the tracking server does not answer")


@pytest.mark.soak
@pytest.mark.parametrize("fault", ["reset", 500])
def test_a_server_that_answers_again_gets_what_it_missed(
    server: str, proxy: FaultyProxy, fault: Fault, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("hubflow.training.trackers.mlflow._PAUSE_SECONDS", 0.5)
    waits(monkeypatch, 120)
    runs_of(server, "Default")  # it is up
    waits(monkeypatch, 5)
    tracker = MlflowTracker(proxy.endpoint, f"absent for a while {fault}", "r", {})

    def stop() -> None:
        proxy.fault = lambda _method, _path, _times: fault

    def answer() -> None:
        proxy.fault = lambda _method, _path, _times: None
        until = time.monotonic() + 120
        while tracker._calls._waiting and time.monotonic() < until:
            time.sleep(0.1)

    Run().go([At({9: stop, 15: answer}), tracker])
    (found,) = runs_of(server, f"absent for a while {fault}")
    assert (found.info.status, sent(server, found)) == ("FINISHED", expected())
    messages = [record.getMessage() for record in caplog.records]
    assert len([one for one in messages if "has not answered for 5 s" in one]) == 1
    assert len([one for one in messages if "answers again" in one]) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_refuses_is_told_before_the_first_step(proxy: FaultyProxy, status: int) -> None:
    proxy.fault = lambda _method, _path, _times: status
    with pytest.raises(HubflowError, match=r"tracking\.mlflow: .*check its URI"):
        MlflowTracker(proxy.endpoint, "refused", "r", {}).on_train_begin(TrainState(), TOTAL)


@pytest.mark.slow
def test_a_server_that_refuses_when_it_answers_again_gets_nothing_more(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits(monkeypatch, 0.5)
    proxy.fault = lambda _method, _path, _times: "reset"
    tracker = MlflowTracker(proxy.endpoint, "refused later", "r", {})

    def refuse() -> None:
        proxy.fault = lambda _method, _path, _times: 403
        until = time.monotonic() + 120
        while tracker._calls._waiting and time.monotonic() < until:
            time.sleep(0.1)

    Run().go([At({9: refuse}), tracker])
    last = [record.getMessage() for record in caplog.records if "hubflow" in record.name][-1]
    assert last.startswith("tracking.mlflow: the tracking store refused")
    assert last.endswith("training goes on without it")


def test_nested_settings_are_flattened() -> None:
    values = {"a": {"b": {"c": 1}, "d": "x"}, "e": [1, 2], "f": {}, "g": {"ein Wort!": True}, "h": "y" * 7000}
    assert flat(values) == {"a.b.c": "1", "a.d": "x", "e": "[1, 2]", "f": "{}", "g": '{"ein Wort!": true}', "h": "y" * 6000}


# From settings


def test_the_settings_say_which_trackers_there_are(tmp_path: Path, store: str) -> None:
    assert trackers(TrackingSettings(), "run", {}) == []
    settings = TrackingSettings(
        history=str(tmp_path / "h.parquet"), tensorboard=str(tmp_path / "tb"), mlflow=store, experiment="all"
    )
    run = Run()
    run.go(trackers(settings, "run", {"seed": 3}), until=12)
    run.go(trackers(settings, "run", {"seed": 3}))
    assert len(read(tmp_path / "h.parquet")) == len({*LOGGED, *EVALUATED})
    assert shown(tmp_path / "tb" / "run") == expected()
    assert sent(store, runs_of(store, "all")[0]) == expected()


@pytest.mark.parametrize("name", ["", "..", "a/b", "/abs"])
def test_a_run_name_does_not_lead_out_of_the_tensorboard_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(HubflowError, match="is no folder's name"):
        trackers(TrackingSettings(tensorboard=str(tmp_path)), name, {})


@pytest.mark.parametrize("given", [{"history": "s3://bucket/h.csv"}, {"tensorboard": "gs://bucket/tb"}])
def test_a_url_is_no_path_of_a_tracker(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="a URL is not opened here"):
        TrackingSettings.model_validate(given)


@pytest.mark.parametrize(("setting", "package"), [("tensorboard", "tensorboardX"), ("mlflow", "mlflow")])
def test_a_missing_extra_is_named_before_training(
    setting: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(HubflowError, match=rf"tracking\.{setting} needs {package}: pip install 'hubflow\[{setting}\]'"):
        trackers(TrackingSettings.model_validate({setting: str(tmp_path / "x")}), "run", {})


def test_trackers_are_imported_without_paddle_and_without_what_the_extras_bring() -> None:
    heavy = "{'paddle', 'prefect', 'mlflow', 'tensorboardX', 'torch', 'pandas'}"
    code = f"import sys, hubflow.training.trackers.trackers; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_was_logged_before_a_sigkill_is_in_the_event_file(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from hubflow.training.callbacks import Step, TrainState
from hubflow.training.trackers.trackers import TensorBoardTracker
tracker, step = TensorBoardTracker(sys.argv[1]), Step(1, 1, 0.5, 1e-5, 2.0)
tracker.on_train_begin(TrainState(), 9)
tracker.on_step_end(TrainState(step=1, steps=[vars(step)]), step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    assert shown(tmp_path)["train/loss"] == [(1, 0.5)]
