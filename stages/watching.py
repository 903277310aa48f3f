"""Watching a run of training: a bar in a terminal, a progress artifact in the Prefect UI, and whether to stop."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import asdict
from typing import Any, TypeVar

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext, TaskRunContext

from hubflow.stages.console import Bar, progress_bar
from hubflow.stages.hub.callbacks import Callback, Step, TrainState
from hubflow.stages.tasks import Throttle

R = TypeVar("R")


class Watcher(Callback):
    """Shows how far training is: a bar in a terminal, a progress artifact in the Prefect UI."""

    def __init__(self, bar: Bar | None = None) -> None:
        self._bar, self._total = bar, 1
        self._artifact: Any = None
        self._throttle = Throttle(seconds=2.0)

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        """Open the artifact, and put the bar where a resumed run stands."""
        self._total = total_steps
        if state.step:
            logging.getLogger(__name__).info("going on after step %d of %d", state.step, total_steps)
        if self._bar is not None:
            self._bar.start(state.step, total_steps)
        if TaskRunContext.get() is not None:
            self._artifact = create_progress_artifact(100.0 * state.step / total_steps, description="fine-tuning steps")

    def on_step_end(self, state: TrainState, step: Step) -> None:
        """Move on by one step."""
        if self._bar is not None:
            self._bar.advance(1, f"loss {step.loss:.4f}")
        if self._artifact is not None and self._throttle.is_due():
            self._show(state)

    def on_evaluate(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Show where the run stands."""
        self._show(state)

    def on_train_end(self, state: TrainState) -> None:
        """Show that all is done, early or not."""
        self._total = state.step
        self._show(state)

    def _show(self, state: TrainState) -> None:
        if self._artifact is not None:
            update_progress_artifact(self._artifact, 100.0 * state.step / max(self._total, 1))


_followers: ContextVar[tuple[Callback, ...]] = ContextVar("_followers", default=())


@contextmanager
def followed_by(*callbacks: Callback) -> Iterator[None]:
    """Have every training that is started in this block, by a task or a flow too, tell these onlookers as well.

    They see it through whatever number of processes it has; they carry no state through a kill.
    """
    token = _followers.set((*_followers.get(), *callbacks))
    try:
        yield
    finally:
        _followers.reset(token)


@contextmanager
def watched() -> Iterator[list[Callback]]:
    """The onlookers that every run of training has."""
    with progress_bar("training", 1) as bar:
        yield [Watcher(bar), *_followers.get()]


def cancel_asked() -> bool:
    """Whether the Prefect task that runs in this thread was cancelled: no signal reaches a thread of a task runner."""
    flow, task = FlowRunContext.get(), TaskRunContext.get()
    events: dict[Any, threading.Event] = getattr(flow.task_runner, "_cancel_events", {}) if flow is not None else {}
    event = events.get(task.task_run.id) if task is not None else None
    return event is not None and event.is_set()


def stoppable(work: Callable[[Callable[[], bool]], R]) -> R:
    """Do work that asks now and then whether to stop, so that Prefect's cancellation lets it finish what it is at.

    In the main thread of a Prefect run the work is done in a thread of its own. A handler of SIGTERM in the place of
    Prefect's would do without, but a runner takes a run as cancelled, not as crashed, only while Prefect's own is in place.

    Args:
        work: is given what to ask.

    Raises:
        BaseException: whatever the work raises, or what asked it to stop, when it has; the second time, at once.
    """
    is_engines = FlowRunContext.get() is not None or TaskRunContext.get() is not None
    if not is_engines or threading.current_thread() is not threading.main_thread():
        return work(cancel_asked)
    stop, done = threading.Event(), Future[R]()

    def run() -> None:
        try:
            done.set_result(work(stop.is_set))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), name="hubflow-training", daemon=True).start()
    try:
        return done.result()
    except BaseException:
        stop.set()
        done.exception()  # waits
        raise


class Emitter(Callback):
    """Sends what happens as events, from the process that trains to the one that watches."""

    def __init__(self, emit: Callable[[dict[str, Any]], None]) -> None:
        self._emit = emit

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        """Say where the run stands."""
        self._emit({"event": "begin", "step": state.step, "total_steps": total_steps})

    def on_step_end(self, state: TrainState, step: Step) -> None:
        """Say how the step went."""
        self._emit({"event": "step", **asdict(step)})

    def on_evaluate(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Say what dev gave."""
        self._emit({"event": "evaluate", "step": state.step, "metrics": metrics})

    def on_train_end(self, state: TrainState) -> None:
        """Say that all is done."""
        self._emit({"event": "end", "step": state.step})


class Replay:
    """Tells onlookers in this process what the events of another say."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks, self._state = callbacks, TrainState()

    def __call__(self, event: dict[str, Any]) -> None:
        """Take one event of an `Emitter`."""
        kind = event["event"]
        self._state.step = event["step"]
        if kind == "evaluate":
            self._state.evaluations.append({"step": event["step"], **event["metrics"]})
        for callback in self._callbacks:
            if kind == "begin":
                callback.on_train_begin(self._state, event["total_steps"])
            elif kind == "step":
                callback.on_step_end(self._state, Step(**{name: event[name] for name in Step.__dataclass_fields__}))
            elif kind == "evaluate":
                callback.on_evaluate(self._state, event["metrics"])
            elif kind == "end":
                callback.on_train_end(self._state)
