"""LoRA (Hu et al., arXiv:2106.09685): names of the adapters' tensors, and how they fold into the weights. No Paddle here."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
