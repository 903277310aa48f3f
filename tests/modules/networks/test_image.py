"""Image backbones: stable names, agreement with torchvision and timm, frozen and evaluated batch norms."""

import functools
import json
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from golden.seeded import seeded_tensor, seeded_tensors
from small_modules import in_order_of_use

from hubflow.modules import weights as blocks
from hubflow.modules.networks import image
from hubflow.modules.networks import image as image_names

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = [
    f"{architecture}_{layout}"
    for architecture in ("resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large")
    for layout in ("torchvision", "timm")
]
TOLERANCE = 1e-4


class Built:
    """An architecture in a program of its own, with a scope of its own."""

    def __init__(self, architecture: str, size: int = 32, **options: Any) -> None:
        paddle.enable_static()
        static: Any = paddle.static
        self.main, self.startup, self.scope = static.Program(), static.Program(), static.Scope()
        self.startup.random_seed = 7
        self.executor = paddle.static.Executor(paddle.CPUPlace())
        with paddle.static.program_guard(self.main, self.startup):
            self.image = paddle.static.data("image", [None, 3, size, size], "float32")
            self.network = image.build(architecture, self.image, **options)

        weakref.finalize(self, release, self.scope)  # Paddle keeps every scope that was made

    def evaluate(self, images: Any) -> Any:
        pir: Any = paddle.pir
        mapping = pir.IrMapping()
        test = self.main.clone(mapping)
        test.set_is_test_attr()
        return self.run(test, mapping.look_up(self.network.feature_map), images)

    def start(self) -> None:
        with paddle.static.scope_guard(self.scope):
            self.executor.run(self.startup)

    def set(self, tensors: Mapping[str, Any]) -> None:
        for name, variable in self.network.parameters.items():
            self.scope.var(variable).get_tensor().set(tensors[name], paddle.CPUPlace())

    def get(self) -> dict[str, Any]:
        return {name: np.array(self.scope.find_var(var).get_tensor()) for name, var in self.network.parameters.items()}

    def run(self, program: Any, value: Any, images: Any) -> Any:
        with paddle.static.scope_guard(self.scope):
            return self.executor.run(program, feed={"image": images}, fetch_list=[value])[0]

    def train(self, steps: int = 2) -> None:
        with paddle.static.program_guard(self.main, self.startup):
            loss = paddle.mean(paddle.square(paddle.static.nn.fc(self.network.feature_map, 2)))
            paddle.optimizer.SGD(0.1).minimize(loss)
        self.start()
        for _ in range(steps):
            self.run(self.main, loss, some_images(32))


def release(scope: Any) -> None:
    scope.erase(scope.local_var_names())
    scope.drop_kids()


def some_images(size: int) -> Any:
    return seeded_tensor("image", (2, 3, size, size), 1.0)


@pytest.fixture(scope="module", autouse=True)
def golden_tensors_are_given_back() -> Iterator[None]:
    """They are half a gigabyte."""
    yield
    golden.cache_clear()


