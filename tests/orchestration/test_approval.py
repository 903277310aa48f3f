"""A person decides about an inconclusive verdict through Prefect's API: promotes, rejects, or lets the time pass."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from runs import digits_settings

from hubflow.deployment.pointer import override, read_deployed
from hubflow.errors import PromotionError
from hubflow.flows.nightly import nightly
from hubflow.schemas.deployment import NightlyResult, NightlySettings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
RULES = {"metric": "accuracy", "min_gain": -1.0, "max_latency_ms": {"64": 1000}, "resamples": 200}
"""Nobody measures a batch of 64, so that the gate is inconclusive."""


def settings(store: Path, **approval: Any) -> NightlySettings:
    values = digits_settings(store, name="digits", gate=RULES, sample_rows=3, seed=1)
    return NightlySettings.model_validate({**values, "approval": {"how": "pause", "timeout_hours": 0.05, **approval}})


@pytest.fixture(scope="module")
def first_night(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which a model is in use. Read only."""
    folder = tmp_path_factory.mktemp("first") / "store"
    first = digits_settings(folder, name="digits", gate={"min_value": 0.0}, sample_rows=0)
    assert nightly(NightlySettings.model_validate(first)).outcome == "promoted"
    return folder


@pytest.fixture
def store(first_night: Path, tmp_path: Path) -> Path:
    """A store in which a model is in use that another of its kind is neither better nor worse than."""
    return Path(shutil.copytree(first_night, tmp_path / "store"))


def paused(client: Any) -> list[Any]:
    """The newest runs that wait."""
    return [run for run in client.read_flow_runs(sort="START_TIME_DESC") if run.state_name == "Paused"]


def answer(client: Any, others: set[UUID], shown: list[str], before: Callable[[], None], **values: str) -> None:
    """Wait for a run that waits, and is none of others, read its form, and resume it."""
    for _ in range(300):
        time.sleep(0.3)
        waiting = [run for run in paused(client) if run.id not in others]
        if waiting:
            keys = waiting[0].state.state_details.run_input_keyset
            shown.append(str(client.request("GET", f"/flow_runs/{waiting[0].id}/input/{keys['description']}").json()))
            before()
            client.resume_flow_run(waiting[0].id, run_input=values)
            return


def decided(store: Path, before: Callable[[], None] = lambda: None, **values: str) -> tuple[NightlyResult, str]:
    from prefect.client.orchestration import get_client

    shown: list[str] = []
    with get_client(sync_client=True) as client:
        others = {run.id for run in paused(client)}
        person = threading.Thread(target=answer, args=(client, others, shown, before), kwargs=values)
        person.start()
        try:
            result = nightly(settings(store))
        finally:
            person.join()
    return result, shown[0]


def test_a_person_promotes_with_a_reason(store: Path) -> None:
    result, shown = decided(store, decision="promote", reason="better on long texts", by="Ada")
    assert result.outcome == "promoted"
    assert result.reason.startswith("Ada decided: better on long texts (the gate: ")
    assert result.deployed == result.candidate
    move = read_deployed(str(store), "digits").move
    assert move is not None
    assert (move.action, move.by, move.reason) == ("overridden", "Ada", "better on long texts")
    for part in ("put the candidate in use?", "| accuracy on", "Worst differences by label", "Report: ", "95% interval"):
        assert part in shown
    assert nightly(settings(store)).outcome == "skipped"


@pytest.mark.soak
def test_a_person_rejects(store: Path) -> None:
    before = read_deployed(str(store), "digits")
    result, _ = decided(store, decision="reject", reason="the data was odd", by="Ada")
    assert (result.outcome, result.deployed != result.candidate) == ("rejected", True)
    assert read_deployed(str(store), "digits") == before


@pytest.mark.soak
def test_a_decision_about_a_model_that_is_no_longer_in_use_promotes_nothing(store: Path) -> None:
    def replace_meanwhile() -> None:
        current = read_deployed(str(store), "digits").export
        assert current is not None
        override(current, "digits", str(store), "another person was quicker", "Emil")

    with pytest.raises(PromotionError, match="the decision is about revision 1"):
        decided(store, before=replace_meanwhile, decision="promote", reason="better", by="Ada")
    move = read_deployed(str(store), "digits").move
    assert move is not None
    assert move.by == "Emil"


@pytest.mark.soak
@pytest.mark.parametrize(("on_timeout", "outcome"), [("reject", "rejected"), ("promote", "promoted")])
def test_the_timeout_decides_as_set(store: Path, on_timeout: str, outcome: str) -> None:
    result = nightly(settings(store, timeout_hours=2 / 3600, on_timeout=on_timeout))
    assert result.outcome == outcome
    assert "nobody decided within" in result.reason


def test_without_approval_an_inconclusive_model_is_not_put_in_use(store: Path) -> None:
    before = read_deployed(str(store), "digits")
    assert nightly(settings(store, how="never")).outcome == "inconclusive"
    assert read_deployed(str(store), "digits") == before


def test_a_suspended_run_cannot_promote_by_itself() -> None:
    with pytest.raises(ValueError, match="needs a process that waits"):
        NightlySettings.model_validate({**digits_settings(Path("x")), "approval": {"how": "suspend", "on_timeout": "promote"}})
