"""The Paddle side: Module, Task and heads as the Task API names them."""

from typing import TYPE_CHECKING

from hubflow.lazy import lazy_names

if TYPE_CHECKING:
    from hubflow.inference.export import export
    from hubflow.inference.predictor import Prediction, Predictor
    from hubflow.modules.module import Module
    from hubflow.tasks.task import Task, create_img_cls_task, create_seq_label_task, create_text_cls_task

__all__ = [
    "Module",
    "Prediction",
    "Predictor",
    "Task",
    "create_img_cls_task",
    "create_seq_label_task",
    "create_text_cls_task",
    "export",
]

_NAMES = {
    "hubflow.inference.export": ("export",),
    "hubflow.inference.predictor": ("Prediction", "Predictor"),
    "hubflow.modules.module": ("Module",),
    "hubflow.tasks.task": ("Task", "create_img_cls_task", "create_seq_label_task", "create_text_cls_task"),
}

if not TYPE_CHECKING:  # for a type checker, the names above are all there are
    __getattr__ = lazy_names(__name__, _NAMES)


def __dir__() -> list[str]:
    return __all__
