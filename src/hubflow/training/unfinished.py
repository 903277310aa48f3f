"""Runs of training that were stopped: where they are kept, and how another one differs from them. Must not import Paddle."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubflow.errors import ResumeError, SettingsError
from hubflow.files import read_text
from hubflow.training.resuming import MAX_DIFFERENCES, differences

REQUEST = "run.json"
log = logging.getLogger(__name__)


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder holds something to go on from."""
    return any(folder.glob("last-*"))


def require_or_tell(folder: Path, request: Mapping[str, Any], is_required: bool) -> None:
    """Say what the nearest unfinished run differs in, where this one has nothing to go on from; refuse if it must have.

    Raises:
        ResumeError: when a checkpoint is required and there is none of this run.
    """
    if has_checkpoint(folder):
        return
    nearest = min(
        ((differences(known, request), other) for other, known in _requests(folder.parent, folder)),
        key=lambda found: len(found[0]),
        default=None,
    )
    if nearest is None:
        if is_required:
            raise ResumeError(f"train.checkpoints.resume is `required`, but no stopped run is kept in {folder.parent}")
        return
    listed = "\n".join(f"  - {line}" for line in nearest[0][:MAX_DIFFERENCES])
    if is_required:
        raise ResumeError(
            f"train.checkpoints.resume is `required`, but the nearest stopped run, {nearest[1]}, differs in "
            f"{len(nearest[0])} value(s)\n{listed}"
        )
    log.warning("a stopped run in %s is left alone; it differs in %d value(s):\n%s", nearest[1], len(nearest[0]), listed)


def _requests(training: Path, but: Path) -> list[tuple[Path, Any]]:
    found = []
    for path in sorted(training.glob(f"*/{REQUEST}")):
        if path.parent != but and has_checkpoint(path.parent):
            try:
                found.append((path.parent, json.loads(read_text(path))))
            except (OSError, ValueError) as error:
                raise SettingsError(f"{path}: not readable ({error}); remove {path.parent} if the run is not needed") from error
    return found
