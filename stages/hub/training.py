"""The training loop: one function that can be read from top to bottom, and the state it can be resumed from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from hubflow.schemas.errors import HubflowError, bounded
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.settings import TrainSettings
from hubflow.stages.hub.checkpoints import Checkpoints
from hubflow.stages.hub.encoded import EncodedSplit, epoch_batches
from hubflow.stages.hub.evaluation import evaluate_split
from hubflow.stages.hub.optimizers import add_optimizer
from hubflow.stages.hub.runtime import paddle
from hubflow.stages.hub.schedules import Schedule, warmup_steps
from hubflow.stages.hub.session import Session

EVALUATION_BATCH = 64


class TrainingError(HubflowError):
    """Training cannot go on; the message names the step and the rows."""


@dataclass
class TrainState:
    """Where a run stands: all of it goes into every checkpoint."""

    epoch: int = 0
    step: int = 0
    best_value: float | None = None
    best_epoch: int = 0
    steps: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class TrainPlan:
    """What stays the same during a run."""

    settings: TrainSettings
    seed: int
    label_map: LabelMap
    best_metric: str
    train: EncodedSplit
    dev: EncodedSplit | None


class Callback(Protocol):
    """What an onlooker is told. All methods return nothing; the loop does not depend on them."""

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        """Before the first step, resumed or not."""

    def on_step_end(self, state: TrainState, loss: float, learning_rate: float) -> None:
        """After each update."""

    def on_epoch_end(self, state: TrainState, metrics: dict[str, float]) -> None:
        """After each epoch and its evaluation; `metrics` is empty without a dev split."""


def train(session: Session, plan: TrainPlan, checkpoints: Checkpoints, callbacks: Sequence[Callback] = ()) -> TrainState:
    """Fine-tune the session's task and leave the best weights in `checkpoints`.

    Interrupted, it goes on from the last complete epoch in `checkpoints`, bit for bit as if it had not been.

    Raises:
        TrainingError: at the first loss that is not finite, naming the step and the batch's rows.
    """
    settings, task = plan.settings, session.task
    learning_rate = add_optimizer(task, settings)
    session.initialise(plan.seed)
    state = TrainState()
    last = checkpoints.load_last()
    if last is not None:
        arrays, saved = last
        session.load_state(arrays)
        state = TrainState(**saved)
    by_tokens = session.spec.task == "sequence_labelling"
    steps_per_epoch = -(-len(plan.train) // settings.batch_size)
    total_steps = settings.epochs * steps_per_epoch
    warmup = warmup_steps(settings.warmup_proportion, total_steps)
    schedule = Schedule(settings.schedule, settings.learning_rate, total_steps, warmup)
    for callback in callbacks:
        callback.on_train_begin(state, total_steps)
    for epoch in range(state.epoch, settings.epochs):
        for rows in epoch_batches(plan.train.lengths, settings.batch_size, plan.seed, epoch, by_tokens):
            # Dropout and augmentation are functions of seed and step alone, so that a resumed run draws the same.
            paddle.seed(_step_seed(plan.seed, state.step))
            generator = np.random.default_rng([plan.seed, state.step])
            rate = schedule.at(state.step)
            learning_rate.set(session.scope, session.place, rate)
            (loss,) = session.run(task.main_program(), plan.train.feed(rows, generator), [task.variable("loss")])
            _require_finite(float(loss), state.step, plan.train.rows[rows])
            state.step += 1
            if state.step % settings.log_every_steps == 0 or state.step == 1:
                state.steps.append({"step": state.step, "epoch": epoch + 1, "loss": float(loss), "learning_rate": rate})
            for callback in callbacks:
                callback.on_step_end(state, float(loss), rate)
        state.epoch = epoch + 1
        metrics = _judge(session, plan)
        if metrics:
            state.evaluations.append({"epoch": state.epoch, "step": state.step, **metrics})
        if _is_better(plan.best_metric, metrics, state.best_value):
            state.best_value, state.best_epoch = metrics.get(plan.best_metric), state.epoch
            checkpoints.save_best(session.weights(), asdict(state))
        checkpoints.save_last(session.state(), asdict(state))
        for callback in callbacks:
            callback.on_epoch_end(state, metrics)
    return state


def _judge(session: Session, plan: TrainPlan) -> dict[str, float]:
    if plan.dev is None:
        return {}
    return evaluate_split(session, plan.dev, plan.label_map, EVALUATION_BATCH).metrics


def _is_better(name: str, metrics: dict[str, float], best: float | None) -> bool:
    """Whether these weights become the best; without a dev split the last ones are."""
    if not metrics:
        return True
    if name not in metrics:
        raise TrainingError(f"best_metric {name!r} is not measured; measured: {', '.join(metrics)}")
    if best is None:
        return True
    return metrics[name] < best if name == "loss" else metrics[name] > best


def _require_finite(loss: float, step: int, rows: Any) -> None:
    if not np.isfinite(loss):
        raise TrainingError(
            f"the loss of step {step + 1} is {loss}; rows of its batch: {bounded(rows.tolist())}. "
            "Lower train.learning_rate, or look at those rows"
        )


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint32)[0])
