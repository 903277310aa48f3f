"""Task: the programs of one fine-tune, and the functions that put the head of a task on a module's output."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from hubflow.errors import TaskError, join_limited
from hubflow.modules.module import context_of
from hubflow.runtime.paddle_import import BUILD_LOCK, paddle, truncated_normal
from hubflow.runtime.paddle_import import functional as F
from hubflow.schemas.labels import IGNORED_LABEL
from hubflow.schemas.settings import LoraSettings
from hubflow.schemas.tasks import BUILT_IN, PredictionKind, TaskName

NOT_METRICS = frozenset({"label", "logits", "probs", "num_examples", "losses"})
"""Names of variables that do not measure: inputs, outputs, losses by example, and the count that weighs a batch's metrics."""


@dataclass(frozen=True)
class TaskSpec:
    """All that a task's programs are a function of, beside the module's files.

    `head_dropout`, `dropout` and `attention_dropout` are the head's and the module's own when None; the last two and `lora`
    (adapters that train in place of the module's weights) are of text modules alone.
    """

    task: TaskName
    num_classes: int
    hidden_units: tuple[int, ...] = ()
    trainable: bool = True
    pretrained: bool = True
    max_seq_len: int | None = None
    head_dropout: float | None = None
    dropout: float | None = None
    attention_dropout: float | None = None
    lora: LoraSettings | None = None


class Task:
    """The programs of one fine-tune and its variables.

    Args:
        task_type: image_classification, text_classification or sequence_labelling.
        graph_var_dict: variables of `main_program` by name: `loss`, `label`, metrics such as `accuracy`; `probs` gives the
            inference program its output; `num_examples` is how many examples (tokens) the batch's metrics average over;
            `losses` `[examples]`, where it is given, is what training minimises in place of the cross-entropy of `logits`, 0
            where an example's label is -100.
        main_program: forward and loss; training adds the optimizer to it.
        startup_program: initialises what the head added. The module's weights are not touched by it.
        inference_program: forward only, from the inputs to `probs`, needs no label. Made from `main_program` when not given.

    Raises:
        TaskError: for an unknown task type, or variables that are not in `main_program`.
    """

    def __init__(
        self,
        task_type: PredictionKind,
        graph_var_dict: Mapping[str, Any],
        main_program: Any,
        startup_program: Any,
        inference_program: Any = None,
    ) -> None:
        if task_type not in BUILT_IN:
            raise TaskError(f"task_type {task_type!r} is not known; use one of {', '.join(BUILT_IN)}")
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
        """A variable of the training program.

        Args:
            var_name: for example `loss`, `label` or `accuracy`.

        Returns:
            The static Variable.

        Raises:
            TaskError: for an unknown name, listing the known ones.
        """
        return self._lookup(self._variables, var_name)

    def has_variable(self, var_name: str) -> bool:
        """Whether the task has a variable of this name.

        Args:
            var_name: for example `losses`.

        Returns:
            True when `variable` would give it.
        """
        return var_name in self._variables

    def test_variable(self, var_name: str) -> Any:
        """The same variable in the test program.

        Args:
            var_name: as `variable` takes it.

        Returns:
            The static Variable.

        Raises:
            TaskError: for an unknown name, listing the known ones.
        """
        return self._lookup(self._test_variables, var_name)

    def main_program(self) -> Any:
        """The training program.

        Returns:
            A static Program: forward and loss, and the optimizer once there is one.
        """
        return self._main

    def startup_program(self) -> Any:
        """The program that initialises the head, and the optimizer's state once there is an optimizer.

        Returns:
            A static Program.
        """
        return self._startup

    def test_program(self) -> Any:
        """Forward, loss and metrics with dropout off and batch-norm in inference mode.

        Returns:
            A static Program, which shares the weights of the scope.
        """
        return self._test

    def inference_program(self) -> Any:
        """Forward only, to `probs`; needs no label.

        Returns:
            A static Program, which sees the weights trained later in the same scope.
        """
        return self._inference

    def metric_variable_names(self) -> list[str]:
        """Names of the variables that measure: the loss and the metrics, each of which can be fetched.

        Returns:
            Names, as `variable` takes them.
        """
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


TEXT_DROPOUT = 0.1