@functools.cache
def golden(case: str) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Facts, checkpoint tensors and feature map of a golden file."""
    facts = json.loads((GOLDEN / f"{case}.json").read_text())
    with np.load(GOLDEN / f"{case}.npz") as arrays:
        feature_map = arrays["feature_map"]
    return facts, dict(seeded_tensors(facts["tensors"], facts["gain"])), feature_map


def features(architecture: str, tensors: Mapping[str, Any], epsilon: float | None, shape: list[int]) -> Any:
    built = Built(architecture, shape[-1], norm_epsilon=epsilon)
    built.set(tensors)
    return built.evaluate(seeded_tensor("image", tuple(shape), 1.0))


@pytest.mark.parametrize("case", CASES)
def test_features_agree_with_the_library_that_the_checkpoint_comes_from(case: str) -> None:
    facts, tensors, expected = golden(case)
    architecture = facts["architecture"]
    canonical = image_names.canonical_tensors(architecture, tensors)
    assert {name: tensor.shape for name, tensor in canonical.items()} == image.architecture_tensors(architecture)
    epsilon = image_names.norm_epsilon(architecture, image_names.layout_of(architecture, tensors))
    found = features(architecture, canonical, epsilon, facts["image_shape"])
    assert np.abs(found - expected).max() < TOLERANCE


def test_features_agree_from_paddles_own_names() -> None:
    facts, tensors, expected = golden("mobilenet_v3_large_torchvision")
    ours = image_names.canonical_tensors("mobilenet_v3_large", tensors)
    assert image_names.layout_of("mobilenet_v3_large", ours) == "paddle"
    again = image_names.canonical_tensors("mobilenet_v3_large", {**ours, "classifier.0.weight": np.zeros((960, 1280))})
    epsilon = image_names.norm_epsilon("mobilenet_v3_large", "paddle")
    found = features("mobilenet_v3_large", again, epsilon, facts["image_shape"])
    assert np.abs(found - expected).max() < TOLERANCE


def test_a_wrong_epsilon_would_be_seen() -> None:
    facts, tensors, expected = golden("mobilenet_v3_large_timm")
    canonical = image_names.canonical_tensors("mobilenet_v3_large", tensors)
    found = features("mobilenet_v3_large", canonical, None, facts["image_shape"])
    assert np.abs(found - expected).max() > 10 * TOLERANCE


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "digits_cnn"])
def test_names_depend_on_the_architecture_alone(architecture: str) -> None:
    first, second = Built(architecture), Built(architecture)
    assert first.network.parameters == second.network.parameters


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(image.ARCHITECTURES))
def test_every_architecture_builds_as_its_table_says(architecture: str) -> None:
    built = Built(architecture)
    shapes = image.architecture_tensors(architecture)
    assert list(built.network.parameters) == list(shapes)
    assert len(set(built.network.parameters.values())) == len(shapes)
    assert list(built.network.feature_map.shape) == [-1, image.find(architecture).features]
    order = {variable: blocks.image_block_of(name) for name, variable in built.network.parameters.items()}
    assert in_order_of_use(built.main, order) == blocks.image_blocks(shapes)
    assert blocks.image_blocks(shapes)[0] in ("stem", "block1")
    assert 3 <= len(blocks.image_blocks(shapes)) <= 20
    means = {name.removesuffix("._mean") for name in shapes if name.endswith("._mean")}
    assert means == {name.removesuffix("._variance") for name in shapes if name.endswith("._variance")} != set()


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "digits_cnn"])
def test_the_table_knows_the_epsilon_of_the_batch_norms(architecture: str) -> None:
    paddle.enable_static()
    entry = image.find(architecture)
    with paddle.static.program_guard(paddle.static.Program(), paddle.static.Program()):  # type: ignore[no-untyped-call]
        epsilons = {part._epsilon for part in entry.build().sublayers() if hasattr(part, "_epsilon")}
    assert epsilons == {entry.norm_epsilon}


@pytest.mark.parametrize("architecture", ["digits_cnn", "resnet18", "mobilenet_v3_small"])
def test_evaluation_uses_running_statistics_and_leaves_them(architecture: str) -> None:
    built = Built(architecture)
    built.start()
    before, images = built.get(), some_images(32)
    together = built.evaluate(images)
    alone = built.evaluate(images[:1])
    np.testing.assert_allclose(together[:1], alone, atol=1e-4)
    assert all(np.array_equal(before[name], tensor) for name, tensor in built.get().items())
    built.run(built.main, built.network.feature_map, images)
    assert any(not np.array_equal(before[name], tensor) for name, tensor in built.get().items())


@pytest.mark.parametrize("architecture", ["digits_cnn", "resnet18"])
def test_training_moves_every_weight(architecture: str) -> None:
    built = Built(architecture)
    built.start()
    before = built.get()
    built.train()
    still = [name for name, tensor in built.get().items() if np.array_equal(before[name], tensor)]
    assert still == []


def test_a_frozen_backbone_stays_as_it_was_while_a_head_trains() -> None:
    built = Built("resnet18", frozen=blocks.image_blocks(image.architecture_tensors("resnet18")))
    built.start()
    before = built.get()
    built.train()
    assert all(np.array_equal(before[name], tensor) for name, tensor in built.get().items())


def test_the_demo_network_is_small() -> None:
    weights = sum(int(np.prod(shape)) for shape in image.architecture_tensors("digits_cnn").values())
    assert weights * 4 < 300_000


def test_an_unknown_architecture_is_refused_with_a_suggestion() -> None:
    with pytest.raises(image.ImageArchitectureError, match=r"'resnet5O'; did you mean 'resnet50'\?"):
        image.architecture_tensors("resnet5O")
