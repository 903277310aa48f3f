"""Training programs: the objective, its gradients, and the optimizer, as static programs over a session's scope."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubflow.data.encoded import EncodedSplit
from hubflow.errors import SettingsError, join_limited
from hubflow.modules.networks.sub_batches import SEED
from hubflow.modules.weights import HEAD
from hubflow.programs.precision import ask_for_both_gradients
from hubflow.programs.session import Feed, Session
from hubflow.runtime.paddle_import import BUILD_LOCK, get_variable, paddle, set_variable, variable_bytes, zeros_variable
from hubflow.runtime.paddle_import import functional as F
from hubflow.schemas.labels import IGNORED_LABEL, LabelMap
from hubflow.schemas.training import TrainSettings
from hubflow.tasks.task import Task
from hubflow.training.distributed import World
from hubflow.training.optimizers import Gradients, apply, is_decayed

NORMALISER = "normaliser"
"""Input `[1]` float32: 1 / (weight of all examples of the update). The objective of a part is its share of the mean."""


def add_objective(task: Task, label_smoothing: float, class_weights: NDArray[np.float32] | None) -> Any:
    """Add the objective to the current program, the task's main program, and return it: a scalar.

    It is the cross-entropy summed over the examples (tokens) that are not ignored, times the input `normaliser`. With
    smoothing ε an example of class y weighs `(1 - ε) w[y] nll[y] + ε / C * Σ_c w[c] nll[c]` (Szegedy et al.,
    arXiv:1512.00567, weighted as `torch.nn.CrossEntropyLoss` does it). The task's own `loss` stays the plain mean, so that
    evaluations of runs with different objectives can be compared. A task that has `losses` by example is trained by these.

    Raises:
        SettingsError: for label smoothing of a task with losses of its own.
    """
    normaliser = paddle.static.data(NORMALISER, [1], "float32")
    logits = task.variable("logits")
    flat = logits.reshape([-1, logits.shape[-1]]).astype("float32")
    label = task.variable("label").reshape([-1])
    is_counted = label != IGNORED_LABEL
    if task.has_variable("losses"):
        if label_smoothing:
            raise SettingsError(
                "train.label_smoothing is for the cross-entropy, and this task has losses of its own; leave it out"
            )
        losses = task.variable("losses").reshape([-1])
    else:
        losses = F.cross_entropy(flat, label, ignore_index=IGNORED_LABEL, reduction="none").reshape([-1])
    weights = None if class_weights is None else paddle.to_tensor(class_weights)
    if weights is not None:
        losses = losses * paddle.gather(weights, paddle.where(is_counted, label, paddle.zeros_like(label)))
    if label_smoothing:
        every = -F.log_softmax(flat)
        even = (every if weights is None else every * weights).mean(-1) * is_counted.astype("float32")
        losses = (1.0 - label_smoothing) * losses + label_smoothing * even
    return (losses.sum() * normaliser).reshape([])


def class_weights_of(settings: TrainSettings, label_map: LabelMap, train: EncodedSplit) -> NDArray[np.float32] | None:
    """Weight of each class `[classes]`, or None when all weigh the same.

    `balanced` is `n / (classes * n_c)` over the examples (words, for sequences) of train, as scikit-learn's
    `compute_class_weight`; a class that train lacks weighs 0.

    Raises:
        SettingsError: when a label of `class_weights` is not in the label map, or none weighs anything.
    """
    given = settings.class_weights
    if given is None:
        return None
    if isinstance(given, Mapping):
        strange = [label for label in given if label not in label_map.labels]
        if strange:
            raise SettingsError(
                f"train.class_weights: label(s) {join_limited(strange)} are not in the data; its labels: "
                f"{join_limited(label_map.labels)}"
            )
        weights = np.array([given.get(label, 1.0) for label in label_map.labels], np.float32)
        if not weights.any():
            raise SettingsError("train.class_weights: every label weighs 0; give at least one a weight above 0")
        return weights
    counts = train.class_counts(label_map.num_classes)
    balanced = counts.sum() / (len(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, balanced, 0.0).astype(np.float32)


DENSE = "gradient."
"""How the name of a variable begins that has an embedding's gradient for the optimizer, and zeros between updates."""
LARGE = 2**20
"""Weights from which an embedding's rows are worth it."""


