"""Checkpoints of a run: the last ones to resume from, the best weights to use, and runs that were stopped."""

import json
import logging
import os
import platform
import random
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hubflow.errors import ResumeError, SettingsError, StoreError, join_limited
from hubflow.files import read_text
from hubflow.runtime.threads import compute_cores
from hubflow.store.manifest import atomic_folder, remove_leftovers, seal, sync, verify_folder
from hubflow.training.callbacks import Callback, TrainState

MAX_DIFFERENCES = 20
log = logging.getLogger(__name__)


def environment() -> dict[str, str]:
    """What the bits of a run depend on beside its settings, and a restart may change."""
    return {"cores": str(compute_cores()), **{name: version(name) for name in ("paddlepaddle", "numpy")}}


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    packages = ("hubflow", "paddlepaddle", "numpy", "tokenizers", "pillow", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def seed_everything(seed: int) -> None:
    """Seed Python's and numpy's global generators, for callbacks that draw; the training itself draws from none of them."""
    random.seed(seed)
    np.random.seed(seed)


def pack(state: TrainState, request: Mapping[str, Any], callbacks: Sequence[Callback]) -> dict[str, Any]:
    """All that a checkpoint holds beside arrays, as JSON can hold it.

    Row order is a function of seed and epoch, dropout and augmentation of seed and step, so that no state of a generator of
    Paddle's is needed; those of Python and numpy are kept for what callbacks draw.
    """
    numpy_state = np.random.get_state(legacy=False)
    inner = {**numpy_state["state"], "key": numpy_state["state"]["key"].tolist()}
    return {
        "step": state.step,
        "best_step": state.best_step,
        "state": asdict(state),
        "request": dict(request),
        "environment": environment(),
        "random": {"python": random.getstate(), "numpy": {**numpy_state, "state": inner}},
        "callbacks": [{"kind": _kind(callback), "state": callback.state_dict()} for callback in callbacks],
    }


def restore(kept: Mapping[str, Any], request: Mapping[str, Any], callbacks: Sequence[Callback], where: str) -> TrainState:
    """Put back what `pack` gave: generators, the callbacks' state by their kind, and the run's.

    Raises:
        ResumeError: when the run was asked for with other data or settings, listing what differs.
    """
    differing = differences(kept["request"], request)
    if differing:
        listed = "\n".join(f"  - {line}" for line in differing[:MAX_DIFFERENCES])
        raise ResumeError(
            f"{where}: the checkpoint is of another run; {len(differing)} value(s) differ\n{listed}\n"
            "Go on with the settings and data of then, or start anew with `reuse: false`"
        )
    changed = differences(kept["environment"], environment())
    if changed:
        log.warning("%s: the same bits as without the interruption cannot be promised: %s", where, "; ".join(changed))
    waiting = [dict(known) for known in kept["callbacks"] if known["state"]]
    for callback in callbacks:
        known = next((one for one in waiting if one["kind"] == _kind(callback)), None)
        if known is not None:
            waiting.remove(known)
            callback.load_state_dict(known["state"])
    if waiting:
        kinds = join_limited(one["kind"] for one in waiting)
        log.warning("%s: the checkpoint holds the state of callbacks that are not here: %s", where, kinds)
    version, internal, gauss = kept["random"]["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = kept["random"]["numpy"]
    inner = {**numpy_state["state"], "key": np.array(numpy_state["state"]["key"], np.uint32)}
    np.random.set_state({**numpy_state, "state": inner})
    return TrainState(**kept["state"])


def differences(then: Any, now: Any, name: str = "", kept: str = "the checkpoint") -> list[str]:
    """A line for each value that differs between two nested mappings."""
    known, asked = dict(_flat(then, name)), dict(_flat(now, name))
    absent = object()
    lines = []
    for key in dict.fromkeys([*known, *asked]):
        before, after = known.get(key, absent), asked.get(key, absent)
        if before != after:
            shown = ["not set" if value is absent else repr(value) for value in (before, after)]
            lines.append(f"{key}: {shown[0]} in {kept}, {shown[1]} now")
    return lines


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, list(value) if isinstance(value, tuple) else value


def _kind(callback: Callback) -> str:
    return type(callback).__qualname__


WEIGHTS = "model.safetensors"
STATE = "state.json"
REMOVED = ".removed"
Arrays = dict[str, NDArray[Any]]
Kind = Literal["last", "best"]


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


REQUEST = "run.json"


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
