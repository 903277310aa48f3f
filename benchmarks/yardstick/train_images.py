"""One fine-tune of a ResNet-18 from scratch by a plain PyTorch loop, DataLoader with 2 workers; prints its figures as JSON."""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import ResNetConfig, ResNetForImageClassification, get_linear_schedule_with_warmup

MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None]
STD = np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
# The layers of He et al., arXiv:1512.03385, as torchvision and Paddle have them.
DEPTHS: dict[int, dict[str, Any]] = {
    18: {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
    50: {"layer_type": "bottleneck", "depths": [3, 4, 6, 3], "hidden_sizes": [256, 512, 1024, 2048]},
}


class Images(Dataset[Any]):
    """Images of a list of `path label` lines, decoded when asked for; mirrored at random in training."""

    def __init__(self, path: str, size: int, names: list[str] | None = None) -> None:
        lines = [line.rsplit(" ", 1) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]
        self.folder, self.size, self.flips = Path(path).parent, size, names is None
        self.names = names or sorted({label for _, label in lines})
        self.rows = [(file, self.names.index(label)) for file, label in lines]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        file, label = self.rows[index]
        with Image.open(self.folder / file) as image:
            image.draft("RGB", (self.size, self.size))
            scale = self.size / min(image.size)
            resized = image.convert("RGB").resize(
                (max(self.size, round(image.width * scale)), max(self.size, round(image.height * scale))),
                Image.Resampling.BILINEAR,
            )
        left, top = (resized.width - self.size) // 2, (resized.height - self.size) // 2
        pixels = np.asarray(resized.crop((left, top, left + self.size, top + self.size)), np.float32).transpose(2, 0, 1)
        tensor = torch.from_numpy((pixels / 255 - MEAN) / STD)
        return (tensor.flip(2) if self.flips and torch.rand(()) < 0.5 else tensor), label


def main() -> None:
    """Train on one list, predict another, and print seconds, accuracy and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("train", "test"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--depth", type=int, choices=sorted(DEPTHS), default=18, help="of the ResNet")
    parser.add_argument("--careful", action="store_true", help="channels last, and bfloat16 where the CPU has it")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    train = Images(options.train, options.size)
    test = Images(options.test, options.size, train.names)
    model = ResNetForImageClassification(ResNetConfig(**DEPTHS[options.depth], num_labels=len(train.names)))
    if options.careful:
        model = model.to(memory_format=torch.channels_last)
    half = options.careful and has_bfloat16()
    figures = fit(model, DataLoader(train, 32, shuffle=True, num_workers=2), options.epochs, half)
    model.eval()
    with torch.no_grad():
        hits = sum(
            int((model(pixels).logits.argmax(1) == labels).sum()) for pixels, labels in DataLoader(test, 64, num_workers=2)
        )
    versions = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    sys.stdout.write(json.dumps({**figures, "score": hits / len(test), "versions": versions}) + "\n")


def has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16: elsewhere it is emulated, and slower."""
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))


def fit(model: Any, batches: DataLoader[Any], epochs: int, half: bool) -> dict[str, Any]:
    """Seconds from before the first batch to after the last step, and peak memory of this process by then."""
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    steps = len(batches) * epochs
    schedule = get_linear_schedule_with_warmup(optimizer, round(0.1 * steps), steps)
    model.train()
    began = time.perf_counter()
    for _ in range(epochs):
        for pixels, labels in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = model(pixels, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "steps": steps, "peak_bytes": peak, "loss": float(loss.detach())}


if __name__ == "__main__":
    main()
