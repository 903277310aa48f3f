"""The deployed pointer: which export is in use under a name, how it is moved, and how exports are looked up."""

import datetime
import getpass
import hashlib
import logging
import re
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from hubflow.errors import PromotionError, SettingsError, StoreError
from hubflow.schemas.deployment import VERDICT, Action, Deployed, PointerChange, Verdict
from hubflow.schemas.references import DEPLOYED_NAME, CheckpointRef, ExportRef, TaskRef, VerdictRef
from hubflow.schemas.urls import absolute_address, is_url
from hubflow.store.manifest import MANIFEST
from hubflow.store.store import Artifact, Store, split_address
from hubflow.training.checkpoints import differences

_SHAPING = ("task", "label_map_sha256", "num_classes", "hidden_units", "lora", "module")


def unfitting(store: Store, checkpoint: CheckpointRef, task: TaskRef) -> list[str]:
    """A line for each thing in which a checkpoint's task differs from `task`, so that its weights do not fit; none if they do.

    Weights fit the same head on the same module with the same labels. What is trained of them, and dropout, may differ.

    Raises:
        StoreError: when a task's folder is missing or altered.
    """
    then, now = (_shape(store, one) for one in (checkpoint.task, task))
    return differences(then, now)


def require_fitting(store: Store, checkpoint: CheckpointRef, task: TaskRef) -> None:
    """Refuse to begin with weights of another task.

    Raises:
        SettingsError: listing what differs.
    """
    differing = unfitting(store, checkpoint, task)
    if differing:
        listed = "\n".join(f"  - {line}" for line in differing)
        raise SettingsError(
            f"warm_start: the weights of {checkpoint.path} do not fit this task; {len(differing)} value(s) differ\n{listed}\n"
            "Begin with the module's own weights, or with a checkpoint of the same labels, head and module"
        )


def find_checkpoint(store: Store, sha256: str) -> CheckpointRef | None:
    """The intact checkpoint of the store whose manifest has this hash, as an export remembers it; None when it is gone."""
    for key in store.names("checkpoints"):
        manifest = store.read_bytes(f"checkpoints/{key}/{MANIFEST}")
        if manifest is None or hashlib.sha256(manifest).hexdigest() != sha256:
            continue
        found = store.find("checkpoints", key)
        if found is None:
            return None
        names = ("task", "best_metric", "best_value", "best_epoch", "steps")
        return CheckpointRef(path=found.path, sha256=found.sha256, **{name: found.facts[name] for name in names})
    return None


def _shape(store: Store, task: TaskRef) -> dict[str, Any]:
    facts = store.open(task).facts
    lora = facts["lora"] and {name: facts["lora"][name] for name in ("rank", "targets")}
    module = {name: facts["module"][name] for name in ("architecture", "pretrained", "sha256")}
    return {**{name: facts[name] for name in _SHAPING}, "lora": lora, "module": module}


FOLDER = "deployed"
log = logging.getLogger(__name__)


def read_deployed(store: str, name: str) -> Deployed:
    """The pointer of `name`, `deployed/<name>.json` of the store; without moves when nothing was ever in use.

    Raises:
        PromotionError: for a name that cannot be one.
        StoreError: when the file cannot be read or is none of a pointer.
    """
    return _read(Store(store), name)[0]


def deployed_names(store: str) -> list[str]:
    """Names that something is, or was, in use under."""
    return [name.removesuffix(".json") for name in Store(store).names(FOLDER) if name.endswith(".json")]


def promote_candidate(verdict: VerdictRef, store: str, by: str | None = None, registry_block: str | None = None) -> Deployed:
    """Put a candidate in use that the gate let pass, if the pointer is still where it was when the candidate was evaluated.

    One that is in use already stays so. Of several promotions at once one wins; the others get a PromotionError.

    Args:
        verdict: the gate's, whose candidate and name count.
        store: the store's root folder.
        by: who promotes; the user of this process by default.
        registry_block: of the registry whose alias follows the pointer from then on; the one that it has by default.

    Raises:
        PromotionError: when the verdict is another than `promoted`, or the pointer has moved since.
        StoreError: when candidate or verdict are missing or altered, or the pointer cannot be written.
    """
    opened = Store(store)
    opened.open(verdict)
    deployed, content = _read(opened, verdict.name)
    registered = deployed.model_copy(update={"registry_block": registry_block or deployed.registry_block})
    if deployed.export == verdict.candidate:
        return deployed if registered == deployed else _write(opened, registered, content)
    if verdict.verdict != "promoted":
        raise PromotionError(
            f"{verdict.candidate.path} is not put in use as {verdict.name!r}: the gate's verdict is {verdict.verdict} "
            f"({verdict.reason}); a person can decide otherwise: `hubflow promote EXPORT --override --reason …`"
        )
    if deployed.revision != verdict.revision:
        raise _lost(deployed, verdict.candidate, f"the verdict is against revision {verdict.revision}")
    return _move(opened, registered, content, "promoted", verdict.candidate, by, verdict.reason, verdict)


