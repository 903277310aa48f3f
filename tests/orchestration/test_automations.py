"""Automations on a real server: made once, and fired by a failure, a verdict, a promotion and a lost run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from posts import posts_kept

from hubflow.errors import SettingsError
from hubflow.testing import FilledStore, fake_verdict

NEWEST = "EXPECTED_START_TIME_DESC"
FLOW = """
import sys, time
from prefect import flow
from prefect.runtime import flow_run

@flow(name="fine-tune")
def lost():
    print(flow_run.id, flush=True)
    time.sleep(600)

lost()
"""


@pytest.fixture
def posts() -> Iterator[tuple[str, list[str]]]:
    """A local HTTP server's address, and what was posted to it."""
    with posts_kept() as found:
        yield found


@pytest.fixture
def client(prefect_server: str) -> Iterator[Any]:
    """A client of the server, on which this test's automations are removed in the end."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as made:
        yield made
        for one in made.read_automations():
            if one.name.startswith("hubflow: "):
                made.delete_automation(one.id)


def wait_for(is_so: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_a_second_call_changes_what_is_there(client: Any, posts: tuple[str, list[str]]) -> None:
    from hubflow.orchestration.automations import setup_automations

    first = setup_automations(webhook=posts[0])
    assert first == setup_automations(webhook=posts[0], zombie_after=120)
    made = {one.name: one for one in client.read_automations() if one.name.startswith("hubflow: ")}
    assert sorted(made) == sorted(first)
    assert made["hubflow: a run has lost its process"].trigger.within.total_seconds() == 120


def test_a_failure_and_a_verdict_are_told_and_a_promotion_starts_a_deployment(
    client: Any, posts: tuple[str, list[str]], filled_store: FilledStore
) -> None:
    from prefect import flow

    from hubflow.orchestration.automations import setup_automations
    from hubflow.orchestration.events import announce, verdict_event
    from hubflow.stages import promote

    @flow(name="my-own-flow")
    def fails() -> None:
        raise ValueError("no rows tonight")

    @flow(name="release")
    def release() -> None:
        promote(fake_verdict("promoted", filled_store.path, filled_store.export, "films"), filled_store.path)

    flow_id = client.create_flow_from_name("after-promotion")
    deployment = client.create_deployment(flow_id, "films", paused=False)
    url, posted = posts
    setup_automations(webhook=url, flows=["my-own-flow"], run_on_promotion="after-promotion/films")
    time.sleep(3)  # the server reads new automations every now and then
    with pytest.raises(ValueError, match="no rows"):
        fails()
    wait_for(lambda: any("prefect.flow-run.Failed" in one for one in posted))
    announce(verdict_event(fake_verdict("rejected", name="films", reason="worse by 0.1")))
    wait_for(lambda: any("hubflow.model.rejected" in one and "worse by 0.1" in one for one in posted))
    release()
    wait_for(lambda: any(run.deployment_id == deployment for run in client.read_flow_runs(sort=NEWEST)))


@pytest.mark.soak
def test_a_run_that_has_lost_its_process_is_crashed(client: Any, prefect_server: str, tmp_path: Path) -> None:
    """Heartbeats come every 30 s at most, so this takes more than a minute."""
    from hubflow.orchestration.automations import setup_automations

    setup_automations(zombie_after=45)
    environment = {**os.environ, "PREFECT_API_URL": prefect_server, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    run = subprocess.Popen([sys.executable, "-c", FLOW], env=environment, cwd=tmp_path, stdout=subprocess.PIPE)
    assert run.stdout is not None
    started = UUID(run.stdout.readline().decode().strip())
    time.sleep(5)  # the first heartbeat reaches the server
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert client.read_flow_run(started).state_name == "Running"
    wait_for(lambda: bool(client.read_flow_run(started).state_name == "Crashed"), 150)
    assert "no heartbeat came" in client.read_flow_run(started).state.message


def test_a_block_or_deployment_that_is_missing_is_named(client: Any) -> None:
    from prefect.blocks.system import Secret

    from hubflow.orchestration.automations import setup_automations

    with pytest.raises(SettingsError, match=r"--notify slack-webhook/none: .*make the block"):
        setup_automations(notify="slack-webhook/none")
    Secret(value="x").save("hidden", overwrite=True)
    with pytest.raises(SettingsError, match="a Secret; expected a notification block or a webhook"):
        setup_automations(notify="secret/hidden")
    with pytest.raises(SettingsError, match=r"--run-on-promotion none/none: .*deploy it first"):
        setup_automations(run_on_promotion="none/none")
