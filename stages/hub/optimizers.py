"""Optimizers by name, added to a task's main program; the learning rate is a variable that the loop sets at each step."""

from typing import Any, get_args

import numpy as np

from hubflow.schemas.settings import TrainSettings
from hubflow.stages.hub.errors import TaskError
from hubflow.stages.hub.runtime import BUILD_LOCK, paddle, set_variable
from hubflow.stages.hub.task import Task


def add_optimizer(task: Task, settings: TrainSettings) -> "LearningRate":
    """Add gradients and updates of every trainable parameter to the task's main program, their state to its startup program.

    Returns:
        The learning rate's variable, to be set before each step.
    """
    main, startup = task.main_program(), task.startup_program()
    with BUILD_LOCK, paddle.utils.unique_name.guard(), paddle.static.program_guard(main, startup):
        parameters = [parameter for parameter in main.global_block().all_parameters() if parameter.trainable]
        optimizer = _make(settings, parameters)
        optimizer.minimize(task.variable("loss"), startup, parameters)
        return LearningRate(optimizer._global_learning_rate(main).name)


class LearningRate:
    """The learning rate's variable in a scope."""

    def __init__(self, name: str) -> None:
        self.name = name

    def set(self, scope: Any, place: Any, value: float) -> None:
        """Use `value` from the next step on."""
        set_variable(scope, self.name, np.asarray(value, np.float32), place)


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to a parameter: norms and biases are left out."""
    group, _, part = name.rpartition(".")
    is_norm = group.endswith("norm") or "batch_norm" in name or "layer_norm" in name
    return part in ("weight", "w_0") and not is_norm  # w_0: Paddle's own layers, of which image backbones are made


def _make(settings: TrainSettings, parameters: list[Any]) -> Any:
    clip = None if settings.max_grad_norm is None else paddle.nn.ClipGradByGlobalNorm(settings.max_grad_norm)
    common = {"learning_rate": settings.learning_rate, "parameters": parameters, "grad_clip": clip}
    if settings.optimizer == "adamw":
        return paddle.optimizer.AdamW(weight_decay=settings.weight_decay, apply_decay_param_fun=is_decayed, **common)
    if settings.optimizer == "adam":
        return paddle.optimizer.Adam(**common)
    if settings.optimizer == "momentum":
        return paddle.optimizer.Momentum(momentum=0.9, **common)
    if settings.optimizer == "sgd":
        return paddle.optimizer.SGD(**common)
    raise TaskError(f"optimizer {settings.optimizer!r} is not known; use one of {', '.join(known_optimizers())}")


def known_optimizers() -> tuple[str, ...]:
    """Names that `TrainSettings.optimizer` takes."""
    return get_args(TrainSettings.model_fields["optimizer"].annotation)
