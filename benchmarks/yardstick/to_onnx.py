"""The checkpoint that a hubflow export was made from as ONNX, through PyTorch: BERT for texts, ResNet-18 for images."""

import argparse
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

BERT = {
    "embeddings.word": "embeddings.word_embeddings",
    "embeddings.position": "embeddings.position_embeddings",
    "embeddings.segment": "embeddings.token_type_embeddings",
    "embeddings.norm": "embeddings.LayerNorm",
    "pooler": "pooler.dense",
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "ffn.inner": "intermediate.dense",
    "ffn.outer": "output.dense",
    "ffn.norm": "output.LayerNorm",
}


def main() -> None:
    """Write the ONNX file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="model.safetensors of hubflow's checkpoint")
    parser.add_argument("onnx")
    parser.add_argument("--module", help="folder of the text module, with its config.json; images without")
    options = parser.parse_args()
    weights = load_file(options.checkpoint)
    model, names, example = _text(weights, options.module) if options.module else _image(weights)
    axes = {name: {0: "batch"} if options.module is None else {0: "batch", 1: "length"} for name in names}
    torch.onnx.export(
        model.eval(), example, options.onnx, input_names=names, output_names=["probs"], dynamic_axes=axes, dynamo=False
    )


def _text(weights: dict[str, Any], module: str) -> tuple[nn.Module, list[str], tuple[Any, ...]]:
    config = BertConfig.from_pretrained(module, num_labels=len(weights["head.output.bias"]))
    model = BertForSequenceClassification(config)
    named = {_bert_name(name): tensor.T.contiguous() if _is_linear(name) else tensor for name, tensor in weights.items()}
    left = model.load_state_dict(named, strict=False)
    assert not left.unexpected_keys, left
    assert all(name.endswith("position_ids") for name in left.missing_keys), left

    class Probabilities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return torch.softmax(self.model(input_ids, attention_mask, token_type_ids).logits, -1)

    ids = torch.ones(2, 7, dtype=torch.long)
    return Probabilities(), ["input_ids", "attention_mask", "token_type_ids"], (ids, ids, ids * 0)


def _bert_name(name: str) -> str:
    part, leaf = name.rsplit(".", 1)
    if part == "head.output":
        return f"classifier.{leaf}"
    if part.startswith("encoder."):
        _, layer, rest = part.split(".", 2)
        return f"bert.encoder.layer.{layer}.{BERT[rest]}.{leaf}"
    return f"bert.{BERT[part]}.{leaf}"


def _is_linear(name: str) -> bool:
    return name.endswith(".weight") and "embeddings" not in name and "norm" not in name


class Block(nn.Module):
    """Two convolutions with a shortcut."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        narrower = stride > 1 or inside != out
        self.downsample = (
            nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)) if narrower else nn.Identity()
        )

    def forward(self, x: Any) -> Any:
        """`x` `[batch, channels, height, width]`."""
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.downsample(x))


class ResNet18(nn.Module):
    """ResNet-18 with one linear layer as head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inside = 64
        for number, out in enumerate((64, 128, 256, 512), start=1):
            setattr(self, f"layer{number}", nn.Sequential(Block(inside, out, 1 if number == 1 else 2), Block(out, out, 1)))
            inside = out
        self.head = nn.Linear(512, classes)

    def forward(self, image: Any) -> Any:
        """Probabilities of images `[batch, 3, height, width]`."""
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return torch.softmax(self.head(x.mean((2, 3))), -1)


def _image(weights: dict[str, Any]) -> tuple[nn.Module, list[str], tuple[Any, ...]]:
    model = ResNet18(len(weights["head.output.bias"]))
    ours = {"head.output": "head", "_mean": "running_mean", "_variance": "running_var"}
    named = {}
    for name, tensor in weights.items():
        target = name
        for ours_, theirs in ours.items():
            target = target.replace(ours_, theirs)
        named[target] = tensor.T.contiguous() if target == "head.weight" else tensor
    left = model.load_state_dict(named, strict=False)
    assert not left.unexpected_keys, left
    assert all(name.endswith("num_batches_tracked") for name in left.missing_keys), left
    return model, ["image"], (torch.zeros(2, 3, 64, 64),)


if __name__ == "__main__":
    main()
