"""Module: a pretrained network by name, and its context: input and output variables of a static program."""

import functools
import itertools
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from hubflow.errors import HubflowError, ModuleError, TaskError
from hubflow.modules.download import resolve_module
from hubflow.modules.inputs import normalised, pad_text, pixels_of, rows_of
from hubflow.modules.networks import image, text
from hubflow.modules.networks import image as image_names
from hubflow.modules.networks.sub_batches import SeededDropout
from hubflow.modules.networks.text import FAMILIES, canonical_tensors, is_adapter
from hubflow.modules.registry import read_settings
from hubflow.modules.tokenizer import encode_texts, encode_words, load_tokenizer, pad_token_id
from hubflow.modules.weights import (
    NARROWEST,
    image_block_of,
    image_blocks,
    match_weights,
    read_weights,
    text_block_of,
    text_blocks,
    weight_bytes,
    weight_files,
    weight_names,
)
from hubflow.runtime.paddle_import import BUILD_LOCK, keep_program, leave_dynamic_mode, paddle, set_variable
from hubflow.runtime.paddle_import import functional as F
from hubflow.schemas.labels import IGNORED_LABEL
from hubflow.schemas.library import library_settings
from hubflow.schemas.references import RowKind
from hubflow.schemas.settings import LoraSettings

Context = tuple[dict[str, Any], dict[str, Any], Any]
CONTEXT = "context"
MAX_NUMBER = 1e6
"""Of the size, mean and deviation of images: larger ones, and NaN, describe no images."""


@dataclass(frozen=True)
class ImageConfig:
    """An image backbone and the pixels it expects: sides, and mean and standard deviation by channel of values in 0..1.

    `weight_names` are the tensors of its weights, as their file calls them; none of fresh weights.
    """

    architecture: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weight_names: frozenset[str] = field(default=frozenset(), repr=False)

    @functools.cached_property
    def norm_epsilon(self) -> float | None:
        """Epsilon of the batch norms that the weights were trained with; None for fresh ones."""
        if not self.weight_names:
            return None
        return image_names.norm_epsilon(self.architecture, image_names.layout_of(self.architecture, self.weight_names))


@dataclass(frozen=True)
class ModuleGraph:
    """A module built into a program: its variables, and the name of each parameter's variable by our name.

    `startup` initialises the module's own weights, `adapter_startup` those of its LoRA adapters, if it has any.
    """

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    program: Any
    startup: Any
    parameters: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    adapter_startup: Any = None

    def output(self, name: str, needed_by: str) -> Any:
        """An output of the module, such as `pooled_output`.

        Raises:
            TaskError: when the module has none of this name.
        """
        if name not in self.outputs:
            raise TaskError(f"{needed_by} needs a module with the output {name!r}; this one has {', '.join(self.outputs)}")
        return self.outputs[name]


