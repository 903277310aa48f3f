"""Several processes on this machine's CPUs, over Paddle's own launcher and gloo: they train as one, and end as one."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed_targets import train

from hubflow.stages.hub.distributed import join
from hubflow.stages.launch import LaunchError, launch

TARGET = "distributed_targets:train"


@pytest.fixture(autouse=True)
def targets_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranks are processes of their own; they find the tests' functions as any module."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "hub"))


def run(folder: Path, processes: int, events: list[dict[str, Any]], **request: Any) -> str:
    """Launch the tests' training in `folder`."""
    folder.mkdir(exist_ok=True)
    request = {"folder": str(folder), "steps": 12, **request}
    return launch(request, folder, processes, None, events.append, target=TARGET)


def processes_of(folder: Path) -> list[str]:
    """The command lines of all living processes that name `folder`, this one aside."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(folder) in command and int(process.name) != os.getpid():
            found.append(command)
    return found


def wait_for(condition: Callable[[], Any], seconds: float) -> None:
    """Until `condition` holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.05)


def test_two_processes_train_as_one(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-the-environment")
    one: list[dict[str, Any]] = []
    two: list[dict[str, Any]] = []
    (tmp_path / "one").mkdir()
    train({"folder": str(tmp_path / "one"), "steps": 12}, join(), one.append)
    with caplog.at_level(logging.INFO):
        assert run(tmp_path / "two", 2, two, meet=5) == "finished"
    assert [event["step"] for event in two] == list(range(1, 13))
    np.testing.assert_allclose([event["loss"] for event in two], [event["loss"] for event in one], rtol=1e-6)
    alone = np.load(tmp_path / "one" / "weights-0.npz")
    first, second = (np.load(tmp_path / "two" / f"weights-{rank}.npz") for rank in range(2))
    for name in alone.files:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], alone[name], rtol=0, atol=1e-6)
    assert "rank 0: rank 0 begins" in caplog.messages
    assert "rank 1: rank 1 begins" in caplog.messages
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"a-secret-of-the-environment" not in kept
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    ("how", "said"), [("raise", "rank 1 of 2 failed with exit code 1: ValueError: no such row: 17"), ("kill", "by SIGKILL")]
)
def test_a_lost_rank_ends_all_and_is_named_with_its_log(tmp_path: Path, how: str, said: str) -> None:
    events: list[dict[str, Any]] = []
    with pytest.raises(LaunchError) as caught:
        run(tmp_path, 2, events, fail=1, how=how)
    assert str(caught.value).startswith("rank 1 of 2")
    assert said in str(caught.value)
    assert "rank 1 begins" in str(caught.value)
    if how == "raise":
        assert 'raise ValueError("no such row: 17")' in str(caught.value)
    assert len(events) == 3
    assert processes_of(tmp_path) == []


def test_stopping_lets_rank_0_write_before_the_others_are_ended(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    request = {"folder": str(tmp_path), "steps": 10_000, "pause": 0.01, "slow_write": 5.0}
    assert launch(request, tmp_path, 2, None, events.append, lambda: len(events) >= 5, TARGET) == "stopped"
    assert int((tmp_path / "last.txt").read_text()) == len(events)
    assert processes_of(tmp_path) == []


def test_an_error_of_the_caller_ends_the_ranks(tmp_path: Path) -> None:
    def refuse(event: dict[str, Any]) -> None:
        raise RuntimeError("the onlooker failed")

    request = {"folder": str(tmp_path), "steps": 10_000, "pause": 0.01}
    with pytest.raises(RuntimeError, match="the onlooker failed"):
        launch(request, tmp_path, 2, None, refuse, target=TARGET)
    assert (tmp_path / "last.txt").exists()
    assert processes_of(tmp_path) == []


PARENT = """
    import signal, sys
    from pathlib import Path
    from hubflow.stages.launch import launch
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("handed on"))
    request = {"folder": str(folder), "steps": 10_000, "pause": 0.01}
    launch(request, folder, 2, None, lambda event: print(event["step"], flush=True), target="distributed_targets:train")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_the_parent(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        timer = threading.Timer(60, parent.kill)
        timer.start()
        assert [parent.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
        assert len(processes_of(tmp_path)) >= 4
        parent.send_signal(number)
        _, errors = parent.communicate(timeout=30)
        timer.cancel()
    wait_for(lambda: not processes_of(tmp_path), 5)
    assert (tmp_path / "last.txt").exists() == (number == signal.SIGTERM)
    assert ("handed on" in errors) == (number == signal.SIGTERM)


def test_gpus_are_one_for_each_process(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="expected one GPU for each"):
        launch({}, tmp_path, 2, "0", print)
