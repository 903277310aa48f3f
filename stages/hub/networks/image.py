"""Image backbones on paddle.vision in a static program, under names that depend on the architecture alone; no Prefect here."""

import difflib
import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import nn
from paddle.vision import models

from hubflow.schemas.errors import HubflowError
from hubflow.stages.hub.blocks import image_block_of
from hubflow.stages.hub.networks.lanes import in_lanes, joined

Triple = tuple[float, float, float]
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
HALF: Triple = (0.5, 0.5, 0.5)
SPATIAL_AXES = [2, 3]
FEW_POSITIONS = 8


class ImageArchitectureError(HubflowError):
    """No image architecture goes by that name."""


@dataclass(frozen=True)
class ImageArchitecture:
    """A backbone: how its layers are made, and how the images that it was trained on were prepared.

    `norm_epsilon` is that of its batch norms as built; `mean` and `std` are by channel (RGB), of values in 0..1.
    """

    name: str
    build: Callable[[], nn.Layer]
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
    architecture: str, image: Any, norm_epsilon: float | None = None, frozen: Collection[str] = (), lanes: int = 1
) -> ImageNetwork:
    """Add the backbone to the current static program.

    Args:
        architecture: a name of `ARCHITECTURES`.
        image: Value `[batch, 3, height, width]`, float32, normalised.
        norm_epsilon: of every batch norm; the architecture's own when None. Checkpoints differ, see `image_names.norm_epsilon`.
        frozen: blocks (`blocks.image_blocks`) whose weights are taken out of training; their batch norms normalise by their
            running statistics and leave them as they are.
        lanes: in how many shares convolutions are computed side by side; norms see the whole batch all the same.

    Train such a program with `FLAGS_use_mkldnn` off: oneDNN (Paddle 3.3.1) leaves running statistics where they started and
    throws on the gradient of max pooling. Evaluation and inference with it on are right, and three times as fast.

    Raises:
        ImageArchitectureError: when the name is unknown.
    """
    # Paddle numbers layers by a counter of the process: a counter of its own makes names a function of the architecture.
    with paddle.utils.unique_name.guard(f"{architecture}_"):
        layer = _layer(architecture)
        for norm in _norms(layer) if norm_epsilon is not None else ():
            norm._epsilon = norm_epsilon
        _freeze(layer, frozen)
        for part in layer.sublayers() if lanes > 1 else ():
            if isinstance(part, nn.Conv2D):
                part.forward = functools.partial(_convolved, part, lanes)  # type: ignore[method-assign]
            elif isinstance(part, nn.MaxPool2D):
                part.forward = functools.partial(_row_by_row, part, lanes)  # type: ignore[method-assign]
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
    return dict(_tensors(architecture))


def _program() -> Any:
    return paddle.static.Program()  # type: ignore[no-untyped-call]


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


def _convolved(layer: Any, lanes: int, x: Any) -> Any:
    """A convolution of all rows in lanes; the norms after it see the whole batch, as they do without lanes."""
    sides = [_side(layer, axis, x.shape[2 + axis]) for axis in (0, 1)]
    is_small = all(sides) and sides[0] * sides[1] <= FEW_POSITIONS and layer._groups == 1 and layer._padding_mode == "zeros"
    if not is_small:
        return _row_by_row(layer, lanes, x)
    matrix = layer.weight.reshape([layer.weight.shape[0], -1])  # a copy, in training: once for all lanes
    return joined([_as_product(layer, matrix, sides, part) for part in in_lanes(x, lanes)])


def _row_by_row(layer: Any, lanes: int, x: Any) -> Any:
    return joined([type(layer).forward(layer, part) for part in in_lanes(x, lanes)])


def _side(layer: Any, axis: int, side: int) -> int:
    """Positions of a convolution's output along one axis; 0 when the input's side is not known while building."""
    padding, kernel, stride, dilation = (
        value if isinstance(value, int) else value[axis]
        for value in (layer._updated_padding, layer._kernel_size, layer._stride, layer._dilation)
    )
    return 0 if side < 0 else (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _as_product(layer: Any, matrix: Any, sides: list[int], x: Any) -> Any:
    """The same convolution as one product with its weights as a `matrix`, over all rows: Paddle's own multiplies row by row.

    With few positions to a row its products are too narrow: those of a ResNet's last stage at 64 pixels ran at a third of the
    speed of one product.
    """
    outputs = matrix.shape[0]
    unfolded = nn.functional.unfold(x, layer._kernel_size, layer._stride, layer._updated_padding, layer._dilation)
    columns = unfolded.transpose([0, 2, 1]).reshape([-1, unfolded.shape[1]])
    y: Any = paddle.matmul(columns, matrix, transpose_y=True)  # type: ignore[no-untyped-call]
    y = y.reshape([-1, sides[0] * sides[1], outputs]).transpose([0, 2, 1]).reshape([-1, outputs, *sides])
    return y if layer.bias is None else y + layer.bias.reshape([1, -1, 1, 1])


def _digits_cnn() -> nn.Layer:
    """Three blocks of convolution, batch norm and ReLU, each halving the side: 56,800 weights."""

    def block(inputs: int, outputs: int) -> Any:
        convolution = nn.Conv2D(inputs, outputs, 3, stride=2, padding=1, bias_attr=False)
        return nn.Sequential(("conv", convolution), ("norm", nn.BatchNorm2D(outputs)), ("relu", nn.ReLU()))

    return nn.Sequential(("block1", block(3, 32)), ("block2", block(32, 64)), ("block3", block(64, 64)))


def _backbone(name: str) -> Callable[[], nn.Layer]:
    constructor = getattr(models, name)
    # DenseNet returns nothing without its pool, which the mean over a single position leaves as it is.
    return functools.partial(constructor, num_classes=0, with_pool=name.startswith("densenet"))


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
