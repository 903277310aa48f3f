"""Task type text classification: one label for each text, or pair of texts."""

from typing import TYPE_CHECKING

from hubflow.schemas.references import ModuleKind, RowKind
from hubflow.schemas.settings import DataFormat, DatasetSpec
from hubflow.schemas.tasks import PredictionKind
from hubflow.tasks.classification import Classification

if TYPE_CHECKING:
    from hubflow.modules.module import ModuleGraph
    from hubflow.tasks.task import Task, TaskSpec


class TextClassification(Classification):
    """One label for each text, or pair of texts."""

    module_kind: ModuleKind = "text"
    formats: tuple[DataFormat, ...] = ("csv", "tsv", "jsonl", "parquet")
    prediction: PredictionKind = "text_classification"
    reads_first_token = True
    explains_words = True

    def rows_kind(self, spec: DatasetSpec) -> RowKind:
        """Texts, or pairs where the settings name a second column."""
        return "text" if spec.text_pair_column is None else "text_pair"

    def build_head(self, graph: "ModuleGraph", spec: "TaskSpec") -> "Task":
        """Dropout, then fully connected layers on the pooled output."""
        from hubflow.tasks.task import create_text_cls_task

        feature = graph.output("pooled_output", spec.task)
        return create_text_cls_task(feature, spec.num_classes, spec.hidden_units, dropout=spec.head_dropout)
