"""What image and text classification share: metrics by label, and one label a row."""

from collections.abc import Mapping, Sequence
from typing import Any

from hubflow.metrics.classification import ClassificationMetrics
from hubflow.metrics.streaming import MetricOptions
from hubflow.schemas.evaluation import SCORED_WHILE_TRAINING, SplitDetails
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.tasks import MetricRange, ScoreSection

_COUNTED = (
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "balanced_accuracy",
)
LOSS = MetricRange(0.0, float("inf"), lower_is_better=True)


class Classification:
    """One label for each row."""

    metrics: Mapping[str, MetricRange] = {
        "loss": LOSS,
        "accuracy": MetricRange(),
        **dict.fromkeys(_COUNTED, MetricRange()),
        "mcc": MetricRange(-1.0, 1.0),
        "log_loss": LOSS,
        "ece": MetricRange(lower_is_better=True),
        "top_3_accuracy": MetricRange(),
        "top_5_accuracy": MetricRange(),
        "roc_auc": MetricRange(),
    }
    gated_metrics = ("accuracy", *_COUNTED, "mcc", "loss")
    reads_first_token = False
    averages_over_tokens = False
    explains_words = False
    row_unit = "rows"
    label_unit = "rows"
    length_unit = "characters"
    label_slices = "By true label"

    def measured_while_training(self, num_classes: int) -> tuple[str, ...]:
        """All but top-k accuracies of too few labels, and ROC-AUC of too many."""
        absent = {f"top_{k}_accuracy" for k in (3, 5) if k >= num_classes}
        if num_classes > SCORED_WHILE_TRAINING:
            absent.add("roc_auc")
        return tuple(name for name in self.metrics if name not in absent)

    def default_best_metric(self, labels: Sequence[str] | None) -> str:
        """Accuracy."""
        return "accuracy"

    def streaming_metrics(
        self, labels: Any, label_map: LabelMap, options: MetricOptions, others: Sequence[str] = ()
    ) -> ClassificationMetrics:
        """Metrics by label."""
        return ClassificationMetrics(labels, label_map.num_classes, options)

    def score_sections(self, details: SplitDetails) -> list[ScoreSection]:
        """Scores by label."""
        return [ScoreSection("By label", "label", "rows", details.per_class, details.averages)]
