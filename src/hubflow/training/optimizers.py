"""Optimizers by their settings, added to a static program; the learning rates are variables that the loop sets at each step."""

from collections.abc import Sequence
from typing import Any

from hubflow.runtime.paddle_import import paddle
from hubflow.schemas.training import (
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    AnyOptimizer,
    Lamb,
    Momentum,
    RmsProp,
    Sgd,
)

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
