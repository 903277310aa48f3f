"""Optimizers and learning-rate schedules by their settings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hubflow.runtime.paddle_import import paddle
from hubflow.schemas.training import (
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    AnyOptimizer,
    AnySchedule,
    Constant,
    Cosine,
    Lamb,
    Linear,
    Momentum,
    Noam,
    Polynomial,
    RmsProp,
    Sgd,
    SlantedTriangular,
    TrainSettings,
)


@dataclass(frozen=True)
class Schedule:
    """A warm-up to `peak`, then the decay `kind` over the remaining steps, without a jump between the two.

    Attributes:
        kind: the decay and its arguments.
        peak: highest rate.
        total_steps: updates of the whole run.
        warmup_steps: updates before the one that has the peak.
    """

    kind: AnySchedule
    peak: float
    total_steps: int
    warmup_steps: int

    def at(self, step: int) -> float:
        """Learning rate of the update number `step`, counted from 0.

        Warm-up of w steps gives `peak * (step + 1) / (w + 1)`: the first update already learns, and step w has the peak. The
        slanted triangle's starts at `peak / ratio` instead.
        """
        if step < self.warmup_steps:
            return self.peak * self._warmup(step)
        return self.peak * self._decay(step)

    def _warmup(self, step: int) -> float:
        if isinstance(self.kind, SlantedTriangular):
            return _slanted(step / self.warmup_steps, self.kind.ratio)
        return (step + 1) / (self.warmup_steps + 1)

    def _decay(self, step: int) -> float:
        kind = self.kind
        left = 1.0 - min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        match kind:
            case Constant():
                return 1.0
            case Linear():
                return left
            case Cosine():
                return 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
            case Polynomial():
                return float(kind.end_factor + (1.0 - kind.end_factor) * left**kind.power)
            case Noam():
                return math.sqrt((self.warmup_steps + 1) / (step + 1))
            case SlantedTriangular():
                return _slanted(left, kind.ratio)


def _slanted(share: float, ratio: float) -> float:
    return (1.0 + share * (ratio - 1.0)) / ratio


def schedule_of(settings: TrainSettings, total_steps: int) -> Schedule:
    """The schedule that the settings describe, for a run of `total_steps` updates."""
    given = settings.warmup_steps
    warmup = warmup_steps(settings.warmup_proportion, total_steps) if given is None else min(given, total_steps - 1)
    return Schedule(settings.schedule, settings.learning_rate, total_steps, warmup)


def warmup_steps(proportion: float, total_steps: int) -> int:
    """Steps of warm-up for a share of all steps, at least one when the share is above zero and there is room."""
    return 0 if proportion == 0 else min(total_steps - 1, max(1, round(proportion * total_steps)))


CLASSES = {
    Sgd: "SGD",
    Momentum: "Momentum",
    Adam: "Adam",
    AdamW: "AdamW",
    Adamax: "Adamax",
    Adagrad: "Adagrad",
    RmsProp: "RMSProp",
    Lamb: "Lamb",
}
NO_DECAY = 1e-30
PADDLE_NAMES = {"nesterov": "use_nesterov"}
Gradients = Sequence[tuple[Any, Any]]
"""Parameter and its gradient, both variables of the current program."""


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to a parameter: norms and biases are left out."""
    group, _, part = name.rpartition(".")
    is_norm = group.endswith("norm") or "batch_norm" in name or "layer_norm" in name
    # w_0: Paddle's own layers, of which image backbones are made
    return part in ("weight", "w_0", "lora_a", "lora_b") and not is_norm


def apply(settings: AnyOptimizer, weight_decay: float, rate: float, gradients: Gradients) -> str:
    """Add the updates of one group of parameters to the current program, their state to the current startup program.

    Args:
        settings: the optimizer and its arguments.
        weight_decay: decoupled, on the parameters of `is_decayed`: they shrink by `learning rate * weight_decay` a step, as in
            AdamW (arXiv:1711.05101); in LAMB it is part of the update that the trust ratio scales (arXiv:1904.00962). As in its
            authors' code, the trust ratio is for the same parameters alone, with decay or without.
        rate: the learning rate to begin with.
        gradients: of the group.

    Returns:
        Name of the variable that holds the group's learning rate.
    """
    parameters = [parameter for parameter, _ in gradients]
    optimizer = _make(settings, weight_decay, {"learning_rate": rate, "parameters": parameters})
    optimizer._create_global_learning_rate()
    variable = optimizer._global_learning_rate(paddle.static.default_main_program())
    if weight_decay and not isinstance(settings, AdamW | Lamb):
        for parameter in parameters:
            if is_decayed(parameter.name):
                paddle.assign(parameter * (1.0 - variable * weight_decay), output=parameter)
    optimizer.apply_gradients(list(gradients))
    return str(variable.name)


def _make(settings: AnyOptimizer, weight_decay: float, common: dict[str, Any]) -> Any:
    kind = getattr(paddle.optimizer, CLASSES[type(settings)])
    arguments = {PADDLE_NAMES.get(name, name): value for name, value in settings.model_dump(exclude={"name"}).items()}
    if isinstance(settings, AdamW):
        arguments |= {"weight_decay": weight_decay, "apply_decay_param_fun": is_decayed}
    if isinstance(settings, Lamb):
        # Without any decay Paddle leaves the trust ratio out, so that LAMB would be Adam; so little decays nothing.
        arguments |= {
            "lamb_weight_decay": weight_decay or NO_DECAY,
            "exclude_from_weight_decay_fn": lambda one: not is_decayed(one.name),
        }
    return kind(**arguments, **common)
