"""What a checkpoint knows beside the weights, and whether a run may go on from it. Must not import Paddle."""

import logging
import platform
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from hubflow.errors import ResumeError, join_limited
from hubflow.runtime.cores import compute_cores
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
