"""Callbacks of training, and the history of a run as one file."""

import inspect
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from hubflow.errors import HubflowError, SettingsError, StoreError
from hubflow.schemas.parsing import close_name
from hubflow.store.outputs import Output


@dataclass(frozen=True)
class Step:
    """One update.

    Attributes:
        step: counted from 1.
        epoch: counted from 1.
        loss: what was minimised, the mean over the examples (tokens) of the update's rows.
        learning_rate: of the head; blocks below it have less of it under `layerwise_lr_decay`.
        grad_norm: global norm of the gradients before any clip.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    grad_norm: float


@dataclass
class TrainState:
    """Where a run stands: all of it goes into every checkpoint.

    Attributes:
        epoch: epochs completed.
        step: updates completed.
        position: batches of the present epoch completed.
        best_value: of the metric that picks the best weights, None before the first evaluation or without a dev split.
        best_step: after which update the best weights were found, 0 before there are any.
        best_epoch: the epoch that it was in, counted from 1.
        last_evaluated_step: after which update the weights were last evaluated.
        patience_value: the value that later ones must beat to reset `stale`.
        stale: evaluations in a row that did not beat it.
        loss_scale: factor of the loss in float16, None in other precisions.
        scaled_steps: updates since the loss scale last changed.
        steps: the logged steps, as `Step` has them.
        evaluations: the metrics of each evaluation, with its step and epoch.
    """

    epoch: int = 0
    step: int = 0
    position: int = 0
    best_value: float | None = None
    best_step: int = 0
    best_epoch: int = 0
    last_evaluated_step: int = 0
    patience_value: float | None = None
    stale: int = 0
    loss_scale: float | None = None
    scaled_steps: int = 0
    steps: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


class Callback(Protocol):
    """What follows a training. All methods do nothing unless written: subclass it and write those you need.

    The loop does not depend on what they do; an error in one ends the training, as any other error does.
    """

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        """Called before the first step of this process, resumed or not; `load_state_dict` has been called by then.

        Args:
            state: where the run stands; not to be changed.
            total_steps: number of updates of the whole run.
        """
        return

    def on_step_end(self, state: TrainState, step: Step) -> None:
        """Called after each update.

        Args:
            state: where the run stands; not to be changed.
            step: how the update went.
        """
        return

    def on_evaluate(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Called after each evaluation of the dev split.

        Args:
            state: where the run stands; not to be changed.
            metrics: value by name.
        """
        return

    def on_train_end(self, state: TrainState) -> None:
        """Called after the last step, or when the run stops early; not when it is interrupted.

        Args:
            state: where the run stands; not to be changed.
        """
        return

    def state_dict(self) -> dict[str, Any]:
        """What goes into each checkpoint.

        Returns:
            Values by name, which JSON can hold.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave when the checkpoint was written.

        Args:
            state: values by name.
        """
        return


METHODS = tuple(name for name, member in vars(Callback).items() if inspect.isfunction(member) and not name.startswith("_"))
"""What a callback may have."""
CLOSE = 0.85
"""How alike a name without `on_` must be to one of METHODS to be taken for a slip of it."""


def require_callbacks(callbacks: Sequence[Any]) -> None:
    """Refuse, before hours of training, callbacks that would not be called as they are meant, or not at all.

    Raises:
        SettingsError: naming each class that is given in place of an instance, each method that is missing, that no callback
            has, or that does not take what it is called with.
    """
    faults = [fault for callback in callbacks for fault in _faults(callback)]
    if faults:
        raise SettingsError("\n".join(faults))


def _faults(callback: Any) -> list[str]:
    if isinstance(callback, type):
        return [f"callbacks: {callback.__name__} is a class; give an instance of it, as in {callback.__name__}()"]
    name = type(callback).__name__
    own = [one for one in dir(callback) if not one.startswith("_") and one not in METHODS]
    faults = []
    for one in filter(lambda one: callable(inspect.getattr_static(callback, one, None)), own):
        is_event = _snake(one).startswith("on_")
        known = close_name(_snake(one).replace("start", "begin"), METHODS, 0 if is_event else CLOSE)
        if is_event or known is not None:
            meant = f"; did you mean {known!r}?" if known else "."
            faults.append(f"callbacks: {name}.{one} is never called{meant} A callback has {', '.join(METHODS)}")
    for one in METHODS:
        method = getattr(callback, one, None)
        if not callable(method):
            faults.append(f"callbacks: {name} has no method {one}; derive the class from Callback, which has all of them")
        elif (problem := _misfit(method, one)) is not None:
            faults.append(f"callbacks: {name}.{one}: {problem}")
    return faults


