"""Tensor names of image checkpoints, by table: what torchvision, timm and Paddle call each tensor; no Prefect here."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hubflow.modules.networks.image import architecture_tensors, find

Array = npt.NDArray[np.generic] | npt.NDArray[Any]
Rules = tuple[tuple[str, str], ...]

STATISTICS: Rules = ((r"\._mean$", ".running_mean"), (r"\._variance$", ".running_var"))
CLASSIFIER = r"num_batches_tracked$|^(fc|classifier|_?out)\."
_BLOCK = re.compile(r"^\w+\.\d+\.")


@dataclass(frozen=True)
class Layout:
    """How one library names the tensors of one architecture.

    A canonical name becomes the library's by renaming its block's prefix after `blocks`, then applying every rule in turn.
    Tensors that match `dropped` belong to a classifier or count batches: the backbone has no use for them.
    """

    name: str
    rules: Rules = ()
    blocks: Mapping[str, str] = field(default_factory=dict)
    dropped: str = CLASSIFIER
    norm_epsilon: float | None = None


def staged(prefix: str, first: int, depths: Iterable[int]) -> dict[str, str]:
    """Blocks that we number through, from `first` on, and timm numbers by stage and position in it."""
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    return {f"{prefix}.{number}.": f"blocks.{stage}.{block}." for number, (stage, block) in enumerate(places, first)}


def shifted(count: int) -> dict[str, str]:
    """Blocks that torchvision numbers from 1, after the first convolution."""
    return {f"blocks.{number}.": f"features.{number + 1}.block." for number in range(count)}


RESNET = (Layout("torchvision", STATISTICS), Layout("timm", STATISTICS))

MOBILENET_V2_TIMM: Rules = (
    (r"^features\.0\.0\.", "conv_stem."),
    (r"^features\.0\.1\.", "bn1."),
    (r"^features\.18\.0\.", "conv_head."),
    (r"^features\.18\.1\.", "bn2."),
    (r"^blocks\.0\.0\.conv\.0\.0\.", "blocks.0.0.conv_dw."),
    (r"^blocks\.0\.0\.conv\.0\.1\.", "blocks.0.0.bn1."),
    (r"^blocks\.0\.0\.conv\.1\.", "blocks.0.0.conv_pw."),
    (r"^blocks\.0\.0\.conv\.2\.", "blocks.0.0.bn2."),
    (r"\.conv\.0\.0\.", ".conv_pw."),
    (r"\.conv\.0\.1\.", ".bn1."),
    (r"\.conv\.1\.0\.", ".conv_dw."),
    (r"\.conv\.1\.1\.", ".bn2."),
    (r"\.conv\.2\.", ".conv_pwl."),
    (r"\.conv\.3\.", ".bn3."),
    *STATISTICS,
)
MOBILENET_V2 = (
    Layout("torchvision", STATISTICS),
    Layout("timm", MOBILENET_V2_TIMM, staged("features", 1, (1, 2, 3, 4, 3, 3, 1))),
)

MOBILENET_V3_TIMM: Rules = (
    (r"^conv\.0\.", "conv_stem."),
    (r"^conv\.1\.", "bn1."),
    (r"^blocks\.0\.0\.bottleneck_conv\.0\.", "blocks.0.0.conv_dw."),
    (r"^blocks\.0\.0\.bottleneck_conv\.1\.", "blocks.0.0.bn1."),
    (r"^blocks\.0\.0\.linear_conv\.0\.", "blocks.0.0.conv_pw."),
    (r"^blocks\.0\.0\.linear_conv\.1\.", "blocks.0.0.bn2."),
    (r"\.expand_conv\.0\.", ".conv_pw."),
    (r"\.expand_conv\.1\.", ".bn1."),
    (r"\.bottleneck_conv\.0\.", ".conv_dw."),
    (r"\.bottleneck_conv\.1\.", ".bn2."),
    (r"\.mid_se\.fc1\.", ".se.conv_reduce."),
    (r"\.mid_se\.fc2\.", ".se.conv_expand."),
    (r"\.linear_conv\.0\.", ".conv_pwl."),
    (r"\.linear_conv\.1\.", ".bn3."),
    *STATISTICS,
)
# The blocks' parts are numbered from 0 without gaps, so a part's number depends on what its block has before it.
MOBILENET_V3_TORCHVISION: Rules = (
    (r"^conv\.", "features.0."),
    (r"\.expand_conv\.", ".0."),
    (r"\.bottleneck_conv\.", ".1."),
    (r"\.mid_se\.", ".2."),
    *STATISTICS,
)
MOBILENET_V3_SMALL = (
    Layout(
        "torchvision",
        (
            (r"^lastconv\.", "features.12."),
            (r"^features\.1\.block\.bottleneck_conv\.", "features.1.block.0."),
            (r"^features\.1\.block\.mid_se\.", "features.1.block.1."),
            (r"^(features\.[123]\.block)\.linear_conv\.", r"\1.2."),
            (r"\.linear_conv\.", ".3."),
            *MOBILENET_V3_TORCHVISION,
        ),
        shifted(11),
        norm_epsilon=1e-3,
    ),
    Layout(
        "timm",
        ((r"^lastconv\.0\.", "blocks.5.0.conv."), (r"^lastconv\.1\.", "blocks.5.0.bn1."), *MOBILENET_V3_TIMM),
        staged("blocks", 0, (1, 2, 3, 2, 3)),
        dropped=rf"{CLASSIFIER}|^conv_head\.",
        norm_epsilon=1e-5,
    ),
)
MOBILENET_V3_LARGE = (
    Layout(
        "torchvision",
        (
            (r"^lastconv\.", "features.16."),
            (r"^features\.1\.block\.bottleneck_conv\.", "features.1.block.0."),
            (r"^features\.1\.block\.linear_conv\.", "features.1.block.1."),
            (r"^(features\.(?:[456]|1[1-5])\.block)\.linear_conv\.", r"\1.3."),
            (r"\.linear_conv\.", ".2."),
            *MOBILENET_V3_TORCHVISION,
        ),
        shifted(15),
        norm_epsilon=1e-3,
    ),
    Layout(
        "timm",
        ((r"^lastconv\.0\.", "blocks.6.0.conv."), (r"^lastconv\.1\.", "blocks.6.0.bn1."), *MOBILENET_V3_TIMM),
        staged("blocks", 0, (1, 2, 3, 4, 2, 3)),
        dropped=rf"{CLASSIFIER}|^conv_head\.",
        norm_epsilon=1e-5,
    ),
)

PADDLE = Layout("paddle")
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"), RESNET),
    **dict.fromkeys(("resnext50_32x4d", "resnext101_32x4d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"), RESNET),
    "mobilenet_v2": MOBILENET_V2,
    "mobilenet_v3_small": MOBILENET_V3_SMALL,
    "mobilenet_v3_large": MOBILENET_V3_LARGE,
}
"""Layouts besides Paddle's own, which every architecture has."""

