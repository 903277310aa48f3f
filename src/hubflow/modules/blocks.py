"""Blocks of a module from bottom to top, by our tensor names alone: what freezing and rates by block go by. No Paddle here."""

import re
from collections.abc import Iterable

EMBEDDINGS, STEM, HEAD = "embeddings", "stem", "head"
HEAD_PREFIX = "head."
# What is no block by its own name: the first layers, and what closes a block of DenseNet or of a ResNet's stem.
_IMAGE_GROUPS: dict[str, str] = {
    **dict.fromkeys(("conv1", "bn1", "conv", "conv1_func", "_conv1", "features.0"), STEM),
    **{f"tr_conv{stage}_blk": f"db_conv_{stage}" for stage in (2, 3, 4)},
    "batch_norm": "db_conv_5",
}
_NUMBERED = re.compile(r"^(features|blocks)\.\d+")


def text_blocks(num_layers: int) -> tuple[str, ...]:
    """`embeddings`, then `encoder.0` and so on."""
    return (EMBEDDINGS, *(f"encoder.{layer}" for layer in range(num_layers)))


def text_block_of(name: str, num_layers: int) -> str:
    """The block of a text encoder's tensor; the pooler is part of the last encoder block."""
    blocks = text_blocks(num_layers)
    return next((block for block in blocks if name.startswith(f"{block}.")), blocks[-1])


def image_blocks(names: Iterable[str]) -> tuple[str, ...]:
    """The blocks of an image backbone, from its tensor names in the order of its layers (`architecture_tensors`).

    `stem`, then the layers' containers: `layer1` to `layer4` of a ResNet, `features.N` or `blocks.N` of a MobileNet, and so on.
    A convolution after them is a block of its own.
    """
    return tuple(dict.fromkeys(map(image_block_of, names)))


def image_block_of(name: str) -> str:
    """The block of an image backbone's tensor or layer."""
    numbered = _NUMBERED.match(name)
    group = numbered[0] if numbered else name.partition(".")[0]
    return _IMAGE_GROUPS.get(group, group)