class Module:
    """A pretrained module.

    Args:
        name: a folder, a short name (`hubflow modules` lists them) or `hf://org/name@revision`.
        revision: of a hub module: branch, tag or commit.
        pretrained: False builds the same network with fresh weights and needs no weight files.

    Attributes:
        folder: the module's files.
        config: what its `config.json` says of the network.

    Raises:
        ModuleError: for an unknown name or architecture.
        DownloadError: when files cannot be fetched or fail their checksum.

    Example:
        >>> inputs, outputs, program = Module(name="digits").context()
        >>> list(outputs["feature_map"].shape)
        [-1, 64]
    """

    def __init__(self, name: str, revision: str | None = None, pretrained: bool = True) -> None:
        self.name, self.pretrained = name, pretrained
        self.folder = resolve_module(name, revision, pretrained)
        self.config = read_config(self.folder, pretrained)

    @property
    def kind(self) -> str:
        """`text` or `image`."""
        return "image" if isinstance(self.config, ImageConfig) else "text"

    def context(self, trainable: bool = True, max_seq_len: int = 128) -> Context:
        """Build the module into a new program and put its weights into the current scope.

        Dynamic mode is left (`paddle.enable_static()`): contexts are static programs. Each call is a module of its own: from
        the second one in a scope on, names of variables begin with `context_<number>.`, so that no weights are shared.

        Args:
            trainable: False freezes every parameter: no gradient, no optimizer state, batch-norm statistics as they are.
            max_seq_len: longest sequence in tokens that will be fed; text modules only.

        Returns:
            `(inputs, outputs, program)`. Text inputs `input_ids`, `position_ids`, `segment_ids` int64 and `input_mask` float32,
            all `[batch, seq]`; outputs `pooled_output` `[batch, hidden]` (of the first token alone where the module has no
            pooler) and `sequence_output` `[batch, seq, hidden]`. Image input `image` `[batch, 3, height, width]` float32;
            output `feature_map` `[batch, features]`.

        Raises:
            ModuleError: when `max_seq_len` is not in 1..max_positions.
            WeightsError: listing missing, unexpected and wrongly shaped tensors.
        """
        scope = paddle.static.global_scope()
        prefix = _claim_prefix(scope)
        graph = build_graph(self.config, () if trainable else module_blocks(self.config), max_seq_len, prefix=prefix)
        if self.pretrained:
            load_weights(self.config, self.folder, graph, scope)
        else:
            with BUILD_LOCK:
                paddle.static.Executor(paddle.CPUPlace()).run(graph.startup, scope=scope)
        keep_program(graph.program, [*graph.inputs.values(), *graph.outputs.values()])
        _CONTEXTS[graph.program] = ModuleContext(self, max_seq_len, prefix, weakref.ref(scope))
        return graph.inputs, graph.outputs, graph.program

    def encode(
        self,
        rows: Any,
        rows_kind: RowKind | None = None,
        max_seq_len: int = 128,
        word_labels: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, Any]:
        """Inputs of the context's program for some rows, made as an export makes them: what to feed, beside labels.

        Args:
            rows: as `Predictor.predict` takes them: texts, pairs, lists of words, or images.
            rows_kind: `text`, `text_pair`, `tokens` or `image`; texts or images when None, by the module.
            max_seq_len: longest row in tokens; the rest is cut.
            word_labels: for `tokens`, the class of each word of each row.

        Returns:
            Arrays by input: of texts those of `context`, padded to the longest row; of `tokens` also `seq_len` `[batch]`, and
            with `word_labels` the `label` `[batch, seq]` of each word's first token, -100 for all other tokens; of images
            `image`.

        Raises:
            PredictError: naming the row of another type.
            ImageError: for an image that does not decode.
            ModuleError: when the rows do not fit the module, or `max_seq_len` or `word_labels` do not fit the rows.
        """
        kind = rows_kind or ("image" if self.kind == "image" else "text")
        if (kind == "image") != (self.kind == "image"):
            raise ModuleError(f"rows_kind {kind!r} does not fit a module of kind {self.kind}")
        if word_labels is not None and kind != "tokens":
            raise ModuleError(f"word_labels are for rows_kind 'tokens', not {kind!r}; feed the labels of rows as `label`")
        given = rows_of(rows, kind)
        if isinstance(self.config, ImageConfig):
            pixels = np.stack([pixels_of(value, self.config.image_size, row) for row, value in enumerate(given)])
            mean, std = np.array(self.config.mean, np.float32), np.array(self.config.std, np.float32)
            return {"image": normalised(pixels, mean, std)}
        check_max_seq_len(self.config, max_seq_len)
        tokenizer = load_tokenizer(self.folder)
        if kind == "tokens":
            return _encoded_words(tokenizer, given, max_seq_len, word_labels)
        texts = [row[0] for row in given] if kind == "text_pair" else given
        pairs = [row[1] for row in given] if kind == "text_pair" else None
        return pad_text(*encode_texts(tokenizer, texts, pairs, max_seq_len), pad_token_id(tokenizer))


@dataclass(frozen=True)
class ModuleContext:
    """What a program of `Module.context` was made from.

    Attributes:
        module: that was built.
        max_seq_len: that was asked for.
        prefix: of the names of its variables.
        scope: that it put its weights into; it lives no longer for this.
    """

    module: Module
    max_seq_len: int
    prefix: str
    scope: "weakref.ref[Any]"


_CONTEXTS: "weakref.WeakKeyDictionary[Any, ModuleContext]" = weakref.WeakKeyDictionary()


def context_of(program: Any) -> ModuleContext | None:
    """The context that `program` was made by; None for a program of another making."""
    return _CONTEXTS.get(program)


def _encoded_words(
    tokenizer: Tokenizer, rows: list[list[str]], max_seq_len: int, word_labels: Sequence[Sequence[int]] | None
) -> dict[str, Any]:
    ids, first_pieces = encode_words(tokenizer, rows, max_seq_len)
    feed = pad_text(ids, [np.zeros_like(row) for row in ids], pad_token_id(tokenizer))
    feed["seq_len"] = np.array([len(row) for row in ids], np.int64)
    if word_labels is None:
        return feed
    if len(word_labels) != len(rows):
        raise ModuleError(f"{len(rows)} rows, but labels of {len(word_labels)}; give a list for each row")
    feed["label"] = np.full(feed["input_ids"].shape, IGNORED_LABEL, np.int64)
    for row, (pieces, labels) in enumerate(zip(first_pieces, word_labels, strict=True)):
        if len(labels) != len(pieces):
            raise ModuleError(f"input {row}: {len(pieces)} words, but {len(labels)} labels; give one for each word")
        kept = pieces >= 0
        feed["label"][row, pieces[kept]] = np.asarray(labels)[kept]
    return feed


