"""Worker processes: one or several that work together; they end as one, and with the process that asked for their work."""

import contextlib
import itertools
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process_tree import children_of, wait_for, workers_of

from hubflow.errors import ContractError, OutOfMemoryError, WorkerError, WorkStoppedError
from hubflow.workers import processes
from hubflow.workers.processes import GRACE_SECONDS, run

TRAIN = "distributed_targets:train_in_worker"
HERE = Path(__file__).parent

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def targets_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's import path is that of the process that asks."""
    for folder in (HERE.parent / "helpers", HERE):
        monkeypatch.syspath_prepend(str(folder))


def is_running(pid: int) -> bool:
    """Whether a process is there and does not just wait to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def train(folder: Path, ranks: int, steps: list[dict[str, Any]], **request: Any) -> Any:
    """Have the tests' training done in `folder`."""
    folder.mkdir(exist_ok=True)
    asked = {"folder": str(folder), "steps": 12, **request}
    return run(TRAIN, asked, lambda kind, message: steps.append(message), ranks=ranks)


def test_two_processes_train_as_one(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "a-secret-of-the-environment")
    monkeypatch.chdir(tmp_path)
    one: list[dict[str, Any]] = []
    two: list[dict[str, Any]] = []
    alone = train(tmp_path / "one", 1, one)
    with caplog.at_level(logging.INFO):
        together = train(tmp_path / "two", 2, two, meet=5)
    assert alone == {"rank": 0, "threads": os.environ.get("OMP_NUM_THREADS"), "folder": str(tmp_path)}
    assert together["rank"] == 0
    assert [event["step"] for event in two] == [event["step"] for event in one] == list(range(1, 13))
    np.testing.assert_allclose([event["loss"] for event in two], [event["loss"] for event in one], rtol=1e-6)
    expected = np.load(tmp_path / "one" / "weights-0.npz")
    first, second = (np.load(tmp_path / "two" / f"weights-{rank}.npz") for rank in range(2))
    for name in expected.files:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], expected[name], rtol=0, atol=1e-6)
    assert "rank 0: rank 0 begins" in caplog.messages
    assert "rank 1: rank 1 begins" in caplog.messages
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"a-secret-of-the-environment" not in kept
    assert workers_of() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize(
    ("how", "message"), [("raise", "rank 1 of 2 failed: ValueError: no such row: 17"), ("kill", "by SIGKILL")]
)
def test_a_lost_rank_ends_all_and_is_named_with_its_output(tmp_path: Path, how: str, message: str) -> None:
    events: list[dict[str, Any]] = []
    with pytest.raises(WorkerError) as caught:
        train(tmp_path, 2, events, fail=1, how=how)
    assert str(caught.value).startswith("rank 1 of 2")
    assert message in str(caught.value)
    if how == "raise":
        assert 'raise ValueError("no such row: 17")' in str(caught.value)
    else:
        assert "rank 1 begins" in str(caught.value)
    assert len(events) == 3
    assert workers_of() == []