def _misfit(method: Any, name: str) -> str | None:
    """Why a method cannot be called as it will be; None where it can, or where that is unknown."""
    wanted = list(inspect.signature(getattr(Callback, name)).parameters)[1:]
    try:
        inspect.signature(method).bind(*wanted)
    except TypeError as error:
        return f"it is called with ({', '.join(wanted)}), but {error}"
    except ValueError:  # a method that is not written in Python
        return None
    return None


def _snake(name: str) -> str:
    """`onStepEnd` as `on_step_end`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm")
_PLACE = ("step", "epoch")


class HistoryFile(Callback):
    """Writes the logged steps and the evaluations of a run to one file, a row for each step that has either.

    Columns: step, epoch, loss, learning_rate, grad_norm, and dev_<metric> for each metric; empty where a step has no such
    value. The whole file is replaced each time (temp name, fsync, rename): a reader never sees half of it, and the file of a
    resumed run is that of an uninterrupted one. Follow a .csv with `tail -F`, or read it again. One file belongs to one run.

    Args:
        path: ends in .csv or .parquet; its folder is made when it is not there.
        every_seconds: the least time between two writes; evaluations and the end of training are always written.
        overwrite: replace a file that is there and that hubflow did not write.

    Raises:
        HubflowError: the ending is another one, or the file cannot be written.
        SettingsError: something is there that may not be replaced (see `hubflow.store.outputs`).
    """

    def __init__(self, path: str | Path, every_seconds: float = 10.0, overwrite: bool = False) -> None:
        self._output = Output.named(os.fspath(path), "tracking.history", overwrite, "set tracking.overwrite: true")
        self.path = self._output.path
        if self.path.suffix not in (".csv", ".parquet"):
            raise HubflowError(f"tracking.history: {path} ends neither in .csv nor in .parquet; give one of these endings")
        self._output.require_replaceable()
        self.every_seconds = every_seconds
        self._rows = 0
        self._written = 0.0

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        """Write what the state holds: rows of steps after the checkpoint, by the process before, go; they will come again."""
        self._write(state)

    def on_step_end(self, state: TrainState, step: Step) -> None:
        """Write when there is a new row and `every_seconds` have passed."""
        if len(state.steps) > self._rows and time.monotonic() - self._written >= self.every_seconds:
            self._write(state)

    def on_evaluate(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Write."""
        self._write(state)

    def on_train_end(self, state: TrainState) -> None:
        """Write."""
        self._write(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing: the checkpoint's history is all that the file is made of."""

    def _write(self, state: TrainState) -> None:
        try:
            with self._output.write() as stream:
                _write_table(rows(state), stream, self.path.suffix)
        except StoreError as error:
            raise HubflowError(f"tracking.history: {error}, or choose another file") from error
        self._rows, self._written = len(state.steps), time.monotonic()


def rows(state: TrainState) -> list[dict[str, float]]:
    """Logged steps and evaluations of `state`, merged on their step and in its order; dev metrics are named `dev_<metric>`."""
    by_step: dict[float, dict[str, float]] = {}
    for entry in state.steps:
        by_step.setdefault(entry["step"], {}).update(entry)
    for entry in state.evaluations:
        row = by_step.setdefault(entry["step"], {})
        row.update({name if name in _PLACE else f"dev_{name}": value for name, value in entry.items()})
    return [by_step[step] for step in sorted(by_step)]


def _write_table(found: list[dict[str, float]], stream: IO[bytes], suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pa_parquet

    names = dict.fromkeys([*COLUMNS, *(name for row in found for name in row)])
    columns: dict[str, Any] = {
        name: pa.array([row.get(name) for row in found], pa.int64() if name in _PLACE else pa.float64()) for name in names
    }
    table = pa.table(columns)
    if suffix == ".csv":
        pa_csv.write_csv(table, stream)
    else:
        pa_parquet.write_table(table, stream)


Scalars = list[tuple[int, dict[str, float]]]


def new_scalars(state: TrainState, steps: int, evaluations: int) -> Scalars:
    """What came after so many logged steps and evaluations, by step: train/<name> and dev/<metric>."""
    found: Scalars = []
    for group, entries in (("train", state.steps[steps:]), ("dev", state.evaluations[evaluations:])):
        for entry in entries:
            values = {f"{group}/{name}": value for name, value in entry.items() if name not in ("step", "epoch")}
            found.append((int(entry["step"]), values))
    return found


@contextmanager
def extra_of(extra: str, package: str) -> Iterator[None]:
    """Import what hubflow[`extra`] installs inside; its absence is an error that says what to install."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").split(".")[0] != package:
            raise
        raise HubflowError(f"tracking.{extra} needs {package}: pip install 'hubflow[{extra}]', or leave it out") from error
