"""Settings of a run that are a part of its deployment's, and Prefect Variables in them, on a real server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import digits_settings

from hubflow.errors import SettingsError
from hubflow.flows.fine_tune import fine_tune
from hubflow.flows.nightly import nightly
from hubflow.schemas.parsing import is_complete, merged
from hubflow.schemas.settings import FineTuneSettings, PredictSettings


@pytest.fixture
def client(prefect_server: str) -> Iterator[Any]:
    """A client of the server."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as made:
        yield made


def deploy(flow: Any, **parameters: Any) -> Any:
    """The id of a new deployment, whose runs nobody but the test starts."""
    from prefect.flows import EntrypointType

    made = flow.to_deployment("parts", parameters=parameters, entrypoint_type=EntrypointType.MODULE_PATH)
    return made.apply()


def run(client: Any, deployment: Any, **parameters: Any) -> Any:
    """Run a deployment once in a process, as a worker does; the run when it has ended."""
    from prefect.settings import get_current_settings

    made = client.create_flow_run_from_deployment(deployment, parameters=parameters)
    known = get_current_settings().to_environment_variables(exclude_unset=True)
    environment = {**os.environ, **known, "PREFECT__FLOW_RUN_ID": str(made.id)}
    command = [sys.executable, "-m", "prefect.engine"]
    subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    return client.read_flow_run(made.id)


def settings_of_last_run(store: Path) -> dict[str, Any]:
    """What the report of the newest run says that its settings were."""
    newest = sorted((store / "runs").iterdir())[-1]
    found: dict[str, Any] = json.loads((newest / "run.json").read_text(encoding="utf-8"))["settings"]
    return found


@pytest.mark.soak
def test_a_run_gives_a_part_of_the_deployments_settings(client: Any, tmp_path: Path) -> None:
    from prefect.variables import Variable

    Variable.set("parts-store", {"path": str(tmp_path / "store")}, overwrite=True)
    given = digits_settings(tmp_path, name="parts") | {"store": "prefect://variables/parts-store/path"}
    given["train"]["optimizer"] = {"name": "adamw", "beta1": 0.8}
    deployment = deploy(fine_tune, settings=given)
    part = {"train": {"epochs": 1, "optimizer": {"beta2": 0.9}}, "data": {"max_rows": 60}}
    ended = run(client, deployment, settings=part)
    assert ended.state_name == "Completed", ended.state.message
    found = settings_of_last_run(tmp_path / "store")
    optimizer = found["train"]["optimizer"]
    assert (found["train"]["epochs"], found["train"]["batch_size"], found["data"]["max_rows"]) == (1, 16, 60)
    assert (optimizer["name"], optimizer["beta1"], optimizer["beta2"]) == ("adamw", 0.8, 0.9)
    assert found["store"] == str(tmp_path / "store")

    whole = digits_settings(tmp_path / "store", name="whole")
    whole["train"] = {"epochs": 1}
    assert run(client, deployment, settings=whole).state_name == "Completed"
    found = settings_of_last_run(tmp_path / "store")
    assert (found["name"], found["train"]["batch_size"]) == ("whole", FineTuneSettings.model_validate(whole).train.batch_size)


def test_a_misspelt_part_is_refused_by_the_server_and_a_wrong_value_by_the_run(client: Any, tmp_path: Path) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    deployment = deploy(nightly, settings=digits_settings(tmp_path / "store", name="parts"))
    with pytest.raises(PrefectHTTPStatusError, match="Additional properties are not allowed"):
        client.create_flow_run_from_deployment(deployment, parameters={"settings": {"train": {"epoch": 1}}})
    with pytest.raises(PrefectHTTPStatusError, match="'three' is not of type 'integer'"):
        client.create_flow_run_from_deployment(deployment, parameters={"settings": {"train": {"epochs": "three"}}})
    ended = run(client, deployment, settings={"data": {"dev_fraction": 0.5, "test_fraction": 0.5}})
    assert ended.state_name == "Failed"
    assert "settings of the run: 1 setting(s) are wrong" in ended.state.message
    assert "must leave rows to train on" in ended.state.message


def test_without_a_deployment_missing_settings_are_named(prefect_server: str) -> None:
    with pytest.raises(SettingsError, match=r"(?s)task: is required.*module: is required.*data: is required"):
        fine_tune({"train": {"epochs": 1}})


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("absent", r"store: this Prefect server has no Variable 'absent'; make it with `prefect variable set absent VALUE`"),
        ("known/key", r"store: .* there is no 'key' in the Variable; it has path"),
        ("known/path/more", r"there is no 'more' in the Variable; it is no object but '/tmp/x'"),
        ("../x", "names no Prefect Variable"),
    ],
)
def test_a_missing_variable_is_named(client: Any, tmp_path: Path, reference: str, message: str) -> None:
    from prefect.variables import Variable

    Variable.set("known", {"path": "/tmp/x"}, overwrite=True)  # noqa: S108
    with pytest.raises(SettingsError, match=message):
        fine_tune(digits_settings(tmp_path) | {"store": f"prefect://variables/{reference}"})


def test_lists_and_groups_that_are_chosen_by_name_are_replaced() -> None:
    values = {"head": {"hidden_units": [3, 4]}, "train": {"schedule": "linear", "optimizer": {"name": "adamw", "beta1": 0.8}}}
    part = {
        "head": {"hidden_units": [5]},
        "train": {"optimizer": {"name": "sgd", "momentum": 0.5}, "schedule": {"name": "cosine"}},
    }
    assert merged(FineTuneSettings, values, part) == part
    assert values["head"] == {"hidden_units": [3, 4]}
    kept = merged(FineTuneSettings, {"module": {"name": "a", "lora": None}}, {"module": {"lora": {"rank": 2}}})
    assert kept == {"module": {"name": "a", "lora": {"rank": 2}}}


def test_what_is_complete_by_itself() -> None:
    whole = {"task": "text_classification", "module": {"name": "m"}, "data": {"format": "csv", "train": "x.csv"}}
    assert is_complete(FineTuneSettings, whole)
    assert not is_complete(FineTuneSettings, {**whole, "data": {"train": "x.csv"}})
    assert is_complete(PredictSettings, {"export": "e", "data": "d"})


def test_the_form_asks_for_nothing_and_knows_every_name() -> None:
    schema = fine_tune.parameters.model_dump()
    settings = schema["definitions"]["FineTuneSettings"]
    assert schema["required"] == ["settings"]
    assert not [name for name, one in schema["definitions"].items() if one.get("required")]
    assert settings["additionalProperties"] is False
    assert FineTuneSettings.model_json_schema()["required"] == ["task", "module", "data"]
