"""Tiny modules that tests make for themselves, with weights made from nothing but their names."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.numpy import save_file
from seeded import seeded_tensors

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
HIDDEN, INNER, LAYERS, POSITIONS = 32, 64, 2, 64


def make_tiny_bert(folder: Path, vocab: Sequence[str], model_type: str = "bert") -> Path:
    """Write a BERT of 2 layers and 32 hidden units in the Hugging Face layout; `vocab` follows the special tokens.

    Returns:
        `folder`, with config.json, model.safetensors and vocab.txt; sequences of up to 64 tokens.
    """
    tokens = list(dict.fromkeys([*SPECIAL_TOKENS, *vocab]))
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": model_type,
        "vocab_size": len(tokens),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": INNER,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    save_file(seeded_tensors(_shapes(len(tokens)), gain=1.0), folder / "model.safetensors")
    return folder


def _shapes(vocab_size: int) -> dict[str, tuple[int, ...]]:
    tables = {"word": vocab_size, "position": POSITIONS, "token_type": 2}
    shapes: dict[str, tuple[int, ...]] = {
        f"embeddings.{name}_embeddings.weight": (rows, HIDDEN) for name, rows in tables.items()
    }
    shapes |= _norm("embeddings.LayerNorm") | _linear("pooler.dense", HIDDEN, HIDDEN)
    for layer in range(LAYERS):
        place = f"encoder.layer.{layer}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes |= _linear(f"{place}.{name}", HIDDEN, HIDDEN)
        shapes |= _linear(f"{place}.intermediate.dense", HIDDEN, INNER) | _linear(f"{place}.output.dense", INNER, HIDDEN)
        shapes |= _norm(f"{place}.attention.output.LayerNorm") | _norm(f"{place}.output.LayerNorm")
    return shapes


def _linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (HIDDEN,), f"{name}.bias": (HIDDEN,)}
