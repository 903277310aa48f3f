"""The Paddle side: Module, Task and heads as the Task API names them."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubflow.inference.export import export
    from hubflow.inference.predictor import Predictor
    from hubflow.modules.module import Module
    from hubflow.tasks.task import Task, create_img_cls_task, create_seq_label_task, create_text_cls_task

__all__ = ["Module", "Predictor", "Task", "create_img_cls_task", "create_seq_label_task", "create_text_cls_task", "export"]

_HOMES = {
    "Module": "hubflow.modules.module",
    "Predictor": "hubflow.inference.predictor",
    "Task": "hubflow.tasks.task",
    "create_img_cls_task": "hubflow.tasks.task",
    "create_seq_label_task": "hubflow.tasks.task",
    "create_text_cls_task": "hubflow.tasks.task",
    "export": "hubflow.inference.export",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
