"""Three nights by the commands of the tutorial: promoted, skipped, rejected, a webhook that is called, a slot given back."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from posts import posts_kept
from prefect_processes import World, documented_blocks, world

PROJECT = Path(__file__).parents[2]

HOLD = """
from hubflow.orchestration.tasks import slot
from hubflow.schemas.deployment import ConcurrencySettings
with slot(ConcurrencySettings(when="always", lease_seconds=60), "cpu"):
    print("held", flush=True)
    {then}
"""

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(shutil.which("uv") is None, reason="the documented commands need uv"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc"),
]


@pytest.fixture
def hooks() -> Iterator[tuple[str, list[str]]]:
    """A local HTTP server's address, and what was posted to it."""
    with posts_kept() as found:
        yield found


def test_the_documented_nights_are_promoted_skipped_and_rejected_and_the_webhook_is_called(
    tmp_path: Path, hooks: tuple[str, list[str]]
) -> None:
    url, posted = hooks
    nights, shown, holder = [], "", None
    with world(tmp_path, PROJECT) as here:
        for block in documented_blocks(PROJECT / "docs" / "tutorials" / "nightly.md", "Three nights"):
            script = block.script.replace("https://hooks.example.org/nightly", url)
            if block.kind == "keep-running":
                here.keep_running(script)
                here.wait_for("server", here.is_up)
                continue
            holder = holder or _killed_holder(here)
            shown = here.run(script)
            if block.kind == "night":
                nights.append(json.loads(shown.splitlines()[-1]))
        here.wait_for("post to the webhook", lambda: bool(posted), 60)
        held = here.api("v2/concurrency_limits/gpu")
        assert held["limit"] == 1
        here.wait_for("slot given back", lambda: here.api("v2/concurrency_limits/gpu")["active_slots"] == 0, 100)
        assert _hold(here, "pass").wait(60) == 0
    assert [one["outcome"] for one in nights] == ["promoted", "skipped", "rejected"]
    assert nights[2]["started_from"] == f"the weights of {nights[0]['candidate']}"
    assert nights[2]["deployed"] == nights[0]["candidate"] != nights[2]["candidate"]
    assert "promoted by flow run" in shown
    assert "hubflow.model.rejected" in posted[0]
    assert "below the +0.5 asked for" in posted[0]


def _hold(here: World, then: str) -> "subprocess.Popen[str]":
    script = HOLD.replace("{then}", then)
    environment = {**here.environment, "PREFECT_API_URL": f"http://127.0.0.1:{here.port}/api"}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)


def _killed_holder(here: World) -> "subprocess.Popen[str] | None":
    """A process that held the slot, and was killed while it did."""
    if not here.is_up():
        return None  # the commands before the server
    process = _hold(here, "import time; time.sleep(600)")
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert here.api("v2/concurrency_limits/gpu")["active_slots"] == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    return process
