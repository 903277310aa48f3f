"""Session: a task's programs built from their specification, with weights in a scope of their own, ready to run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.schemas.settings import TaskType
from hubflow.stages.hub.errors import TaskError, WeightsError
from hubflow.stages.hub.heads import create_img_cls_task, create_seq_label_task, create_text_cls_task
from hubflow.stages.hub.module import ModuleGraph, build_graph, load_weights, read_config
from hubflow.stages.hub.runtime import BUILD_LOCK, get_variable, paddle, place_of, set_variable
from hubflow.stages.hub.task import Task
from hubflow.stages.hub.weights import match_weights, read_weights

Feed = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class TaskSpec:
    """All that a task's programs are a function of, beside the module's files."""

    task: TaskType
    num_classes: int
    hidden_units: tuple[int, ...] = ()
    trainable: bool = True
    pretrained: bool = True
    max_seq_len: int | None = None


class Session:
    """A task on a module: its programs, executor and scope.

    Args:
        spec: the task.
        module_folder: the module's files.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.

    Raises:
        TaskError: when the module's kind does not fit the task; ModuleError and DeviceError as they are raised.
    """

    def __init__(self, spec: TaskSpec, module_folder: Path, device: str = "auto") -> None:
        self.spec, self.module_folder = spec, module_folder
        self.place = place_of(device)
        self.scope = paddle.static.Scope()
        self._executor = paddle.static.Executor(self.place)
        self.config = read_config(module_folder, spec.pretrained)
        with BUILD_LOCK, paddle.utils.unique_name.guard():
            self.graph = build_graph(self.config, spec.trainable, spec.max_seq_len)
            self.task = _put_head(spec, self.graph)

    @property
    def names(self) -> dict[str, str]:
        """Variable by our name, for every parameter and batch-norm statistic of module and head."""
        head = [parameter.name for parameter in self.task.main_program().global_block().all_parameters()]
        return {**self.graph.parameters, **{name: name for name in head if name.startswith("head.")}}

    def initialise(self, seed: int) -> None:
        """Fresh head and optimizer state, then the module's weights: pretrained, or fresh from the seed."""
        paddle.seed(seed)
        if not self.spec.pretrained:
            self.run(self.graph.startup)
        self.run(self.task.startup_program())
        if self.spec.pretrained:
            load_weights(self.config, self.module_folder, self.graph, self.scope, self.place)

    def run(self, program: Any, feed: Feed | None = None, fetch: list[Any] | None = None) -> list[NDArray[Any]]:
        """Run `program` once in this session's scope."""
        result: list[NDArray[Any]] = self._executor.run(program, feed=feed or {}, fetch_list=fetch or [], scope=self.scope)
        return result

    def weights(self) -> dict[str, NDArray[Any]]:
        """A copy of every weight of module and head, by our name."""
        return {name: get_variable(self.scope, variable) for name, variable in self.names.items()}

    def load(self, folder: Path) -> None:
        """Put the weights of a checkpoint folder into the scope.

        Raises:
            WeightsError: listing missing, unexpected and wrongly shaped tensors.
        """
        found = read_weights(folder)
        names = self.names
        parameters = self.task.main_program().global_block().all_parameters()
        head = {parameter.name: tuple(parameter.shape) for parameter in parameters}
        expected = {name: self.graph.shapes.get(name) or head[name] for name in names if name in found}
        missing = [name for name in names if name not in found]
        if missing:
            raise WeightsError(f"{folder}: tensors {missing[:10]} are missing; the checkpoint is of another task")
        for name, array in match_weights(expected, found, str(folder)).items():
            set_variable(self.scope, names[name], array, self.place)

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of all that the next step depends on: weights and optimizer state, by variable name."""
        return {name: np.array(value) for name, value in self.task.main_program().state_dict("all", self.scope).items()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Put back what `state` gave."""
        for name, array in state.items():
            set_variable(self.scope, name, array, self.place)


def _put_head(spec: TaskSpec, graph: ModuleGraph) -> Task:
    if spec.task == "image_classification":
        return create_img_cls_task(_output(graph, "feature_map", spec), spec.num_classes, spec.hidden_units)
    if spec.task == "text_classification":
        return create_text_cls_task(_output(graph, "pooled_output", spec), spec.num_classes, spec.hidden_units)
    feature = _output(graph, "sequence_output", spec)
    if spec.hidden_units:
        raise TaskError(f"hidden_units {list(spec.hidden_units)}: a sequence labelling head has one layer; leave them out")
    with paddle.static.program_guard(graph.program):
        seq_len = paddle.static.data("seq_len", [-1], "int64")
    return create_seq_label_task(feature, seq_len, spec.num_classes)


def _output(graph: ModuleGraph, name: str, spec: TaskSpec) -> Any:
    if name not in graph.outputs:
        raise TaskError(f"{spec.task} needs a module with the output {name!r}; this one has {', '.join(graph.outputs)}")
    return graph.outputs[name]