@pytest.mark.parametrize("begin", ["forked", "as a new Python"])
def test_sums_over_ranks_are_added_in_their_order(begin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if begin == "as a new Python":
        monkeypatch.setenv("FLAGS_call_stack_level", "1")  # other settings of Paddle than those that the server has
    values = np.random.default_rng(0).normal(scale=[[1e7], [1.0], [1e7]], size=(3, 7)).astype(np.float32)
    values[2] = -values[0] + 1
    found = run("distributed_targets:sum_and_broadcast", {"values": values.tolist(), "times": 3}, ranks=3)
    for number, (total, flag) in enumerate(found["sums"], 1):
        first, second, third = values * np.float32(number)
        np.testing.assert_array_equal(np.float32(total), (first + second) + third)
        assert flag == [3]
    assert found["broadcast"]["rank"] == 0
    assert np.isnan(found["broadcast"]["loss"])


@pytest.mark.parametrize(
    ("how", "expected", "message"),
    [
        ("SIGKILL", WorkerError, "rank 1 of 2 was killed by SIGKILL"),
        ("SIGTERM", WorkStoppedError, "asked to stop"),
        ("return", WorkerError, "rank 0 of 2 failed: RankLostError: another rank finished"),
    ],
)
def test_a_rank_that_waits_for_one_that_has_ended_is_released(how: str, expected: type[Exception], message: str) -> None:
    began = time.monotonic()
    with pytest.raises(expected, match=message):
        run("distributed_targets:end_while_others_wait", {"how": how}, ranks=2)
    assert time.monotonic() - began < GRACE_SECONDS
    assert workers_of() == []


def test_ctrl_c_between_the_calls_of_two_ranks_loses_none(tmp_path: Path) -> None:
    def interrupt(kind: str, message: dict[str, Any]) -> None:
        if message["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(TRAIN, {"folder": str(tmp_path), "steps": 10_000}, interrupt, ranks=2)
    assert int((tmp_path / "last.txt").read_text()) >= 4
    assert workers_of() == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_stopping_lets_rank_0_write_before_the_others_are_ended(tmp_path: Path, ranks: int) -> None:
    events: list[dict[str, Any]] = []
    request = {"folder": str(tmp_path), "steps": 10_000, "pause": 0.01, "slow_write": 2.0}
    with pytest.raises(WorkStoppedError):
        run(TRAIN, request, lambda kind, message: events.append(message), lambda: len(events) >= 5, ranks)
    assert int((tmp_path / "last.txt").read_text()) == len(events)
    assert workers_of() == []


def test_an_error_of_a_callback_ends_the_work_at_that_step_and_is_raised(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []

    def refuse(kind: str, message: dict[str, Any]) -> None:
        events.append(message)
        if len(events) == 3:
            raise RuntimeError("the callback failed")

    with pytest.raises(RuntimeError, match="the callback failed"):
        run(TRAIN, {"folder": str(tmp_path), "steps": 10_000}, refuse)
    assert [event["step"] for event in events] == [1, 2, 3]
    assert not (tmp_path / "weights-0.npz").exists()
    assert workers_of() == []


def test_ctrl_c_in_a_callback_lets_the_step_be_written_down(tmp_path: Path) -> None:
    def interrupt(kind: str, message: dict[str, Any]) -> None:
        if message["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(TRAIN, {"folder": str(tmp_path), "steps": 10_000}, interrupt)
    assert int((tmp_path / "last.txt").read_text()) >= 4
    assert workers_of() == []


@pytest.mark.parametrize("how", ["return", "raise", "kill"])
def test_what_a_process_started_ends_with_it(how: str) -> None:
    begun: list[int] = []
    with pytest.raises(WorkerError) if how != "return" else contextlib.nullcontext():
        run("worker_targets:leave_a_process", {"how": how}, lambda kind, message: begun.append(message["pid"]))
    wait_for(lambda: not is_running(begun[0]), 10)


def test_what_a_process_started_ends_with_the_one_that_asked_for_the_work() -> None:
    script = "from hubflow.workers.processes import run; "
    script += "run('worker_targets:leave_a_process', {'how': 'wait'}, lambda kind, message: print(message['pid'], flush=True))"
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        begun = int(parent.stdout.readline())
        assert is_running(begun)
        parent.kill()
    wait_for(lambda: not is_running(begun), 10)


def _limit_that_leaves(more: int) -> int:
    """The limit of open files under which `more` can be opened: the numbers in use may have gaps, and go beyond it."""
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (number for number in itertools.count() if number not in used)
    return next(itertools.islice(free, more, None))


@pytest.mark.parametrize("ranks", [1, 2])
def test_no_room_for_open_files_is_an_error_with_its_remedy(ranks: int) -> None:
    run("worker_targets:echo", {})
    before, failed = resource.getrlimit(resource.RLIMIT_NOFILE), 0
    for more in range(40):
        resource.setrlimit(resource.RLIMIT_NOFILE, (_limit_that_leaves(more), before[1]))
        try:
            run("worker_targets:echo", {}, ranks=ranks)
        except WorkerError as error:
            failed += 1
            assert re.search(r"no process can be started: .*Too many open files.*; allow more .*ulimit -n", str(error))
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        wait_for(lambda: not workers_of(), 10)  # one that had begun sees that nobody is there
    assert 0 < failed < 39


def test_no_room_for_open_files_in_a_process_is_an_error_with_its_remedy() -> None:
    with pytest.raises(WorkerError, match=r"OSError: \[Errno 24\] Too many open files.*; allow more .*ulimit -n"):
        run("worker_targets:open_many_files", {})


@pytest.mark.parametrize(
    "whom",
    ["the server", *(pytest.param(one, marks=pytest.mark.soak) for one in ("the process that asked", "rank 0", "rank 1"))],
)
def test_processes_that_are_stopped_and_continued_lose_nothing(tmp_path: Path, whom: str) -> None:
    """For longer than gloo once waited for nobody: nothing here gives up after a time."""
    (tmp_path / "alone").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(PARENT).replace("100_000", "60"), str(tmp_path), "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parent / "helpers")}
    ) as parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
        (server,) = children_of(parent.pid)
        first, second = children_of(server)
        pid = {"the process that asked": parent.pid, "the server": server, "rank 0": first, "rank 1": second}[whom]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(pid, signal.SIGCONT)
        steps = [int(line) for line in parent.stdout]
        assert parent.wait(60) == 0
    assert steps == list(range(4, 61))
    together = [np.load(tmp_path / f"weights-{rank}.npz") for rank in range(2)]
    run(TRAIN, {"folder": str(tmp_path / "alone"), "steps": 60}, ranks=2)
    alone = np.load(tmp_path / "alone" / "weights-0.npz")
    for name in alone.files:
        for weights in together:
            np.testing.assert_array_equal(weights[name], alone[name])


PARENT = """
    import signal, sys
    from pathlib import Path
    from hubflow.workers.processes import run
    folder, ranks = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("handed on"))
    request = {"folder": str(folder), "steps": 100_000, "pause": 0.01}
    run("distributed_targets:train_in_worker", request, lambda kind, message: print(message["step"], flush=True), ranks=ranks)
"""


@pytest.mark.parametrize(
    ("number", "ranks"),
    [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGINT, 1)],
)
def test_nothing_outlives_the_process_that_asked(tmp_path: Path, number: signal.Signals, ranks: int) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path), str(ranks)]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "helpers")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        timer = threading.Timer(120, parent.kill)
        timer.start()
        assert [parent.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
        (server,) = children_of(parent.pid)
        workers = workers_of(parent.pid)
        assert len(workers) == ranks
        os.killpg(parent.pid, number)  # as a terminal does
        _, errors = parent.communicate(timeout=60)
        timer.cancel()
    wait_for(lambda: not any(_runs(pid) for pid in (server, *workers)), 10)
    assert (tmp_path / "last.txt").exists() == (number != signal.SIGKILL)
    assert ("handed on" in errors) == (number == signal.SIGTERM)
    assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)


