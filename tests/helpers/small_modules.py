"""Small modules and rows for the tests: weights made from their names, written to disk, and encoded by the real encoders."""

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from golden.seeded import seeded_tensors
from safetensors.numpy import save_file

from hubflow.data.encoded import ImageSplit, TextSplit, open_images, open_text
from hubflow.data.encoding import ENCODERS, EncodeContext
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.training import TrainSettings

GOLDEN = Path(__file__).parents[1] / "golden"
MAX_SEQ_LEN = 16
POSITIONS = 128
HIDDEN, INNER, LAYERS, TINY_POSITIONS = 32, 64, 2, 64  # of `make_tiny_bert`
WORDS = (
    "good bad film dull fine the may an of in on to was is not very plot cast scene story music score actor weak strong "
    "slow fast old new long short sad happy dark light Paris Bonn Ada visits Acme"
).split()
LETTERS = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCAB = [*SPECIAL_TOKENS, *LETTERS, *(word.lower() for word in WORDS)]
ENTITY_LABELS = LabelMap(labels=("O", "B-LOC", "I-LOC", "B-PER", "I-PER"))
SENTIMENT = LabelMap(labels=("negative", "positive"))


def golden_facts(case: str) -> dict[str, Any]:
    """What the golden file of a case says of its module."""
    facts: dict[str, Any] = json.loads((GOLDEN / f"{case}.json").read_text())
    return facts


def write_module(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], gain: float = 1.0) -> Path:
    """A module folder: `config.json` and seeded weights of `shapes`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(seeded_tensors(shapes, gain), folder / "model.safetensors")
    return folder


def write_image_module(folder: Path, case: str) -> Path:
    """The module folder of an image backbone's golden case."""
    facts = golden_facts(case)
    return write_module(folder, {"architecture": facts["architecture"]}, facts["tensors"], facts["gain"])


def write_text_module(folder: Path, case: str, **config: Any) -> Path:
    """The module folder of a text encoder's golden case, with the small vocabulary and room for 128 tokens."""
    facts = golden_facts(case)
    tables = {"embeddings.word_embeddings.weight": len(VOCAB), "embeddings.position_embeddings.weight": POSITIONS}
    shapes = {name: [tables[name], shape[1]] if name in tables else shape for name, shape in facts["tensors"].items()}
    sizes = {"vocab_size": len(VOCAB), "max_position_embeddings": POSITIONS}
    write_module(folder, {**facts["config"], **sizes, **config}, shapes)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return folder


def write_tiny_bert(folder: Path) -> Path:
    """The golden BERT of two layers, with the small vocabulary."""
    return write_text_module(folder, "bert")


def make_tiny_bert(folder: Path, vocab: Sequence[str], model_type: str = "bert") -> Path:
    """Write a BERT of 2 layers and 32 hidden units in the Hugging Face layout; `vocab` follows the special tokens.

    Returns:
        `folder`, with config.json, model.safetensors and vocab.txt; sequences of up to 64 tokens.
    """
    tokens = list(dict.fromkeys([*SPECIAL_TOKENS, *vocab]))
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
        "max_position_embeddings": TINY_POSITIONS,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }
    write_module(folder, config, _bert_shapes(len(tokens)))
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return folder