def create_img_cls_task(
    feature: Any,
    num_classes: int,
    hidden_units: Sequence[int] | None = None,
    labels: Any = None,
    dropout: float | None = None,
) -> Task:
    """Image classification: hidden fully connected layers with ReLU, then the output layer.

    Args:
        feature: `[batch, features]` float32, a module's `feature_map`.
        num_classes: neurons of the output layer.
        hidden_units: neurons of each hidden layer; none by default.
        labels: `[batch]` or `[batch, 1]` int64; an input `label` `[batch]` is made when not given.
        dropout: of the feature, in training; none when None.

    Returns:
        Task with the variables loss, accuracy, label, logits `[batch, num_classes]`, probs and num_examples.

    Raises:
        TaskError: for fewer than two classes, a feature or labels of the wrong rank, or a dropout outside 0 to 1.
    """
    return _classification("image_classification", feature, num_classes, hidden_units, labels, dropout or 0.0)


def create_text_cls_task(
    feature: Any,
    num_classes: int,
    hidden_units: Sequence[int] | None = None,
    labels: Any = None,
    dropout: float | None = None,
) -> Task:
    """Text classification: dropout, hidden fully connected layers with ReLU, then the output layer.

    Args:
        feature: `[batch, hidden]` float32, a module's `pooled_output`.
        num_classes: neurons of the output layer.
        hidden_units: neurons of each hidden layer; none by default.
        labels: `[batch]` or `[batch, 1]` int64; an input `label` `[batch]` is made when not given.
        dropout: of the feature, in training; 0.1 when None.

    Returns:
        Task with the variables loss, accuracy, label, logits `[batch, num_classes]`, probs and num_examples.

    Raises:
        TaskError: for fewer than two classes, a feature or labels of the wrong rank, or a dropout outside 0 to 1.
    """
    chosen = TEXT_DROPOUT if dropout is None else dropout
    return _classification("text_classification", feature, num_classes, hidden_units, labels, chosen)


def create_seq_label_task(
    feature: Any, seq_len: Any, num_classes: int, labels: Any = None, dropout: float | None = None
) -> Task:
    """Sequence labelling: one fully connected layer over every token.

    Loss and accuracy are over real tokens only: positions from `seq_len` on and tokens labelled -100 (padding, special tokens,
    continuation pieces) count for neither.

    Args:
        feature: `[batch, seq, hidden]` float32, a module's `sequence_output`.
        seq_len: `[batch]` or `[batch, 1]` int64, the number of tokens of each row, padding left out.
        num_classes: neurons of the output layer.
        labels: `[batch, seq]` or `[batch, seq, 1]` int64; an input `label` `[batch, seq]` is made when not given.
        dropout: of the feature, in training; none when None.

    Returns:
        Task with the variables loss, accuracy, label, logits `[batch, seq, num_classes]`, probs and num_examples (the number
        of tokens that count).

    Raises:
        TaskError: for fewer than two classes, a feature or labels of the wrong rank, or a dropout outside 0 to 1.
    """
    _check(feature, 3, num_classes, dropout or 0.0)
    _check_labels(labels, feature, 2)

    def graph() -> dict[str, Any]:
        label = paddle.static.data("label", [-1, -1], "int64") if labels is None else labels
        logits = _dense(F.dropout(feature, dropout) if dropout else feature, num_classes, "output")
        positions = paddle.arange(paddle.shape(feature)[1]).astype("int64").unsqueeze(0)
        is_real = (positions < seq_len.reshape([-1, 1])).astype("int64")
        by_token = label if len(label.shape) == 2 else label.squeeze(-1)  # noqa: PLR2004
        counted = is_real * by_token + (1 - is_real) * IGNORED_LABEL
        return _measures(label, logits, counted.reshape([-1]))

    return _build("sequence_labelling", feature, graph)


def _classification(
    task_type: PredictionKind,
    feature: Any,
    num_classes: int,
    hidden_units: Sequence[int] | None,
    labels: Any,
    dropout: float,
) -> Task:
    _check(feature, 2, num_classes, dropout)
    _check_labels(labels, feature, 1)

    def graph() -> dict[str, Any]:
        label = paddle.static.data("label", [-1], "int64") if labels is None else labels
        x = F.dropout(feature, dropout) if dropout else feature
        for number, units in enumerate(hidden_units or ()):
            x = F.relu(_dense(x, units, f"hidden.{number}"))
        return _measures(label, _dense(x, num_classes, "output"), label.reshape([-1]))

    return _build(task_type, feature, graph)


