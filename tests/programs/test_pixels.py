"""Layers of image networks by operators of hubflow's own: values, gradients, statistics, bits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hubflow.modules.networks import image
from hubflow.programs.kernels import NEEDED, find_kernels
from hubflow.programs.pixels import compute_in_pixels
from hubflow.programs.precision import cpu_flags
from hubflow.runtime.paddle_import import leave_dynamic_mode, nn, paddle

pytestmark = pytest.mark.skipif(not cpu_flags() >= NEEDED, reason="the operators need AVX512-BF16")
F = paddle.nn.functional
Floats = NDArray[np.float32]
Layers = Callable[[Any], Any]
CONVOLUTIONS = [
    ((1, 1, 1, 1), (1, 1, 1), 1, 0),
    ((2, 3, 17, 16), (20, 7, 7), 2, 3),
    ((3, 5, 9, 7), (7, 3, 3), 1, 1),
    ((2, 64, 8, 8), (130, 3, 3), 2, 1),
    ((33, 70, 2, 2), (64, 3, 3), 1, 1),
    ((5, 32, 7, 7), (33, 1, 1), 2, 0),
    ((2, 48, 30, 31), (16, 1, 1), 1, 0),
    ((2, 4, 12, 12), (8, 5, 5), 3, 2),
    ((3, 6, 10, 8), (5, 3, 2), 1, 0),
]
"""Images; outputs and sides of the filter; stride and padding."""


def rounded(values: NDArray[Any]) -> Floats:
    """Values that bfloat16 has."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


class Result:
    """What layers give, the slopes of what they are given and of their weights, their statistics after, and their operators."""

    def __init__(self, layers: Layers, size: tuple[int, ...], is_own: bool, threads: int = 2) -> None:
        leave_dynamic_mode()
        main, start, scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        executor = paddle.static.Executor(paddle.CPUPlace())
        with paddle.utils.unique_name.guard(), paddle.static.program_guard(main, start):
            x = paddle.static.data("x", [-1, *size[1:]], "float32")
            x.stop_gradient = False
            weight = paddle.static.data("weight", [-1], "float32")
            y = layers(x) + 0.0  # what is fetched is no result of an operator that is replaced
            if is_own:
                assert find_kernels() is not None
                compute_in_pixels(main, threads)
            loss = (y.flatten() * weight).sum()
            weights = [one for one in main.global_block().all_parameters() if one.trainable]
            slopes = paddle.static.gradients([loss], [x, *weights])
        executor.run(start, scope=scope)
        random = np.random.default_rng(size[1])
        for one in main.global_block().all_parameters():
            value = 0.2 * random.normal(size=one.shape) + (1.0 if len(one.shape) == 1 else 0.0)
            scope.find_var(one.name).get_tensor().set(rounded(np.abs(value) if not one.trainable else value), paddle.CPUPlace())
        self.statistics = [one.name for one in main.global_block().all_parameters() if not one.trainable]
        elements = int(np.prod([abs(side) for side in (size[0], *y.shape[1:])]))
        feed = {"x": rounded(random.normal(size=size)), "weight": rounded(random.normal(size=elements))}
        wanted = [y, *(one for one in slopes if one is not None)]
        self.values: list[Floats] = executor.run(main, feed=feed, fetch_list=wanted, scope=scope)
        self.values += [np.array(scope.find_var(name).get_tensor()) for name in self.statistics]
        self.operators = {op.name() for op in main.global_block().ops}

    @property
    def own(self) -> set[str]:
        """Operators of hubflow's own that compute forwards."""
        return {name.removeprefix("custom_op.hubflow_") for name in self.operators if "hubflow" in name and "_grad" not in name}


SMALL = 0.02
"""Up to here no single value may be far off."""


def require_near(layers: Layers, size: tuple[int, ...], off: float = 0.01) -> Result:
    """Both ways give nearly the same; the result by hubflow's operators.

    Args:
        layers: what is computed.
        size: of the images.
        off: how much the results may differ, as a part of their norm. Some hundredths where there are ReLUs and pools: what is
            near 0, or nearly the largest, comes to lie on the other side, and its slope goes elsewhere.
    """
    own, theirs = Result(layers, size, is_own=True), Result(layers, size, is_own=False)
    assert not theirs.own
    for one, wanted in zip(own.values, theirs.values, strict=True):
        assert one.shape == wanted.shape
        assert np.linalg.norm(one - wanted) <= off * np.linalg.norm(wanted)
        if off <= SMALL:
            np.testing.assert_allclose(one, wanted, rtol=0.02, atol=off * float(np.abs(wanted).max()))
    return own


def after(inputs: int, filters: tuple[int, ...], stride: int, padding: int, layers: Layers = lambda x: x) -> Layers:
    """The layers, behind a convolution."""
    return lambda x: layers(convolution(inputs, filters, stride, padding)(x))


def convolution(inputs: int, filters: tuple[int, ...], stride: int, padding: int, **further: Any) -> Any:
    return nn.Conv2D(inputs, filters[0], filters[1:], stride, padding, bias_attr=False, **further)


@pytest.mark.parametrize(("images", "filters", "stride", "padding"), CONVOLUTIONS)
def test_convolutions_are_those_of_paddles_operators(
    images: tuple[int, ...], filters: tuple[int, ...], stride: int, padding: int
) -> None:
    own = require_near(after(images[1], filters, stride, padding), images)
    assert own.own == {"to_pixels", "by_tap", "convolution", "from_pixels"}


