"""The Paddle side: Module, Task and heads as the Task API names them. Must not import Prefect; imports Paddle at first use."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hubflow.stages.hub.export_folder import export
    from hubflow.stages.hub.heads import create_img_cls_task, create_seq_label_task, create_text_cls_task
    from hubflow.stages.hub.module import Module
    from hubflow.stages.hub.predictor import Predictor
    from hubflow.stages.hub.task import Task

__all__ = ["Module", "Predictor", "Task", "create_img_cls_task", "create_seq_label_task", "create_text_cls_task", "export"]

_HOMES = {
    "Module": "module",
    "Predictor": "predictor",
    "Task": "task",
    "create_img_cls_task": "heads",
    "create_seq_label_task": "heads",
    "create_text_cls_task": "heads",
    "export": "export_folder",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