def _build(task_type: PredictionKind, feature: Any, graph: Callable[[], dict[str, Any]]) -> Task:
    paddle.enable_static()
    main, startup = program_of(feature), paddle.static.Program()
    if any(op.name().endswith(("_grad", "_grad_")) for op in main.global_block().ops):
        raise TaskError(
            "the feature's program has an optimizer already, and a run of it would train the earlier task too; "
            "call context() again, and build the next task on the feature that it gives"
        )
    with BUILD_LOCK, paddle.static.program_guard(main, startup):
        variables = graph()
    return Task(task_type, variables, main, startup)


def _measures(label: Any, logits: Any, counted: Any) -> dict[str, Any]:
    """Loss and accuracy as means over the labels in `counted` that are not ignored."""
    flat = logits.reshape([-1, logits.shape[-1]])
    is_counted = (counted != IGNORED_LABEL).astype("float32")
    num_examples = is_counted.sum()
    at_least_one = paddle.clip(num_examples, min=1.0)
    losses = F.cross_entropy(flat, counted, ignore_index=IGNORED_LABEL, reduction="none").reshape([-1])
    is_right = (flat.argmax(-1) == counted).astype("float32")
    return {
        "loss": losses.sum() / at_least_one,
        "accuracy": is_right.sum() / at_least_one,
        "label": label,
        "logits": logits,
        "probs": F.softmax(logits),
        "num_examples": num_examples,
    }


def _dense(x: Any, units: int, name: str) -> Any:
    """A fully connected layer over the last dimension: weights TruncatedNormal(std=0.02), bias 0."""
    size = int(x.shape[-1])
    weight = _parameter(f"{name}.weight", [size, units], truncated_normal(0.02))
    bias = _parameter(f"{name}.bias", [units], paddle.nn.initializer.Constant(0.0))
    product = paddle.matmul(x.reshape([-1, size]), weight)
    y = product + bias.expand_as(product)
    return y if len(x.shape) == 2 else y.reshape([paddle.shape(x)[0], paddle.shape(x)[1], units])  # noqa: PLR2004


def _parameter(part: str, shape: list[int], initializer: Any) -> Any:
    program = paddle.static.default_main_program()
    taken = {parameter.name for parameter in program.global_block().all_parameters()}
    context = context_of(program)
    head = f"{context.prefix if context else ''}head"
    # Names shared with an earlier head on the same module would be one variable in the scope.
    names = itertools.chain([f"{head}.{part}"], (f"{head}.{number}.{part}" for number in itertools.count(2)))
    name = next(name for name in names if name not in taken)
    return paddle.create_parameter(shape, "float32", name=name, attr=paddle.ParamAttr(name=name, initializer=initializer))


def _check(feature: Any, rank: int, num_classes: int, dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise TaskError(f"dropout is {dropout}; expected a share from 0 up to, but not including, 1")
    if not isinstance(num_classes, Integral) or isinstance(num_classes, bool):
        raise TaskError(f"num_classes is {num_classes!r}; expected a whole number")
    if num_classes < 2:  # noqa: PLR2004
        raise TaskError(f"num_classes is {num_classes}; a head needs at least 2")
    if len(feature.shape) != rank:
        meant = "feature_map or pooled_output" if rank == 2 else "sequence_output"  # noqa: PLR2004
        raise TaskError(f"feature has shape {list(feature.shape)}; expected {rank} dimensions, a module's {meant}")


def _check_labels(labels: Any, feature: Any, rank: int) -> None:
    """Refuse labels that are no whole numbers, of another program, or neither of `rank` nor of one more, which is 1."""
    if labels is None:
        return
    if program_of(labels) != program_of(feature):
        raise TaskError("labels are not in the feature's program; make them under program_guard(program) of its context()")
    dtype, shape = str(labels.dtype).rpartition(".")[2].lower(), list(labels.shape)
    if dtype != "int64" or not (len(shape) == rank or (len(shape) == rank + 1 and shape[-1] == 1)):
        expected = "[batch] or [batch, 1]" if rank == 1 else "[batch, seq] or [batch, seq, 1]"
        raise TaskError(f"labels are {dtype} {shape}; expected int64 {expected}")
