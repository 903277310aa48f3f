"""The history of a run as one .csv or .parquet file, kept up to date while training runs. No Paddle and no Prefect here."""

import os
import time
from pathlib import Path
from typing import IO, Any

from hubflow.errors import HubflowError, StoreError
from hubflow.store.outputs import Output
from hubflow.training.callbacks import Callback, Step, TrainState

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
