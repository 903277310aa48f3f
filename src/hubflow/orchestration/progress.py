"""What follows training from outside: a bar in a terminal, a progress artifact in the Prefect UI, callbacks, cancelling."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext

from hubflow.console import Bar, progress_bar
from hubflow.orchestration.tasks import Throttle
from hubflow.training.callbacks import Callback, Step, TrainState, require_callbacks


class Watcher(Callback):
    """Shows how far training is: a bar in a terminal, a progress artifact in the Prefect UI."""

    def __init__(self, bar: Bar | None = None, best_metric: str = "loss", batch_size: int = 1, rows: int = 0) -> None:
        self._bar, self._total = bar, 1
        self._artifact: Any = None
        self._throttle = Throttle(seconds=2.0)
        self._epoch = _EpochLog(best_metric, batch_size, rows)

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        """Open the artifact, and put the bar where a resumed run stands."""
        self._total = total_steps
        if state.step:
            logging.getLogger(__name__).info("going on after step %d of %d", state.step, total_steps)
        if self._bar is not None:
            self._bar.start(state.step, total_steps)
        if TaskRunContext.get() is not None:
            self._artifact = create_progress_artifact(100.0 * state.step / total_steps, description="fine-tuning steps")
        self._epoch.begin(state, total_steps)

    def on_step_end(self, state: TrainState, step: Step) -> None:
        """Move on by one step."""
        self._epoch.step(state, step)
        if self._bar is not None:
            self._bar.advance(1, f"loss {step.loss:.4f}")
        if self._artifact is not None and self._throttle.is_due():
            self._show(state)

    def on_evaluate(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Show where the run stands."""
        self._epoch.evaluated(state, metrics)
        self._show(state)

    def on_train_end(self, state: TrainState) -> None:
        """Show that all is done, early or not."""
        self._epoch.end(state)
        self._total = state.step
        self._show(state)

    def _show(self, state: TrainState) -> None:
        if self._artifact is not None:
            update_progress_artifact(self._artifact, 100.0 * state.step / max(self._total, 1))


class _EpochLog:
    """Logs one line an epoch: mean loss, what dev gave, seconds, rows a second, and how long the rest will take."""

    def __init__(self, best_metric: str, batch_size: int, rows: int) -> None:
        self._metric, self._batch_size, self._rows = best_metric, batch_size, rows
        self._losses: list[float] = []
        self._dev = ""
        self._total, self._first, self._began, self._epoch_began, self._complete = 1, 0, 0.0, 0.0, 0

    def begin(self, state: TrainState, total_steps: int) -> None:
        """Take the time."""
        self._total, self._first, self._complete = total_steps, state.step, state.epoch
        self._began = self._epoch_began = time.monotonic()

    def step(self, state: TrainState, step: Step) -> None:
        """Count one step; an epoch that ended before it, and was not evaluated at its end, is logged now."""
        if step.epoch > self._complete + 1:
            self._log(state)
        self._losses.append(step.loss)

    def evaluated(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Remember what dev gave; at an epoch's end, log it."""
        if self._metric in metrics:
            best = "the best so far" if state.best_step == state.step else f"best {state.best_value:.4f}"
            self._dev = f", dev {self._metric} {metrics[self._metric]:.4f} ({best})"
        if state.epoch > self._complete:
            self._log(state)

    def end(self, state: TrainState) -> None:
        """Log what is left, an epoch that was not completed too."""
        if self._losses:
            self._log(state)

    def _log(self, state: TrainState) -> None:
        now = time.monotonic()
        seconds, steps = now - self._epoch_began, len(self._losses)
        left = (now - self._began) / max(1, state.step - self._first) * (self._total - state.step)
        loss, rows = sum(self._losses) / max(1, steps), steps * self._batch_size
        rows = min(rows, self._rows) if self._rows else rows  # the last batch of an epoch is what is left
        logging.getLogger(__name__).info(
            "epoch %d: loss %.4f%s, %d rows in %.1f s (%.1f rows/s), step %d of %d, about %.0f s to go",
            self._complete + 1,
            loss,
            self._dev,
            rows,
            seconds,
            rows / max(seconds, 1e-9),
            state.step,
            self._total,
            left,
        )
        self._losses, self._dev, self._epoch_began, self._complete = [], "", now, max(state.epoch, self._complete + 1)


_followers: ContextVar[tuple[Callback, ...]] = ContextVar("_followers", default=())


@contextmanager
def followed_by(*callbacks: Callback) -> Iterator[None]:
    """Have every training that is started in this block, by a task or a flow too, call these callbacks as well.

    They see it through whatever number of processes it has; they carry no state through a kill.

    Raises:
        SettingsError: when one of them would not be called as it is meant (see `require_callbacks`).
    """
    require_callbacks(callbacks)
    token = _followers.set((*_followers.get(), *callbacks))
    try:
        yield
    finally:
        _followers.reset(token)


@contextmanager
def watched(best_metric: str, batch_size: int, rows: int) -> Iterator[list[Callback]]:
    """The callbacks that every run of training has.

    Args:
        best_metric: that picks the weights.
        batch_size: rows of an update.
        rows: of an epoch.
    """
    with progress_bar("training", 1) as bar:
        yield [Watcher(bar, best_metric, batch_size, rows), *_followers.get()]


def is_followed() -> bool:
    """Whether `followed_by` has given callbacks for the training that is about to start."""
    return bool(_followers.get())


def cancel_asked() -> bool:
    """Whether the Prefect task that runs in this thread was cancelled: no signal reaches a thread of a task runner."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    events: dict[Any, threading.Event] = getattr(flow.task_runner, "_cancel_events", {}) if flow is not None else {}
    event = events.get(task.task_run.id) if task is not None else None
    return event is not None and event.is_set()


def training_answers(watchers: Sequence[Callback], callbacks: Sequence[Callback]) -> Callable[[str, dict[str, Any]], Any]:
    """What answers the calls that training in another process makes (`training_run`).

    Args:
        watchers: see the events alone.
        callbacks: have state in the run's checkpoints too.
    """
    state = TrainState()

    def answer(kind: str, message: dict[str, Any]) -> Any:
        if kind == "state_dict":
            return callbacks[message["position"]].state_dict()
        if kind == "load_state_dict":
            callbacks[message["position"]].load_state_dict(message["state"])
            return None
        vars(state).update(message["state"])
        state.steps += message["new"]["steps"]
        state.evaluations += message["new"]["evaluations"]
        method, arguments = message["method"], message["arguments"]
        if method == "on_step_end":
            arguments = [Step(**arguments[0])]
        for callback in [*watchers, *callbacks]:
            getattr(callback, method)(state, *arguments)
        return None

    return answer
