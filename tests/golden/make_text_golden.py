"""Write the golden files of the text encoders: what transformers computes from seeded weights. Runs apart, see README.md."""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from seeded import seeded_tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    ErnieConfig,
    ErnieModel,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

HERE = Path(__file__).parent
LENGTHS = (12, 8, 5)
COMMON = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
POSITIONS = 40


@dataclass(frozen=True)
class Case:
    """A golden file: its name, how the model is made, and which part of it is the encoder."""

    name: str
    build: Callable[[], PreTrainedModel]
    encoder: str | None = None


def cases() -> Iterator[Case]:
    """Every text architecture, and the ways in which checkpoints of one architecture differ."""
    bert = BertConfig(**COMMON, max_position_embeddings=POSITIONS)
    roberta: dict[str, Any] = {**COMMON, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1, "pad_token_id": 1}
    ernie = {**COMMON, "max_position_embeddings": POSITIONS, "type_vocab_size": 4}
    yield Case("bert", lambda: BertModel(bert))
    yield Case("bert_no_pooler", lambda: BertModel(bert, add_pooling_layer=False))
    yield Case("bert_prefixed", lambda: BertForSequenceClassification(bert), encoder="bert")
    yield Case("roberta", lambda: RobertaModel(RobertaConfig(**roberta, layer_norm_eps=1e-5)))
    # A large epsilon, as one that is ignored would not be seen otherwise.
    yield Case("xlm_roberta", lambda: XLMRobertaModel(XLMRobertaConfig(**roberta, layer_norm_eps=1e-3)))
    yield Case("ernie", lambda: ErnieModel(ErnieConfig(**ernie, hidden_act="relu")))
    yield Case("ernie_task", lambda: ErnieModel(ErnieConfig(**ernie, use_task_id=True, task_type_vocab_size=3)))
    electra = ElectraConfig(**COMMON, max_position_embeddings=POSITIONS, embedding_size=24)
    yield Case("electra", lambda: ElectraModel(electra))
    distilbert = DistilBertConfig(
        vocab_size=99, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=POSITIONS
    )
    yield Case("distilbert", lambda: DistilBertModel(distilbert))


def batch(config: PretrainedConfig) -> dict[str, np.ndarray]:
    """Rows of different length, right-padded; two segments where the network has them."""
    generator = np.random.Generator(np.random.PCG64(7))
    longest = max(LENGTHS)
    mask = (np.arange(longest) < np.array(LENGTHS)[:, None]).astype(np.int64)
    ids = generator.integers(5, COMMON["vocab_size"], mask.shape)
    second = (np.arange(longest) >= np.array(LENGTHS)[:, None] // 2).astype(np.int64)
    segments = second * mask if getattr(config, "type_vocab_size", 1) > 1 else np.zeros_like(mask)
    positions = np.broadcast_to(np.arange(longest), mask.shape).astype(np.int64)
    padded = np.where(mask == 1, ids, config.pad_token_id).astype(np.int64)
    return {"input_ids": padded, "position_ids": positions, "segment_ids": segments, "input_mask": mask.astype(np.float32)}


def saved_shapes(model: PreTrainedModel) -> dict[str, list[int]]:
    """Name and shape of each tensor that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "np") as stream:
            return {name: stream.get_slice(name).get_shape() for name in stream.keys()}


def saved_config(model: PreTrainedModel) -> dict[str, Any]:
    """The `config.json` that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        config: dict[str, Any] = json.loads((Path(folder) / "config.json").read_text())
    return config


def seed_weights(model: PreTrainedModel, shapes: dict[str, list[int]]) -> None:
    """Give each parameter the weights of its name in the saved file."""
    state = {name: torch.from_numpy(seeded_tensor(name, tuple(shape))) for name, shape in shapes.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    parameters = {name for name, _ in model.named_parameters()}
    if unexpected or parameters & set(missing):
        raise SystemExit(f"saved names are not the model's own: missing {missing}, unexpected {unexpected}")


def outputs(encoder: torch.nn.Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder's outputs; positions are left to transformers, which numbers them as the architecture does."""
    arguments = {
        "input_ids": torch.from_numpy(inputs["input_ids"]),
        "attention_mask": torch.from_numpy(inputs["input_mask"]).long(),
    }
    if inputs["segment_ids"].any():
        arguments["token_type_ids"] = torch.from_numpy(inputs["segment_ids"])
    with torch.no_grad():
        result = encoder(**arguments)
    pooled = getattr(result, "pooler_output", None)
    found = {"sequence_output": result.last_hidden_state.numpy()}
    return found if pooled is None else {**found, "pooled_output": pooled.numpy()}


def main() -> None:
    """Write `<case>.npz` and `<case>.json` beside this file."""
    for case in cases():
        model = case.build().eval()
        shapes = saved_shapes(model)
        seed_weights(model, shapes)
        inputs = batch(model.config)
        computed = outputs(getattr(model, case.encoder) if case.encoder else model, inputs)
        np.savez_compressed(HERE / f"{case.name}.npz", **inputs, **computed)
        facts = {"config": saved_config(model), "tensors": shapes}
        (HERE / f"{case.name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