def override(
    export: ExportRef,
    name: str,
    store: str,
    reason: str,
    by: str | None = None,
    verdict: VerdictRef | None = None,
    against: int | None = None,
    registry_block: str | None = None,
) -> Deployed:
    """Put an export in use because a person says so, against the gate's verdict or without one; who and why is recorded.

    Args:
        export: to put in use.
        name: of the deployed pointer.
        store: the store's root folder.
        reason: why; it is kept in the history.
        by: who decides; the user of this process by default.
        verdict: of the gate, where there is one.
        against: revision of the pointer that the person has seen; whatever it is now by default.
        registry_block: of the registry whose alias follows the pointer from then on; the one that it has by default.

    Raises:
        PromotionError: without a reason, or when the pointer has moved since `against`, or moves in the same moment.
        StoreError: when the export is missing or altered, or the pointer cannot be written.
    """
    _require_reason(reason)
    opened = Store(store)
    deployed, content = _read(opened, name)
    if against is not None and deployed.revision != against:
        raise _lost(deployed, export, f"the decision is about revision {against}")
    if registry_block is not None:
        deployed = deployed.model_copy(update={"registry_block": registry_block})
    return _move(opened, deployed, content, "overridden", export, by, reason, verdict)


def roll_back(name: str, store: str, reason: str, by: str | None = None) -> Deployed:
    """Put in use again what was in use before; the step before that one is next.

    Raises:
        PromotionError: without a reason, when there is nothing to go back to, or the pointer moves in the same moment.
        StoreError: when what was in use before is missing or altered, or the pointer cannot be written.
    """
    _require_reason(reason)
    opened = Store(store)
    deployed, content = _read(opened, name)
    target = deployed.predecessor
    if target is None or target.export is None:
        raise PromotionError(f"{name!r}: nothing was in use before {deployed.export and deployed.export.path}; promote another")
    return _move(opened, deployed, content, "rolled_back", target.export, by, reason, target.verdict, target.before)


def undo(verdict: VerdictRef, store: str, reason: str) -> Deployed:
    """Take back the promotion by `verdict`, unless the pointer has moved since: then it stays, and a warning says so.

    Raises:
        StoreError: when the pointer cannot be read or written.
    """
    opened = Store(store)
    deployed, content = _read(opened, verdict.name)
    move = deployed.move
    if move is None or move.verdict != verdict or move.action != "promoted":
        log.warning("%s: the promotion is not taken back: the pointer has moved since", verdict.name)
        return deployed
    target = deployed.predecessor
    if target is None:
        return _move(opened, deployed, content, "undone", None, None, reason, before=0)
    return _move(opened, deployed, content, "undone", target.export, None, reason, target.verdict, target.before)


def _move(
    store: Store,
    deployed: Deployed,
    content: bytes | None,
    action: Action,
    export: ExportRef | None,
    by: str | None,
    reason: str,
    verdict: VerdictRef | None = None,
    before: int | None = None,
) -> Deployed:
    checkpoint = None
    if export is not None:
        remembered = store.open(export).facts.get("checkpoint")
        checkpoint = find_checkpoint(store, remembered) if remembered else None
    move = PointerChange(
        revision=deployed.revision + 1,
        action=action,
        export=export,
        checkpoint=checkpoint,
        verdict=verdict,
        before=deployed.revision if before is None else before,
        at=datetime.datetime.now(datetime.UTC),
        by=by or user(),
        reason=reason,
    )
    moved = Deployed(name=deployed.name, history=(*deployed.history, move), registry_block=deployed.registry_block)
    return _write(store, moved, content)


def _write(store: Store, deployed: Deployed, content: bytes | None) -> Deployed:
    """Write the pointer, unless it is no longer what `content` says."""
    if not store.compare_and_swap(_path(deployed.name), content, (deployed.model_dump_json(indent=1) + "\n").encode()):
        now = _read(store, deployed.name)[0]
        raise _lost(now, deployed.export, "another run has moved the pointer since it was read")
    return deployed


