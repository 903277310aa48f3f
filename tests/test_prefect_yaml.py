"""prefect.yaml says only what Prefect reads, names flows that load, and gives them settings that they take."""

import asyncio
import datetime
import json
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.flows import load_flow_from_entrypoint
from prefect.server.schemas.schedules import CronSchedule
from prefect_processes import documented_blocks
from pydantic import BaseModel

from hubflow.schemas.parsing import is_complete, merged, parse_settings

PROJECT = Path(__file__).parents[1]
FILE: dict[str, Any] = yaml.safe_load((PROJECT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS = {f"{one['entrypoint'].split('.')[2].replace('_', '-')}/{one['name']}": one for one in FILE["deployments"]}
NIGHTLY = DEPLOYMENTS["fine-tune/nightly"]


def test_the_deployments_are_those_documented() -> None:
    assert set(DEPLOYMENTS) == {"fine-tune/on-demand", "fine-tune/nightly", "nightly/every-night", "predict/on-demand"}
    assert FILE["pull"] == []
    assert {one["work_pool"]["name"] for one in DEPLOYMENTS.values()} == {"hubflow"}


def test_every_key_is_one_that_prefect_reads() -> None:
    PrefectYamlModel.model_validate(FILE)
    assert list(_unknown_keys(FILE)) == []


@pytest.mark.parametrize("place", ["", "deployments.1", "deployments.1.work_pool", "deployments.1.schedules.0"])
def test_a_misspelt_key_is_found_at_every_level(place: str) -> None:
    file = json.loads(json.dumps(FILE))  # parts that share an anchor become parts of their own
    part: Any = file
    for step in place.split(".") if place else []:
        part = part[int(step) if step.isdecimal() else step]
    part["shedules"] = []
    assert [name.rpartition(".")[2] for name in _unknown_keys(file)] == ["shedules"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_an_entrypoint_loads_the_flow_that_it_is_named_for(name: str) -> None:
    flow = load_flow_from_entrypoint(DEPLOYMENTS[name]["entrypoint"])
    assert flow.name == name.split("/", maxsplit=1)[0]
    assert flow.description


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_parameters_are_settings_of_the_flow_with_a_store_that_outlives_the_run(name: str) -> None:
    parameters = DEPLOYMENTS[name].get("parameters", {})
    assert set(parameters) == (set() if name.startswith("predict/") else {"settings"})
    for value in parameters.values():
        settings: Any = parse_settings(_settings_model(name), value, name)
        assert Path(settings.store).expanduser().is_absolute()


def test_what_the_document_passes_with_p_is_what_the_flows_take() -> None:
    blocks = documented_blocks(PROJECT / "docs" / "how-to" / "deploy.md", "Your own settings")
    assert [block.kind for block in blocks] == ["part", "on-demand", "on-demand", "by-hand"]
    for block in blocks[:3]:
        words = shlex.split(block.script)
        name, (parameter, _, value) = words[5], words[words.index("-p") + 1].partition("=")
        assert parameter == "settings"
        model, given = _settings_model(name), json.loads(value)
        assert is_complete(model, given) is (block.kind == "on-demand")
        whole = merged(model, DEPLOYMENTS[name]["parameters"]["settings"], given) if block.kind == "part" else given
        parse_settings(model, whole, name)


def test_nightly_runs_one_at_a_time_on_a_schedule_that_redeploying_leaves_alone() -> None:
    assert NIGHTLY["concurrency_limit"] == {"limit": 1, "collision_strategy": ConcurrencyLimitStrategy.CANCEL_NEW}
    (schedule,) = NIGHTLY["schedules"]
    assert schedule["cron"] == "30 3 * * *"
    assert schedule["slug"]
    assert ZoneInfo(schedule["timezone"])


@pytest.mark.parametrize("zone", [NIGHTLY["schedules"][0]["timezone"], "Europe/Berlin", "America/New_York"])
def test_nightly_comes_at_half_past_three_once_a_day_whatever_the_clocks_do(zone: str) -> None:
    schedule = CronSchedule(cron=NIGHTLY["schedules"][0]["cron"], timezone=zone)
    start = datetime.datetime(2026, 1, 1, 12, tzinfo=ZoneInfo(zone))
    dates = [one.astimezone(ZoneInfo(zone)) for one in asyncio.run(schedule.get_dates(365, start=start))]
    assert {f"{one:%H:%M}" for one in dates} == {"03:30"}
    assert all((later.date() - earlier.date()).days == 1 for earlier, later in pairwise(dates))


def _settings_model(deployment: str) -> type[BaseModel]:
    flow = load_flow_from_entrypoint(DEPLOYMENTS[deployment]["entrypoint"])
    model: type[BaseModel] = get_type_hints(flow.fn)["settings"]
    return model


def _unknown_keys(file: dict[str, Any]) -> Iterator[str]:
    yield from _strange(file, PrefectYamlModel, "")
    for number, deployment in enumerate(file["deployments"]):
        place = f"deployments.{number}."
        yield from _strange(deployment, DeploymentConfig, place)
        yield from _strange(deployment.get("work_pool", {}), WorkPoolConfig, f"{place}work_pool.")
        for schedule in deployment.get("schedules", []):
            yield from _strange(schedule, RawScheduleConfig, f"{place}schedules.")
        limit = deployment.get("concurrency_limit")
        if isinstance(limit, dict):
            yield from _strange(limit, ConcurrencyLimitSpec, f"{place}concurrency_limit.")


def _strange(values: dict[str, Any], model: type[BaseModel], place: str) -> list[str]:
    known = {field.alias or name for name, field in model.model_fields.items()} | set(model.model_fields)
    return [place + name for name in values if name not in known]
