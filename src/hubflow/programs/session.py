"""Session: a task's programs built from their specification, with weights in a scope of their own, ready to run."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hubflow.errors import TaskError, WeightsError, join_limited
from hubflow.modules.module import (
    ImageConfig,
    build_graph,
    load_weights,
    module_block_of,
    module_blocks,
    read_config,
)
from hubflow.modules.networks.sub_batches import SEED
from hubflow.modules.networks.text import TextConfig
from hubflow.modules.weights import HEAD, HEAD_PREFIX, match_weights, read_weights
from hubflow.programs.kernels import add_up_gradients, drop_nothing, find_kernels
from hubflow.programs.passes import convolve_by_onednn, share_constants
from hubflow.programs.pixels import add_pixels, compute_in_pixels
from hubflow.programs.precision import cast_to, require_precision, switch_onednn_off
from hubflow.runtime.memory import require_threads
from hubflow.runtime.paddle_import import BUILD_LOCK, get_variable, paddle, place_of, set_variable, use_own_threads
from hubflow.runtime.threads import compute_cores
from hubflow.schemas.labels import IGNORED_LABEL
from hubflow.schemas.references import EncodedRef, TaskRef
from hubflow.schemas.settings import LoraSettings
from hubflow.schemas.tasks import find_task_type
from hubflow.schemas.training import Precision
from hubflow.store.store import Store
from hubflow.tasks.task import Task, TaskSpec

if TYPE_CHECKING:
    from hubflow.data.encoded import EncodedSplit
    from hubflow.workers.connection import Connection

Feed = dict[str, NDArray[Any]]
ROWS_OF = ("input_ids", "position_ids", "segment_ids", "input_mask", "seq_len", "image", "label")
"""Inputs of programs that have a row for each row of the batch."""


class Session:
    """A task on a module: its programs, executor and scope.

    Args:
        spec: the task.
        module_folder: the module's files.
        device: `auto`, `cpu`, `gpu` or `gpu:N`.
        frozen: blocks of the module (see `blocks`) that training leaves as they are: no gradient for their weights, none below
            them where no trained weight needs it, batch norms by their running statistics and these unchanged. A text
            encoder's dropout acts in them all the same. All of them where `spec.trainable` is False.
        precision: of matrix products and convolutions, and of what image networks of `pixels` hand from layer to layer;
            weights, sums and losses stay in float32.
        trains: whether the programs are for training: in bfloat16 on a CPU they are then of hubflow's own operators (see
            `kernels`) where this machine has them. Programs with these are not exported.
        sub_batches: on a CPU, in how many shares the rows of a batch of texts are computed side by side; see
            `cores.compute_sub_batches`. Another number of them adds up the same gradients in another order, and draws other
            dropout.

    Raises:
        TaskError: for an unknown block, or when the module's kind does not fit the task; ModuleError and DeviceError as they
            are raised.
    """

    def __init__(
        self,
        spec: TaskSpec,
        module_folder: Path,
        device: str = "auto",
        frozen: frozenset[str] = frozenset(),
        precision: Precision = "float32",
        sub_batches: int = 1,
        trains: bool = False,
    ) -> None:
        self.spec, self.module_folder = spec, module_folder
        self.device, self.precision = device, precision
        require_threads()
        self.place = place_of(device)
        self.task_type = find_task_type(spec.task)
        self.is_image = is_image = self.task_type.module_kind == "image"
        is_on_cpu = isinstance(self.place, paddle.CPUPlace)
        is_in_float32 = is_on_cpu and precision == "float32"
        self.has_kernels = trains and computes_by_kernels(precision, self.place)
        # With operators of oneDNN, which computes bfloat16 and convolutions, Paddle runs one after the other; GPUs spread each.
        self.sub_batches = sub_batches if (is_in_float32 or self.has_kernels) and not is_image else 1
        self._is_convolved_by_onednn, self._fuses_biases = is_image and (is_in_float32 or self.has_kernels), is_in_float32
        require_precision(precision, self.place, is_image, self.has_kernels)
        self.scope = paddle.static.Scope()
        self.config = _configured(read_config(module_folder, spec.pretrained), spec)
        self._build(frozen)

    def _build(self, frozen: Collection[str]) -> None:
        unknown = sorted(set(frozen) - set(self.blocks))
        if unknown:
            raise TaskError(
                f"the module has no block(s) {join_limited(unknown)}; known, bottom to top: {', '.join(self.blocks)}"
            )
        self.frozen = frozenset(frozen if self.spec.trainable else self.blocks)
        self._executor = paddle.static.Executor(self.place)
        precision: Precision = "float32" if self.has_kernels else self.precision  # the operators round by themselves
        is_fused = isinstance(self.place, paddle.CUDAPlace) and precision != "float32"
        with BUILD_LOCK, paddle.utils.unique_name.guard(), cast_to(precision):
            self.graph = build_graph(
                self.config,
                self.frozen,
                self.spec.max_seq_len,
                self.spec.lora,
                self.sub_batches,
                first_only=self.task_type.reads_first_token,
                fuses_biases=self._fuses_biases,
                kernels=find_kernels() if self.has_kernels else None,
                fused_attention=precision if is_fused else None,
            )
            self.task: Task = self.task_type.build_head(self.graph, self.spec)
            if self.task.task_type != self.task_type.prediction:
                raise TaskError(
                    f"{self.spec.task} says that its exports predict as {self.task_type.prediction}, but its head is of "
                    f"{self.task.task_type}; build a Task of the former"
                )
        if self.has_kernels:
            drop_nothing(self.task.test_program())
            drop_nothing(self.task.inference_program())
            for program in (self.task.main_program(), self.task.test_program()) if self.is_image else ():
                compute_in_pixels(program, compute_cores())
        self.speed_up(self.task.test_program())
        self.seed_dropout(0)

    def speed_up(self, program: Any) -> None:
        """Put fewer or faster operators in place of some of a program that nothing will be added to any more."""
        share_constants(program)
        if self.has_kernels:
            add_up_gradients(program)
            add_pixels(program, compute_cores())
        if self._is_convolved_by_onednn:
            convolve_by_onednn(program)

    def refrozen(self, frozen: frozenset[str]) -> "Session":
        """A session on the same scope whose programs are built anew with `frozen` in place of what is frozen here.

        Every variable has the name that it has here, and nothing in the scope is touched. An optimizer that was added here is
        not part of it.

        Raises:
            TaskError: for an unknown block.
        """
        other = copy.copy(self)
        other._build(frozen)
        return other

    @property
    def blocks(self) -> tuple[str, ...]:
        """The module's blocks from bottom to top; the head is above them."""
        return module_blocks(self.config)

    def block_of(self, variable_name: str) -> str:
        """The block that a parameter's variable (or a batch-norm statistic's) belongs to; `head` for the head's.

        Raises:
            TaskError: when it is no variable of module or head.
        """
        if variable_name.startswith(HEAD_PREFIX):
            return HEAD
        for name, variable in self.graph.parameters.items():
            if variable == variable_name:
                return module_block_of(self.config, name)
        raise TaskError(f"{variable_name!r} is no parameter of this session's module or head; see Session.names")

    @property
    def names(self) -> dict[str, str]:
        """Variable by our name, for every parameter and batch-norm statistic of module and head."""
        head = [parameter.name for parameter in self.task.main_program().global_block().all_parameters()]
        return {**self.graph.parameters, **{name: name for name in head if name.startswith(HEAD_PREFIX)}}

    @property
    def statistics(self) -> list[str]:
        """Variables that no optimizer updates: what is frozen, and the statistics of batch norms."""
        parameters = self.task.main_program().global_block().all_parameters()
        own = set(self.names.values())
        return [one.name for one in parameters if not one.trainable and one.name in own]

    def initialise(self, seed: int) -> None:
        """Fresh head and optimizer state, then the module's weights: pretrained, or fresh from the seed; adapters are fresh."""
        paddle.seed(seed)
        if not self.spec.pretrained:
            self.run(self.graph.startup)
        self.run(self.task.startup_program())
        if self.graph.adapter_startup is not None:
            self.run(self.graph.adapter_startup)
        if self.spec.pretrained:
            load_weights(self.config, self.module_folder, self.graph, self.scope, self.place)

    def run(self, program: Any, feed: Feed | None = None, fetch: list[Any] | None = None) -> list[NDArray[Any]]:
        """Run `program` once in this session's scope."""
        use_own_threads(self.sub_batches, in_turn=self.is_image and self.has_kernels)
        switch_onednn_off()
        given = _filled(feed or {}, self.sub_batches)
        result: list[NDArray[Any]] = self._executor.run(program, feed=given, fetch_list=fetch or [], scope=self.scope)
        return result

    def seed_dropout(self, seed: int) -> None:
        """Let `seed`, a whole number below 2**24, decide what dropout zeroes in the runs from now on."""
        if self.sub_batches > 1 or self.has_kernels:  # elsewhere Paddle draws
            set_variable(self.scope, SEED, np.array([seed], np.float32), self.place)

    def weights(self, copy: bool = True) -> dict[str, NDArray[Any]]:
        """Every weight of module and head, by our name; see `get_variable`."""
        return {name: get_variable(self.scope, variable, copy) for name, variable in self.names.items()}

    def load(self, folder: Path) -> None:
        """Put the weights of a checkpoint folder into the scope.

        Raises:
            WeightsError: listing missing, unexpected and wrongly shaped tensors.
        """
        self.put(read_weights(folder), str(folder))

    def put(self, found: Mapping[str, NDArray[Any]], source: str) -> None:
        """Put weights of module and head, by our names, into the scope; `source` says where they are from in an error.

        Raises:
            WeightsError: listing missing, unexpected and wrongly shaped tensors.
        """
        names = self.names
        parameters = self.task.main_program().global_block().all_parameters()
        head = {parameter.name: tuple(parameter.shape) for parameter in parameters}
        expected = {name: self.graph.shapes.get(name) or head[name] for name in names if name in found}
        missing = [name for name in names if name not in found]
        if missing:
            raise WeightsError(f"{source}: tensors {missing[:10]} are missing; the checkpoint is of another task")
        for name, array in match_weights(expected, found, source).items():
            set_variable(self.scope, names[name], array, self.place)

    def state(self) -> dict[str, NDArray[Any]]:
        """A copy of all that the next step depends on: weights and optimizer state, by variable name."""
        return {name: np.array(value) for name, value in self.task.main_program().state_dict("all", self.scope).items()}

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Put back what `state` gave."""
        for name, array in state.items():
            set_variable(self.scope, name, array, self.place)


def computes_by_kernels(precision: Precision, place: Any) -> bool:
    """Whether training in this precision is done with operators of hubflow's own (`kernels`)."""
    return precision == "bfloat16" and isinstance(place, paddle.CPUPlace) and find_kernels() is not None