def _read(store: Store, name: str) -> tuple[Deployed, bytes | None]:
    content = store.read_bytes(_path(name))
    if content is None:
        return Deployed(name=name), None
    try:
        return Deployed.model_validate_json(content), content
    except ValidationError as error:
        raise StoreError(
            f"{store.display_path(_path(name))}: not a deployed pointer ({error.errors()[0]['msg']}); put back a copy of it, "
            "or remove it and promote with --override"
        ) from error


def _path(name: str) -> str:
    if not re.match(DEPLOYED_NAME, name):
        raise PromotionError(f"{name!r} cannot be the name of something in use; use letters, digits, '.', '_' and '-'")
    return f"{FOLDER}/{name}.json"


def _lost(deployed: Deployed, export: ExportRef | None, cause: str) -> PromotionError:
    move = deployed.move
    winner = f"{move.export.path if move.export else 'nothing'} ({move.action} by {move.by})" if move else "nothing"
    return PromotionError(
        f"{export.path if export else 'nothing'} is not put in use as {deployed.name!r}: {cause}, and the pointer is at "
        f"revision {deployed.revision}, {winner}; evaluate the candidate against that"
    )


def _require_reason(reason: str) -> None:
    if not reason.strip():
        raise PromotionError("a reason is needed: it is kept in the history")


def user() -> str:
    """Who runs this process, as far as the system tells."""
    with suppress(OSError, KeyError):
        return getpass.getuser()
    return "unknown"


EXPORTS, VERDICTS = "exports", "verdicts"


def export_of(export: str, store: str | None = None) -> tuple[str, ExportRef]:
    """The store that an exported folder lies in, and its reference.

    Args:
        export: `<store>/exports/<key>`, `exports/<key>`, or the key alone where `store` is given.
        store: the store; that of the path when None.

    Raises:
        StoreError: when there is no such export, or it is altered.
    """
    root = store
    if is_url(export):
        root, kind, key = split_address(export)
        if kind != EXPORTS:
            raise StoreError(f"{export}: not an export of a store; expected <store>/{EXPORTS}/KEY")
    elif store is None:
        *above, kind, key = absolute_address(export).split("/")
        root = "/".join(above)
        if kind != EXPORTS or not root:
            raise StoreError(f"{export}: not an export of a store; expected <store>/{EXPORTS}/KEY, or KEY with --store")
    else:
        key = export.rstrip("/").rpartition("/")[2]
    assert root is not None
    found = Store(root).find(EXPORTS, key)
    if found is None:
        raise StoreError(f"{export}: the store {root} has no intact export {key!r}; see its folder {EXPORTS}")
    return root, export_reference(found)


def export_reference(found: Artifact) -> ExportRef:
    """Reference to an export from what its manifest says."""
    names = ("task", "num_classes", "label_map_sha256", "metrics")
    return ExportRef(path=found.path, sha256=found.sha256, **{name: found.facts[name] for name in names})


def latest_verdict(store: str, export: ExportRef, name: str) -> VerdictRef | None:
    """The gate's latest verdict about an export for the pointer `name`, or None."""
    opened = Store(store)
    newest: tuple[str, VerdictRef] | None = None
    for key in opened.names(VERDICTS):
        found = opened.find(VERDICTS, key)
        if found is None or found.facts["candidate"]["sha256"] != export.sha256 or found.facts["name"] != name:
            continue
        if newest is None or found.facts["at"] > newest[0]:
            newest = (found.facts["at"], verdict_reference(found))
    return newest and newest[1]


def verdict_reference(found: Artifact) -> VerdictRef:
    """Reference to a verdict from what its manifest says."""
    names = ("verdict", "candidate", "name", "revision", "reason")
    return VerdictRef(path=found.path, sha256=found.sha256, **{name: found.facts[name] for name in names})


def read_verdict(store: Store, verdict: VerdictRef) -> Verdict:
    """All that a verdict says.

    Raises:
        StoreError: when it is missing, altered or no verdict.
    """
    artifact = store.open(verdict)
    try:
        return Verdict.model_validate_json(artifact.sealed.read(VERDICT))
    except ValidationError as error:
        raise StoreError(f"{artifact.folder / VERDICT}: no readable verdict ({error}); evaluate the candidate again") from error
