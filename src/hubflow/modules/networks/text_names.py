"""How text encoders differ: one table of families, and one of tensor names, from the Hugging Face layout to ours."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
