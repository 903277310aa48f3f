"""Image backbones on paddle.vision in a static program, and the tensor names of their checkpoints."""

import difflib
import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hubflow.errors import ImageArchitectureError
from hubflow.modules.weights import image_block_of
from hubflow.runtime.paddle_import import BUILD_LOCK, nn, paddle

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
HALF: Triple = (0.5, 0.5, 0.5)
SPATIAL_AXES = [2, 3]


@dataclass(frozen=True)
class ImageArchitecture:
    """A backbone: how its layers are made, and how the images that it was trained on were prepared.

    `norm_epsilon` is that of its batch norms as built; `mean` and `std` are by channel (RGB), of values in 0..1.
    """

    name: str
    build: Callable[[], Any]
    features: int
    image_size: int = 224
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    norm_epsilon: float | None = 1e-5


@dataclass(frozen=True)
class ImageNetwork:
    """A backbone in a program: `feature_map` `[batch, features]`, and variable names by canonical tensor name.

    `parameters` holds trained weights and the batch norms' running statistics alike.
    """

    feature_map: Any
    parameters: Mapping[str, str]


def find(architecture: str) -> ImageArchitecture:
    """The architecture of that name.

    Raises:
        ImageArchitectureError: when there is none, listing those there are.
    """
    try:
        return ARCHITECTURES[architecture]
    except KeyError:
        close = difflib.get_close_matches(architecture, ARCHITECTURES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        known = ", ".join(sorted(ARCHITECTURES))
        raise ImageArchitectureError(f"unknown image architecture {architecture!r}; {hint}known: {known}") from None


def build(
    architecture: str, image: Any, norm_epsilon: float | None = None, frozen: Collection[str] = (), prefix: str = ""
) -> ImageNetwork:
    """Add the backbone to the current static program.

    Args:
        architecture: a name of `ARCHITECTURES`.
        image: Value `[batch, 3, height, width]`, float32, normalised.
        norm_epsilon: of every batch norm; the architecture's own when None. Checkpoints differ, see `image_names.norm_epsilon`.
        frozen: blocks (`blocks.image_blocks`) whose weights are taken out of training; their batch norms normalise by their
            running statistics and leave them as they are.
        prefix: of every variable's name; the rest of it is a function of the architecture.

    Train such a program with `FLAGS_use_mkldnn` off, its convolutions by `convolutions.convolve_by_onednn`: under the flag
    Paddle 3.3.1 leaves running statistics where they started, and throws on the gradient of max pooling.

    Raises:
        ImageArchitectureError: when the name is unknown.
    """
    # Paddle numbers layers by a counter of the process: a counter of its own makes names a function of the architecture.
    with paddle.utils.unique_name.guard(f"{prefix}{architecture}_"):
        layer = _layer(architecture)
        for norm in _norms(layer) if norm_epsilon is not None else ():
            norm._epsilon = norm_epsilon
        _freeze(layer, frozen)
        feature_map = paddle.mean(layer(image), axis=SPATIAL_AXES)
    return ImageNetwork(feature_map, {name: value.name for name, value in layer.state_dict().items()})


@functools.cache
def _tensors(architecture: str) -> dict[str, tuple[int, ...]]:
    with paddle.static.program_guard(_program(), _program()), paddle.utils.unique_name.guard():
        layer = _layer(architecture)
        return {name: tuple(value.shape) for name, value in layer.state_dict().items()}


def architecture_tensors(architecture: str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the backbone by canonical name, in the order of the layers; switches Paddle to static mode.

    Raises:
        ImageArchitectureError: when the name is unknown.
    """
    paddle.enable_static()
    with BUILD_LOCK:
        return dict(_tensors(architecture))


def _program() -> Any:
    return paddle.static.Program()


def _layer(architecture: str) -> Any:
    return find(architecture).build()


def _norms(layer: Any) -> list[Any]:
    return [part for part in layer.sublayers() if isinstance(part, nn.BatchNorm | nn.BatchNorm2D)]


def _freeze(layer: Any, frozen: Collection[str]) -> None:
    for name, part in layer.named_sublayers():
        if image_block_of(name) in frozen:
            part.eval()
    for name, parameter in layer.named_parameters():
        if image_block_of(name) in frozen:
            parameter.stop_gradient, parameter.trainable = True, False


def _digits_cnn() -> Any:
    """Three blocks of convolution, batch norm and ReLU, each halving the side: 56,800 weights."""

    def block(inputs: int, outputs: int) -> Any:
        convolution = nn.Conv2D(inputs, outputs, 3, stride=2, padding=1, bias_attr=False)
        return nn.Sequential(("conv", convolution), ("norm", nn.BatchNorm2D(outputs)), ("relu", nn.ReLU()))

    return nn.Sequential(("block1", block(3, 32)), ("block2", block(32, 64)), ("block3", block(64, 64)))


def _backbone(name: str) -> Callable[[], Any]:
    # DenseNet returns nothing without its pool, which the mean over a single position leaves as it is.
    return lambda: getattr(paddle.vision.models, name)(num_classes=0, with_pool=name.startswith("densenet"))


def _table(features: Mapping[str, int], **common: Any) -> dict[str, ImageArchitecture]:
    return {name: ImageArchitecture(name, _backbone(name), size, **common) for name, size in features.items()}


ARCHITECTURES: dict[str, ImageArchitecture] = {
    **_table({"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048}),
    **_table({"resnext50_32x4d": 2048, "resnext101_32x4d": 2048, "resnext101_64x4d": 2048}),
    **_table({"wide_resnet50_2": 2048, "wide_resnet101_2": 2048}),
    **_table({"mobilenet_v1": 1024, "mobilenet_v2": 1280}),
    **_table({"mobilenet_v3_small": 576, "mobilenet_v3_large": 960}, norm_epsilon=1e-3),
    **_table({"densenet121": 1024, "shufflenet_v2_x1_0": 1024}),
    "digits_cnn": ImageArchitecture("digits_cnn", _digits_cnn, 64, image_size=32, mean=HALF, std=HALF),
}


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
