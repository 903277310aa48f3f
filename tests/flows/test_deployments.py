"""From nothing to a finished nightly run, by the commands of docs/how-to/deploy.md: real server, work pool and worker."""

import itertools
import json
import shutil
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser import SCHEMES, WIDTHS, browser_path, chromium, find_browser, opened, share_of_paper
from prefect_processes import World, documented_blocks, world

from hubflow.store.manifest import verify_folder
from hubflow.text import markdown_text

PROJECT = Path(__file__).parents[2]
HEADING = "From nothing to a finished run"
STAGES = (
    *("load-dataset", "load-module", "encode-dataset", "build-head"),
    *("fine-tune", "evaluate", "export-inference-program", "write-report"),
)

pytestmark = [
    pytest.mark.soak,
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("uv") is None, reason="the documented commands need uv"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc"),
]


@dataclass(frozen=True)
class Outcome:
    """What the documented commands left, and who was still running after Ctrl-C."""

    printed: str
    runs: list[dict[str, Any]]
    artifacts: list[dict[str, Any]]
    upcoming: list[dict[str, Any]]
    schedules_after_second_deploy: list[dict[str, Any]]
    refused: str
    store: Path
    prefect_home: Path
    left_running: dict[int, str]
    run_pages: dict[str, str]
    pictures: list[Path]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Run the document once; every test looks at what it left."""
    home = tmp_path_factory.mktemp("home")
    with world(home, PROJECT, is_new=True) as here:
        printed = _run_document(here)
        (run,) = here.api("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}})
        facts: dict[str, Any] = {
            "run_pages": _artifacts_in_the_ui(f"http://127.0.0.1:{here.port}", run["id"], home),
            "printed": printed,
            "runs": here.api("flow_runs/filter", {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}}),
            "artifacts": here.api("artifacts/filter", {}),
            "pictures": [home / f"run-{width}-{scheme}.png" for width in WIDTHS for scheme in SCHEMES],
            "upcoming": _upcoming(here),
            "schedules_after_second_deploy": _pause_and_deploy_again(here),
            "refused": _refusal_without_settings(here),
        }
        here.stop()
        left = here.processes()
    yield Outcome(**facts, store=home / "hubflow-store", prefect_home=home / "prefect", left_running=left)


def test_the_documented_run_finishes_as_completed(outcome: Outcome) -> None:
    assert "Flow run finished successfully in 'Completed'" in outcome.printed
    assert [run["state_type"] for run in outcome.runs] == ["COMPLETED"]


def test_every_stage_leaves_a_markdown_artifact_and_training_its_progress(outcome: Outcome) -> None:
    run = outcome.runs[0]["id"]
    assert {one["flow_run_id"] for one in outcome.artifacts} == {run}
    published = {one["key"] for one in outcome.artifacts if one["type"] == "markdown"}
    assert published == {f"nightly-{one}" for one in (*STAGES, "data-report", "encoding-report", "key-figures", "report")}
    assert [float(one["data"]) for one in outcome.artifacts if one["type"] == "progress"] == [100.0]


def test_the_runs_page_shows_its_artifacts_on_a_desk_and_its_state_on_a_telephone(outcome: Outcome) -> None:
    browser_path()
    assert len(outcome.run_pages) == len(outcome.pictures) == 4
    for name, page in outcome.run_pages.items():
        assert "Completed" in page
        if name.startswith("1280"):
            shown = (*STAGES, "key-figures", "metrics", "report", "data-rows", "data-report")
            assert {f"nightly-{one}" for one in shown} <= set(page.split("\n"))
            assert "fine-tuning steps" in page
    for picture in outcome.pictures:
        assert 0.2 < share_of_paper(picture)[1] < 0.995  # neither empty nor covered


def test_report_and_export_are_where_the_document_says(outcome: Outcome) -> None:
    (report,) = outcome.store.glob("runs/*-nightly/report.html")
    export = outcome.store / json.loads(report.with_name("run.json").read_text())["export"]["path"]
    assert export.parent == outcome.store / "exports"
    assert verify_folder(export).files
    by_key = {one["key"]: one["data"] for one in outcome.artifacts}
    assert markdown_text(report) in by_key["nightly-write-report"]
    assert f"exports/{export.name}" in by_key["nightly-export-inference-program"]


def test_the_server_schedules_the_coming_nights(outcome: Outcome) -> None:
    assert outcome.upcoming
    assert {one["expected_start_time"][11:16] for one in outcome.upcoming} <= {"03:30", "04:30"}


def test_a_paused_schedule_stays_paused_when_deployed_again(outcome: Outcome) -> None:
    assert [(one["slug"], one["active"]) for one in outcome.schedules_after_second_deploy] == [("every-night", False)]


def test_predict_without_settings_is_refused_before_it_is_scheduled(outcome: Outcome) -> None:
    assert "'settings' is a required property" in outcome.refused


def test_nothing_is_put_into_prefects_result_storage_and_its_home_is_the_owners_alone(outcome: Outcome) -> None:
    assert not (outcome.prefect_home / "storage").exists()
    assert outcome.prefect_home.stat().st_mode & 0o077 == 0


def test_no_process_is_left(outcome: Outcome) -> None:
    assert outcome.left_running == {}


def _run_document(here: World) -> str:
    printed = ""
    for block in documented_blocks(PROJECT / "docs" / "how-to" / "deploy.md", HEADING):
        if block.kind != "keep-running":
            printed += here.run(block.script)
            continue
        here.keep_running(block.script)
        if "server start" in block.script:
            here.wait_for("server", here.is_up)
    return printed


def _artifacts_in_the_ui(server: str, run: str, folder: Path) -> dict[str, str]:
    """The text of the run's page with its artifacts, by width and colour scheme; a picture of each is taken.

    Empty where there is no browser: the test of it then says so.
    """
    pages: dict[str, str] = {}
    if not find_browser():
        return pages
    with chromium() as browser:
        for width, scheme in itertools.product(WIDTHS, SCHEMES):
            with opened(browser, f"{server}/runs/flow-run/{run}", WIDTHS[0], scheme) as look:
                _show_artifacts(look.page, width)
                look.page.screenshot(path=folder / f"run-{width}-{scheme}.png", full_page=True)
                pages[f"{width} {scheme}"] = look.page.locator("body").inner_text()
                assert all(one.startswith((server, "data:", "blob:")) for one in look.requests), look.requests
    return pages


def _show_artifacts(page: Any, width: int) -> None:
    """Open the tab of the artifacts, and make the window as wide as that.

    Prefect's page has tabs only in a wide window, and goes back to the first one when it reads the run again.
    """
    from playwright.sync_api import TimeoutError as NotShown

    shown = page.get_by_text("nightly-key-figures", exact=True).first
    for more in reversed(range(6)):
        page.set_viewport_size({"width": WIDTHS[0], "height": 900})
        page.get_by_text("Artifacts", exact=True).last.click()
        try:
            shown.wait_for(timeout=15_000)
            page.set_viewport_size({"width": width, "height": 900})
            shown.wait_for(timeout=5_000)
        except NotShown:
            if not more:
                raise
        else:
            return


def _upcoming(here: World) -> list[dict[str, Any]]:
    asked = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    here.wait_for("scheduled run", lambda: bool(here.api("flow_runs/filter", asked)), seconds=70)
    runs: list[dict[str, Any]] = here.api("flow_runs/filter", asked)
    return runs


def _pause_and_deploy_again(here: World) -> list[dict[str, Any]]:
    before = here.api("deployments/name/fine-tune/nightly")
    (schedule,) = before["schedules"]
    here.api(f"deployments/{before['id']}/schedules/{schedule['id']}", {"active": False}, method="PATCH")
    here.run("uv run prefect --no-prompt deploy --all")
    schedules: list[dict[str, Any]] = here.api("deployments/name/fine-tune/nightly")["schedules"]
    return schedules


def _refusal_without_settings(here: World) -> str:
    deployment = here.api("deployments/name/predict/on-demand")["id"]
    with pytest.raises(urllib.error.HTTPError) as refusal:
        here.api(f"deployments/{deployment}/create_flow_run", {})
    return refusal.value.read().decode()
