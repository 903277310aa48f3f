"""One transformer encoder for every text architecture, and the tensor names of their checkpoints."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hubflow.errors import ModuleError, join_limited
from hubflow.modules.networks.sub_batches import Dropout, in_sub_batches, joined
from hubflow.runtime.paddle_import import functional as F
from hubflow.runtime.paddle_import import paddle, truncated_normal
from hubflow.schemas.settings import LoraSettings

LORA_A, LORA_B = "lora_a", "lora_b"


def is_adapter(name: str) -> bool:
    """Whether the tensor belongs to an adapter."""
    return name.endswith((f".{LORA_A}", f".{LORA_B}"))


def merged(weights: Mapping[str, NDArray[Any]], scale: float) -> dict[str, NDArray[Any]]:
    """The weights of the same network without adapters: `weight + A B * scale` wherever there is an adapter.

    Args:
        weights: arrays by our names; `x.weight` `[in, out]` beside `x.lora_a` `[in, rank]` and `x.lora_b` `[rank, out]`.
        scale: alpha / rank.
    """
    result = {name: array for name, array in weights.items() if not is_adapter(name)}
    for name, a in weights.items():
        group, _, part = name.rpartition(".")
        if part == LORA_A:
            weight, b = weights[f"{group}.weight"], weights[f"{group}.{LORA_B}"]
            product = a.astype(np.float64) @ b.astype(np.float64)
            result[f"{group}.weight"] = (weight + scale * product).astype(weight.dtype)
    return result


BERT_NAMES: dict[str, str] = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.segment": "embeddings.token_type_embeddings",
    "embeddings.task": "embeddings.task_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "embeddings.projection": "embeddings_project",
    "encoder.{i}.attention.query": "encoder.layer.{i}.attention.self.query",
    "encoder.{i}.attention.key": "encoder.layer.{i}.attention.self.key",
    "encoder.{i}.attention.value": "encoder.layer.{i}.attention.self.value",
    "encoder.{i}.attention.output": "encoder.layer.{i}.attention.output.dense",
    "encoder.{i}.attention.norm": "encoder.layer.{i}.attention.output.LayerNorm",
    "encoder.{i}.ffn.inner": "encoder.layer.{i}.intermediate.dense",
    "encoder.{i}.ffn.outer": "encoder.layer.{i}.output.dense",
    "encoder.{i}.ffn.norm": "encoder.layer.{i}.output.LayerNorm",
    "pooler": "pooler.dense",
}
DISTILBERT_NAMES: dict[str, str] = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "encoder.{i}.attention.query": "transformer.layer.{i}.attention.q_lin",
    "encoder.{i}.attention.key": "transformer.layer.{i}.attention.k_lin",
    "encoder.{i}.attention.value": "transformer.layer.{i}.attention.v_lin",
    "encoder.{i}.attention.output": "transformer.layer.{i}.attention.out_lin",
    "encoder.{i}.attention.norm": "transformer.layer.{i}.sa_layer_norm",
    "encoder.{i}.ffn.inner": "transformer.layer.{i}.ffn.lin1",
    "encoder.{i}.ffn.outer": "transformer.layer.{i}.ffn.lin2",
    "encoder.{i}.ffn.norm": "transformer.layer.{i}.output_layer_norm",
}
BERT_KEYS: dict[str, str] = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "activation": "hidden_act",
    "position_rows": "max_position_embeddings",
    "segments": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
}
DISTILBERT_KEYS: dict[str, str] = {
    **BERT_KEYS,
    "hidden_size": "dim",
    "num_layers": "n_layers",
    "num_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "activation": "activation",
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
}
DEFAULTS: dict[str, int | float | str] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_layers": 12,
    "num_heads": 12,
    "intermediate_size": 3072,
    "activation": "gelu",
    "position_rows": 512,
    "segments": 2,
    "layer_norm_eps": 1e-12,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "initializer_range": 0.02,
}
"""What a field of config.json is where it is left out, as transformers has it for BERT; a family may differ."""


@dataclass(frozen=True)
class Family:
    """What sets one `model_type` apart.

    Attributes:
        prefix: what checkpoints with a task head put before every name of the encoder.
        names: our parameter group to the checkpoint's, `{i}` standing for the layer.
        keys: our configuration field to config.json's.
        defaults: our configuration field to its value where config.json leaves it out, as in transformers.
        has_segments: whether there is a segment (token type) table.
        has_pooler: whether the architecture can have a pooler.
        positions_after_padding: whether position 0 is the row after the padding id of the position table (RoBERTa).
        embedding_size: width of the embeddings where config.json leaves it out; the hidden size when None.
    """

    prefix: str
    names: Mapping[str, str]
    keys: Mapping[str, str]
    defaults: Mapping[str, int | float | str]
    has_segments: bool = True
    has_pooler: bool = True
    positions_after_padding: bool = False
    embedding_size: int | None = None


_ELECTRA = {**DEFAULTS, "hidden_size": 256, "num_heads": 4, "intermediate_size": 1024}
_ROBERTA = {**DEFAULTS, "vocab_size": 50265}
FAMILIES: dict[str, Family] = {
    "bert": Family("bert.", BERT_NAMES, BERT_KEYS, DEFAULTS),
    "ernie": Family("ernie.", BERT_NAMES, BERT_KEYS, DEFAULTS),
    "roberta": Family("roberta.", BERT_NAMES, BERT_KEYS, _ROBERTA, positions_after_padding=True),
    "xlm-roberta": Family("roberta.", BERT_NAMES, BERT_KEYS, DEFAULTS, positions_after_padding=True),
    "camembert": Family("roberta.", BERT_NAMES, BERT_KEYS, DEFAULTS, positions_after_padding=True),
    "electra": Family("electra.", BERT_NAMES, BERT_KEYS, _ELECTRA, has_pooler=False, embedding_size=128),
    "distilbert": Family(
        "distilbert.",
        DISTILBERT_NAMES,
        DISTILBERT_KEYS,
        {**DEFAULTS, "num_layers": 6},
        has_segments=False,
        has_pooler=False,
    ),
}
HEAD_PREFIXES = (
    "cls.",
    "lm_head.",
    "classifier.",
    "pre_classifier.",
    "qa_outputs.",
    "vocab_transform.",
    "vocab_layer_norm.",
    "vocab_projector.",
    "discriminator_predictions.",
    "generator_predictions.",
    "generator_lm_head.",
    "sequence_summary.",
    "electra.generator",
)
BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def canonical_tensors(
    family: Family, num_layers: int, tensors: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Tensors of a checkpoint under our names, matrices of linear layers turned to `[in, out]`.

    Heads of other tasks and buffers are left out; a tensor that no rule names keeps its own name, for the caller to report.
    """
    table = {
        theirs.format(i=layer): ours.format(i=layer)
        for ours, theirs in family.names.items()
        for layer in (range(num_layers) if "{i}" in theirs else (0,))
    }
    result: dict[str, NDArray[np.float32]] = {}
    for name, tensor in tensors.items():
        plain = _plain_name(family, name)
        if plain in BUFFERS or plain.startswith(HEAD_PREFIXES):
            continue
        group, _, part = plain.rpartition(".")
        ours = f"{table[group]}.{part}" if group in table else name
        is_linear = group in table and part == "weight" and tensor.ndim == 2 and not _is_table(table[group])  # noqa: PLR2004
        result[ours] = np.ascontiguousarray(tensor.T) if is_linear else tensor
    return result


