"""Names of image checkpoints: layouts recognised, classifiers left out, strangers reported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hubflow.modules.networks import image
from hubflow.modules.networks import image as image_names

GOLDEN = Path(__file__).parents[2] / "golden"


def checkpoint(case: str) -> dict[str, Any]:
    shapes = json.loads((GOLDEN / f"{case}.json").read_text())["tensors"]
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("architecture", ["mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large"])
@pytest.mark.parametrize("layout", ["torchvision", "timm"])
def test_the_layout_is_recognised(architecture: str, layout: str) -> None:
    assert image_names.layout_of(architecture, checkpoint(f"{architecture}_{layout}")) == layout


def test_the_layout_decides_the_epsilon() -> None:
    assert image_names.norm_epsilon("mobilenet_v3_large", "torchvision") == 1e-3
    assert image_names.norm_epsilon("mobilenet_v3_large", "timm") == 1e-5
    assert image_names.norm_epsilon("mobilenet_v3_large", "paddle") == 1e-3
    assert image_names.norm_epsilon("resnet50", "timm") == 1e-5


def test_what_is_missing_stays_missing_and_strangers_keep_their_names() -> None:
    tensors = checkpoint("mobilenet_v3_small_timm")
    del tensors["blocks.1.0.bn2.running_mean"]
    tensors["blocks.1.0.attention.weight"] = np.zeros(3, np.float32)
    found = image_names.canonical_tensors("mobilenet_v3_small", tensors)
    expected = image.architecture_tensors("mobilenet_v3_small")
    assert set(expected) - set(found) == {"blocks.1.bottleneck_conv.1._mean"}
    assert set(found) - set(expected) == {"blocks.1.0.attention.weight"}


def test_a_checkpoint_of_something_else_comes_back_as_it_was() -> None:
    tensors = {"encoder.weight": np.zeros(3, np.float32)}
    assert image_names.canonical_tensors("resnet18", tensors) == tensors


def test_values_are_the_checkpoints_own() -> None:
    tensors: dict[str, Any] = {
        "bn1.running_mean": np.arange(64, dtype=np.float32),
        "fc.bias": np.zeros(10),
        "bn1.num_batches_tracked": np.zeros(1),
    }
    found = image_names.canonical_tensors("resnet18", tensors)
    assert list(found) == ["bn1._mean"]
    assert found["bn1._mean"] is tensors["bn1.running_mean"]


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("resnet50.a1_in1k", "resnet50"),
        ("tv_resnet50", "resnet50"),
        ("mobilenetv3_large_100", "mobilenet_v3_large"),
        ("resnet50d", None),
    ],
)
def test_timm_names_lead_to_our_architectures(name: str, ours: str | None) -> None:
    assert image_names.timm_architecture(name) == ours


def test_every_name_in_the_tables_is_an_architecture() -> None:
    assert set(image_names.LAYOUTS) <= set(image.ARCHITECTURES)
    assert set(image_names.TIMM_ARCHITECTURES.values()) <= set(image.ARCHITECTURES)
