"""Names of metrics: what is measured for which task, in which range, and which way is better. No Paddle or Prefect here."""

import re
from collections.abc import Iterable
from typing import Literal

from hubflow.schemas.tags import has_entities

TaskType = Literal["image_classification", "text_classification", "sequence_labelling"]
_CLASSIFICATION = (
    "loss",
    "accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "balanced_accuracy",
    "mcc",
    "log_loss",
    "ece",
    "top_3_accuracy",
    "top_5_accuracy",
    "roc_auc",
)
METRICS: dict[TaskType, tuple[str, ...]] = {
    "image_classification": _CLASSIFICATION,
    "text_classification": _CLASSIFICATION,
    "sequence_labelling": (
        "loss",
        "accuracy",
        "precision",
        "recall",
        "f1",
        "precision_strict",
        "recall_strict",
        "f1_strict",
        "ece",
    ),
}
"""What is measured on each split, by task, and what may pick the best weights.

`top_<k>_accuracy` is there of more than k labels, `roc_auc` where it is defined and the labels are not too many.
"""
LOWER_IS_BETTER = frozenset({"loss", "log_loss", "ece"})
"""Metrics of which the smallest value is the best; of all others it is the largest."""
CUSTOM_METRIC = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
"""A user's own metric: `package.module:function`."""
_KNOWN = frozenset(name for names in METRICS.values() for name in names)
_FROM_ZERO = frozenset({"loss", "log_loss"})


def is_metric(name: str) -> bool:
    """Whether a metric is called so: one of `METRICS`, `top_<k>_accuracy`, or a user's own."""
    return name in _KNOWN or re.fullmatch(r"top_[1-9]\d*_accuracy", name) is not None or is_custom_metric(name)


def is_custom_metric(name: str) -> bool:
    """Whether `name` is that of a user's own metric."""
    return re.match(CUSTOM_METRIC, name) is not None


def metric_range(name: str) -> tuple[float, float]:
    """Smallest and largest value that a metric can have."""
    if is_custom_metric(name):
        return float("-inf"), float("inf")
    if name in _FROM_ZERO:
        return 0.0, float("inf")
    return (-1.0, 1.0) if name == "mcc" else (0.0, 1.0)


SCORED_WHILE_TRAINING = 20
"""Up to so many labels `roc_auc` is measured while training; the stages that judge do so up to more."""


def measured_while_training(task: TaskType, num_classes: int) -> tuple[str, ...]:
    """Metrics that are there after each evaluation while training, and so may pick the best weights."""
    absent = {f"top_{k}_accuracy" for k in (3, 5) if k >= num_classes}
    if num_classes > SCORED_WHILE_TRAINING:
        absent.add("roc_auc")
    return tuple(name for name in METRICS[task] if name not in absent)


def default_best_metric(task: TaskType, labels: Iterable[str]) -> str:
    """What picks the best weights unless the settings say so: entity F1 for tags of entities, accuracy for all else."""
    return "f1" if task == "sequence_labelling" and has_entities(tuple(labels)) else "accuracy"