def _filled(feed: Feed, sub_batches: int) -> Feed:
    """The feed with as many rows as there are sub_batches at least; rows that are added count for nothing and come last."""
    missing = sub_batches - min((len(array) for name, array in feed.items() if name in ROWS_OF), default=sub_batches)
    if missing <= 0:
        return feed
    filled = {name: np.concatenate([feed[name], np.repeat(feed[name][:1], missing, 0)]) for name in feed if name in ROWS_OF}
    if "label" in filled:
        filled["label"][-missing:] = IGNORED_LABEL
    return {**feed, **filled}


def _configured(config: TextConfig | ImageConfig, spec: TaskSpec) -> TextConfig | ImageConfig:
    given = {"hidden_dropout": spec.dropout, "attention_dropout": spec.attention_dropout}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if isinstance(config, ImageConfig):
        if chosen:
            raise TaskError("an image module has no dropout to set; set the head's")
        if spec.lora is not None:
            raise TaskError("an image module has no attention projections for LoRA; leave lora out")
        return config
    return replace(config, **chosen)


def task_spec(facts: dict[str, Any]) -> "TaskSpec":
    """The specification in the facts that `build_head` kept."""

    return TaskSpec(
        task=facts["task"],
        num_classes=facts["num_classes"],
        hidden_units=tuple(facts["hidden_units"]),
        trainable=facts["trainable"],
        pretrained=facts["module"]["pretrained"],
        max_seq_len=facts["max_seq_len"],
        head_dropout=facts["head_dropout"],
        dropout=facts["dropout"],
        attention_dropout=facts["attention_dropout"],
        lora=facts["lora"] and LoraSettings.model_validate(facts["lora"]),
    )