class EmbeddingRows:
    """The large embeddings of a program that is being built.

    Paddle's gradient of an embedding has the size of the table: of MiniLM's 11.7 million weights 47 MB of zeros are made,
    squared and clipped at each step for the few hundred rows that a batch has. Here it has those rows until it reaches the
    optimizer, which moves the others too: their momentum goes on.

    Args:
        program: with gradients added to it.
    """

    def __init__(self, program: Any) -> None:
        self._block = program.global_block()
        self._rows: dict[str, Any] = {}
        self._zeroed: list[tuple[Any, Any, Any]] = []

    def to_sparse(self, gradients: Gradients) -> Gradients:
        """The gradients, of large embeddings `[rows that occur, size]`."""
        return [(parameter, self._narrow(parameter, gradient)) for parameter, gradient in gradients]

    def to_dense(self, gradients: Gradients) -> Gradients:
        """What `to_sparse` made, and what has been done to it, in the size of the table, until `clear`."""
        return [(parameter, self._widen(parameter, gradient)) for parameter, gradient in gradients]

    def clear(self) -> None:
        """Let what `to_dense` made be zeros again; to be called behind the optimizer."""
        for table, rows, values in self._zeroed:
            paddle._C_ops.scatter_(table, rows, paddle.zeros_like(values), True)
        self._zeroed.clear()

    def _narrow(self, parameter: Any, gradient: Any) -> Any:
        op = gradient.get_defining_op()
        count, size = parameter.shape[0], parameter.shape[-1]
        if op.name() != "pd_op.embedding_grad" or count * size < LARGE:
            return gradient
        ids, _, slopes = op.operands_source()
        rows, places = paddle.unique(ids, return_inverse=True)
        table = paddle.zeros([paddle.shape(rows)[0], size])
        op.erase()
        self._rows[parameter.name] = rows
        return paddle._C_ops.embedding_grad(places.reshape(paddle.shape(ids)), table, slopes, -1, False)

    def _widen(self, parameter: Any, gradient: Any) -> Any:
        rows = self._rows.get(parameter.name)
        if rows is None:
            return gradient
        zeros = zeros_variable(f"{DENSE}{parameter.name}", list(parameter.shape))
        table = paddle._C_ops.scatter_(zeros, rows, gradient, True)
        self._zeroed.append((table, rows, gradient))
        return table


STOP, SCALE = "stop_asked", "gradient_scale"
SUM, START, RATE = "sum_of_gradients.", "start.", "learning_rate_"
"""How variables begin that are no part of a run's state: they are empty between updates, or set anew."""


@dataclass(frozen=True)
class StepResult:
    """What one update, or one part of it, has to say.

    Attributes:
        loss: the objective: its sum over the parts is the mean over the update's examples.
        stops: how many processes were asked to stop.
        norms: norm of the gradients of each block with trained parameters, before any clip.
    """

    loss: float
    stops: float
    norms: dict[str, float]

    @property
    def grad_norm(self) -> float:
        """Global norm of the gradients."""
        return float(np.sqrt(sum(norm**2 for norm in self.norms.values())))


