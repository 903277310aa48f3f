"""The flow nightly on a real server: first, unchanged and new nights, failures that are taken back and gone on from, slots."""

import errno
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from runs import digits_settings

from hubflow.deployment.pointer import override, read_deployed, read_verdict
from hubflow.errors import ConcurrencyError, OpenFilesError, OutOfMemoryError, SettingsError, SignatureError, StoreError
from hubflow.flows.nightly import nightly
from hubflow.orchestration.tasks import require_limit, stage
from hubflow.schemas.deployment import ConcurrencySettings, NightlyResult, NightlySettings
from hubflow.schemas.parsing import parse_settings
from hubflow.store.manifest import verify_folder
from hubflow.store.signing import make_key, require_trusted
from hubflow.store.store import Store

pytestmark = pytest.mark.usefixtures("prefect_server")


def night(store: Path, rows: int = 90, **more: Any) -> NightlySettings:
    """Settings of a night: `rows` of the digits are what there is that night."""
    values = digits_settings(
        store, **{"name": "digits", "sample_rows": 5, "gate": {"min_value": 0.4, "min_gain": -1.0}, **more}
    )
    values["data"]["max_rows"] = rows
    return NightlySettings.model_validate(values)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nights") / "store"


@pytest.fixture(scope="module")
def first(store: Path, prefect_server: str) -> NightlyResult:
    return nightly(night(store))


