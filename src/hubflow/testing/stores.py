"""Stores for tests: one that every stage has filled, and what a test asks of a store."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from hubflow.data.quarantine import read_quarantine as _read_quarantine
from hubflow.deployment.pointer import read_deployed, verdict_reference
from hubflow.errors import HubflowError
from hubflow.schemas.deployment import NightlyResult
from hubflow.schemas.references import (
    CheckpointRef,
    DatasetRef,
    EncodedRef,
    EvaluationRef,
    ExportRef,
    ModuleRef,
    TaskRef,
    VerdictRef,
)
from hubflow.schemas.settings import EvaluateSettings, HeadSettings
from hubflow.stages import build_head, encode_dataset, evaluate, export_inference_program, fine_tune, load_module
from hubflow.store.store import Store
from hubflow.testing.fakes import fake_dataset
from hubflow.testing.modules import TinyModule


@dataclass(frozen=True)
class FilledStore:
    """A store in which every stage of a fine-tune has left its result, with the references that the stages returned.

    Attributes:
        path: folder of the store.
        tiny: the module that was trained, with its settings.
        dataset: made-up rows of two labels, as `fake_dataset` makes them.
        module: what `load_module` returned.
        encoded: what `encode_dataset` returned.
        task: what `build_head` returned.
        checkpoint: what `fine_tune` returned.
        evaluation: what `evaluate` returned.
        export: what `export_inference_program` returned.
    """

    path: str
    tiny: TinyModule
    dataset: DatasetRef
    module: ModuleRef
    encoded: EncodedRef
    task: TaskRef
    checkpoint: CheckpointRef
    evaluation: EvaluationRef
    export: ExportRef

    def copy_to(self, folder: str | Path) -> "FilledStore":
        """Copy the store; references are relative to a store, so they are the same.

        Args:
            folder: that does not exist yet.

        Returns:
            The copy.
        """
        shutil.copytree(self.path, folder)
        return replace(self, path=str(folder))


def fill_store(store: str | Path, tiny: TinyModule, task: str = "text_classification") -> FilledStore:
    """Run every stage of a fine-tune on made-up rows, as plain functions on the CPU: no Prefect server is needed.

    Args:
        store: folder, or URL, of the store.
        tiny: module and settings, from `make_tiny_text_module` or `make_tiny_image_module`.
        task: name of the task.

    Returns:
        The store and what each stage returned.

    Raises:
        HubflowError: as the stages do.
    """
    path = str(store)
    dataset = fake_dataset(path, task)
    module = load_module.fn(tiny.spec, path)
    encoded = encode_dataset.fn(dataset, module, tiny.spec, path)
    head = build_head.fn(task, module, dataset, tiny.spec, HeadSettings(), path)
    checkpoint = fine_tune.fn(head, encoded, tiny.train, path, device="cpu")
    evaluation = evaluate.fn(checkpoint, encoded, EvaluateSettings(), path, "cpu")
    export = export_inference_program.fn(checkpoint, encoded, evaluation, path)
    return FilledStore(path, tiny, dataset, module, encoded, head, checkpoint, evaluation, export)


def read_quarantine(store: str | Path, error: BaseException | str | Path) -> pd.DataFrame:
    """The rows that were quarantined before an error, or that lie in a folder of the store.

    Args:
        store: folder of the store.
        error: the error, also where Prefect or an `ExceptionGroup` has wrapped it; or a path in the store.

    Returns:
        The rows, with `row` and `checks` (what each failed) first.

    Raises:
        DataError: when no rows were quarantined before it.
    """
    if isinstance(error, BaseException):
        own = next((one for one in _chain(error) if isinstance(one, HubflowError) and one.quarantine), error)
        return _read_quarantine(own if isinstance(own, HubflowError) else HubflowError(str(own)))
    return _read_quarantine(Path(store) / error)


def assert_promoted(store: str | Path, name: str, export: ExportRef | None = None) -> ExportRef:
    """Fail unless an export is in use under a name, by a promotion.

    Args:
        store: folder, or URL, of the store.
        name: of the deployed pointer.
        export: that must be the one in use; any by default.

    Returns:
        The export in use.
    """
    deployed = read_deployed(str(store), name)
    move, verdict = deployed.move, last_verdict(store, name)
    why = f"; the last verdict is {verdict.verdict}: {verdict.reason}" if verdict else "; there is no verdict"
    assert deployed.export is not None and move is not None, f"nothing is in use as {name!r}{why}"
    assert move.action in ("promoted", "overridden"), f"{name!r}: the last change is {move.action} ({move.reason}){why}"
    assert export is None or deployed.export.sha256 == export.sha256, (
        f"in use as {name!r} is {deployed.export.path}, not {export and export.path}{why}"
    )
    return deployed.export


def assert_rejected(store: str | Path, name: str, because: str = "", result: NightlyResult | None = None) -> VerdictRef:
    """Fail unless the last verdict for a name is `rejected`, and its candidate is not in use.

    Args:
        store: folder, or URL, of the store.
        name: of the deployed pointer.
        because: a part of the verdict's reason.
        result: what the flow `nightly` returned; its verdict counts, not the last one.

    Returns:
        The verdict.
    """
    verdict = last_verdict(store, name, None if result is None else result.verdict)
    assert verdict is not None, f"there is no verdict for {name!r} in {store}"
    assert verdict.verdict == "rejected", f"the verdict for {name!r} is {verdict.verdict}: {verdict.reason}"
    assert because in verdict.reason, f"the reason is {verdict.reason!r}, without {because!r}"
    in_use = read_deployed(str(store), name).export
    assert in_use is None or in_use.sha256 != verdict.candidate.sha256, f"{in_use and in_use.path} is in use, though rejected"
    return verdict


def last_verdict(store: str | Path, name: str, path: str | None = None) -> VerdictRef | None:
    """The newest verdict for the deployed pointer of a name.

    Args:
        store: folder, or URL, of the store.
        name: of the deployed pointer.
        path: of a verdict in the store, which is taken in place of the newest.

    Returns:
        The verdict; None where there is none.
    """
    opened = Store(store)
    found = [opened.find("verdicts", key) for key in opened.names("verdicts")]
    own = [one for one in found if one is not None and one.facts["name"] == name and path in (None, one.path)]
    return verdict_reference(max(own, key=lambda one: str(one.facts["at"]))) if own else None


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = [error]
    for one in chain:
        inner = [*getattr(one, "exceptions", ()), one.__cause__, one.__context__]
        chain += [other for other in inner if other is not None and other not in chain]
    return chain
