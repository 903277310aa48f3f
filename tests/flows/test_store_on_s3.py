"""The flows with a store on object storage, their credentials in a Prefect Secret block: nothing of them is written down."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from modules import make_tiny_bert
from object_storage import KEY, SECRET, ObjectStorage
from prefect.blocks.system import Secret
from runs import WORDS, text_settings
from s3fs import S3FileSystem

from hubflow.flows.fine_tune import fine_tune
from hubflow.flows.predict import predict
from hubflow.schemas.errors import SettingsError
from hubflow.schemas.references import FineTuneResult
from hubflow.schemas.settings import FineTuneSettings, PredictSettings
from hubflow.stages import remote
from hubflow.stages.data.profile_history import ONLY_THIS

BLOCK = "store-credentials"


@dataclass(frozen=True)
class Outcome:
    """A fine-tune of machine one."""

    storage: ObjectStorage
    settings: FineTuneSettings
    result: FineTuneResult


@pytest.fixture(scope="module")
def outcome(prefect_server: str, s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """Fine-tune with nothing in the environment: who asks is known from the block alone."""
    folder = tmp_path_factory.mktemp("s3")
    with pytest.MonkeyPatch.context() as patch:
        storage = ObjectStorage.prepared(s3_server, folder, patch)
        for name in storage.environment:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setattr(S3FileSystem, "_cache", {})
        patch.setattr(remote, "_writable", set())
        Secret(value={"key": KEY, "secret": SECRET, "endpoint_url": storage.endpoint}).save(BLOCK, overwrite=True)
        module = make_tiny_bert(folder / "bert", WORDS)
        given = text_settings(folder, module) | {"store": storage.url, "store_block": BLOCK}
        given["data"]["max_invalid_share"] = 0.5
        with Path(given["data"]["dev"]).open("a", encoding="utf-8") as stream:
            stream.write("999\t\t1\n")  # a row without text, to be quarantined
        settings = FineTuneSettings.model_validate(given)
        yield Outcome(storage, settings, fine_tune(settings))


def test_everything_a_run_leaves_is_on_the_storage(outcome: Outcome) -> None:
    kept, result = outcome.storage, outcome.result
    kinds = {path.split("/")[0] for path in kept.objects()}
    assert kinds == {
        *("datasets", "modules", "encoded", "tasks", "checkpoints", "evaluations", "exports"),
        *("runs", "profiles", "data-reports", "quarantine"),
    }
    assert result.store == kept.url
    assert result.export == f"{kept.url}/{result.exported.path}"
    assert b"<html" in kept.read(result.report.removeprefix(f"{kept.url}/"))
    assert f"{result.exported.path}/program.json" in kept.objects()
    assert not any("probe" in path or "training" in path for path in kept.objects())


def test_another_machine_takes_what_is_there_and_trains_nothing(outcome: Outcome) -> None:
    outcome.storage.be("two")
    before = outcome.storage.objects("checkpoints")
    again = fine_tune(outcome.settings)
    assert (again.evaluation, again.exported) == (outcome.result.evaluation, outcome.result.exported)
    assert outcome.storage.objects("checkpoints") == before
    (dataset,) = [path.split("/")[1] for path in outcome.storage.objects("datasets") if path.endswith("manifest.json")]
    drift = json.loads(outcome.storage.read(f"data-reports/{dataset}/report.json"))["facts"]["drift"]
    assert drift["note"] == ONLY_THIS  # so the profile that machine one kept was read


def test_a_third_machine_labels_rows_with_the_exported_folder_by_its_url(outcome: Outcome, tmp_path: Path) -> None:
    outcome.storage.be("three")
    (tmp_path / "rows.tsv").write_text("text\na fine film\n", encoding="utf-8")
    asked = {"export": outcome.result.export, "data": str(tmp_path / "rows.tsv"), "store_block": BLOCK}
    result = predict(PredictSettings.model_validate(asked))
    assert len(pd.read_parquet(result.output)) == 1


def test_no_secret_is_written_anywhere(outcome: Outcome) -> None:
    kept = outcome.storage
    assert SECRET not in outcome.result.model_dump_json()
    for path in kept.objects():
        assert SECRET.encode() not in kept.read(path), path
    files = [path for path in kept.caches.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("block", "store", "message"),
    [
        ("absent-block", "s3://b/x", "store_block: Unable to find block document named absent-block"),
        ("no-mapping", "s3://b/x", "store_block: the Secret 'no-mapping' is no mapping"),
        ("no-mapping", "folder", "which needs no credentials"),
    ],
)
def test_a_block_that_does_not_serve_is_told(outcome: Outcome, block: str, store: str, message: str) -> None:
    Secret(value="just a word").save("no-mapping", overwrite=True)
    with pytest.raises(SettingsError, match=message):
        fine_tune(outcome.settings.model_copy(update={"store": store, "store_block": block}))
