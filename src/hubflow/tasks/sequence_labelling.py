"""Task type sequence labelling: a label for each word of a sentence."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hubflow.errors import TaskError
from hubflow.metrics.sequence_labelling import SequenceLabellingMetrics
from hubflow.metrics.streaming import MetricOptions
from hubflow.schemas.evaluation import SplitDetails
from hubflow.schemas.labels import LabelMap, has_entities
from hubflow.schemas.references import ModuleKind, RowKind
from hubflow.schemas.settings import DataFormat, DatasetSpec
from hubflow.schemas.tasks import MetricRange, PredictionKind, ScoreSection

if TYPE_CHECKING:
    from hubflow.modules.module import ModuleGraph
    from hubflow.tasks.task import Task, TaskSpec

_ENTITY_SCORES = tuple(f"{name}{mode}" for mode in ("", "_strict") for name in ("precision", "recall", "f1"))


class SequenceLabelling:
    """A label for each word of a sentence, evaluated by word and by entity."""

    module_kind: ModuleKind = "text"
    formats: tuple[DataFormat, ...] = ("conll", "msra", "jsonl", "parquet")
    prediction: PredictionKind = "sequence_labelling"
    metrics: Mapping[str, MetricRange] = {
        "loss": MetricRange(0.0, float("inf"), lower_is_better=True),
        "accuracy": MetricRange(),
        **dict.fromkeys(_ENTITY_SCORES, MetricRange()),
        "ece": MetricRange(lower_is_better=True),
    }
    gated_metrics = ("accuracy", *_ENTITY_SCORES)
    reads_first_token = False
    averages_over_tokens = True
    explains_words = False
    row_unit = "sentences"
    label_unit = "words"
    length_unit = "words"
    label_slices = "By entities in the sentence"

    def rows_kind(self, spec: DatasetSpec) -> RowKind:
        """Sentences as lists of words."""
        return "tokens"

    def measured_while_training(self, num_classes: int) -> tuple[str, ...]:
        """All of them."""
        return tuple(self.metrics)

    def default_best_metric(self, labels: Sequence[str] | None) -> str:
        """Entity F1 for tags of entities, accuracy for all else."""
        return "f1" if labels is None or has_entities(tuple(labels)) else "accuracy"

    def build_head(self, graph: "ModuleGraph", spec: "TaskSpec") -> "Task":
        """One fully connected layer over the tokens.

        Raises:
            TaskError: for hidden units, which it has none of.
        """
        from hubflow.runtime.paddle_import import paddle
        from hubflow.tasks.task import create_seq_label_task

        feature = graph.output("sequence_output", spec.task)
        if spec.hidden_units:
            raise TaskError(f"hidden_units {list(spec.hidden_units)}: a sequence labelling head has one layer; leave them out")
        with paddle.static.program_guard(graph.program):
            seq_len = paddle.static.data("seq_len", [-1], "int64")
        return create_seq_label_task(feature, seq_len, spec.num_classes, dropout=spec.head_dropout)

    def streaming_metrics(
        self, labels: Any, label_map: LabelMap, options: MetricOptions, others: Sequence[str] = ()
    ) -> SequenceLabellingMetrics:
        """Metrics by word and by entity."""
        return SequenceLabellingMetrics(labels, label_map, options, others)

    def score_sections(self, details: SplitDetails) -> list[ScoreSection]:
        """By type of entity, as conlleval and as seqeval's strict mode have them, and by tag."""
        sections = [ScoreSection("By type of entity", "type", "entities", details.per_class, details.averages)]
        if details.strict is not None:
            title = f"By type of entity, strictly by {details.scheme}" if details.scheme else "By type of entity, strictly"
            sections.append(ScoreSection(title, "type", "entities", details.strict.per_class, details.strict.averages))
        if details.per_tag is not None:
            sections.append(ScoreSection("By tag", "tag", "words", details.per_tag, {}))
        return sections
