"""Signals: importing Paddle leaves them in place; those that ask to stop are not lost, and let the step be finished."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import os, signal

class Cancelled(BaseException): ...

def cancel(*_): raise Cancelled

signal.signal(signal.SIGTERM, cancel)
import hubflow.runtime.paddle_import
try:
    os.kill(os.getpid(), signal.SIGTERM)
except Cancelled:
    print("cancelled", end=" ")
finally:
    print("cleaned up")
"""
STOPS = """
import json, signal, sys, time
from dataclasses import replace
from pathlib import Path
tests, folder = map(Path, sys.argv[1:])
sys.path.insert(0, str(tests))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
from killing import EVALUATION, STEP, Strike, contents, make_jobs, run_child, run_whole

job = make_jobs(folder)[0]
job = replace(job, values={"epochs": 3, "evaluate_every_steps": 4})  # evaluated after 4, 8 and 9 steps
whole = run_whole(job, folder / "whole")
strikes = {
    "term in a step": Strike(STEP, 2, 0.1, (signal.SIGTERM,)),
    "term in an evaluation": Strike(EVALUATION, 1, 0.1, (signal.SIGTERM,)),
    "term in the last evaluation": Strike(EVALUATION, 3, 0.1, (signal.SIGTERM,)),
    "interrupt in a step": Strike(STEP, 2, 0.1, (signal.SIGINT,)),
    "two interrupts in a step": Strike(STEP, 5, 0.2, (signal.SIGINT, signal.SIGINT)),
}
for name, strike in strikes.items():
    home = folder / name.replace(" ", "-")
    ending = run_child(job, home, strike)
    lasts = sorted(int(path.name.removeprefix("last-")) for path in home.glob("last-*"))
    again = run_child(job, home)
    equal = contents(home) == whole.contents
    facts = {"signal": ending.signal, "code": ending.code, "steps": ending.steps, "last": lasts[-1]}
    print(json.dumps({"name": name, **facts, "steps_again": again.steps, "equal": equal}))
"""


def test_sigterm_after_importing_paddle_reaches_the_handler_that_was_there() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[-2] == "cancelled cleaned up", done.stderr


@pytest.fixture(scope="module")
def stops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Runs of training that were asked to stop at some place, and then started again, by name."""
    command = [sys.executable, "-c", STOPS, str(Path(__file__).parents[1]), str(tmp_path_factory.mktemp("stops"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {one.pop("name"): one for one in found}


@pytest.mark.soak
def test_sigterm_lets_the_step_be_finished_and_written_and_then_ends_the_process(stops: dict[str, dict[str, Any]]) -> None:
    expected = {"signal": signal.SIGTERM, "code": None, "steps": 2, "last": 2, "steps_again": 7, "equal": True}
    assert stops["term in a step"] == expected


@pytest.mark.soak
def test_sigterm_during_an_evaluation_is_not_lost(stops: dict[str, dict[str, Any]]) -> None:
    expected = {"signal": signal.SIGTERM, "code": None, "steps": 4, "last": 4, "steps_again": 5, "equal": True}
    assert stops["term in an evaluation"] == expected


@pytest.mark.soak
def test_sigterm_during_the_last_evaluation_is_not_lost(stops: dict[str, dict[str, Any]]) -> None:
    expected = {"signal": signal.SIGTERM, "code": None, "steps": 9, "last": 9, "steps_again": 0, "equal": True}
    assert stops["term in the last evaluation"] == expected


@pytest.mark.soak
def test_ctrl_c_lets_the_step_be_finished_and_written(stops: dict[str, dict[str, Any]]) -> None:
    expected = {"signal": None, "code": 130, "steps": 2, "last": 2, "steps_again": 7, "equal": True}
    assert stops["interrupt in a step"] == expected


@pytest.mark.soak
def test_a_second_ctrl_c_ends_at_once(stops: dict[str, dict[str, Any]]) -> None:
    expected = {"signal": None, "code": 130, "steps": 4, "last": 4, "steps_again": 5, "equal": True}
    assert stops["two interrupts in a step"] == expected
