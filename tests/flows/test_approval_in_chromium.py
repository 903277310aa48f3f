"""A suspended nightly run is approved by a person in Prefect's own pages: a real browser, server and worker."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import chromium, find_browser, opened
from prefect_processes import World, world
from runs import digits_settings

from hubflow.deployment.pointer import read_deployed
from hubflow.flows.nightly import nightly
from hubflow.schemas.deployment import NightlySettings

pytestmark = [pytest.mark.soak, pytest.mark.browser]
RULES = {"metric": "accuracy", "min_gain": -1.0, "max_latency_ms": {"64": 1000}, "resamples": 200}


def deploy(here: World, store: Path) -> None:
    settings = digits_settings(store, name="digits", gate=RULES, sample_rows=3, seed=1, approval={"how": "suspend"})
    deployment = {
        "name": "tonight",
        "entrypoint": "hubflow.flows.nightly.nightly",
        "parameters": {"settings": settings},
        "work_pool": {"name": "approvals"},
    }
    file = {"name": "approvals", "build": [], "push": [], "pull": [], "deployments": [deployment]}
    (here.project / "prefect.yaml").write_text(yaml.safe_dump(file), encoding="utf-8")
    here.run("prefect config set PREFECT_API_URL=http://127.0.0.1:4200/api PREFECT_SERVER_ANALYTICS_ENABLED=false")
    here.keep_running("prefect server start --host 127.0.0.1 --port 4200")
    here.wait_for("server", here.is_up)
    here.keep_running("prefect worker start --pool approvals --type process")
    here.wait_for("work pool", lambda: bool(here.api("work_pools/filter", {})))
    here.run("prefect --no-prompt deploy --all")
    here.run("prefect deployment run nightly/tonight")


def state(here: World) -> Any:
    return here.api("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC"})[0]


@pytest.mark.skipif(find_browser() is None, reason="there is no Chromium")
def test_a_person_approves_in_the_ui(prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    first = digits_settings(store, name="digits", gate={"min_value": 0.0}, sample_rows=0)
    assert nightly(NightlySettings.model_validate(first)).outcome == "promoted"
    (tmp_path / "project").mkdir()
    (tmp_path / "running.log").touch()
    with world(tmp_path, tmp_path / "project") as here:
        deploy(here, store)
        here.wait_for("suspended run", lambda: state(here)["state_name"] == "Suspended", 200)
        with (
            chromium() as browser,
            opened(browser, f"http://127.0.0.1:{here.port}/runs/flow-run/{state(here)['id']}", 1280, "light") as look,
        ):
            look.page.get_by_role("button", name="Resume").click()
            look.page.get_by_text("put the candidate in use?").wait_for()
            look.page.get_by_text("Worst differences by label").wait_for()
            form = look.page.locator(".schema-form-properties")
            form.locator(".p-select-button__control").focus()
            look.page.keyboard.press("ArrowDown")
            look.page.locator(".p-select-option").filter(has_text="promote").first.click()
            for number, text in enumerate(("better on long texts", "Ada")):
                form.locator("textarea").nth(number).fill(text)
            look.page.screenshot(path=str(tmp_path / "form.png"))
            look.page.get_by_role("button", name="Submit").click()
            look.page.get_by_text("put the candidate in use?").wait_for(state="hidden")
        here.wait_for("finished run", lambda: state(here)["state_type"] in ("COMPLETED", "FAILED", "CRASHED"), 200)
        assert state(here)["state_type"] == "COMPLETED", here.log()
    move = read_deployed(str(store), "digits").move
    assert move is not None
    assert (move.action, move.by, move.reason) == ("overridden", "Ada", "better on long texts")
