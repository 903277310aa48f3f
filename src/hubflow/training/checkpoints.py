"""Checkpoints of a run, in sealed folders: the last ones to resume from and the best weights to use. No Paddle, no Prefect."""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hubflow.errors import StoreError
from hubflow.files import read_text
from hubflow.store.manifest import atomic_folder, remove_leftovers, seal, sync, verify_folder

WEIGHTS = "model.safetensors"
STATE = "state.json"
REMOVED = ".removed"
Arrays = dict[str, NDArray[Any]]
Kind = Literal["last", "best"]

log = logging.getLogger(__name__)


class Checkpoints:
    """The folders `last-<step>` and `best-<step>` of one run, each whole or not there; for one writing process at a time."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Open a run's folder, made if it is not there, and clear away what a killed writer left in it.

        Raises:
            StoreError: when the folder cannot be written.
        """
        self.folder, self.keep = folder, keep
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sync(folder.parent)
            if (folder / REMOVED).exists():
                shutil.rmtree(folder / REMOVED)
        except OSError as error:
            raise StoreError(f"{folder}: the folder of the run's checkpoints cannot be written ({error})") from error
        remove_leftovers(folder)

    def save(self, arrays: Arrays, state: Mapping[str, Any]) -> None:
        """Write `last-<step>`, then drop the lasts beyond `keep` and the bests that no last refers to.

        A last of a later step than this one is of a history that the run has gone back from: it is dropped too.

        Args:
            arrays: weights and optimizer state.
            state: where the run stands, JSON throughout, with the integers `step` and `best_step` (0: none yet).

        Raises:
            StoreError: when it cannot be written; the earlier checkpoints are unharmed.
        """
        text = json.dumps(state)
        self._write("last", state["step"], arrays, text)
        self._prune(state["step"])

    def save_best(self, step: int, weights: Arrays) -> None:
        """Write `best-<step>`, in the place of the one that is there when a resumed run repeats the step.

        Raises:
            StoreError: when it cannot be written; the earlier checkpoints are unharmed.
        """
        self._write("best", step, weights)

    def load(self) -> tuple[Arrays, dict[str, Any]] | None:
        """What `save` was given last, or None; a damaged checkpoint is put aside with a warning for the one before it.

        A checkpoint whose best weights are damaged counts as damaged.

        Raises:
            StoreError: when a damaged one cannot be put aside.
        """
        for step in reversed(self._steps("last")):
            try:
                return self._read(step)
            except StoreError as error:
                folder = self._folder("last", step)
                aside = self._put_aside(folder)
                fault = f"{error}; so {folder.name} is not used, but put aside as {aside.name}"
                log.warning("%s: the run goes on from the checkpoint before it, or from its start if there is none", fault)
        return None

    def best(self, step: int) -> Path:
        """Folder of the best weights, as `save_best` wrote them.

        Raises:
            StoreError: when they are missing or altered.
        """
        self._verify("best", step, {WEIGHTS})
        return self._folder("best", step)

    def _folder(self, kind: Kind, step: int) -> Path:
        return self.folder / f"{kind}-{step:08d}"

    def _steps(self, kind: Kind) -> list[int]:
        matches = (re.fullmatch(rf"{kind}-(\d{{8,}})", path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def _write(self, kind: Kind, step: int, arrays: Arrays, state: str | None = None) -> None:
        target = self._folder(kind, step)
        try:
            with atomic_folder(target) as folder:
                save_weights(folder / WEIGHTS, arrays)
                if state is not None:
                    (folder / STATE).write_text(state, encoding="utf-8")
                seal(folder, kind, {"step": step})
        except (SafetensorError, StoreError) as error:
            raise StoreError(
                f"{error}; the earlier checkpoints are unharmed: free the disk or make the folder writable, and the same run "
                "goes on from them"
            ) from error

    def _read(self, step: int) -> tuple[Arrays, dict[str, Any]]:
        folder = self._verify("last", step, {WEIGHTS, STATE})
        try:
            state: dict[str, Any] = json.loads(read_text(folder / STATE))
            best_step = state["best_step"]
            if best_step > 0:
                self.best(best_step)
            return load_file(folder / WEIGHTS), state
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise StoreError(f"{folder}: cannot be read ({error})") from error

    def _verify(self, kind: Kind, step: int, files: set[str]) -> Path:
        folder = self._folder(kind, step)
        if not folder.is_dir():
            raise StoreError(f"{folder}: no such folder")
        try:
            sealed = verify_folder(folder, remedy="")
        except OSError as error:
            raise StoreError(f"{folder}: cannot be read ({error})") from error
        found = (sealed.kind, sealed.facts.get("step"), set(sealed.files))
        if found != (kind, step, files):
            raise StoreError(f"{folder}: its manifest is not of {kind} step {step} with {sorted(files)}, but of {found}")
        return folder

    def _prune(self, newest: int) -> None:
        steps = self._steps("last")
        kept = [step for step in steps if step <= newest][-self.keep :]
        for step in set(steps).difference(kept):
            self._remove(self._folder("last", step))
        referred = {self._best_step(step) for step in kept}
        for step in set(self._steps("best")) - referred:
            self._remove(self._folder("best", step))

    def _best_step(self, step: int) -> int | None:
        """What a last says its best is; None when it is damaged, for it cannot be resumed from then."""
        try:
            best_step: int = json.loads(read_text(self._folder("last", step) / STATE))["best_step"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return best_step

    def _remove(self, folder: Path) -> None:
        """Remove a folder in one move, so that a kill leaves no half of it under its name; what fails now is done later."""
        removed = self.folder / REMOVED
        shutil.rmtree(removed, ignore_errors=True)
        try:
            folder.rename(removed)
        except OSError as error:
            log.warning("%s is no longer needed, but cannot be removed (%s)", folder, error)
        shutil.rmtree(removed, ignore_errors=True)

    def _put_aside(self, folder: Path) -> Path:
        aside = folder.with_name(f"damaged-{folder.name}")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        except OSError as error:
            raise StoreError(f"{folder} is damaged and cannot be put aside ({error}); remove it") from error
        return aside


def save_weights(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as safetensors; 0-d and non-contiguous ones included.

    Raises:
        OSError: when the file cannot be written.
    """
    path.touch()  # by the umask; safetensors puts a file in its place that its owner alone may read
    mode = path.stat().st_mode & 0o777
    try:
        save_file({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}, path)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    path.chmod(mode)
