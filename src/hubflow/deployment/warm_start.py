"""Which checkpoint a fine-tune can begin with in place of the module's own weights. Must not import Paddle."""

import hashlib
from typing import Any

from hubflow.errors import SettingsError
from hubflow.schemas.references import CheckpointRef, TaskRef
from hubflow.store.manifest import MANIFEST
from hubflow.store.store import Store
from hubflow.training.resuming import differences

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
