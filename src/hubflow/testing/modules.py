"""Tiny modules for tests: networks that learn in seconds, with settings that fit them."""

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from hubflow.schemas.settings import ModuleSpec
from hubflow.schemas.training import TrainSettings

HIDDEN, INNER, LAYERS, POSITIONS = 64, 128, 2, 128
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CHARACTERS = (*string.ascii_lowercase, *string.digits, *"àâäçèéêëîïñôöùûüßœæ")
_PIECES = (*_CHARACTERS, *(f"##{character}" for character in _CHARACTERS), *string.punctuation)
_WORDS = (
    "a about after all also an and any are as at back bad be because been before best better book but buy by can cheap city "
    "clean cold come could day delivery dirty do dull easy excellent expensive fast film fine first for from fun good great "
    "had happy hard has have he help her here hotel how i if in is it its just kind last like line long lost love many me "
    "more most much music my never new nice night no not now number of off old on one only or order other our out over "
    "people phone place plot poor price product quality quick room sad score service she short slow small so some song still "
    "story strong team than that the their them then there these they this time to too under up used very visit was water we "
    "weak week well what when which who will with work world worst would year you your"
).split()


@dataclass(frozen=True)
class TinyModule:
    """A module for tests, with the settings by which it learns.

    Attributes:
        spec: settings of the module; `spec.name` is its folder or name, which a settings file can hold too.
        train: settings by which it learns a few dozen rows in seconds.
    """

    spec: ModuleSpec
    train: TrainSettings

    @property
    def name(self) -> str:
        """What `module.name` of settings is to be."""
        return self.spec.name


def make_tiny_text_module(folder: str | Path, words: Sequence[str] = (), seed: int = 0) -> TinyModule:
    """Write a BERT of 2 layers and 64 hidden units, with random weights, for sequences of up to 128 tokens.

    Its vocabulary has letters, digits, punctuation and common English words; a word that it does not have becomes letters.

    Args:
        folder: to write config.json, model.safetensors and vocab.txt to; it is made where it is missing.
        words: that the vocabulary shall have too, for example Chinese characters; they are taken in lower case.
        seed: of the weights.

    Returns:
        The module and the settings by which it learns.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = list(dict.fromkeys([*SPECIAL_TOKENS, *_PIECES, *_WORDS, *(word.lower() for word in words)]))
    config = {
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": INNER,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    save_file(_bert_weights(len(vocabulary), np.random.default_rng(seed)), folder / "model.safetensors")
    return TinyModule(ModuleSpec(name=str(folder), max_seq_len=32), TrainSettings(epochs=6, batch_size=8, learning_rate=2e-3))


def make_tiny_image_module() -> TinyModule:
    """The network for images of 8 by 8 pixels that comes with hubflow, trained on handwritten digits.

    Returns:
        The module and the settings by which it learns.
    """
    return TinyModule(ModuleSpec(name="digits"), TrainSettings(epochs=6, batch_size=8, learning_rate=5e-3))


def _bert_weights(vocab_size: int, generator: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    weights: dict[str, NDArray[np.float32]] = {}

    def normal(name: str, shape: tuple[int, ...], scale: float) -> None:
        weights[name] = (scale * generator.standard_normal(shape)).astype(np.float32)

    def linear(name: str, inputs: int, outputs: int) -> None:
        normal(f"{name}.weight", (outputs, inputs), inputs**-0.5)
        weights[f"{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32)

    # Words count more than where they stand, so that a few rows are enough to learn which words a label goes with.
    for table, rows, scale in (("word", vocab_size, 1.0), ("position", POSITIONS, 0.1), ("token_type", 2, 0.1)):
        normal(f"embeddings.{table}_embeddings.weight", (rows, HIDDEN), scale)
    norm("embeddings.LayerNorm")
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            linear(f"{layer}.{part}", HIDDEN, HIDDEN)
        linear(f"{layer}.intermediate.dense", HIDDEN, INNER)
        linear(f"{layer}.output.dense", INNER, HIDDEN)
        norm(f"{layer}.attention.output.LayerNorm")
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", HIDDEN, HIDDEN)
    return weights
