"""A callback that passes the history of a run to MLflow while it trains."""

import json
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from hubflow.errors import HubflowError
from hubflow.schemas.library import library_settings
from hubflow.schemas.urls import local_path
from hubflow.store.manifest import jsonable
from hubflow.store.outputs import require_in_output_root
from hubflow.training.callbacks import Callback, Step, TrainState, extra_of, new_scalars

T = TypeVar("T")
log = logging.getLogger(__name__)
_PASSWORD = re.compile(r"//[^/@\s]+@")  # what a URI may say of the user; no message and no cause of one shows it
_LOCAL = re.compile(r"(sqlite|file):")
_UNANSWERED = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED")
"""Error codes of MLflow's client when a server is out of reach, or answers with a status of 500 and above, or 429."""
_PAUSE_SECONDS = 5.0
_SETTING = re.compile(r"\w+")
# MLflow's limits of one request, and of one parameter's value.
_METRICS_AT_ONCE, _PARAMETERS_AT_ONCE, _PARAMETER_LENGTH = 1000, 100, 6000


class MlflowTracker(Callback):
    """Writes a run's parameters once and its metrics step by step to an MLflow tracking store.

    The run is FINISHED when training ends. One that is interrupted, killed or fails stays RUNNING in MLflow, since it can go
    on: resumed, it is the same MLflow run, and steps that MLflow has already are not sent twice. Killed before its first
    checkpoint, it begins a new MLflow run. MLflow's telemetry is switched off unless MLFLOW_DISABLE_TELEMETRY says otherwise.

    Training waits for a server that does not answer no longer than `limits.tracking_timeout_seconds`, and goes on without it.
    A thread tries again meanwhile; once the server answers, it gets all that it lacks.

    Args:
        uri: of the tracking store, such as sqlite:////data/mlflow.db or https://host.
        experiment: made when it is not there.
        run_name: shown by MLflow.
        parameters: nested as settings are; shown as `train.optimizer.name`.

    Raises:
        HubflowError: MLflow is not installed, or refuses what it is sent, in the time that training waits for it.
    """

    def __init__(self, uri: str, experiment: str, run_name: str, parameters: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
        with extra_of("mlflow", "mlflow"):
            from mlflow import MlflowClient
        folder = local_path(uri)
        if folder is not None:
            require_in_output_root(folder, "tracking.mlflow")
        self.experiment, self.run_name, self.parameters = experiment, run_name, flat(parameters)
        self.run_id: str | None = None
        self._sent: set[tuple[str, int]] = set()
        self._steps = self._evaluations = 0
        self._connect = partial(MlflowClient, tracking_uri=uri)
        self._client: Any = None
        is_remote = "://" in uri and not _LOCAL.match(uri)
        self._calls = _Calls(library_settings().limits.tracking_timeout_seconds) if is_remote else None

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        """Go on in the run of the checkpoint, or begin one; send what it lacks of the state's history."""
        self._run(self._begin)
        self._send(state)

    def on_step_end(self, state: TrainState, step: Step) -> None:
        """Send the step if it is a logged one."""
        self._send(state)

    def on_evaluate(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Send the metrics."""
        self._send(state)

    def on_train_end(self, state: TrainState) -> None:
        """The run is FINISHED."""
        self._send(state)
        self._run(lambda: self._client.set_terminated(str(self.run_id), "FINISHED"))
        if self._calls is not None:
            self._calls.close()

    def state_dict(self) -> dict[str, Any]:
        """Which MLflow run this is."""
        return {"run_id": self.run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.run_id = state.get("run_id")

    def _begin(self) -> None:
        self._client = self._client or self._connect()
        self.run_id = self._resumed() or self._begun()
        keys = self._client.get_run(self.run_id).data.metrics
        self._sent = {(key, point.step) for key in keys for point in self._client.get_metric_history(self.run_id, key)}

    def _resumed(self) -> str | None:
        """The checkpoint's run, RUNNING again, or None when the store has none such or it was deleted."""
        from mlflow.exceptions import MlflowException

        if self.run_id is None:
            return None
        try:
            run = self._client.get_run(self.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if run.info.lifecycle_stage != "active":
            return None
        self._client.update_run(self.run_id, status="RUNNING")
        return self.run_id

    def _begun(self) -> str:
        from mlflow.entities import Param

        run_id = str(self._client.create_run(self._experiment_id(), run_name=self.run_name).info.run_id)
        for some in _batches([Param(name, value) for name, value in self.parameters.items()], _PARAMETERS_AT_ONCE):
            self._client.log_batch(run_id, params=some, synchronous=True)
        return run_id

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                return str(self._client.create_experiment(self.experiment))
            except MlflowException:  # another run may have made it since
                found = self._client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _send(self, state: TrainState) -> None:
        now = int(time.time() * 1000)
        new = [
            (name, value, now, step)
            for step, values in new_scalars(state, self._steps, self._evaluations)
            for name, value in values.items()
        ]
        self._steps, self._evaluations = len(state.steps), len(state.evaluations)
        if new:
            self._run(lambda: self._log(new))

    def _run(self, work: Callable[[], None]) -> None:
        if self._calls is not None:
            self._calls.run(work)
            return
        try:
            work()
        except Exception as error:
            raise _fault(error) from None

    def _log(self, points: Sequence[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        new = [Metric(*point) for point in points if (point[0], point[3]) not in self._sent]
        for some in _batches(new, _METRICS_AT_ONCE):
            self._client.log_batch(str(self.run_id), metrics=some, synchronous=True)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `outer.inner`: text; what is not text is JSON, so is a mapping of other names than settings have."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value and all(_SETTING.fullmatch(str(inner)) for inner in value):
            found |= flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=jsonable)
            found[f"{prefix}{name}"] = text[:_PARAMETER_LENGTH]
    return found


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


@dataclass
class _Call:
    """One thing to do, in its turn."""

    work: Callable[[], None]
    done: threading.Event = field(default_factory=threading.Event)
    error: HubflowError | None = None


def _fault(error: Exception) -> HubflowError:
    shown = _PASSWORD.sub("//", str(error))
    return HubflowError(f"tracking.mlflow: the tracking store refused or did not answer ({shown}); check its URI")


class _Calls:
    """Calls to a server of MLflow, one after the other in a thread: where it does not answer, the client tries for minutes.

    Args:
        seconds: how long `run` waits while nothing is done.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock, self._waiting = threading.Lock(), deque[_Call]()
        self._is_working = self._is_behind = self._is_over = False
        self._fault: HubflowError | None = None

    def run(self, work: Callable[[], None]) -> None:
        """Do it after all that came before, and wait for it, but not for long.

        Raises:
            HubflowError: MLflow refused it while this waited. Later, that is a warning, and MLflow gets nothing more.
        """
        if self._is_over:
            return
        call = _Call(work)
        with self._lock:
            has_caught_up = not self._waiting
            self._waiting.append(call)
            if not self._is_working:
                self._is_working = True
                threading.Thread(target=self._work, name="hubflow-mlflow", daemon=True).start()
        if self._is_behind and has_caught_up and self._fault is not None:
            self._is_over = True
            log.warning("%s; training goes on without it", self._fault)
        elif call.done.wait(self._seconds if has_caught_up or not self._is_behind else 0):
            if call.error is not None:
                raise call.error
            if self._is_behind:
                self._is_behind = False
                log.info("tracking.mlflow: the tracking server answers again, and has what it missed")
        elif not self._is_behind:
            self._is_behind = True
            log.warning(
                "tracking.mlflow: the tracking server has not answered for %g s (limits.tracking_timeout_seconds); training "
                "goes on, and the server gets what it misses when it answers",
                self._seconds,
            )

    def close(self) -> None:
        """Report what MLflow did not get."""
        if self._is_behind and not self._is_over:
            log.warning(
                "tracking.mlflow: training has ended, and the tracking server does not answer%s; its run stays RUNNING there. "
                "The history is with the checkpoint in the store",
                f" ({self._fault})" if self._fault else "",
            )
        self._is_over = True

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._is_working = False
                    return
                call = self._waiting[0]
            self._do(call)
            with self._lock:
                self._waiting.popleft()
                if call.error is not None:  # what follows rests on it
                    self._waiting.clear()
            call.done.set()

    def _do(self, call: _Call) -> None:
        """Do it, again and again while the server does not answer."""
        while True:
            try:
                call.work()
                self._fault = None
                return
            except Exception as error:
                self._fault = _fault(error)
                if self._is_over or getattr(error, "error_code", None) not in _UNANSWERED:
                    call.error = self._fault
                    return
            time.sleep(_PAUSE_SECONDS)
