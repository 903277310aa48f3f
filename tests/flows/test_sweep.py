"""The flow sweep on a real Prefect server: trials that end, fail and are pruned, a kill, and the best settings as a file."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from runs import digits_settings

from hubflow.errors import SweepError
from hubflow.flows.fine_tune import fine_tune
from hubflow.flows.sweep import sweep
from hubflow.schemas.parsing import load_settings, parse_settings
from hubflow.schemas.settings import FineTuneSettings
from hubflow.schemas.sweep import SweepResult, SweepSettings
from hubflow.tuning.study import JOURNAL

pytestmark = pytest.mark.usefixtures("prefect_server")


def asked(store: Path, **more: Any) -> dict[str, Any]:
    """A sweep with good and hopeless learning rates, and a module that is not there."""
    base = digits_settings(store)
    base["train"] |= {"epochs": 3, "preflight": False}
    space = {
        "train.learning_rate": {"low": 1e-6, "high": 1e-2, "log": True},
        "train.optimizer": {"choices": ["adamw", {"name": "momentum", "momentum": 0.8}]},
        "module.name": {"choices": ["digits", str(store.parent / "absent")]},
    }
    pruner = {"name": "median", "startup_trials": 1}
    return {"name": "digits", "base": base, "space": space, "trials": 6, "pruner": pruner, "seed": 3, **more}


def settings(store: Path, **more: Any) -> SweepSettings:
    return parse_settings(SweepSettings, asked(store, **more))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> tuple[SweepResult, Path]:
    store = tmp_path_factory.mktemp("sweep") / "store"
    return sweep(settings(store)), store


def test_trials_end_are_pruned_and_fail_and_all_are_recorded(outcome: Any) -> None:
    result, _ = outcome
    assert [one.number for one in result.trials] == list(range(6))
    by_state = {state: [one for one in result.trials if one.state == state] for state in ("complete", "pruned", "failed")}
    assert all(by_state.values()), result.trials
    assert all(one.evaluations < 3 for one in by_state["pruned"])
    assert all("absent" in one.error and one.value is None for one in by_state["failed"])
    assert all(one.evaluations == 3 for one in by_state["complete"])
    assert result.best.value == max(one.value for one in by_state["complete"])


def test_the_best_settings_are_a_file_that_fine_tune_takes_and_trains_nothing_for(outcome: Any) -> None:
    result, store = outcome
    best = load_settings(FineTuneSettings, result.best_settings)
    assert best.name == "fine-tune"
    assert best.train.learning_rate == result.best.values["train.learning_rate"]
    before = {path: path.stat().st_mtime_ns for path in (store / "checkpoints").glob("*/manifest.json")}
    tuned = fine_tune(best)
    assert {path: path.stat().st_mtime_ns for path in (store / "checkpoints").glob("*/manifest.json")} == before
    assert tuned.metrics["dev"]["accuracy"] == result.best.value


def test_a_pruned_trial_leaves_nothing_to_go_on_from(outcome: Any) -> None:
    _, store = outcome
    assert [path for path in (store / "training").iterdir() if path.is_dir()] == []


@pytest.mark.soak
def test_a_sweep_that_was_killed_goes_on_and_ends_with_the_same_trials(
    outcome: Any, prefect_server: str, tmp_path: Path
) -> None:
    result, _ = outcome
    store, config = tmp_path / "store", tmp_path / "sweep.yaml"
    config.write_text(yaml.safe_dump(asked(store)), encoding="utf-8")
    command = [sys.executable, "-c", "from hubflow.cli.main import main; main()", "sweep", str(config), "--json"]
    journal = store / "sweeps" / "digits" / JOURNAL
    with subprocess.Popen(command, env={**os.environ, "PREFECT_API_URL": prefect_server}, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while _evaluations(journal) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert sum("state" in line for line in _lines(journal)) < 6
    with journal.open("ab") as stream:
        stream.write(b'{"op_code": 4, "half')  # as a power cut may leave it
    again = sweep(settings(store))
    assert _comparable(again) == _comparable(result)


def test_a_finished_sweep_runs_nothing_more_and_with_more_trials_goes_on(outcome: Any) -> None:
    result, store = outcome
    started = time.monotonic()
    assert sweep(settings(store)) == result
    assert time.monotonic() - started < 10
    longer = sweep(settings(store, trials=7))
    assert longer.trials[:6] == result.trials
    assert len(longer.trials) == 7


def test_another_sweep_of_that_name_is_refused_with_what_differs(outcome: Any) -> None:
    _, store = outcome
    with pytest.raises(SweepError, match=r"set another name, or undo 1 difference\(s\)\n  - seed: 3 in the study, 4 now"):
        sweep(settings(store, seed=4))


def test_failures_in_a_row_end_the_sweep_with_the_last_one(tmp_path: Path) -> None:
    given = asked(tmp_path / "store", max_failures=2)
    given["space"] = {"module.name": {"choices": [str(tmp_path / "absent")]}}
    with pytest.raises(SweepError, match=r"2 trials in a row failed, the last one with: ModuleError: .*absent"):
        sweep(parse_settings(SweepSettings, given))


def _lines(journal: Path) -> list[dict[str, Any]]:
    if not journal.exists():
        return []
    return [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _evaluations(journal: Path) -> int:
    return sum("intermediate_value" in line for line in _lines(journal))


def _comparable(result: SweepResult) -> list[Any]:
    return [(one.number, one.state, one.value, one.evaluations) for one in result.trials]
