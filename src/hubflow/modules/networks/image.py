"""Image backbones on paddle.vision in a static program, under names that depend on the architecture alone; no Prefect here."""

import difflib
import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from hubflow.errors import ImageArchitectureError
from hubflow.modules.blocks import image_block_of
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
