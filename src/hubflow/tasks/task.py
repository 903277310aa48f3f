"""Task: the programs of one fine-tune and the variables that measure it, as the Task API names them."""

from collections.abc import Mapping
from typing import Any, get_args

from hubflow.errors import TaskError, join_limited
from hubflow.runtime.paddle_import import BUILD_LOCK, paddle
from hubflow.schemas.settings import TaskType

NOT_METRICS = frozenset({"label", "logits", "probs", "num_examples"})
"""Names of variables that do not measure: inputs, outputs, and the count that weighs a batch's metrics."""


class Task:
    """The programs of one fine-tune and its variables.

    Args:
        task_type: image_classification, text_classification or sequence_labelling.
        graph_var_dict: variables of `main_program` by name: `loss`, `label`, metrics such as `accuracy`; `probs` gives the
            inference program its output; `num_examples` is how many examples (tokens) the batch's metrics average over.
        main_program: forward and loss; the optimizer is added to it by whoever trains.
        startup_program: initialises what the head added. The module's weights are not touched by it.
        inference_program: forward only, from the inputs to `probs`, needs no label. Made from `main_program` when not given.

    Raises:
        TaskError: for an unknown task type, or variables that are not in `main_program`.
    """

    def __init__(
        self,
        task_type: TaskType,
        graph_var_dict: Mapping[str, Any],
        main_program: Any,
        startup_program: Any,
        inference_program: Any = None,
    ) -> None:
        if task_type not in get_args(TaskType):
            raise TaskError(f"task_type {task_type!r} is not known; use one of {', '.join(get_args(TaskType))}")
        strange = [name for name, value in graph_var_dict.items() if program_of(value) != main_program]
        if strange:
            raise TaskError(
                f"variable(s) {join_limited(strange)} are not in main_program; build them under the same program_guard"
            )
        self.task_type = task_type
        self._variables = dict(graph_var_dict)
        self._main, self._startup = main_program, startup_program
        with BUILD_LOCK:
            self._test, self._test_variables = _frozen_copy(main_program, self._variables)
        self._inference = inference_program or self._make_inference_program()

    def variable(self, var_name: str) -> Any:
        """The variable called `var_name`, for example `loss`, `label` or `accuracy`.

        Raises:
            TaskError: for an unknown name, listing the known ones.
        """
        return self._lookup(self._variables, var_name)

    def test_variable(self, var_name: str) -> Any:
        """The same variable in the test program.

        Raises:
            TaskError: for an unknown name, listing the known ones.
        """
        return self._lookup(self._test_variables, var_name)

    def main_program(self) -> Any:
        """The training program."""
        return self._main

    def startup_program(self) -> Any:
        """The program that initialises the head, and the optimizer's state once there is an optimizer."""
        return self._startup

    def test_program(self) -> Any:
        """Forward, loss and metrics with dropout off and batch-norm in inference mode; shares the weights of the scope."""
        return self._test

    def inference_program(self) -> Any:
        """Forward only, to `probs`; needs no label, and sees the weights trained later in the same scope."""
        return self._inference

    def metric_variable_names(self) -> list[str]:
        """Names of the variables that measure: the loss and the metrics, each of which can be fetched."""
        return [name for name in self._variables if name not in NOT_METRICS]

    def _make_inference_program(self) -> Any:
        if "probs" not in self._test_variables:
            raise TaskError(
                "graph_var_dict has no 'probs' to make the inference program from; add it, or pass inference_program"
            )
        with BUILD_LOCK:
            feeds = data_variables(self._main)
            program, variables = _frozen_copy(self._main, self._variables)
            copies = {value.name: value for value in data_variables(program)}
            used = _needed(variables["probs"])
            return paddle.static.normalize_program(
                program, [copies[value.name] for value in feeds if value.name in used], [variables["probs"]]
            )

    def _lookup(self, variables: Mapping[str, Any], name: str) -> Any:
        if name not in variables:
            raise TaskError(f"the task has no variable {name!r}; known: {', '.join(variables)}")
        return variables[name]


def program_of(value: Any) -> Any:
    """The program that a static variable is part of."""
    return value.get_defining_op().get_parent_block().program


def data_variables(program: Any) -> list[Any]:
    """The program's inputs, in the order in which they were declared."""
    return [op.result(0) for op in program.global_block().ops if op.name() == "pd_op.data"]


def _frozen_copy(program: Any, variables: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    mapping = paddle.pir.IrMapping()
    copy = program.clone(mapping)
    copy.set_is_test_attr()
    return copy, {name: mapping.look_up(value) for name, value in variables.items()}


def _needed(output: Any) -> set[str]:
    """Names of the inputs that `output` is computed from."""
    names: set[str] = set()
    seen: set[int] = set()
    waiting = [output.get_defining_op()]
    while waiting:
        op = waiting.pop()
        if op.id() in seen:
            continue
        seen.add(op.id())
        if op.name() == "pd_op.data":
            names.add(op.result(0).name)
        waiting.extend(source.get_defining_op() for source in op.operands_source() if source.initialized())
    return names
