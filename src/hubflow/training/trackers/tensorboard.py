"""A callback that passes the history of a run to TensorBoard while it trains."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hubflow.errors import HubflowError
from hubflow.store.outputs import require_in_output_root
from hubflow.training.callbacks import Callback, Step, TrainState, extra_of, new_scalars


class TensorBoardTracker(Callback):
    """Writes train/loss, train/learning_rate, train/grad_norm and dev/<metric> as TensorBoard event files.

    Each event is on disk before the next step. A resumed run begins a new event file, which tells TensorBoard to forget the
    steps after the checkpoint; what the checkpoint's history holds beyond the events written by then is written first.

    Args:
        folder: of this run; made when it is not there.

    Raises:
        HubflowError: tensorboardX is not installed, or the folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        with extra_of("tensorboard", "tensorboardX"):
            import tensorboardX  # noqa: F401  # found missing now, not after the preparations
        self.folder = require_in_output_root(Path(folder).expanduser().absolute(), "tracking.tensorboard")
        self._writer: Any = None
        self._steps = self._evaluations = 0

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        """Begin an event file and write what the folder lacks of the state's history."""
        if not any(self.folder.glob("events.out.tfevents.*")):
            self._steps = self._evaluations = 0
        missing = [entry["step"] for entry in (*state.steps[self._steps :], *state.evaluations[self._evaluations :])]
        start = int(min([*missing, state.step + 1]))
        self._steps = sum(entry["step"] < start for entry in state.steps)
        self._evaluations = sum(entry["step"] < start for entry in state.evaluations)
        self._open(start)
        self._write(state)

    def on_step_end(self, state: TrainState, step: Step) -> None:
        """Write the step if it is a logged one."""
        self._write(state)

    def on_evaluate(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Write the metrics."""
        self._write(state)

    def on_train_end(self, state: TrainState) -> None:
        """Close the event file."""
        self._write(state)
        self._writer.close()

    def state_dict(self) -> dict[str, Any]:
        """How much of the history is in which folder."""
        return {"folder": str(self.folder), "steps": self._steps, "evaluations": self._evaluations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back; into another folder all is written again."""
        if state.get("folder") == str(self.folder):
            self._steps, self._evaluations = state["steps"], state["evaluations"]

    def _open(self, first_step: int) -> None:
        from tensorboardX import RecordWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        # TensorBoard reads files in the order of their names.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(str(self.folder / name))
        # Without a version TensorBoard takes the file for one of the first kind, whose START forgets nothing.
        self._add(
            Event(wall_time=time.time(), file_version="brain.Event:2"),
            Event(wall_time=time.time(), step=first_step, session_log=SessionLog(status=SessionLog.START)),
        )

    def _write(self, state: TrainState) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        events = [
            Event(
                wall_time=time.time(),
                step=step,
                summary=Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in values.items()]),
            )
            for step, values in new_scalars(state, self._steps, self._evaluations)
        ]
        if events:
            self._add(*events)
        self._steps, self._evaluations = len(state.steps), len(state.evaluations)

    def _add(self, *events: Any) -> None:
        with self._told():
            for event in events:
                self._writer.write(event.SerializeToString())
            self._writer.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HubflowError(
                f"tracking.tensorboard: {self.folder} cannot be written ({error}); free it or choose another folder"
            ) from error