def _plain_name(family: Family, name: str) -> str:
    plain = name.removeprefix(family.prefix)
    for old, new in OLD_NAMES.items():
        if plain.endswith(old):
            plain = plain.removesuffix(old) + new
    return plain


def _is_table(group: str) -> bool:
    return group.startswith("embeddings.") and group != "embeddings.projection"


ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "gelu": ("gelu", {}),
    "gelu_new": ("gelu", {"approximate": True}),
    "gelu_pytorch_tanh": ("gelu", {"approximate": True}),
    "relu": ("relu", {}),
    "silu": ("silu", {}),
    "swish": ("silu", {}),
}
"""Paddle's function and its arguments, by transformers' name."""
MAX_SIZE, MAX_LAYERS = 10_000_000, 1_000
_SIZES = {
    "vocab_size": (1, MAX_SIZE),
    "hidden_size": (1, MAX_SIZE),
    "num_layers": (1, MAX_LAYERS),
    "num_heads": (1, MAX_SIZE),
    "intermediate_size": (1, MAX_SIZE),
    "position_rows": (1, MAX_SIZE),
    "segments": (1, MAX_SIZE),
    "tasks": (1, MAX_SIZE),
    "embedding_size": (1, MAX_SIZE),
    "padding": (-1, MAX_SIZE),
}
"""Least and largest value of whole numbers; limits.max_parameters bounds them together."""
_FRACTIONS = {
    "layer_norm_eps": 1.0,
    "hidden_dropout": 1.0,
    "attention_dropout": 1.0,
    "initializer_range": 10.0,
}
"""What numbers from 0 on are below."""
MASKED_SCORE = -1e4
"""Added to the attention scores of padding: exp of it is 0 in float32, and it is finite in every precision."""


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a text encoder, whatever its family."""

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    activation: str
    position_rows: int
    position_offset: int
    segments: int
    tasks: int
    embedding_size: int
    layer_norm_eps: float
    hidden_dropout: float
    attention_dropout: float
    initializer_range: float
    has_pooler: bool

    @property
    def family(self) -> Family:
        """The family's tables."""
        return FAMILIES[self.model_type]

    @property
    def max_positions(self) -> int:
        """Longest sequence, in tokens, that the position table allows."""
        return self.position_rows - self.position_offset

    @property
    def num_parameters(self) -> int:
        """Parameters of the network, adapters aside."""
        hidden, width = self.hidden_size, self.embedding_size
        tables = (self.vocab_size + self.position_rows + self.segments + self.tasks) * width + 2 * width
        projection = 0 if width == hidden else width * hidden + hidden
        attention = 4 * (hidden * hidden + hidden) + 2 * hidden
        inner = 2 * hidden * self.intermediate_size + self.intermediate_size + 3 * hidden
        pooler = hidden * hidden + hidden if self.has_pooler else 0
        return tables + projection + self.num_layers * (attention + inner) + pooler

    @classmethod
    def from_hugging_face(cls, config: Mapping[str, Any], has_pooler: bool = True) -> "TextConfig":
        """Read a Hugging Face `config.json`; a field that it leaves out has the value that transformers gives it.

        Raises:
            ModuleError: for an unknown architecture, a field without a value or beyond its range, or an unknown activation.
        """
        model_type = str(config.get("model_type"))
        if model_type not in FAMILIES:
            raise ModuleError(
                f"model_type {model_type[:100]!r} is not known; known text architectures: {', '.join(sorted(FAMILIES))}"
            )
        family = FAMILIES[model_type]
        keys = {**family.keys, "padding": "pad_token_id", "tasks": "task_type_vocab_size", "embedding_size": "embedding_size"}
        defaults = {**family.defaults, "padding": 1 if family.positions_after_padding else 0, "tasks": 3}
        values = {ours: config.get(theirs, defaults.get(ours)) for ours, theirs in keys.items()}
        if "embedding_size" not in config:
            values["embedding_size"] = family.embedding_size or values["hidden_size"]
        if not family.positions_after_padding:
            values["padding"] = -1  # which may be null there: position 0 is the first row
        missing = [keys[ours] for ours, value in values.items() if value is None]
        if missing:
            raise ModuleError(f"config.json of model_type {model_type!r} lacks {join_limited(missing)}")
        words = {"activation"}
        wrong = [
            f"{keys[name]}: {value!r:.100}" for name, value in values.items() if name not in words and not _is_number(value)
        ]
        if wrong:
            raise ModuleError(f"config.json of model_type {model_type!r}: expected numbers, found {join_limited(wrong)}")
        _require_ranges(values, keys)
        if not isinstance(values["activation"], str) or values["activation"] not in ACTIVATIONS:
            raise ModuleError(f"activation {values['activation']!r:.100} is not known; known: {', '.join(sorted(ACTIVATIONS))}")
        unlike = config.get("position_embedding_type", "absolute")
        if unlike != "absolute":
            raise ModuleError(f"position_embedding_type {unlike!r:.100} is not known; known: absolute")
        values["segments"] = values["segments"] if family.has_segments else 0
        values["tasks"] = values["tasks"] if config.get("use_task_id") else 0
        return cls(
            model_type=model_type,
            position_offset=values.pop("padding") + 1,
            has_pooler=has_pooler and family.has_pooler,
            **values,
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_ranges(values: dict[str, Any], keys: Mapping[str, str]) -> None:
    """Refuse numbers beyond their ranges; those of `_SIZES` become integers.

    Raises:
        ModuleError: naming each by its key of config.json, with its range.
    """
    faults = []
    for name, (low, high) in _SIZES.items():
        if not (low <= values[name] <= high and values[name] == int(values[name])):
            faults.append(f"{keys[name]}: {values[name]!r:.50} (expected a whole number from {low} to {high:,})")
        else:
            values[name] = int(values[name])
    for name, most in _FRACTIONS.items():
        if not 0 <= values[name] < most:
            faults.append(f"{keys[name]}: {values[name]!r:.50} (expected a number from 0 to below {most})")
    if not faults and values["hidden_size"] % values["num_heads"]:
        faults.append(
            f"{keys['hidden_size']}: {values['hidden_size']} (expected a multiple of the {values['num_heads']} heads)"
        )
    if not faults and values["position_rows"] <= values["padding"] + 1:
        faults.append(
            f"{keys['position_rows']}: {values['position_rows']} (expected rows beyond padding id {values['padding']})"
        )
    if faults:
        raise ModuleError(f"numbers beyond their range: {join_limited(faults)}")


@dataclass(frozen=True)
class TextInputs:
    """Input variables of a text module, all `[batch, seq]`."""

    input_ids: Any
    position_ids: Any
    segment_ids: Any
    input_mask: Any


class Kernels(Protocol):
    """Operators of hubflow's own, in place of Paddle's."""

    def linear(self, x: Any, weight: Any, bias: Any) -> Any:
        """`x` `[rows, in]` times `weight` `[in, out]` plus `bias` `[out]`: `[rows, out]`."""

    def layer_norm(self, x: Any, weight: Any, bias: Any, epsilon: float) -> Any:
        """`x` normalised over its last dimension, times `weight` plus `bias`."""

    def gelu(self, x: Any) -> Any:
        """`x` times the share of the normal distribution that is below it."""

    def attention(self, query: Any, key: Any, value: Any, mask: Any, heads: int, dropout: float) -> Any:
        """Attention by heads of queries `[batch * queries, hidden]` to key and value `[batch * seq, hidden]`."""

    def dropout(self, x: Any, probability: float) -> Any:
        """`x` with elements zeroed by `probability`, the others scaled up."""


class Parameters:
    """Makes the parameters of one module in the current program.

    Args:
        initializer_range: standard deviation of fresh matrices.
        is_frozen: whether the parameter of that name is left out of training.
        lora: the adapters of the attention projections.
        dropout: zeroes elements of its first argument by the fraction that is its second; Paddle's own when not given.
        fuses_biases: whether a bias is added by the operator of its product, where both and the input have a gradient. Of that
            operator the gradients are to be asked for all together: Paddle 3.3.1 ends with a segmentation fault where one
            is left out.
        prefix: of every variable's name; the rest of it is a pure function of the configuration.
        kernels: operators that are used in place of Paddle's.
        fused_attention: the type in which attention is one operator, which keeps no weights; None for products and a softmax.

    Attributes:
        names: variable by our name.
        adapter_startup: the program that initialises the adapters, when there are any; apart from that of all else, as they
            start fresh where the rest is pretrained.
    """

    def __init__(
        self,
        initializer_range: float,
        is_frozen: Callable[[str], bool],
        lora: LoraSettings | None = None,
        dropout: Dropout | None = None,
        fuses_biases: bool = False,
        prefix: str = "",
        kernels: Kernels | None = None,
        fused_attention: str | None = None,
    ) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.names: dict[str, str] = {}
        self.adapter_startup = paddle.static.Program() if lora else None
        self.dropout: Dropout = dropout or F.dropout
        self._made: dict[str, Any] = {}
        self._is_frozen, self._lora, self._fuses_biases = is_frozen, lora, fuses_biases
        self._normal, self._prefix, self._kernels = truncated_normal(initializer_range), prefix, kernels
        self._fused_attention = fused_attention

    def matrix(self, name: str, shape: tuple[int, ...]) -> Any:
        """A weight matrix, truncated normal when fresh."""
        return self._make(name, shape, self._normal)

    def vector(self, name: str, size: int, value: float = 0.0) -> Any:
        """A bias or a norm's scale, constant when fresh."""
        return self._make(name, (size,), paddle.nn.initializer.Constant(value))

    def linear(self, name: str, x: Any, sizes: tuple[int, int]) -> Any:
        """`x` `[rows, in]` times the weights plus the bias: `[rows, out]`.

        A bias that is added apart is expanded before: the gradient of a broadcast addition is the slowest operator on CPU.
        """
        weight, bias = self.matrix(f"{name}.weight", sizes), self.vector(f"{name}.bias", sizes[1])
        if self._kernels is not None:
            return self._kernels.linear(x, weight, bias)
        if self._fuses_biases and not any(one.stop_gradient for one in (x, weight, bias)):
            return paddle.addmm(bias, x, weight)
        product = paddle.matmul(x, weight)
        return product + bias.expand_as(product)

    def projection(self, name: str, x: Any, size: int) -> Any:
        """An attention projection of `x` `[rows, size]`, plus what its adapter adds where it has one."""
        y = self.linear(name, x, (size, size))
        lora = self._lora
        if lora is None or name.rpartition(".")[2] not in lora.targets:
            return y
        # As Microsoft's loralib and PEFT do: kaiming_uniform(a=sqrt(5)), which is uniform within 1/sqrt(in); the paper: normal.
        bound = 1.0 / math.sqrt(size)
        with paddle.static.program_guard(paddle.static.default_main_program(), self.adapter_startup):
            a = self._make(f"{name}.{LORA_A}", (size, lora.rank), paddle.nn.initializer.Uniform(-bound, bound))
            b = self._make(f"{name}.{LORA_B}", (lora.rank, size), paddle.nn.initializer.Constant(0.0))
        inner = paddle.matmul(self.dropout(x, lora.dropout), a)
        return y + paddle.scale(paddle.matmul(inner, b), lora.scale)

    def norm(self, name: str, x: Any, size: int, epsilon: float) -> Any:
        """Layer normalisation over the last dimension."""
        scale, shift = self.vector(f"{name}.weight", size, 1.0), self.vector(f"{name}.bias", size)
        if self._kernels is not None:
            return self._kernels.layer_norm(x, scale, shift, epsilon)
        return F.layer_norm(x, [size], weight=scale, bias=shift, epsilon=epsilon)

    def activated(self, name: str, x: Any) -> Any:
        """The activation of that name, of transformers, of every element."""
        if name == "gelu" and self._kernels is not None:
            return self._kernels.gelu(x)
        function, arguments = ACTIVATIONS[name]
        return getattr(F, function)(x, **arguments)

    def attended(self, parts: tuple[Any, Any, Any], mask: Any, batch: Any, heads: int, dropout: float) -> Any:
        """Scaled dot-product attention by heads (Vaswani et al., arXiv:1706.03762): `[batch * queries, hidden]`.

        Args:
            parts: queries `[batch * queries, hidden]`, keys and values `[batch * seq, hidden]`.
            mask: `[batch, 1, 1, seq]`, added to the scores.
            batch: how many rows there are.
            heads: into how many parts the last dimension is cut.
            dropout: of the weights.
        """
        if self._kernels is not None:
            return self._kernels.attention(*parts, mask, heads, dropout)
        hidden = parts[0].shape[-1]
        query, key, value = (part.reshape([batch, -1, heads, hidden // heads]) for part in parts)
        if self._fused_attention is not None:
            query, key, value, mask = (one.astype(self._fused_attention) for one in (query, key, value, mask))
            wide = mask.expand([batch, 1, paddle.shape(query)[1], paddle.shape(key)[1]])
            return F.scaled_dot_product_attention(query, key, value, wide, dropout, training=True).reshape([-1, hidden])
        query, key, value = (part.transpose([0, 2, 1, 3]) for part in (query, key, value))
        scores = paddle.matmul(paddle.scale(query, 1.0 / math.sqrt(hidden // heads)), key, transpose_y=True) + mask
        weights = self.dropout(F.softmax(scores), dropout)
        return paddle.matmul(weights, value).transpose([0, 2, 1, 3]).reshape([-1, hidden])

    def _make(self, name: str, shape: tuple[int, ...], initializer: Any) -> Any:
        if name in self._made:  # by another sub_batch
            return self._made[name]
        self.shapes[name], self.names[name] = shape, f"{self._prefix}{name}"
        attribute = paddle.ParamAttr(name=self.names[name], initializer=initializer, trainable=not self._is_frozen(name))
        self._made[name] = paddle.create_parameter(list(shape), "float32", name=self.names[name], attr=attribute)
        return self._made[name]


def encode(
    config: TextConfig, inputs: TextInputs, parameters: Parameters, sub_batches: int = 1, first_only: bool = False
) -> tuple[Any, Any]:
    """Build the encoder: `(pooled_output [batch, hidden], sequence_output [batch, seq, hidden])`.

    Without a pooler the pooled output is the first token's vector. Dropout acts in training whatever is frozen. With several
    `sub_batches` each computes its share of the rows, at least one, beside the others; what comes out is in the rows' order.
    With `first_only` the last layer computes the first token alone, and there is no sequence output (None).
    """
    embedded = _embed(config, inputs, parameters)
    mask = ((1.0 - inputs.input_mask) * MASKED_SCORE).unsqueeze(1).unsqueeze(1)
    shares = [
        _Share.of(*parts)
        for parts in zip(in_sub_batches(embedded, sub_batches), in_sub_batches(mask, sub_batches), strict=True)
    ]
    tokens = [_widened(config, share.embedded, parameters) for share in shares]
    # All sub_batches layer by layer: Paddle draws dropout in the program's order, and a sub_batch built last would wait for
    # all others.
    for layer in range(config.num_layers):
        first = first_only and layer == config.num_layers - 1
        tokens = [_layer(config, layer, share, x, parameters, first) for share, x in zip(shares, tokens, strict=True)]
    if first_only:
        return joined([_pooled(config, x, parameters) for x in tokens]), None
    rows = [share.by_row(x) for share, x in zip(shares, tokens, strict=True)]
    return joined([_pooled(config, row[:, 0], parameters) for row in rows]), joined(rows)


@dataclass(frozen=True)
class _Share:
    """The rows of a sub-batch: embedded `[batch, seq, embedding]`, their mask, and how many rows and tokens a row."""

    embedded: Any
    mask: Any
    batch: Any
    length: Any

    @classmethod
    def of(cls, embedded: Any, mask: Any) -> "_Share":
        shape = paddle.shape(embedded)
        return cls(embedded, mask, shape[0], shape[1])

    def by_row(self, tokens: Any) -> Any:
        """`[batch * seq, hidden]` as `[batch, seq, hidden]`."""
        return tokens.reshape([self.batch, self.length, tokens.shape[-1]])


def _layer(config: TextConfig, number: int, share: _Share, x: Any, parameters: Parameters, first_only: bool) -> Any:
    """A layer of the encoder on tokens `[batch * seq, hidden]`: the same, or `[batch, hidden]` of the first tokens alone.

    Tokens are kept in two dimensions around every linear layer (on CPU 3-D operands cost twice).
    """
    name = f"encoder.{number}"
    kept = share.by_row(x)[:, 0] if first_only else x
    attended = _attention(config, f"{name}.attention", (kept, x), share, parameters)
    x = parameters.norm(f"{name}.attention.norm", kept + attended, config.hidden_size, config.layer_norm_eps)
    inner = parameters.linear(f"{name}.ffn.inner", x, (config.hidden_size, config.intermediate_size))
    outer = parameters.linear(
        f"{name}.ffn.outer", parameters.activated(config.activation, inner), (config.intermediate_size, config.hidden_size)
    )
    x = x + parameters.dropout(outer, config.hidden_dropout)
    return parameters.norm(f"{name}.ffn.norm", x, config.hidden_size, config.layer_norm_eps)


def _pooled(config: TextConfig, first: Any, parameters: Parameters) -> Any:
    """What is said of a row `[batch, hidden]` by its first token's vector."""
    if not config.has_pooler:
        return first
    return F.tanh(parameters.linear("pooler", first, (config.hidden_size, config.hidden_size)))


def _embed(config: TextConfig, inputs: TextInputs, parameters: Parameters) -> Any:
    size = config.embedding_size
    x = F.embedding(inputs.input_ids, parameters.matrix("embeddings.word.weight", (config.vocab_size, size)))
    positions = inputs.position_ids + config.position_offset
    x = x + F.embedding(positions, parameters.matrix("embeddings.position.weight", (config.position_rows, size)))
    if config.segments:
        x = x + F.embedding(inputs.segment_ids, parameters.matrix("embeddings.segment.weight", (config.segments, size)))
    if config.tasks:
        first_task = paddle.zeros_like(inputs.input_ids)
        x = x + F.embedding(first_task, parameters.matrix("embeddings.task.weight", (config.tasks, size)))
    return x


def _widened(config: TextConfig, x: Any, parameters: Parameters) -> Any:
    """Embedded rows `[batch, seq, embedding]` normalised, as tokens `[batch * seq, hidden]`."""
    size = config.embedding_size
    x = parameters.norm("embeddings.norm", x.reshape([-1, size]), size, config.layer_norm_eps)
    x = parameters.dropout(x, config.hidden_dropout)
    if size == config.hidden_size:
        return x
    return parameters.linear("embeddings.projection", x, (size, config.hidden_size))


def _attention(config: TextConfig, name: str, tokens: tuple[Any, Any], share: _Share, parameters: Parameters) -> Any:
    """What queries `[batch * queries, hidden]` take from their context, all tokens `[batch * seq, hidden]`."""
    queries, context = tokens
    hidden, heads = config.hidden_size, config.num_heads

    query, key, value = (
        parameters.projection(f"{name}.{part}", x, hidden)
        for part, x in (("query", queries), ("key", context), ("value", context))
    )
    mixed = parameters.attended((query, key, value), share.mask, share.batch, heads, config.attention_dropout)
    return parameters.dropout(parameters.projection(f"{name}.output", mixed, hidden), config.hidden_dropout)
