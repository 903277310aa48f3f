"""Modules: what a context holds, what is frozen, and that what is on disk needs no network."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from hubflow.stages.hub.errors import ModuleError
from hubflow.stages.hub.heads import create_img_cls_task
from hubflow.stages.hub.module import ImageConfig, Module, read_config
from hubflow.stages.hub.runtime import get_variable, paddle

RUNNING_STATISTICS = (".w_1", ".w_2")


@pytest.fixture(autouse=True)
def scope() -> Iterator[Any]:
    scope = paddle.static.Scope()
    with paddle.static.scope_guard(scope):
        yield scope


def names_of(program: Any) -> list[str]:
    return [parameter.name for parameter in program.global_block().all_parameters()]


def test_a_text_context_has_the_documented_variables(tiny_bert: Path) -> None:
    inputs, outputs, program = Module(str(tiny_bert)).context()
    kinds = {name: (list(value.shape), str(value.dtype).rpartition(".")[2].lower()) for name, value in inputs.items()}
    assert kinds == {
        "input_ids": ([-1, -1], "int64"),
        "position_ids": ([-1, -1], "int64"),
        "segment_ids": ([-1, -1], "int64"),
        "input_mask": ([-1, -1], "float32"),
    }
    assert list(outputs["pooled_output"].shape) == [-1, 32]
    assert list(outputs["sequence_output"].shape) == [-1, -1, 32]
    assert isinstance(program, paddle.static.Program)


def test_an_image_context_has_the_documented_variables(digits_module: Path) -> None:
    module = Module("digits")
    inputs, outputs, _program = module.context()
    assert module.kind == "image"
    assert list(inputs["image"].shape) == [-1, 3, -1, -1]
    assert list(outputs["feature_map"].shape) == [-1, 64]


def test_the_pretrained_weights_are_in_the_scope(tiny_bert: Path, scope: Any) -> None:
    Module(str(tiny_bert)).context()
    stored = load_file(tiny_bert / "model.safetensors")
    np.testing.assert_array_equal(get_variable(scope, "embeddings.word.weight"), stored["embeddings.word_embeddings.weight"])
    np.testing.assert_array_equal(get_variable(scope, "pooler.weight"), stored["pooler.dense.weight"].T)


def test_parameter_names_are_a_function_of_the_module_and_of_its_number_in_the_scope(tiny_bert: Path) -> None:
    for name in (str(tiny_bert), "digits"):
        with paddle.static.scope_guard(paddle.static.Scope()):
            programs = [Module(name).context()[2] for _ in range(2)]
            first, second = map(names_of, programs)
        with paddle.static.scope_guard(paddle.static.Scope()):
            assert names_of(Module(name).context()[2]) == first
        assert all(one.startswith("context_2.") for one in second)
        assert [one.replace("context_2.", "") for one in second] == first


def test_fresh_weights_need_no_weight_files(tiny_bert: Path, tmp_path: Path, scope: Any) -> None:
    (tmp_path / "config.json").write_bytes((tiny_bert / "config.json").read_bytes())
    paddle.seed(3)
    _inputs, _outputs, program = Module(str(tmp_path), pretrained=False).context()
    assert all(np.isfinite(get_variable(scope, name)).all() for name in names_of(program))
    words = get_variable(scope, "embeddings.word.weight")
    assert 0.01 < words.std() < 0.03


@pytest.mark.parametrize("trainable", [True, False])
def test_trainable_decides_for_every_parameter(trainable: bool, tiny_bert: Path) -> None:
    for name in (str(tiny_bert), "digits"):
        _inputs, _outputs, program = Module(name).context(trainable=trainable)
        weights = [value for value in program.global_block().all_parameters() if not value.name.endswith(RUNNING_STATISTICS)]
        assert {value.stop_gradient for value in weights} == {not trainable}


def test_a_variable_can_be_used_when_nothing_else_of_its_context_is_kept() -> None:
    feature = Module("digits").context()[1]["feature_map"]
    gc.collect()
    task = create_img_cls_task(feature, num_classes=2)
    assert list(task.variable("probs").shape) == [-1, 2]


def test_a_program_is_freed_with_its_last_variable() -> None:
    inputs, outputs, program = Module("digits").context()
    freed = weakref.ref(program)
    del inputs, program
    gc.collect()
    assert freed() is not None
    del outputs
    gc.collect()
    assert freed() is None


@pytest.mark.parametrize(("content", "expected"), [(None, "no readable config.json|has no config.json"), ("{", "no readable")])
def test_a_folder_without_a_readable_config_is_named(content: str | None, expected: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModuleError, match=expected) as caught:
        Module(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_config_that_is_not_a_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(ModuleError, match=r"config\.json"):
        read_config(tmp_path, pretrained=False)


def test_an_unknown_image_architecture_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet5O"}')
    with pytest.raises(ModuleError, match=r"config\.json: unknown image architecture 'resnet5O'; did you mean 'resnet50'"):
        Module(str(tmp_path), pretrained=False)


def test_size_mean_and_deviation_travel_with_an_image_module(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 96, 96], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}'
    )
    assert read_config(tmp_path, pretrained=False) == ImageConfig("resnet18", 96, (0.1, 0.2, 0.3), (1, 1, 1))
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    config = read_config(tmp_path, pretrained=False)
    assert isinstance(config, ImageConfig)
    assert (config.image_size, config.mean) == (224, (0.485, 0.456, 0.406))


def test_importing_and_loading_what_is_on_disk_needs_no_network(tiny_bert: Path) -> None:
    """Defect 13: a network was needed to import, or to load a module that was already on disk."""
    script = f"""
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError(f"the network is asked for: {{args}}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
sys.modules["huggingface_hub"] = None
from hubflow.stages import hub
for name in ({str(tiny_bert)!r}, "digits", "all-MiniLM-L6-v2"):
    print(sorted(hub.Module(name=name).context()[1]))
assert "prefect" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    text = "['pooled_output', 'sequence_output']"
    assert done.stdout.splitlines() == [text, "['feature_map']", text]
