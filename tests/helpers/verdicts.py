"""Stores with exports to promote, and verdicts about them, for the tests of what is in use."""

import datetime
import shutil
from pathlib import Path
from typing import Any

from runs import Run

from hubflow.deployment.pointer import export_reference, verdict_reference
from hubflow.schemas.references import Decision, ExportRef, VerdictRef
from hubflow.store.store import Store


def store_with_exports(run: Run, folder: Path, *keys: str) -> tuple[str, list[ExportRef]]:
    """A copy of what a run made, and its export once more under each key: the same program, another folder.

    What other tests left in the run's store stays behind.
    """
    made = (run.dataset, run.module, run.encoded, run.task, run.checkpoint, run.evaluation, run.export)
    for one in made:
        shutil.copytree(Path(run.settings.store, one.path), folder / "store" / one.path)
    store = Store(folder / "store")
    source = store.open(run.export)
    for key in keys:
        with store.create("exports", key) as draft:
            shutil.copytree(source.folder, draft.folder, ignore=shutil.ignore_patterns("manifest.json"), dirs_exist_ok=True)
            draft.facts |= {**source.facts, "fingerprints": {"data": key, "settings": key}}
    return str(store.root), [export_reference(store.load("exports", key)) for key in keys]


def verdict_on(
    store: str, candidate: ExportRef, revision: int, verdict: Decision = "promoted", name: str = "digits", **more: Any
) -> VerdictRef:
    """A verdict as the gate keeps it."""
    opened, key = Store(store), f"{Path(candidate.path).name}-{revision}-{verdict}"
    facts = {"verdict": verdict, "candidate": candidate, "name": name, "revision": revision, "reason": "it is better", **more}
    with opened.create("verdicts", key) as draft:
        (draft.folder / "verdict.json").write_text("{}")
        draft.facts |= {"at": datetime.datetime.now(datetime.UTC).isoformat(), **facts}
    return verdict_reference(opened.load("verdicts", key))