def test_errors_come_back_as_what_they_are_with_their_attributes() -> None:
    with pytest.raises(ContractError, match="row 3: expected a label") as caught:
        run("worker_targets:refuse", {"path": "quarantine/x.parquet"})
    assert caught.value.quarantine == Path("quarantine/x.parquet")
    assert "worker_targets.py" in "".join(caught.value.__notes__)


def test_work_in_threads_is_apart_and_each_gets_its_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: run("worker_targets:echo", {"number": number}), range(12)))
    assert [one["number"] for one in found] == list(range(12))
    assert len({one["pid"] for one in found}) == 12
    assert not any(one["prefect"] for one in found)


def test_the_environment_and_the_folder_are_those_of_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("worker_targets:echo", {})
    monkeypatch.setenv("SET_LATER", "yes")
    monkeypatch.chdir(tmp_path)
    found = run("worker_targets:echo", {})
    assert (found["environment"].get("SET_LATER"), found["folder"]) == ("yes", str(tmp_path))


def test_a_large_request_and_a_large_answer_pass(tmp_path: Path) -> None:
    text = "é" * 3_000_000
    assert run("worker_targets:echo", {"text": text})["text"] == text


def test_a_server_that_was_lost_is_started_again() -> None:
    first = run("worker_targets:echo", {})["parent"]
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not _runs(first), 10)
    assert run("worker_targets:echo", {})["parent"] != first