TIMM_ARCHITECTURES: dict[str, str] = {
    **{name: name for name in LAYOUTS if name.startswith(("resne", "wide_resnet"))},
    **{f"tv_{name}": name for name in ("resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d")},
    "mobilenetv2_100": "mobilenet_v2",
    "mobilenetv3_small_100": "mobilenet_v3_small",
    "mobilenetv3_large_100": "mobilenet_v3_large",
}
"""Our name of each timm architecture whose network is exactly ours; `tv_` are older names for torchvision's weights."""


def timm_architecture(name: str) -> str | None:
    """Our name of the timm model `name`, with or without a tag (`resnet50.a1_in1k`); None when we have no such network."""
    return TIMM_ARCHITECTURES.get(name.partition(".")[0])


def layout_of(architecture: str, names: Iterable[str]) -> str:
    """Whose layout a checkpoint's tensor names follow: `paddle`, `torchvision` or `timm`.

    The layout with the most of its names present; ResNets are named alike by torchvision and timm and count as torchvision's.

    Raises:
        ImageArchitectureError: when the architecture is unknown.
    """
    return _best(architecture, set(names)).name


def norm_epsilon(architecture: str, layout: str) -> float | None:
    """Epsilon of the batch norms that weights of that layout were trained with.

    Raises:
        ImageArchitectureError: when the architecture is unknown.
    """
    own = find(architecture).norm_epsilon
    found = next((known.norm_epsilon for known in LAYOUTS.get(architecture, ()) if known.name == layout), None)
    return own if found is None else found


def canonical_tensors(architecture: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The checkpoint's tensors under canonical names, its classifier and batch counters left out.

    Names that belong to no tensor of the backbone stay as they are, and what is missing stays missing, so that the caller
    can list both against `architecture_tensors`.

    Raises:
        ImageArchitectureError: when the architecture is unknown.
    """
    layout = _best(architecture, set(tensors))
    names = {source: canonical for canonical, source in _sources(architecture, layout).items()}
    return {
        names.get(name, name): tensor
        for name, tensor in tensors.items()
        if name in names or not re.search(layout.dropped, name)
    }


def source_name(layout: Layout, canonical: str) -> str:
    """What `layout` calls the tensor that we call `canonical`."""
    block = _BLOCK.match(canonical)
    name = canonical
    if block and block[0] in layout.blocks:
        name = layout.blocks[block[0]] + canonical[block.end() :]
    for pattern, theirs in layout.rules:
        name = re.sub(pattern, theirs, name)
    return name


def _sources(architecture: str, layout: Layout) -> dict[str, str]:
    return {canonical: source_name(layout, canonical) for canonical in architecture_tensors(architecture)}


def _best(architecture: str, names: set[str]) -> Layout:
    find(architecture)
    candidates = (PADDLE, *LAYOUTS.get(architecture, ()))
    return max(candidates, key=lambda layout: len(names.intersection(_sources(architecture, layout).values())))
