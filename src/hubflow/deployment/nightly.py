"""Whether a nightly run has anything to do, what it begins with, and how far it came."""

import datetime
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hubflow.deployment.pointer import read_deployed, unfitting
from hubflow.errors import StoreError
from hubflow.schemas.deployment import Deployed, NightlyRun
from hubflow.schemas.references import CheckpointRef, DatasetRef, ModuleRef, TaskRef, VerdictRef
from hubflow.store.store import Store, content_key

OWN_WEIGHTS = "the module's own weights"
log = logging.getLogger(__name__)


def start_nightly(
    name: str,
    dataset: DatasetRef,
    module: ModuleRef,
    store: str,
    settings: Mapping[str, Any],
    reuse: bool = True,
) -> NightlyRun:
    """What tonight is made from; a night that `is_done` has the same data, module and settings, and nothing is left to do.

    One that failed goes on from the pointer that it began with, so that every stage finds what it had made, unless somebody
    else has moved the pointer since. Its report takes the place of the one that an earlier try may have written.

    Args:
        name: of the deployed pointer.
        dataset: tonight's data.
        module: that is fine-tuned.
        store: folder, or URL, of the store.
        settings: all other settings that the outcome depends on, as JSON can hold them.
        reuse: whether a night of the same is done; False has it done again.

    Returns:
        The night: `is_done`, with its `verdict`, where there is nothing to do; `revision` is what the gate compares against.

    Raises:
        StoreError: when the record cannot be read or written.
    """
    opened = Store(store)
    fingerprint = content_key("nightly", dataset.sha256, module.sha256, settings)
    known, deployed = _read(opened, name), read_deployed(store, name)
    now = datetime.datetime.now(datetime.UTC)
    began = now if known is None else max(now, known.at + datetime.timedelta(microseconds=1))  # the clock may be set back
    if known is not None and known.fingerprint == fingerprint:
        if known.is_done and reuse:
            return known
        if not known.is_done and _is_where_it_was(known, deployed):
            return known
        if not known.is_done:
            began = known.began or began
    night = NightlyRun(fingerprint=fingerprint, revision=deployed.revision, began=began, at=began)
    _write(opened, name, night)
    return night


def finish_nightly(name: str, night: NightlyRun, verdict: VerdictRef, report: str, store: str) -> None:
    """Write down that all of a night is done, so that the next one of the same is skipped.

    Raises:
        StoreError: when the record cannot be written.
    """
    at = max(datetime.datetime.now(datetime.UTC), night.at)
    done = {"is_done": True, "verdict": verdict, "report": report, "at": at}
    _write(Store(store), name, night.model_copy(update=done))


def deployed_weights(name: str, revision: int, task: TaskRef, store: str) -> tuple[CheckpointRef | None, str]:
    """The checkpoint of the export in use, for `fine_tune` to start from.

    Args:
        name: of the deployed pointer.
        revision: of the pointer; 0: nothing was in use.
        task: head and module that are trained, which the weights must fit.
        store: folder, or URL, of the store.

    Returns:
        The checkpoint, or None for the module's own weights where there is none that fits; and in words which, and why.

    Raises:
        StoreError: when the deployed pointer cannot be read.
    """
    own, opened = OWN_WEIGHTS, Store(store)
    move = read_deployed(store, name).history[revision - 1] if revision else None
    if move is None or move.export is None:
        return None, f"{own}: nothing was in use"
    try:
        differing = unfitting(opened, move.checkpoint, task) if move.checkpoint else ["they were not kept"]
        if move.checkpoint is not None and not differing:
            opened.open(move.checkpoint)
            return move.checkpoint, f"the weights of {move.export.path}"
    except StoreError as error:
        differing = [str(error)]
    message = f"{own}, not those of {move.export.path}, which cannot be started from: {'; '.join(differing)}"
    log.warning("training begins with %s", message)
    return None, message


def _is_where_it_was(night: NightlyRun, deployed: Deployed) -> bool:
    """Whether the pointer has not moved since the night began, but by the night itself."""
    since, move = deployed.revision - night.revision, deployed.move
    if since == 0:
        return True
    own = move is not None and move.action in ("promoted", "overridden") and move.verdict is not None
    return since == 1 and own and move is not None and move.verdict is not None and move.verdict.revision == night.revision


def _read(store: Store, name: str) -> NightlyRun | None:
    content = store.read_bytes(_path(name))
    try:
        return None if content is None else NightlyRun.model_validate_json(content)
    except ValidationError as error:
        raise StoreError(f"{store.display_path(_path(name))}: no record of a nightly run ({error}); remove it") from error


def _write(store: Store, name: str, night: NightlyRun) -> None:
    store.write_bytes(_path(name), (night.model_dump_json(indent=1) + "\n").encode())


def _path(name: str) -> str:
    return f"nightly/{name}.json"