def _claim_prefix(scope: Any) -> str:
    """What the names of a further context's variables begin with in this scope; the first one has the plain names."""
    with BUILD_LOCK:
        number = next(number for number in itertools.count(1) if scope.find_var(f"{CONTEXT}_{number}") is None)
        scope.var(f"{CONTEXT}_{number}")  # has no value: it says that there is such a context
    return "" if number == 1 else f"{CONTEXT}_{number}."


def read_config(folder: Path, pretrained: bool = True) -> text.TextConfig | ImageConfig:
    """The module's configuration, from its `config.json`.

    Raises:
        ModuleError: naming the file, when it is missing, unreadable, or of an unknown architecture.
        WeightsError: when pretrained, and the folder has no weights that can be read.
    """
    path = folder / "config.json"
    try:
        values = read_settings(path)
    except ModuleError as error:
        raise ModuleError(f"no readable config.json ({error}); a module folder needs one beside its weights") from error
    names = weight_names(folder) if pretrained else []
    try:
        if "architecture" in values:
            return _image_config(values, names)
        has_pooler = not pretrained or any("pooler." in name for name in names)
        config = text.TextConfig.from_hugging_face(values, has_pooler)
        _require_size(config, folder if pretrained else None)
        return config
    except HubflowError as error:
        raise ModuleError(f"{path}: {error}") from error


def _require_size(config: text.TextConfig, folder: Path | None) -> None:
    """Refuse a network of more parameters than the limit, or than the weights in `folder` can have."""
    count, most = config.num_parameters, library_settings().limits.max_parameters
    if count > most:
        raise ModuleError(f"it describes {count:,} parameters, more than limits.max_parameters {most:,}")
    size = count * NARROWEST if folder is None else weight_bytes(weight_files(folder))
    if count * NARROWEST > size:
        raise ModuleError(
            f"it describes {count:,} parameters, but the weights have {size:,} bytes, at least {NARROWEST} a parameter; check "
            "that config.json and weights come from the same module, or build with pretrained=False"
        )


def module_facts(config: text.TextConfig | ImageConfig) -> dict[str, Any]:
    """What the stages need to know of a module: the fields of a ModuleRef that its configuration gives."""
    if isinstance(config, ImageConfig):
        return {"module_kind": "image", "architecture": config.architecture, "image_size": config.image_size}
    return {
        "module_kind": "text",
        "architecture": config.model_type,
        "max_positions": config.max_positions,
        "pooled_output": "pooler" if config.has_pooler else "first token",
    }


def module_blocks(config: text.TextConfig | ImageConfig) -> tuple[str, ...]:
    """The module's blocks from bottom to top."""
    if isinstance(config, ImageConfig):
        return image_blocks(image.architecture_tensors(config.architecture))
    return text_blocks(config.num_layers)


def module_block_of(config: text.TextConfig | ImageConfig, name: str) -> str:
    """The block of the module's tensor `name`, by our name."""
    return image_block_of(name) if isinstance(config, ImageConfig) else text_block_of(name, config.num_layers)


def build_graph(
    config: text.TextConfig | ImageConfig,
    frozen: Collection[str] = (),
    max_seq_len: int | None = None,
    lora: LoraSettings | None = None,
    sub_batches: int = 1,
    first_only: bool = False,
    fuses_biases: bool = False,
    prefix: str = "",
    kernels: text.Kernels | None = None,
    fused_attention: str | None = None,
) -> ModuleGraph:
    """Build the network into a new program; the startup program holds fresh weights and is run only for those.

    Args:
        config: the module's configuration.
        frozen: blocks (`module_blocks`) that training leaves as they are, batch-norm statistics included. No gradient is
            computed for their weights. A text encoder's dropout acts in them all the same, as in every block.
        max_seq_len: longest sequence in tokens that will be fed; text modules only.
        lora: adapters to train in place of the module's own weights, which are then all frozen; text modules only. Those of
            a frozen block are frozen too.
        sub_batches: in how many shares the rows of a batch are computed side by side (`networks/sub_batches.py`); text modules
            only.
        first_only: whether `sequence_output` is left out, so that the last layer computes the first token alone; text only.
        fuses_biases: whether biases are added by the operators of the products (`networks/text.py`), for those who ask for the
            gradients of all that is trained; text only.
        prefix: of every variable's name, for a second module in the same scope.
        kernels: operators that are used in place of Paddle's; text only.
        fused_attention: the type in which attention is one operator (`networks/text.py`); text only.

    Raises:
        ModuleError: when `max_seq_len` is not in 1..max_positions.
    """
    leave_dynamic_mode()
    with BUILD_LOCK:
        main, startup = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(main, startup):
            if isinstance(config, ImageConfig):
                return _image_graph(config, frozen, main, startup, prefix)
            check_max_seq_len(config, max_seq_len)
            dropout = kernels.dropout if kernels is not None else F.dropout if sub_batches == 1 else SeededDropout()

            def is_frozen(name: str) -> bool:
                return module_block_of(config, name) in frozen or (lora is not None and not is_adapter(name))

            parameters = text.Parameters(
                config.initializer_range, is_frozen, lora, dropout, fuses_biases, prefix, kernels, fused_attention
            )
            return _text_graph(config, parameters, main, startup, sub_batches, first_only)


