"""MLflow's model registry follows the deployed pointer: on a real server that asks for a password, and in a file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_lines import run_process
from mlflow_server import mlflow_server
from pydantic import ValidationError
from runs import digits_settings

from hubflow.blocks import ModelRegistry
from hubflow.deployment.pointer import override, read_deployed, roll_back
from hubflow.errors import RegistryError, SettingsError
from hubflow.flows.nightly import nightly
from hubflow.orchestration.registry import move_with_registry
from hubflow.schemas.deployment import NightlySettings
from hubflow.schemas.references import ExportRef
from hubflow.stages import promote
from hubflow.testing import FilledStore, fake_export, fake_verdict

LOGIN = ("ada", "s3cret/of:ada@home")


@dataclass(frozen=True)
class Served:
    """A server of MLflow, and a client of its registry."""

    address: str
    client: Any

    def champion(self, model: str) -> Any:
        return self.client.get_model_version_by_alias(model, "champion")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that asks for a password, which the owner of this machine allows."""
    from mlflow import MlflowClient

    with mlflow_server(tmp_path_factory.mktemp("mlflow"), ":".join(LOGIN)) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HUBFLOW_TRUST_TRACKING_URIS", address)
        patch.setenv("MLFLOW_TRACKING_USERNAME", LOGIN[0])
        patch.setenv("MLFLOW_TRACKING_PASSWORD", LOGIN[1])
        yield Served(address, MlflowClient(tracking_uri=address, registry_uri=address))


@pytest.fixture
def block(prefect_server: str, served: Served, monkeypatch: pytest.MonkeyPatch) -> str:
    """A block with the password, which the environment no longer has."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    ModelRegistry(uri=served.address, username=LOGIN[0], password=LOGIN[1]).save("mlflow", overwrite=True)
    return "mlflow"


def login(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test's own client in again."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", LOGIN[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", LOGIN[1])


@pytest.mark.soak
def test_a_promotion_sets_the_alias_and_a_rollback_from_the_command_line_moves_it(
    block: str, served: Served, filled_store: FilledStore, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    def command(*arguments: str) -> None:
        done = run_process(*arguments, "--store", store, PREFECT_API_URL=prefect_server)
        assert done.returncode == 0, done.stdout + done.stderr
        shown.append(done.stdout + done.stderr)

    store, first = filled_store.path, filled_store.export
    promote.fn(fake_verdict("promoted", store, first, "films"), store, registry_block=block)
    second = fake_export(store)
    command("promote", second.path, "films", "--override", "--reason", "better")
    login(monkeypatch)
    now = served.champion("films")
    assert (now.version, now.tags["hubflow.sha256"], now.description) == ("2", second.sha256, "better")
    assert now.source == f"hubflow-store://{store}/{second.path}"
    command("rollback", "films", "--reason", "worse at night")
    was = served.champion("films")
    assert (was.version, was.tags["hubflow.export"]) == ("1", first.path)
    split, values = next(iter(first.metrics.items()))
    assert float(was.tags[f"{split}.loss"]) == pytest.approx(values["loss"], rel=1e-5)
    served.client.delete_registered_model_alias("films", "champion")
    command("deployed", "films", "--sync-registry")
    assert served.champion("films").version == "1"
    assert "s3cret" not in "".join(shown)


def test_without_a_server_a_rollback_says_where_the_block_is_and_moves_nothing(
    filled_store: FilledStore, tmp_path: Path
) -> None:
    store = filled_store.path
    override(filled_store.export, "films", store, "first", registry_block="mlflow")
    override(fake_export(store), "films", store, "second")
    done = run_process("rollback", "films", "--store", store, "--reason", "back", PREFECT_HOME=str(tmp_path / "prefect"))
    assert done.returncode == 2
    assert "whose block 'mlflow' is on a Prefect server; set PREFECT_API_URL" in " ".join(done.stderr.split())
    assert read_deployed(store, "films").revision == 2


@pytest.mark.soak
def test_a_nightly_moves_the_alias_and_its_pointer_remembers_the_block(
    block: str, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = digits_settings(tmp_path / "store", name="digits", gate={"min_value": 0.0}, sample_rows=0, registry_block=block)
    assert nightly(NightlySettings.model_validate(values)).outcome == "promoted"
    deployed = read_deployed(str(tmp_path / "store"), "digits")
    assert deployed.registry_block == block
    login(monkeypatch)
    assert deployed.export is not None
    assert served.champion("digits").tags["hubflow.sha256"] == deployed.export.sha256
    kept = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert kept == []


def test_a_missing_block_ends_a_nightly_before_anything_is_trained(prefect_server: str, tmp_path: Path) -> None:
    values = digits_settings(tmp_path / "store", name="digits", registry_block="absent")
    with pytest.raises(SettingsError, match=r"registry_block: .*absent.*ModelRegistry\(…\)\.save\('absent'\)"):
        nightly(NightlySettings.model_validate(values))
    assert not (tmp_path / "store" / "checkpoints").exists()


def test_a_registry_that_does_not_answer_takes_the_promotion_back(prefect_server: str, filled_store: FilledStore) -> None:
    store = filled_store.path
    ModelRegistry(uri="sqlite:////proc/absent/mlflow.db").save("broken", overwrite=True)
    with pytest.raises(RegistryError, match=r"check the block Model Registry"):
        promote.fn(fake_verdict("promoted", store, filled_store.export, "films"), store, registry_block="broken")
    deployed = read_deployed(store, "films")
    assert deployed.export is None
    assert [move.action for move in deployed.history] == ["promoted", "undone"]


def test_a_person_is_told_that_the_alias_did_not_move(prefect_server: str, filled_store: FilledStore) -> None:
    store = filled_store.path
    ModelRegistry(uri="sqlite:////proc/absent/mlflow.db").save("broken", overwrite=True)
    with pytest.raises(
        RegistryError, match=r"(?s)at revision 1, but the alias .*hubflow deployed films --store .* --sync-registry"
    ):
        move_with_registry(lambda: override(filled_store.export, "films", store, "I say so"), "films", store, "broken")
    assert read_deployed(store, "films").export == filled_store.export


def test_a_registry_in_a_file_has_one_version_for_each_export(filled_store: FilledStore, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = filled_store.path
    registry = ModelRegistry(uri=f"sqlite:///{tmp_path}/mlflow.db", model="Films in use", alias="live")
    client = MlflowClient(tracking_uri=registry.uri, registry_uri=registry.uri)
    assert registry.follow("films", store) is None
    exports: list[ExportRef] = [filled_store.export, fake_export(store)]
    for export in (*exports, exports[0]):
        override(export, "films", store, "turn by turn")
        registry.follow("films", store)
    assert registry.follow("films", store) == "1"
    assert len(client.search_model_versions("name='Films in use'")) == 2
    roll_back("films", store, "back")
    assert registry.follow("films", store) == "2"
    assert client.get_model_version_by_alias("Films in use", "live").tags["hubflow.export"] == exports[1].path


def test_what_cannot_be_a_registry_is_refused() -> None:
    with pytest.raises(ValidationError, match="allows no runs to send to 'https://elsewhere'"):
        ModelRegistry(uri="https://elsewhere")
    with pytest.raises(ValidationError, match="the URI holds a password"):
        ModelRegistry(uri="https://me:word@host")
    with pytest.raises(ValidationError, match="only a registry at an http or https address"):
        ModelRegistry(uri="sqlite:///x.db", username="me")