@pytest.mark.parametrize(("images", "filters", "stride", "padding"), CONVOLUTIONS[1:5])
def test_layers_have_the_same_bits_however_many_threads_there_are(
    images: tuple[int, ...], filters: tuple[int, ...], stride: int, padding: int
) -> None:
    def layers(x: Any) -> Any:
        x = F.relu(nn.BatchNorm2D(filters[0])(convolution(images[1], filters, stride, padding)(x)))
        return F.max_pool2d(x, 3, 2, 1) if x.shape[2] > 1 else x

    one, several = (Result(layers, images, is_own=True, threads=threads) for threads in (1, 5))
    assert [value.tobytes() for value in one.values] == [value.tobytes() for value in several.values]


def test_filters_that_are_not_trained_have_no_gradient() -> None:
    def frozen(x: Any) -> Any:
        layer = convolution(16, (32, 3, 3), 1, 1)
        layer.weight.stop_gradient, layer.weight.trainable = True, False
        return layer(x)

    own = require_near(frozen, (2, 16, 8, 8))
    assert len(own.values) == 3


@pytest.mark.parametrize("mode", ["train", "statistics", "test"])
@pytest.mark.parametrize("is_positive", [False, True])
@pytest.mark.parametrize("size", [(8, 64, 16, 16), (5, 33, 7, 7), (2, 6, 1, 1)])
def test_batch_norms_are_those_of_paddles_operators(size: tuple[int, ...], is_positive: bool, mode: str) -> None:
    def layers(x: Any) -> Any:
        layer = nn.BatchNorm2D(size[1], epsilon=1e-3, momentum=0.8, use_global_stats=mode == "statistics" or None)
        if mode == "test":
            layer.eval()
        return F.relu(layer(x)) if is_positive else layer(x)

    assert require_near(after(size[1], (size[1], 1, 1), 1, 0, layers), size, 0.08 if is_positive else SMALL).own == {
        *("to_pixels", "by_tap", "convolution", "batch_norm", "from_pixels"),
    }


def basic_block(x: Any, channels: int, stride: int, is_halved: bool) -> Any:
    """Two convolutions beside a shortcut, which is a convolution itself where sizes change."""
    inner = F.relu(nn.BatchNorm2D(channels)(convolution(x.shape[1], (channels, 3, 3), stride, 1)(x)))
    outer = nn.BatchNorm2D(channels)(convolution(channels, (channels, 3, 3), 1, 1)(inner))
    shortcut = nn.BatchNorm2D(channels)(convolution(x.shape[1], (channels, 1, 1), stride, 0)(x)) if is_halved else x
    return F.relu(outer + shortcut) if stride == 1 else F.relu(shortcut + outer)


def test_shortcuts_are_added_within_the_batch_norm() -> None:
    def layers(x: Any) -> Any:
        x = F.max_pool2d(F.relu(nn.BatchNorm2D(16)(convolution(3, (16, 7, 7), 2, 3)(x))), 3, 2, 1)
        return basic_block(basic_block(x, 16, 1, is_halved=False), 32, 2, is_halved=True)

    own = require_near(layers, (8, 3, 48, 48), 0.2)
    assert own.own == {"to_pixels", "by_tap", "convolution", "batch_norm", "max_pool", "join", "from_pixels"}
    assert not {"pd_op.add", "pd_op.relu", "pd_op.batch_norm_", "pd_op.conv2d", "pd_op.pool2d"} & own.operators


def in_turns(x: Any) -> Any:
    """Layers of which hubflow has no operator, between others."""
    x = convolution(8, (8, 3, 3), 1, 1)(x)
    x = convolution(8, (8, 3, 3), 1, 1, groups=4)(x)
    x = convolution(8, (16, 3, 3), 1, 1)(F.relu6(nn.BatchNorm2D(8)(x)))
    normed = nn.BatchNorm2D(16)(x)
    x = F.relu(normed) + normed  # which is asked for twice
    x = F.avg_pool2d(convolution(16, (8, 3, 3), 1, 1)(x), 2)
    other = convolution(8, (8, 3, 3), 1, 2, dilation=2)(x)
    return paddle.concat([x, convolution(8, (8, 3, 3), (1, 1), 1)(other)], axis=1)


def test_other_layers_have_images_as_before() -> None:
    own = require_near(in_turns, (4, 8, 12, 12), 0.2)
    assert {"to_pixels", "by_tap", "convolution", "from_pixels"} <= own.own
    assert {"pd_op.relu6", "pd_op.concat", "pd_op.pool2d"} <= own.operators


def test_a_pool_gives_to_the_first_of_several_that_are_largest() -> None:
    own = require_near(after(8, (8, 1, 1), 1, 0, lambda x: F.max_pool2d(F.relu(x - 1.0) * 0.0, 3, 2, 1)), (2, 8, 9, 9))
    assert "max_pool" not in own.own  # of images, which no operator has as pixels
    normed = after(8, (8, 1, 1), 1, 0, lambda x: F.max_pool2d(F.relu(nn.BatchNorm2D(8)(x)), 3, 2, 1))
    assert "max_pool" in require_near(normed, (3, 8, 9, 9), 0.2).own


OTHERS = ("mobilenet_v2", "densenet121", "shufflenet_v2_x1_0", "mobilenet_v3_small")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", *(pytest.param(one, marks=pytest.mark.soak) for one in OTHERS)])
def test_whole_networks_are_near_paddles(name: str) -> None:
    own, theirs = (Result(lambda x: image.build(name, x).feature_map, (4, 3, 64, 64), is_own) for is_own in (True, False))
    assert own.own > {"to_pixels", "by_tap", "convolution", "from_pixels"}
    for one, wanted in zip(own.values, theirs.values, strict=True):
        assert one.shape == wanted.shape
    features, wanted = own.values[0], theirs.values[0]
    assert np.linalg.norm(features - wanted) < 0.1 * np.linalg.norm(wanted)
