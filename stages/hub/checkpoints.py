"""Checkpoints of a run: `last` to resume from and `best` to use, safetensors written atomically. No Paddle here."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hubflow.schemas.folders import sync

WEIGHTS = "model.safetensors"
STATE = "state.json"
Arrays = dict[str, NDArray[Any]]


class Checkpoints:
    """The folders `last` and `best` of one run, each complete or not there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("last", "best"):
            _finish(folder / name)

    @property
    def best(self) -> Path:
        """Folder of the best weights."""
        return self.folder / "best"

    def save_last(self, arrays: Arrays, state: Mapping[str, Any]) -> None:
        """Replace `last` with weights and optimizer state, and where the run stands."""
        _write(self.folder / "last", arrays, state)

    def save_best(self, weights: Arrays, state: Mapping[str, Any]) -> None:
        """Replace `best` with the weights by our names."""
        _write(self.best, weights, state)

    def load_last(self) -> tuple[Arrays, dict[str, Any]] | None:
        """What `save_last` wrote, or None when there is nothing complete."""
        folder = self.folder / "last"
        try:
            return load_file(folder / WEIGHTS), json.loads((folder / STATE).read_text(encoding="utf-8"))
        except (OSError, ValueError, SafetensorError):
            return None


def save_weights(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as safetensors; 0-d and non-contiguous ones included."""
    save_file({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}, path)
    path.chmod(0o644)


def _finish(target: Path) -> None:
    """Put the new checkpoint in place where a process was killed after it had put the old one aside."""
    new, old = _names_beside(target)
    if old.exists() and not target.exists():
        new.rename(target)


def _names_beside(target: Path) -> tuple[Path, Path]:
    return target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")


def _write(target: Path, arrays: Arrays, state: Mapping[str, Any]) -> None:
    new, old = _names_beside(target)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    save_weights(new / WEIGHTS, arrays)
    (new / STATE).write_text(json.dumps(state), encoding="utf-8")
    for path in (new / WEIGHTS, new / STATE, new):
        sync(path)
    if target.exists():
        target.rename(old)
    new.rename(target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)