def trained(store: Path) -> dict[str, int]:
    """When each checkpoint was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("checkpoints/*/manifest.json")}


def test_the_first_night_says_that_nothing_was_in_use_and_puts_its_model_to_use(first: NightlyResult, store: Path) -> None:
    assert first.outcome == "promoted"
    assert first.reason.startswith("nothing was in use yet; accuracy ")
    assert first.started_from == "the module's own weights: nothing was in use"
    pointer = read_deployed(str(store), "digits")
    assert (first.deployed, first.revision) == (first.candidate, 1)
    assert pointer.move is not None
    assert pointer.move.by.startswith("flow run ")
    assert first.report is not None
    assert Path(first.report).is_file()


def test_a_sample_is_predicted_with_what_is_in_use(first: NightlyResult, store: Path) -> None:
    assert first.sample is not None
    predictions = pd.read_parquet(store / first.sample)
    assert len(predictions) == 5
    assert set(predictions["predicted"]) <= {"5", "6", "7"}


def test_an_unchanged_night_is_skipped_and_says_since_when(first: NightlyResult, store: Path) -> None:
    again = nightly(night(store))
    assert again.outcome == "skipped"
    assert again.reason.endswith("when the verdict was promoted")
    assert (again.deployed, again.revision, again.report) == (first.deployed, 1, first.report)
    assert list(again.seconds) == ["load_dataset", "load_module"]


def test_a_failure_after_the_promotion_takes_it_back_and_the_next_run_goes_on_where_it_failed(
    first: NightlyResult, store: Path
) -> None:
    runs = store / "runs"
    runs.rename(store / "aside")
    runs.write_text("no folder, so that no report can be written")
    with pytest.raises(StoreError, match=r"store/runs/.* could not be written .*File exists"):
        nightly(night(store, 120))
    assert read_deployed(str(store), "digits").export == read_deployed(str(store), "digits").history[0].export
    assert [move.action for move in read_deployed(str(store), "digits").history] == ["promoted", "promoted", "undone"]
    before = trained(store)
    runs.unlink()
    (store / "aside").rename(runs)
    result = nightly(night(store, 120))
    assert trained(store) == before
    assert result.outcome == "promoted"
    assert result.started_from == f"the weights of {first.candidate}"
    assert result.deployed == result.candidate != first.candidate
    assert result.verdict is not None
    verdict = read_verdict(Store(store), next(move.verdict for move in reversed(_history(store)) if move.verdict))
    assert verdict.deployed is not None
    assert verdict.deployed.path == first.candidate
    assert verdict.interval is not None
    assert nightly(night(store, 120)).outcome == "skipped"


def _history(store: Path) -> Any:
    return read_deployed(str(store), "digits").history


@pytest.mark.soak
def test_what_was_altered_or_is_gone_is_made_again_though_it_was_made_before(first: NightlyResult, store: Path) -> None:
    settings = night(store, 120, gate={"min_gain": 0.9})
    runs = store / "runs"
    runs.rename(store / "aside")
    runs.write_text("no folder")
    with pytest.raises(StoreError):
        nightly(settings)
    before = trained(store)
    (newest,) = [key for key, when in before.items() if when == max(before.values())]
    weights = store / "checkpoints" / newest / "model.safetensors"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1] + b"?")
    (store / "checkpoints" / newest / "steps.parquet").unlink()
    runs.unlink()
    (store / "aside").rename(runs)
    result = nightly(settings)
    assert weights.read_bytes() == intact
    assert result.outcome == "rejected"
    assert "below the +0.9 asked for" in result.reason
    assert result.deployed != result.candidate


def test_weights_that_do_not_fit_are_not_started_from_and_that_is_said(first: NightlyResult, store: Path) -> None:
    result = nightly(night(store, 90, head={"hidden_units": [6]}))
    assert result.started_from is not None
    assert "which cannot be started from: hidden_units: [] in the checkpoint, [6] now" in result.started_from


def test_another_pointer_that_was_moved_meanwhile_is_evaluated_against_anew(first: NightlyResult, store: Path) -> None:
    verdict = read_verdict(Store(store), _history(store)[0].verdict)
    before = override(verdict.candidate, "digits", str(store), "the first one was better").revision
    result = nightly(night(store, 90, seed=1, start_from="module"))
    assert result.started_from == "the module's own weights"
    assert result.revision == before + 1


def test_a_stage_that_runs_out_of_memory_says_what_to_do() -> None:
    def greedy(rows: int) -> bytearray:
        return bytearray(rows << 60)

    with pytest.raises(OutOfMemoryError, match=r"greedy ran out of memory.*more memory"):
        flow(lambda: stage(str)(greedy)(1), name="greedy")()


def test_a_stage_that_has_too_many_files_open_says_what_to_do() -> None:
    def opening(number: int) -> None:
        raise OSError(number, os.strerror(number), "rows.tsv")

    with pytest.raises(OpenFilesError, match=r"opening: .*Too many open files: 'rows.tsv'; allow more open files .*ulimit -n"):
        flow(lambda: stage(str)(opening)(errno.EMFILE), name="opening")()
    with pytest.raises(FileNotFoundError):
        flow(lambda: stage(str)(opening)(errno.ENOENT), name="opening")()


def test_a_missing_limit_is_made_or_is_an_error_that_names_the_command() -> None:
    with pytest.raises(ConcurrencyError, match="prefect gcl create lonely --limit 2"):
        require_limit(ConcurrencySettings(name="lonely", slots=2, create=False))
    require_limit(ConcurrencySettings(name="lonely", slots=2))
    require_limit(ConcurrencySettings(name="lonely", slots=7))
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name("lonely").limit == 2


def test_settings_that_the_gate_cannot_judge_by_are_refused_at_once(store: Path) -> None:
    with pytest.raises(SettingsError, match="'ece' cannot be compared row by row"):
        parse_settings(NightlySettings, digits_settings(store, gate={"metric": "ece"}), "nightly.yaml")


def test_a_night_signs_its_export_where_only_signed_ones_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gate, its promotion and its sample use the export that it has made; without a key to sign with it does not begin."""
    store = tmp_path / "store"
    make_key(tmp_path / "export.key")
    monkeypatch.setenv("HUBFLOW_TRUST_KEYS", str(tmp_path / "export.key.pub"))
    with pytest.raises(SignatureError, match=r"there is no trust\.signing_key"):
        nightly(night(store))
    assert not (store / "datasets").exists()
    monkeypatch.setenv("HUBFLOW_TRUST_SIGNING_KEY", str(tmp_path / "export.key"))
    result = nightly(night(store))
    assert (result.outcome, result.deployed) == ("promoted", result.candidate)
    assert result.sample is not None
    assert require_trusted(verify_folder(store / str(result.deployed)))
