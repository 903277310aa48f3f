"""What onlookers of training are told: where the run stands, each step, each evaluation. No Paddle and no Prefect here."""

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Step:
    """One update.

    Attributes:
        step: counted from 1.
        epoch: counted from 1.
        loss: what was minimised, the mean over the examples (tokens) of the update's rows.
        learning_rate: of the head; blocks below it have less of it under `layer_decay`.
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
        judged_step: after which update the weights were last judged.
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
    judged_step: int = 0
    patience_value: float | None = None
    stale: int = 0
    loss_scale: float | None = None
    scaled_steps: int = 0
    steps: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)


class Callback(Protocol):
    """An onlooker. All methods do nothing unless written: subclass it and write those you need.

    The loop does not depend on what they do; an error in one ends the training, as any other error does.
    """

    def on_train_begin(self, state: TrainState, total_steps: int) -> None:
        """Before the first step of this process, resumed or not; `state_dict` has been put back by then."""
        return

    def on_step_end(self, state: TrainState, step: Step) -> None:
        """After each update."""
        return

    def on_evaluate(self, state: TrainState, metrics: dict[str, float]) -> None:
        """After each evaluation of the dev split."""
        return

    def on_train_end(self, state: TrainState) -> None:
        """After the last step, or when the run stops early; not when it is interrupted."""
        return

    def state_dict(self) -> dict[str, Any]:
        """What goes into each checkpoint: values that JSON can hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave when the checkpoint was written."""
        return
