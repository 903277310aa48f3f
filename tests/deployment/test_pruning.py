"""Pruning: what is old goes, by age and number; what is in use, its predecessor and all that they need never."""

import os
import time
from pathlib import Path

import pytest
from command_lines import one_line, run
from filelock import FileLock
from runs import Run
from verdicts import store_with_exports, verdict_on

from hubflow.deployment.pointer import read_deployed, roll_back
from hubflow.deployment.pruning import KINDS, prune
from hubflow.errors import SettingsError, StoreError
from hubflow.schemas.deployment import PruneSettings
from hubflow.stages.promote import promote
from hubflow.store.store import Store

ALL = PruneSettings(keep_last=0, min_age_days=0)


def aged(folder: Path, days: float) -> Path:
    """The folder, as if it and all in it had been written so long ago."""
    when = time.time() - days * 86_400
    for one in [folder, *folder.rglob("*")]:
        os.utime(one, (when, when))
    return folder


@pytest.fixture
def store(digits_run: Run, tmp_path: Path) -> str:
    """A store with exports a to d, the oldest first, of which b and then c are in use, and a run, and a stopped training."""
    store, exports = store_with_exports(digits_run, tmp_path, "a", "b", "c", "d")
    for days, key in enumerate("abcd"):
        aged(Path(store, "exports", key), 20 - days)
    aged(Path(store, digits_run.export.path), 30)
    promote.fn(verdict_on(store, exports[1], 0), store)
    promote.fn(verdict_on(store, exports[2], 1), store)
    for name in ("runs/2026-old", "training/stopped"):
        Path(store, name).mkdir(parents=True)
        Path(store, name, "file").write_text("x" * 100)
    for kind in KINDS:
        for folder in Path(store, kind).glob("*/"):
            if kind != "exports":
                aged(folder, 10)
    return store


def names(store: str, kind: str) -> set[str]:
    return {path.name for path in Path(store, kind).glob("*/")}


def test_what_is_in_use_its_predecessor_and_what_they_were_made_of_stay(store: str, digits_run: Run) -> None:
    pruned = prune(ALL, store)
    assert names(store, "exports") == {"b", "c"}
    assert names(store, "checkpoints") == {Path(digits_run.checkpoint.path).name}
    assert names(store, "verdicts") == {"b-0-promoted", "c-1-promoted"}
    assert names(store, "runs") == names(store, "training") == names(store, "evaluations") == set()
    assert {"exports/a", "exports/d", "runs/2026-old", "training/stopped"} <= set(pruned.removed)
    assert {"exports/b", "exports/c", digits_run.checkpoint.path, digits_run.dataset.path} <= set(pruned.kept_in_use)
    assert digits_run.store.open(digits_run.export).folder.is_dir()
    assert roll_back("digits", store, "it can be gone back to").export is not None


def test_a_dry_run_says_the_same_and_removes_nothing(store: str) -> None:
    before = sorted(path for path in Path(store).rglob("*") if path.suffix != ".lock")
    told = prune(ALL, store, dry_run=True)
    assert sorted(path for path in Path(store).rglob("*") if path.suffix != ".lock") == before
    done = prune(ALL, store)
    assert (told.removed, told.bytes) == (done.removed, done.bytes)
    assert told.bytes > 200
    assert prune(ALL, store).removed == ()


def test_the_newest_and_the_young_stay(store: str, digits_run: Run) -> None:
    assert names(store, "exports") == {"a", "b", "c", "d", Path(digits_run.export.path).name}
    prune(PruneSettings(keep_last=2, min_age_days=0), store)
    assert names(store, "exports") == {"b", "c", "d"}
    prune(PruneSettings(keep_last=0, min_age_days=18), store)
    assert names(store, "exports") == {"b", "c", "d"}


def test_a_training_under_way_is_left_alone(store: str) -> None:
    with FileLock(Path(store, "training", "stopped.lock")):
        assert "training/stopped" not in prune(ALL, store).removed
    assert names(store, "training") == {"stopped"}
    assert "training/stopped" in prune(ALL, store).removed


def test_what_killed_runs_left_goes_when_it_is_old_and_what_is_being_written_stays(store: str) -> None:
    old = [
        "verdicts/.a.0123456789abcdef.draft",
        "quarantine/key/.train.parquet.0123456789abcdef.draft",
        "deployed/.digits.json.0123456789abcdef.draft",
    ]
    for name in (*old, "exports/.b.abcd_124"):
        Path(store, name).mkdir(parents=True)
        Path(store, name, "half").write_text("x" * 100)
    for name in old:
        aged(Path(store, name), 2)
    with Store(store).create("exports", "e") as draft:
        aged(draft.folder, 2)
        told = prune(PruneSettings(min_age_days=1), store, dry_run=True)
        assert prune(PruneSettings(min_age_days=1), store) == told.model_copy(update={"is_dry": False})
    assert sorted(told.removed) == sorted(old)
    assert told.bytes == 300
    assert Path(store, "exports", ".b.abcd_124").exists()
    assert Path(store, "exports", "e", "manifest.json").exists()


def test_nothing_is_removed_when_it_is_not_known_what_is_in_use(store: str) -> None:
    Path(store, "deployed", "digits.json").write_text("{")
    with pytest.raises(StoreError, match="not a deployed pointer"):
        prune(ALL, store)
    assert names(store, "exports") >= {"a", "b", "c", "d"}


def test_a_store_at_a_url_is_pruned_where_it_lies() -> None:
    with pytest.raises(SettingsError, match="lifecycle rules"):
        prune(ALL, "s3://bucket/prefix")


def test_the_command_says_what_goes_and_how_much(store: str) -> None:
    arguments = ("prune", "--store", store, "--set", "keep_last=0", "--set", "min_age_days=0")
    told = one_line(run(*arguments, "--dry-run", "--json").stdout)
    assert told["is_dry"]
    assert "exports/a" in told["removed"]
    shown = run(*arguments).stdout
    assert "exports/a\n" in shown
    assert f"{len(told['removed'])} removed" in shown
    assert read_deployed(store, "digits").export is not None