def test_a_process_that_is_forked_has_a_server_of_its_own() -> None:
    ours = run("worker_targets:echo", {})["parent"]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, str(run("worker_targets:echo", {})["parent"]).encode())
            processes._SERVER.end()
        finally:
            os._exit(0)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    theirs = os.read(read, 100)
    os.close(read)
    assert int(theirs) != ours
    assert run("worker_targets:echo", {})["parent"] == ours


def test_sigterm_that_comes_before_the_work_begins_is_not_lost(tmp_path: Path) -> None:
    stopped: Callable[[], bool] = lambda: True  # noqa: E731
    started = time.monotonic()
    with pytest.raises(WorkStoppedError):
        run("worker_targets:sleep", {"seconds": 60}, should_stop=stopped)
    assert time.monotonic() - started < 30


def test_work_that_does_not_stop_is_killed_after_its_grace(tmp_path: Path) -> None:
    with pytest.raises(WorkStoppedError):
        run("worker_targets:ignore_sigterm", {"seconds": 60}, should_stop=lambda: True, grace=1.0)
    assert workers_of() == []


def test_a_new_python_does_the_same_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_is_built_for_gpus", lambda: True)
    found = run("worker_targets:echo", {"number": 1}, device="gpu:0")
    assert found["number"] == 1
    assert found["command"].count("--one") == 1
    assert "--one" not in run("worker_targets:echo", {}, device="cpu")["command"]


def test_gpus_are_one_for_each_process() -> None:
    with pytest.raises(WorkerError, match="expected one GPU for each"):
        run(TRAIN, {}, ranks=2, gpus=["0"])


@pytest.fixture
def open_files() -> Iterator[None]:
    """No descriptor is left open, here or in the server."""
    server = run("worker_targets:echo", {})["parent"]
    wait_for(lambda: not workers_of(), 10)
    before = _open_files(os.getpid()), _open_files(server)
    yield
    # What earlier tests left to the collector may be closed meanwhile.
    wait_for(lambda: _open_files(os.getpid()) <= before[0] and _open_files(server) <= before[1], 10)


def _open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_an_exception_at_any_moment_leaves_nothing_behind_and_does_not_wait(tmp_path: Path, open_files: None) -> None:
    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    moments = np.random.default_rng(1).uniform(0.0005, 0.4, 25)
    before = signal.signal(signal.SIGALRM, interrupt)
    asked: list[str] = []
    try:
        for moment in moments:
            started = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                try:
                    signal.setitimer(signal.ITIMER_REAL, moment)
                    request = {"times": 1_000_000, "folder": str(tmp_path)}
                    run("worker_targets:ask", request, lambda kind, message: asked.append(kind))
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            assert time.monotonic() - started < 10  # a lost message would be waited for until the grace ends
    finally:
        signal.signal(signal.SIGALRM, before)
    assert {"event", "state_dict"} <= set(asked)
    wait_for(lambda: not workers_of(), 10)