class TrainProgram:
    """The programs that update a session's trainable parameters.

    Where the rows of an update are computed at once, one program does all. Where they are computed in parts (and in float16,
    where an update may have to be left out) the main program adds up gradients and a second one applies them.

    Args:
        session: its blocks that are not frozen, and its head, are trained; the session's main program is added to.
        settings: of training.
        class_weights: `[classes]`, or None.
        world: this process among those that train together; gradients are summed over all.
    """

    def __init__(
        self, session: Session, settings: TrainSettings, class_weights: NDArray[np.float32] | None, world: World
    ) -> None:
        self.session, self._settings = session, settings
        self._rates: dict[str, float] = {}
        self._startup, self._second = paddle.static.Program(), None
        self._is_split = settings.gradient_accumulation_steps > 1 or settings.precision == "float16"
        self._main = session.task.main_program()
        self._embeddings = EmbeddingRows(self._main)
        with BUILD_LOCK, paddle.utils.unique_name.guard(), paddle.static.program_guard(self._main, self._startup):
            objective = add_objective(session.task, settings.label_smoothing, class_weights)
            if settings.precision == "bfloat16" and isinstance(session.place, paddle.CPUPlace) and not session.has_kernels:
                ask_for_both_gradients(self._main)
            stop = paddle.static.data(STOP, [1], "float32")
            gradients = _gradients(self._main, objective)
            *sums, objective, stop = world.all_reduce_sum([*(grad for _, grad in gradients), objective.reshape([1]), stop])
            gradients = [(parameter, total) for (parameter, _), total in zip(gradients, sums, strict=True)]
            if self._is_by_rows(world):
                gradients = self._embeddings.to_sparse(gradients)
            if self._is_split:
                gradients = [(parameter, _add_up(parameter, gradient)) for parameter, gradient in gradients]
            squares = self._squares(gradients)
            self._blocks = tuple(squares)
            self._report = paddle.concat([objective, stop, *squares.values()])
            if not self._is_split:
                self._apply(gradients, sum(squares.values()))
        session.speed_up(self._main)
        if self._is_split:
            self._second = self._second_program([(parameter.name, list(parameter.shape)) for parameter, _ in gradients])

    def initialise(self) -> None:
        """Give every variable of the programs that has no value its first one; what has a value keeps it.

        So weights stay, and so does the optimizer's state of parameters that were trained before more of them are. What L2-SP
        pulls a parameter towards is its value now: to be called before the parameter has been trained, and before `load_state`.
        """
        scope, place = self.session.scope, self.session.place
        kept = {name: get_variable(scope, name) for name in self._names() if scope.find_var(name) is not None}
        self.session.run(self._startup)
        for name in self._names():
            if name in kept:
                set_variable(scope, name, kept[name], place)
            elif name.startswith(START):
                set_variable(scope, name, get_variable(scope, name.removeprefix(START)), place)

    def start_over(self) -> None:
        """Give what the optimizer keeps its first values again; weights, and what they are pulled towards, stay."""
        scope, place = self.session.scope, self.session.place
        weights = set(self.session.names.values())
        kept = {name: get_variable(scope, name) for name in self._names() if name in weights or name.startswith(START)}
        self.session.run(self._startup)
        for name, array in kept.items():
            set_variable(scope, name, array, place)

    def state(self, copy: bool = True) -> dict[str, NDArray[Any]]:
        """All that the next update depends on: weights and optimizer state, by variable name; see `get_variable`."""
        return {name: get_variable(self.session.scope, name, copy) for name in self._state_names()}

    def state_bytes(self) -> int:
        """How many bytes `state` has."""
        return sum(variable_bytes(self.session.scope, name) for name in self._state_names())

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Put back what `state` gave."""
        for name, array in state.items():
            set_variable(self.session.scope, name, array, self.session.place)

    def accumulate(self, feed: Feed, normaliser: float, rate: float, stop: bool = False) -> StepResult:
        """Compute one part of an update; where there is but one, the parameters are updated with it.

        Args:
            feed: inputs and labels of the part's rows.
            normaliser: 1 / weight of all examples of the update, times the scale of float16.
            rate: learning rate of the head.
            stop: whether this process was asked to stop; the report says how many were.
        """
        if not self._is_split:
            self._set_rates(rate)
        scalars = {NORMALISER: np.array([normaliser], np.float32), STOP: np.array([float(stop)], np.float32)}
        (report,) = self.session.run(self._main, {**feed, **scalars}, [self._report])
        loss, stops, *squares = (float(value) for value in report)
        return StepResult(loss, stops, dict(zip(self._blocks, np.sqrt(squares).tolist(), strict=True)))

    def apply(self, rate: float, scale: float = 1.0, keep: bool = True) -> None:
        """Update the parameters with the sum of the parts' gradients divided by `scale`; `keep=False` drops the sum."""
        if self._second is None:
            return
        self._set_rates(rate)
        if keep:
            self.session.run(self._second, {SCALE: np.array([1.0 / scale], np.float32)})
        else:
            self._drop()

    def _drop(self) -> None:
        for name in self._names():
            if name.startswith(SUM):
                zeros = np.zeros_like(get_variable(self.session.scope, name))
                set_variable(self.session.scope, name, zeros, self.session.place)

    def _state_names(self) -> list[str]:
        return [name for name in self._names() if not name.startswith((SUM, START, RATE, SEED, DENSE))]

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for program in (self._main, self._second) if program for name in variables_of(program)))

    def _set_rates(self, rate: float) -> None:
        for name, factor in self._rates.items():
            set_variable(self.session.scope, name, np.asarray(rate * factor, np.float32), self.session.place)

    def _is_by_rows(self, world: World) -> bool:
        """Whether gradients of embeddings can be of the rows that occur alone: on a CPU, where nothing is added to them."""
        is_added_to = self._is_split or world.size > 1 or self._settings.l2 or self._settings.l2_sp
        return not is_added_to and isinstance(self.session.place, paddle.CPUPlace)

    def _squares(self, gradients: Gradients) -> dict[str, Any]:
        """Squared norm `[1]` of each block's gradients."""
        by_block = defaultdict(list)
        for parameter, gradient in gradients:
            by_block[self.session.block_of(parameter.name)].append(_square(gradient))
        return {block: paddle.add_n(values) for block, values in by_block.items()}

    def _second_program(self, parameters: Sequence[tuple[str, list[int]]]) -> Any:
        second = paddle.static.Program()
        with BUILD_LOCK, paddle.utils.unique_name.guard(), paddle.static.program_guard(second, self._startup):
            scale = paddle.static.data(SCALE, [1], "float32")
            sums = [zeros_variable(f"{SUM}{name}", shape) for name, shape in parameters]
            weights = [zeros_variable(name, shape, trainable=True) for name, shape in parameters]
            gradients = [(weight, paddle.scale(total, scale)) for weight, total in zip(weights, sums, strict=True)]
            self._apply(gradients, paddle.add_n([_square(gradient) for _, gradient in gradients]))
            for total in sums:
                paddle.assign(paddle.zeros_like(total), output=total)
        return second

    def _apply(self, gradients: Gradients, square: Any) -> None:
        """Penalties, clips and the optimizer; `square` is the squared global norm of `gradients` `[1]`."""
        settings = self._settings
        if settings.l2 or settings.l2_sp:
            gradients = [(parameter, gradient + self._pull(parameter)) for parameter, gradient in gradients]
        if settings.max_grad_value is not None:
            limit = settings.max_grad_value
            gradients = [(parameter, paddle.clip(gradient, -limit, limit)) for parameter, gradient in gradients]
        if settings.max_grad_norm is not None:
            if settings.l2 or settings.l2_sp or settings.max_grad_value is not None:
                square = paddle.add_n([_square(gradient) for _, gradient in gradients])
            factor = settings.max_grad_norm / paddle.clip(paddle.sqrt(square), min=settings.max_grad_norm)
            gradients = [(parameter, paddle.scale(gradient, factor)) for parameter, gradient in gradients]
        groups = defaultdict(list)
        for parameter, gradient in gradients:
            groups[self._rate_factor(parameter.name)].append((parameter, gradient))
        for share, group in groups.items():
            wide = self._embeddings.to_dense(group)
            name = apply(settings.optimizer, settings.weight_decay, settings.learning_rate * share, wide)
            self._rates[name] = share
        self._embeddings.clear()

    def _pull(self, parameter: Any) -> Any:
        """Gradient of the penalties on a pretrained weight: `l2 * w + l2_sp * (w - start)`; 0 for what they leave out."""
        settings, name = self._settings, parameter.name
        if self.session.block_of(name) == HEAD or not is_decayed(name) or ".lora_" in name:
            return 0.0
        pull = parameter * (settings.l2 + settings.l2_sp)
        if settings.l2_sp:
            pull = pull - zeros_variable(f"{START}{name}", list(parameter.shape)) * settings.l2_sp
        return pull

    def _rate_factor(self, name: str) -> float:
        """Fraction of the learning rate that a parameter's block has: `layerwise_lr_decay` to the number of blocks above it."""
        order = (*self.session.blocks, HEAD)
        depth = len(order) - 1 - order.index(self.session.block_of(name))
        return float(self._settings.layerwise_lr_decay**depth)


def variables_of(program: Any) -> list[str]:
    """Names of the program's variables that keep their values between runs: parameters, and what optimizers keep."""
    kept = [op.result(0) for op in program.global_block().ops if op.name() in ("builtin.parameter", "pd_op.data")]
    return [value.name for value in kept if value.persistable]


def _gradients(main: Any, objective: Any) -> Gradients:
    trained = [one for one in main.global_block().all_parameters() if one.trainable and not one.stop_gradient]
    pairs = paddle.static.append_backward(objective, parameter_list=trained)
    return [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]


def _square(gradient: Any) -> Any:
    """Squared norm `[1]`."""
    return paddle._C_ops.squared_l2_norm(gradient)


def _add_up(parameter: Any, gradient: Any) -> Any:
    total = zeros_variable(f"{SUM}{parameter.name}", list(parameter.shape))
    return paddle.assign(total + gradient, output=total)
