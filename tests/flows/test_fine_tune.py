"""The flow fine-tune on a real Prefect server: artifacts, reuse by content, repair of the store, and failures."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import Artifact
from runs import Run, digits_settings

from hubflow.errors import SettingsError
from hubflow.flows.fine_tune import fine_tune
from hubflow.schemas.references import FineTuneResult
from hubflow.schemas.settings import FineTuneSettings
from hubflow.text import markdown_text

STAGES = (
    "load-dataset",
    "load-module",
    "encode-dataset",
    "build-head",
    "fine-tune",
    "evaluate",
    "export-inference-program",
    "write-report",
)
pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> FineTuneSettings:
    return FineTuneSettings.model_validate(digits_settings(tmp_path_factory.mktemp("flow") / "store"))


@pytest.fixture(scope="module")
def first(settings: FineTuneSettings, prefect_server: str) -> tuple[FineTuneResult, list[Artifact]]:
    state = fine_tune(settings, return_state=True)
    return state.result(), artifacts_of(state.state_details.flow_run_id)


def artifacts_of(flow_run_id: Any) -> list[Artifact]:
    async def read() -> list[Artifact]:
        async with get_client() as client:
            return await client.read_artifacts(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))

    return asyncio.run(read())


def test_a_run_returns_metrics_paths_and_seconds_of_every_stage(first: Any, settings: FineTuneSettings) -> None:
    result, _ = first
    assert result.metrics["test"]["accuracy"] > 0.4
    assert result.store == settings.store
    assert Path(result.export, "program.json").is_file()
    assert [name.replace("_", "-") for name in result.seconds] == list(STAGES)
    assert FineTuneResult.model_validate_json(json.dumps(result.model_dump(mode="json"))) == result


def test_every_stage_publishes_what_it_made_and_training_its_progress(first: Any) -> None:
    _, artifacts = first
    assert all(str(one.key).startswith("fine-tune-") for one in artifacts if one.type != "progress")  # the run's name
    for artifact in artifacts:
        artifact.key = artifact.key and artifact.key.removeprefix("fine-tune-")
    by_key = {artifact.key: artifact for artifact in artifacts if artifact.type == "markdown"}
    assert sorted(by_key) == sorted([*STAGES, "data-report", "encoding-report", "key-figures", "report"])
    assert "90 train" in str(by_key["load-dataset"].data)
    assert "### Findings" in str(by_key["data-report"].data)
    (rows,) = [artifact for artifact in artifacts if artifact.key == "data-rows"]
    assert [line["split"] for line in json.loads(rows.data)] == ["train", "dev", "test"]
    assert "| test |" in str(by_key["evaluate"].data)
    result, _ = first
    value = f"{result.metrics['test']['accuracy']:.4f}"
    assert f"test **{value}**" in str(by_key["key-figures"].data)
    assert f"`{result.report}`" in str(by_key["key-figures"].data)
    (metrics,) = [artifact for artifact in artifacts if artifact.key == "metrics"]
    assert [line["test"] for line in json.loads(metrics.data) if line["metric"] == "accuracy"] == [value]
    (link,) = [artifact for artifact in artifacts if artifact.key == "report"]
    assert Path(result.report).as_uri() in str(link.data)
    assert [artifact.data for artifact in artifacts if artifact.type == "progress"] == [100.0]


def test_a_second_run_finds_everything_in_the_store(first: Any, settings: FineTuneSettings) -> None:
    before = manifests(settings.store)
    state = fine_tune(settings, return_state=True)
    again = state.result()
    assert manifests(settings.store) == before
    assert again.evaluation == first[0].evaluation
    assert again.exported == first[0].exported
    assert again.report != first[0].report
    assert first[0].reused == ()
    assert [name.replace("_", "-") for name in again.reused] == [name for name in STAGES if name != "write-report"]
    by_key = {one.key: str(one.data) for one in artifacts_of(state.state_details.flow_run_id)}
    assert markdown_text(f"(taken from the store, {again.evaluation.checkpoint.path})") in by_key["fine-tune-fine-tune"]
    assert "taken from the store" not in by_key["fine-tune-write-report"]


@pytest.mark.parametrize("kind", ["datasets", "encoded", "checkpoints", "exports"])
def test_what_was_altered_in_the_store_is_made_again(kind: str, first: Any, settings: FineTuneSettings) -> None:
    file = next(path for path in sorted(Path(settings.store, kind).glob("*/*")) if path.name != "manifest.json")
    intact = file.read_bytes()
    file.write_bytes(intact[:-1] + b"?")
    again = fine_tune(settings)
    assert file.read_bytes() != intact[:-1] + b"?"
    assert again.metrics == first[0].metrics


def test_without_reuse_training_is_done_again_with_the_same_outcome(first: Any, settings: FineTuneSettings) -> None:
    before = manifests(settings.store)
    again = fine_tune(settings.model_copy(update={"reuse": False}))
    after = manifests(settings.store)
    checkpoints = [path for path in before if path.startswith("checkpoints/")]
    assert checkpoints
    assert all(after[path][0] != before[path][0] for path in checkpoints)
    assert again.metrics == first[0].metrics


def test_a_failing_stage_publishes_its_failure_and_raises(digits_run: Run) -> None:
    wrong = digits_run.settings.model_copy(update={"head": digits_run.settings.head.model_copy(update={"num_classes": 9})})
    with pytest.raises(SettingsError, match=r"head\.num_classes is 9, but the data has 3 labels"):
        fine_tune(wrong)
    state = fine_tune(wrong, return_state=True)
    assert state.is_failed()
    published = artifacts_of(state.state_details.flow_run_id)
    artifacts = {artifact.key: artifact for artifact in published if artifact.type == "markdown"}
    assert sorted(artifacts) == [
        "fine-tune-build-head-failed",
        "fine-tune-data-report",
        "fine-tune-encode-dataset",
        "fine-tune-encoding-report",
        "fine-tune-load-dataset",
        "fine-tune-load-module",
    ]
    assert "head.num_classes is 9" in str(artifacts["fine-tune-build-head-failed"].data)


def manifests(store: str) -> dict[str, tuple[int, str]]:
    """Time and content of every manifest of the store."""
    found = sorted(Path(store).glob("*/*/manifest.json"))
    return {str(path.relative_to(store)): (path.stat().st_mtime_ns, path.read_text(encoding="utf-8")) for path in found}
