"""Task type image classification: one label for each image."""

from typing import TYPE_CHECKING

from hubflow.schemas.references import ModuleKind, RowKind
from hubflow.schemas.settings import DataFormat, DatasetSpec
from hubflow.schemas.tasks import PredictionKind
from hubflow.tasks.classification import Classification

if TYPE_CHECKING:
    from hubflow.modules.module import ModuleGraph
    from hubflow.tasks.task import Task, TaskSpec


class ImageClassification(Classification):
    """One label for each image."""

    module_kind: ModuleKind = "image"
    formats: tuple[DataFormat, ...] = ("image_folder", "image_list", "digits")
    prediction: PredictionKind = "image_classification"

    def rows_kind(self, spec: DatasetSpec) -> RowKind:
        """Images."""
        return "image"

    def build_head(self, graph: "ModuleGraph", spec: "TaskSpec") -> "Task":
        """Fully connected layers on the feature map."""
        from hubflow.tasks.task import create_img_cls_task

        feature = graph.output("feature_map", spec.task)
        return create_img_cls_task(feature, spec.num_classes, spec.hidden_units, dropout=spec.head_dropout)