def some_texts(rows: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts of 1 to 10 words and labels that a model can learn: whether the word `good` is among them."""
    generator = np.random.default_rng(seed)
    texts = [" ".join(generator.choice(WORDS[2:], generator.integers(1, 10))) for _ in range(rows)]
    is_good = generator.random(rows) < 0.5
    words = [f"{'good' if good else 'bad'} {text}" for good, text in zip(is_good, texts, strict=True)]
    return words, ["positive" if good else "negative" for good in is_good]


def some_tokens(rows: int, seed: int = 0) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of 1 to 9 words, some of several pieces, and IOB2 tags that a model can learn."""
    tags = {"Paris": "B-LOC", "Bonn": "B-LOC", "Ada": "B-PER", "Lovelace": "I-PER", "Upon": "I-LOC"}
    generator = np.random.default_rng(seed)
    pool = [*WORDS[:20], *tags]
    tokens = [[str(word) for word in generator.choice(pool, generator.integers(1, 10))] for _ in range(rows)]
    return tokens, [[tags.get(word, "O") for word in row] for row in tokens]


def text_split(
    folder: Path, module: Path, texts: Sequence[str], labels: Sequence[str], label_map: LabelMap = SENTIMENT
) -> TextSplit:
    """Texts with labels, encoded by the module's tokenizer."""
    columns = {"row": range(1, len(texts) + 1), "text": texts, "label": labels}
    return open_text(_encode(folder, module, "text", columns, label_map), VOCAB.index("[PAD]"))


def token_split(
    folder: Path,
    module: Path,
    tokens: Sequence[Sequence[str]],
    labels: Sequence[Sequence[str]],
    label_map: LabelMap = ENTITY_LABELS,
    max_seq_len: int = MAX_SEQ_LEN,
) -> TextSplit:
    """Words with tags, encoded by the module's tokenizer."""
    columns = {"row": range(1, len(tokens) + 1), "tokens": tokens, "labels": labels}
    return open_text(_encode(folder, module, "tokens", columns, label_map, max_seq_len), VOCAB.index("[PAD]"))


def some_images(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pixels `[rows, 3, 8, 8]` and classes: whether the left half is the lighter one."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 128, (rows, 3, 8, 8))
    labels = generator.integers(0, 2, rows)
    for row, label in enumerate(labels):
        pixels[row, :, :, 4 * label : 4 * label + 4] += 120
    return pixels.astype(np.uint8), labels


def image_split(folder: Path, rows: int, seed: int = 0, random_flip: bool = False) -> ImageSplit:
    """Images of 8 by 8 pixels as the encoder writes them."""
    pixels, labels = some_images(rows, seed)
    folder.mkdir(parents=True, exist_ok=True)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 3 * 8 * 8)
    batch = pa.record_batch({"row": pa.array(range(1, rows + 1)), "pixels": flat, "label": pa.array(labels)})
    with pa.ipc.new_file(str(folder / "images.arrow"), batch.schema) as writer:
        writer.write_batch(batch)
    return open_images(folder / "images.arrow", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), random_flip)


def settings(**values: Any) -> TrainSettings:
    """Training settings that suit networks of this size."""
    return TrainSettings(**{"epochs": 2, "batch_size": 8, "learning_rate": 1e-3, "log_every_steps": 1, **values})


def in_order_of_use(program: Any, block_by_variable: Mapping[str, str]) -> tuple[str, ...]:
    """Blocks as the program uses their weights, named again whenever it comes back to one."""
    blocks: list[str] = []
    for op in program.global_block().ops:
        sources = [value.get_defining_op() for value in op.operands_source() if value.initialized()]
        used = [source.result(0).name for source in sources if source.name() == "builtin.parameter"]
        blocks += [block for block in dict.fromkeys(block_by_variable[name] for name in used) if blocks[-1:] != [block]]
    return tuple(blocks)


def _encode(
    folder: Path,
    module: Path,
    kind: str,
    columns: Mapping[str, Any],
    label_map: LabelMap,
    max_seq_len: int = MAX_SEQ_LEN,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: pa.array(list(values)) for name, values in columns.items()}), folder / "rows.parquet")
    context = EncodeContext(kind, label_map, module, max_seq_len, 0)
    ENCODERS[kind](pq.ParquetFile(folder / "rows.parquet"), folder / "rows.arrow", context, lambda _rows: None)
    return folder / "rows.arrow"


def _bert_shapes(vocab_size: int) -> dict[str, tuple[int, ...]]:
    tables = {"word": vocab_size, "position": TINY_POSITIONS, "token_type": 2}
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
