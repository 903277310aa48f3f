"""An onlooker that passes the history of a run to MLflow while it trains. Must not import Paddle or Prefect."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from hubflow.schemas.errors import HubflowError
from hubflow.schemas.folders import jsonable
from hubflow.stages.hub.callbacks import Callback, Step, TrainState
from hubflow.stages.hub.tracked import extra_of, new_scalars

T = TypeVar("T")
_PASSWORD = re.compile(r"//[^/@\s]+@")  # what a URI may say of the user; no message and no cause of one shows it
_SETTING = re.compile(r"\w+")
# MLflow's limits of one request, and of one parameter's value.
_METRICS_AT_ONCE, _PARAMETERS_AT_ONCE, _PARAMETER_LENGTH = 1000, 100, 6000


class MlflowTracker(Callback):
    """Writes a run's parameters once and its metrics step by step to an MLflow tracking store.

    The run is FINISHED when training ends. One that is interrupted, killed or fails stays RUNNING in MLflow, since it can go
    on: resumed, it is the same MLflow run, and steps that MLflow has already are not sent twice. Killed before its first
    checkpoint, it begins a new MLflow run. MLflow's telemetry is switched off unless MLFLOW_DISABLE_TELEMETRY says otherwise.

    Args:
        uri: of the tracking store, such as sqlite:////data/mlflow.db or https://host.
        experiment: made when it is not there.
        run_name: shown by MLflow.
        parameters: nested as settings are; shown as `train.optimizer.name`.

    Raises:
        HubflowError: MLflow is not installed, or refuses what it is sent.
    """

    def __init__(self, uri: str, experiment: str, run_name: str, parameters: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
        with extra_of("mlflow", "mlflow"):
            from mlflow import MlflowClient
        self.experiment, self.run_name, self.parameters = experiment, run_name, flat(parameters)
        self.run_id: str | None = None
        self._sent: set[tuple[str, int]] = set()
        self._steps = self._evaluations = 0
        with _told():
            self._client = MlflowClient(tracking_uri=uri)

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        """Go on in the run of the checkpoint, or begin one; send what it lacks of the state's history."""
        with _told():
            self.run_id = self._resumed() or self._begun()
            keys = self._client.get_run(self.run_id).data.metrics
            self._sent = {(key, point.step) for key in keys for point in self._client.get_metric_history(self.run_id, key)}
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
        with _told():
            self._client.set_terminated(str(self.run_id), "FINISHED")

    def state_dict(self) -> dict[str, Any]:
        """Which MLflow run this is."""
        return {"run_id": self.run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.run_id = state.get("run_id")

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
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        new = [
            Metric(name, value, now, step)
            for step, values in new_scalars(state, self._steps, self._evaluations)
            for name, value in values.items()
            if (name, step) not in self._sent
        ]
        with _told():
            for some in _batches(new, _METRICS_AT_ONCE):
                self._client.log_batch(str(self.run_id), metrics=some, synchronous=True)
        self._steps, self._evaluations = len(state.steps), len(state.evaluations)


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


@contextmanager
def _told() -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise HubflowError(
            f"track.mlflow: the tracking store refused or did not answer ({_PASSWORD.sub('//', str(error))}); check its URI"
        ) from None
