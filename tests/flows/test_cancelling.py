"""Cancelled in Prefect, or ended by its host: training stops after a step, the engine says so, and another run goes on."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.states import Cancelling
from runs import Run, digits_settings

from hubflow.schemas.references import EncodedRef, TaskRef, TrainRequest
from hubflow.schemas.training import TrainSettings
from hubflow.stages.fine_tune import fine_tune
from hubflow.training.callbacks import Callback, Step, TrainState

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc")
ENDLESS = {"epochs": 100_000, "batch_size": 16, "learning_rate": 1e-3}
SERVE = """
from hubflow.flows.fine_tune import fine_tune
fine_tune.serve(name="served", print_starting_message=False)
"""
DIRECT = """
import sys
from prefect import flow
from hubflow.schemas.references import EncodedRef, TaskRef
from hubflow.schemas.references import TrainRequest
from hubflow.stages.fine_tune import fine_tune

request = TrainRequest.model_validate_json(sys.argv[1])
arguments = (request.task, request.encoded, request.settings, request.store, request.seed, "cpu")

@flow(name=sys.argv[2], persist_result=False)
def train():
    if sys.argv[3] == "submitted":
        fine_tune.submit(*arguments).result()
    else:
        fine_tune(*arguments)

train()
"""


@contextmanager
def running(
    script: list[str], home: Path, server: str, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process on the server, told by its home from all others; it is killed at the end if it is still there."""
    environment = {
        **os.environ,
        "PREFECT_API_URL": server,
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        **(variables or {}),
        "PREFECT_HOME": str(home),
    }
    command = script if script[0] == sys.executable else [sys.executable, "-c", *script]
    with (home / "printed.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
        try:
            yield process
        finally:
            for one in processes_of(home):
                with suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
            process.wait(30)


def processes_of(home: Path) -> dict[int, str]:
    """Live processes with this home, and their commands; Python's own keeper of shared memory is not counted."""
    mark, found = f"PREFECT_HOME={home}".encode(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if mark in (folder / "environ").read_bytes().split(b"\0") and "resource_tracker" not in command:
                found[int(folder.name)] = command
    return found


def wait_for(is_so: Callable[[], Any], home: Path, seconds: float = 60) -> Any:
    """What `is_so` gives once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < deadline, (
            str(processes_of(home)) + (home / "printed.log").read_text(encoding="utf-8", errors="replace")[-6000:]
        )
        time.sleep(0.2)
    return found


def lasts(store: Path) -> list[int]:
    """Steps of the checkpoints of the one unfinished run in a store."""
    return sorted(int(path.name.removeprefix("last-")) for path in store.glob("training/*/last-*"))


class OneStep(Callback):
    """Remembers where a run began, and ends it after one step."""

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        self.began_at = state.step

    def on_step_end(self, state: TrainState, step: Step) -> None:
        self.first = step.step
        raise RuntimeError("enough")


def require_resumed(request: TrainRequest) -> None:
    """The same run, asked for again, begins after the last step that was written."""
    (*_, newest) = lasts(Path(request.store))
    watch = OneStep()
    with pytest.raises(RuntimeError, match="enough"):
        fine_tune.fn(request.task, request.encoded, request.settings, request.store, request.seed, "cpu", callbacks=[watch])
    assert (watch.began_at, watch.first) == (newest, newest + 1)


def run_of(flow_run_id: UUID) -> FlowRun:
    async def read() -> FlowRun:
        async with get_client() as client:
            return await client.read_flow_run(flow_run_id)

    return asyncio.run(read())


def runs_named(name: str) -> tuple[list[FlowRun], list[TaskRun]]:
    async def read() -> tuple[list[FlowRun], list[TaskRun]]:
        async with get_client() as client:
            flow = await client.read_flow_by_name(name)
            runs = [run for run in await client.read_flow_runs(sort="EXPECTED_START_TIME_DESC") if run.flow_id == flow.id]
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs]))
            return runs, await client.read_task_runs(flow_run_filter=chosen)

    return asyncio.run(read())


def start_served(parameters: dict[str, Any]) -> UUID | None:
    async def start() -> UUID | None:
        async with get_client() as client:
            for deployment in await client.read_deployments():
                if deployment.name == "served":
                    return (await client.create_flow_run_from_deployment(deployment.id, parameters=parameters)).id
        return None

    return asyncio.run(start())


def cancel(flow_run_id: UUID) -> None:
    async def ask() -> None:
        async with get_client() as client:
            await client.set_flow_run_state(flow_run_id, Cancelling())

    asyncio.run(ask())


def endless_request(run: Run, store: Path) -> TrainRequest:
    """A run of training that does not end by itself, in a copy of a store."""
    shutil.copytree(run.settings.store, store, ignore=shutil.ignore_patterns("checkpoints", "training"))
    settings = TrainSettings.model_validate(ENDLESS)
    return TrainRequest(task=run.task, encoded=run.encoded, settings=settings, store=str(store), device="cpu")


def unfinished_request(store: Path) -> TrainRequest:
    """What the one training in the store was asked for, by what it has written about itself."""
    (known,) = store.glob("training/*/run.json")
    kept = json.loads(known.read_text(encoding="utf-8"))
    references = {"task": TaskRef.model_validate(kept["task"]), "encoded": EncodedRef.model_validate(kept["encoded"])}
    return TrainRequest(**references, settings=TrainSettings.model_validate(ENDLESS), store=str(store))


def test_a_cancelled_flow_run_is_cancelled_leaves_no_process_and_goes_on_when_run_again(
    prefect_server: str, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    settings = digits_settings(store, train=ENDLESS)
    with running([SERVE], tmp_path, prefect_server) as serving:
        flow_run = wait_for(lambda: start_served({"settings": settings}), tmp_path)
        wait_for(lambda: lasts(store), tmp_path)
        cancel(flow_run)
        ended = wait_for(lambda: (run := run_of(flow_run)).state and run.state.is_final() and run, tmp_path)
        wait_for(lambda: set(processes_of(tmp_path)) == {serving.pid}, tmp_path, 20)
    assert ended.state.name == "Cancelled"
    require_resumed(unfinished_request(store))


@pytest.mark.soak
def test_sigterm_to_a_kubernetes_job_writes_a_checkpoint_and_schedules_the_run_again(
    prefect_server: str, tmp_path: Path
) -> None:
    """The command and the environment of the job that Prefect's worker makes, as a process of this machine."""
    from work_pools import container_of, environment_of, job_of, make_run

    store = tmp_path / "store"
    made = make_run("kubernetes", parameters={"settings": digits_settings(store, train=ENDLESS)})
    job = job_of(made, "kubernetes")
    module, *arguments = container_of(job)["args"]
    command = [sys.executable, "-m", module, *arguments]
    with running(command, tmp_path, prefect_server, environment_of(job)) as process:
        wait_for(lambda: lasts(store), tmp_path)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        code = process.wait(60)
        seconds = time.monotonic() - asked
        assert code == 0, (tmp_path / "printed.log").read_text(encoding="utf-8", errors="replace")[-6000:]
        wait_for(lambda: processes_of(tmp_path) == {}, tmp_path, 10)
    assert seconds < 45  # the least `termination_grace_seconds` that the template takes
    assert run_of(made.id).state_name == "AwaitingRetry"
    require_resumed(unfinished_request(store))


@pytest.mark.soak
@pytest.mark.parametrize("how", ["called", "submitted"])
def test_sigterm_to_a_flows_process_stops_training_and_the_engine_sees_a_crash(
    how: str, prefect_server: str, digits_run: Run, tmp_path: Path
) -> None:
    """A crashed run can be run again; a task that was submitted trains in a thread, where no signal arrives."""
    request = endless_request(digits_run, tmp_path / "store")
    with running([DIRECT, request.model_dump_json(), f"train-{how}", how], tmp_path, prefect_server) as process:
        wait_for(lambda: lasts(tmp_path / "store"), tmp_path)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        code = process.wait(60)
        seconds = time.monotonic() - asked
        assert code == -signal.SIGTERM, (tmp_path / "printed.log").read_text(encoding="utf-8", errors="replace")[-6000:]
        assert processes_of(tmp_path) == {}
    assert seconds < 25
    flow_runs, task_runs = runs_named(f"train-{how}")
    assert [run.state_name for run in flow_runs] == ["Crashed"]
    assert "Completed" not in [run.state_name for run in task_runs]
    require_resumed(request)