def open_session(
    task: TaskRef,
    store: Store,
    device: str,
    precision: Precision = "float32",
    sub_batches: int = 1,
    trains: bool = False,
) -> "Session":
    """Rebuild a task's programs, without weights, from its reference."""

    spec, folder = task_spec(store.open(task).facts), store.open(task.module).folder
    return Session(spec, folder, device, precision=precision, sub_batches=sub_batches, trains=trains)


def parameter_names(request: dict[str, Any], connection: "Connection") -> list[str]:
    """Names of all parameters of a head on its module, sorted, once both are built; `build_head` has it done by a worker."""

    return sorted(Session(task_spec(request["facts"]), Path(request["module"]), "cpu").names)


def open_split(store: Store, encoded: EncodedRef, split: str, random_flip: bool = False) -> "EncodedSplit":
    """Map one split's encoded rows into memory."""
    from hubflow.data.encoded import open_images, open_text
    from hubflow.modules.module import ImageConfig, read_config

    artifact = store.open(encoded)
    path = artifact.folder / f"{split}.arrow"
    if encoded.module.module_kind == "text":
        return open_text(path, artifact.facts["pad_token_id"])
    config = read_config(store.open(encoded.module).folder, encoded.module.pretrained)
    assert isinstance(config, ImageConfig)
    return open_images(path, config.mean, config.std, random_flip)
