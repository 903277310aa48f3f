"""The objective: what training minimises, a sum over examples times a factor that the host gives, so that parts add up."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.data.encoded import EncodedSplit
from hubflow.errors import SettingsError, join_limited
from hubflow.runtime.paddle_import import functional as F
from hubflow.runtime.paddle_import import paddle
from hubflow.schemas.labels import IGNORED_LABEL, LabelMap
from hubflow.schemas.training import TrainSettings
from hubflow.tasks.task import Task

NORMALISER = "normaliser"
"""Input `[1]` float32: 1 / (weight of all examples of the update). The objective of a part is its share of the mean."""


def add_objective(task: Task, label_smoothing: float, class_weights: NDArray[np.float32] | None) -> Any:
    """Add the objective to the current program, the task's main program, and return it: a scalar.

    It is the cross-entropy summed over the examples (tokens) that are not ignored, times the input `normaliser`. With
    smoothing ε an example of class y weighs `(1 - ε) w[y] nll[y] + ε / C * Σ_c w[c] nll[c]` (Szegedy et al.,
    arXiv:1512.00567, weighted as `torch.nn.CrossEntropyLoss` does it). The task's own `loss` stays the plain mean, so that
    evaluations of runs with different objectives can be compared.
    """
    normaliser = paddle.static.data(NORMALISER, [1], "float32")
    logits = task.variable("logits")
    flat = logits.reshape([-1, logits.shape[-1]]).astype("float32")
    label = task.variable("label").reshape([-1])
    is_counted = label != IGNORED_LABEL
    losses = F.cross_entropy(flat, label, ignore_index=IGNORED_LABEL, reduction="none").reshape([-1])
    weights = None if class_weights is None else paddle.to_tensor(class_weights)
    if weights is not None:
        losses = losses * paddle.gather(weights, paddle.where(is_counted, label, paddle.zeros_like(label)))
    if label_smoothing:
        every = -F.log_softmax(flat)
        even = (every if weights is None else every * weights).mean(-1) * is_counted.astype("float32")
        losses = (1.0 - label_smoothing) * losses + label_smoothing * even
    return (losses.sum() * normaliser).reshape([])


def class_weights_of(settings: TrainSettings, label_map: LabelMap, train: EncodedSplit) -> NDArray[np.float32] | None:
    """Weight of each class `[classes]`, or None when all weigh the same.

    `balanced` is `n / (classes * n_c)` over the examples (words, for sequences) of train, as scikit-learn's
    `compute_class_weight`; a class that train lacks weighs 0.

    Raises:
        SettingsError: when a label of `class_weights` is not in the label map, or none weighs anything.
    """
    given = settings.class_weights
    if given is None:
        return None
    if isinstance(given, Mapping):
        strange = [label for label in given if label not in label_map.labels]
        if strange:
            raise SettingsError(
                f"train.class_weights: label(s) {join_limited(strange)} are not in the data; its labels: "
                f"{join_limited(label_map.labels)}"
            )
        weights = np.array([given.get(label, 1.0) for label in label_map.labels], np.float32)
        if not weights.any():
            raise SettingsError("train.class_weights: every label weighs 0; give at least one a weight above 0")
        return weights
    counts = train.class_counts(label_map.num_classes)
    balanced = counts.sum() / (len(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, balanced, 0.0).astype(np.float32)