def load_weights(
    config: text.TextConfig | ImageConfig, folder: Path, graph: ModuleGraph, scope: Any = None, place: Any = None
) -> None:
    """Read the module's weights and put them into `scope` (the current one when not given); adapters are not among them.

    Raises:
        WeightsError: listing missing, unexpected and wrongly shaped tensors.
    """
    tensors = read_weights(folder)
    canonical: Mapping[str, Any]
    if isinstance(config, ImageConfig):
        canonical = image_names.canonical_tensors(config.architecture, tensors)
    else:
        canonical = canonical_tensors(FAMILIES[config.model_type], config.num_layers, tensors)
    own = {name: shape for name, shape in graph.shapes.items() if not is_adapter(name)}
    for name, array in match_weights(own, canonical, str(folder)).items():
        set_variable(scope or paddle.static.global_scope(), graph.parameters[name], array, place or paddle.CPUPlace())


def check_max_seq_len(config: text.TextConfig, max_seq_len: int | None) -> None:
    """Refuse a sequence length that the position table does not allow.

    Raises:
        ModuleError: when it is not in 1..max_positions.
    """
    if max_seq_len is not None and not 1 <= max_seq_len <= config.max_positions:
        raise ModuleError(f"max_seq_len is {max_seq_len}; this module allows 1 to {config.max_positions} tokens")


def _text_graph(
    config: text.TextConfig, parameters: text.Parameters, main: Any, startup: Any, sub_batches: int, first_only: bool
) -> ModuleGraph:
    inputs = {name: paddle.static.data(name, [-1, -1], "int64") for name in ("input_ids", "position_ids", "segment_ids")}
    inputs["input_mask"] = paddle.static.data("input_mask", [-1, -1], "float32")
    pooled, sequence = text.encode(config, text.TextInputs(**inputs), parameters, sub_batches, first_only)
    outputs = {"pooled_output": pooled} if first_only else {"pooled_output": pooled, "sequence_output": sequence}
    return ModuleGraph(inputs, outputs, main, startup, parameters.names, parameters.shapes, parameters.adapter_startup)


def _image_graph(config: ImageConfig, frozen: Collection[str], main: Any, startup: Any, prefix: str) -> ModuleGraph:
    pixels = paddle.static.data("image", [-1, 3, -1, -1], "float32")
    network = image.build(config.architecture, pixels, config.norm_epsilon, frozen, prefix)
    outputs = {"feature_map": network.feature_map}
    shapes = image.architecture_tensors(config.architecture)
    return ModuleGraph({"image": pixels}, outputs, main, startup, dict(network.parameters), shapes)


def _image_config(config: Mapping[str, Any], names: Collection[str]) -> ImageConfig:
    """`names` are those of the weights; empty for fresh ones."""
    given = str(config["architecture"])[:200]
    known = image.find(image_names.timm_architecture(given) or given)
    further = config.get("pretrained_cfg") or {}
    if not isinstance(further, dict):
        raise ModuleError(f"pretrained_cfg is a {type(further).__name__}; expected settings by name")
    declared = {**config, **further}
    size = declared.get("input_size", (3, known.image_size, known.image_size))
    mean, std = declared.get("mean", known.mean), declared.get("std", known.std)
    if not (_is_numbers(size, 3) and _is_numbers(mean, 3) and _is_numbers(std, 3) and min(std) > 0 and size[-1] >= 1):
        raise ModuleError(
            f"input_size {size!r:.100}, mean {mean!r:.100}, std {std!r:.100}: expected three numbers each, input_size as "
            "[3, height, width] and std above 0"
        )
    if size[-1] ** 2 > (most := library_settings().limits.max_image_pixels):
        raise ModuleError(f"input_size {size!r}: images of more than limits.max_image_pixels {most:,} pixels")
    return ImageConfig(known.name, int(size[-1]), tuple(mean), tuple(std), frozenset(names))


def _is_numbers(value: Any, count: int) -> bool:
    if not isinstance(value, list | tuple) or len(value) != count:
        return False
    return all(isinstance(one, int | float) and not isinstance(one, bool) and abs(one) <= MAX_NUMBER for one in value)