def test_a_call_that_was_lost_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = processes._Rank.messages
    lost: list[Any] = []

    def lose(rank: Any) -> Any:
        messages = heard(rank)
        if not lost and any(message.get("times") == 3 for message in messages):
            lost.extend(messages)
            raise KeyboardInterrupt
        return messages

    monkeypatch.setattr(processes._Rank, "messages", lose)
    asked: list[str] = []
    run("worker_targets:echo", {})  # which starts the server
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run("worker_targets:ask", {"times": 1_000_000, "folder": str(tmp_path)}, lambda kind, message: asked.append(kind))
    assert asked[:3] == ["event"] * 3
    assert set(asked[3:]) == {"state_dict"}  # perhaps twice, when it was under way
    assert time.monotonic() - started < 10


@pytest.mark.soak
def test_two_hundred_pieces_of_work_leave_no_descriptor_open(open_files: None) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: run("worker_targets:sleep", {"seconds": 0}), range(200)))
    assert found == [None] * 200


def test_waiting_for_a_server_that_does_not_answer_can_be_stopped(open_files: None) -> None:
    server = run("worker_targets:echo", {})["parent"]
    os.kill(server, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(WorkStoppedError):
            run("worker_targets:echo", {}, should_stop=lambda: True)
        assert time.monotonic() - started < 5
    finally:
        os.kill(server, signal.SIGCONT)
    assert run("worker_targets:echo", {})["parent"] == server


def test_a_server_without_room_refuses_and_keeps_what_runs(tmp_path: Path) -> None:
    server = run("worker_targets:echo", {})["parent"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, "worker_targets:sleep", {"seconds": 3})
        wait_for(workers_of, 10)
        limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
        resource.prlimit(server, resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            with pytest.raises(WorkerError, match=r"no room for it: .*ulimit -n"):
                run("worker_targets:echo", {})
        finally:
            resource.prlimit(server, resource.RLIMIT_NOFILE, limits)
        assert running.result() is None
    assert run("worker_targets:echo", {})["parent"] == server


STARTED = """
    import os, resource, signal, sys, threading
    how = sys.argv[1]
    if how == "closed streams":
        os.closerange(0, 3)
    elif how == "many files":
        resource.setrlimit(resource.RLIMIT_NOFILE, (3000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    elif how == "blocked signals":
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    elif how == "SIGTERM ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    elif how == "SIGPIPE ends":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    elif how == "import path":
        os.chdir(sys.argv[3])
        sys.path = [".", *sys.path, object()]
    from hubflow.workers.processes import run
    if how == "SIGPIPE ends":
        os.kill(run("worker_targets:surroundings", {}) and os.getpid() and __import__("process_tree").children_of()[0], 9)
    found = run("worker_targets:surroundings", {})
    with open(sys.argv[2], "w") as file:
        print(found["blocked"], found["threads"], file=file)
"""


@pytest.mark.parametrize(
    "how", ["closed streams", "many files", "blocked signals", "SIGTERM ignored", "SIGPIPE ends", "import path"]
)
def test_the_server_begins_alike_whatever_the_process_that_starts_it_is_like(tmp_path: Path, how: str) -> None:
    script, out = tmp_path / "script.py", tmp_path / "out.txt"
    script.write_text(textwrap.dedent(STARTED), encoding="utf-8")  # it has no `if __name__ == "__main__"`
    environment = {**os.environ, "PYTHONPATH": "" if how == "import path" else f"{HERE}:{HERE.parent / 'helpers'}"}
    with (tmp_path / "errors.txt").open("w") as errors:
        command = [sys.executable, str(script), how, str(out), str(HERE)]
        done = subprocess.run(command, stderr=errors, timeout=120, check=False, env=environment)
    assert done.returncode == 0, (tmp_path / "errors.txt").read_text()
    assert out.read_text() == "[] 1\n"


def test_the_mask_of_files_the_cores_and_paddles_flags_are_those_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    run("worker_targets:echo", {})
    cores, mask = os.sched_getaffinity(0), os.umask(0o027)
    try:
        os.sched_setaffinity(0, {min(cores)})
        found = run("worker_targets:surroundings", {})
    finally:
        os.sched_setaffinity(0, cores)
        os.umask(mask)
    assert (found["umask"], found["cores"]) == (0o027, [min(cores)])
    assert found["command"].count("--one") == 0
    monkeypatch.setenv("FLAGS_check_nan_inf", "1")  # read as Paddle is imported
    assert run("worker_targets:surroundings", {})["command"].count("--one") == 1


def test_warnings_logs_and_prints_come_out_here(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.warns(RuntimeWarning, match="the scores are not defined") as caught:
        run("worker_targets:warn", {})
    assert caught[0].filename.endswith("worker_targets.py")
    records = [(record.name, record.levelname, record.getMessage().splitlines()[0]) for record in caplog.records]
    assert ("library.of.theirs", "WARNING", "row 7 is odd") in records
    assert ("hubflow.stages", "INFO", "at work") in records
    assert ("hubflow.stages", "ERROR", "it failed") in records
    assert "ValueError: no such thing" in caplog.text
    assert "printed" in caplog.messages
    assert "not of interest" not in caplog.text


def test_a_warning_that_is_an_error_here_is_raised() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(RuntimeWarning, match="the scores are not defined"):
            run("worker_targets:warn", {})


def test_an_answer_that_is_no_json_is_an_error_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(TypeError, match="not JSON serializable"):
        run("worker_targets:ask", {"times": 3, "folder": str(tmp_path)}, lambda kind, message: object())
    assert time.monotonic() - started < 10


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


REMEDY = {"work": "training", "memory_remedy": "Give a smaller train.batch_size"}


def test_a_lack_of_memory_names_what_was_done_what_was_asked_for_and_the_remedy() -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        run("worker_targets:allocate", {"rows": 20_000, "limit": 200_000_000}, **REMEDY)
    text = str(caught.value)
    assert text.startswith("training ran out of memory. It asked for 1,600,000,000 bytes more. The system has "), text
    assert "RLIMIT_AS" not in text, "the limit is the worker's own"
    assert text.endswith("Give a smaller train.batch_size, or use a machine with more memory"), text
    assert "ResourceExhausted" in "".join(caught.value.__notes__)


def test_a_process_that_aborts_for_lack_of_memory_says_so() -> None:
    with pytest.raises(OutOfMemoryError, match=r"training ran out of memory.*killed by SIGABRT"):
        run("worker_targets:abort", {}, **REMEDY)


def test_a_process_that_the_kernel_kills_names_memory_as_the_likely_cause(tmp_path: Path) -> None:
    """In a control group with a limit, where the kernel ends what exceeds it."""
    script = """
import sys
from hubflow.workers.processes import (run)
from hubflow.errors import WorkerError
sys.path.insert(0, sys.argv[1])
try:
    run("worker_targets:allocate", {"rows": 40_000}, work="training", memory_remedy="Give a smaller train.batch_size")
except WorkerError as error:
    print(error)
"""
    with limited_group(1_500_000_000) as procs:
        done = subprocess.run(
            ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(procs), sys.executable, "-c", script, str(HERE)],
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    # The kernel may kill the process that starts others too, before the memory of the first one is free.
    first = r"killed by SIGKILL\. This is likely the kernel, which kills a process when memory runs out: The system has "
    both = r"lost\. The kernel may have killed the process that starts others, as it does when memory runs out: The system has "
    assert re.match(f"the process was ({first}|{both})", text), text
    assert "its container or cgroup is limited to 1.4 GiB" in text
    assert "If so: Give a smaller train.batch_size, or use a machine with more memory; its output ends" in text


@contextlib.contextmanager
def limited_group(size: int) -> Iterator[Path]:
    """The file that a process writes its id to, to be in a control group of `size` bytes of memory."""
    own = Path("/sys/fs/cgroup/memory")
    limit = "memory.limit_in_bytes"
    if not own.is_dir():
        own, limit = Path("/sys/fs/cgroup"), "memory.max"
    group = own / f"hubflow-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(size))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"control groups cannot be made here: {error}")
    try:
        yield group / "cgroup.procs"
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text().strip(), 30)
        group.rmdir()
