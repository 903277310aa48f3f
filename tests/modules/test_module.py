"""Modules: what a context holds, what is frozen, and that what is on disk needs no network."""

import gc
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from hubflow.errors import ModuleError
from hubflow.modules.module import ImageConfig, Module, build_graph, read_config
from hubflow.modules.networks.text import FAMILIES, TextConfig
from hubflow.runtime.paddle_import import get_variable, paddle
from hubflow.schemas.settings import ModuleSpec
from hubflow.stages.load_module import load_module
from hubflow.tasks.task import create_img_cls_task

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_importing_and_loading_what_is_on_disk_needs_no_network(tiny_bert: Path) -> None:
    """Defect 13: a network was needed to import, or to load a module that was already on disk."""
    script = f"""
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError(f"the network is asked for: {{args}}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
sys.modules["huggingface_hub"] = None
from hubflow import hub
for name in ({str(tiny_bert)!r}, "digits", "all-MiniLM-L6-v2"):
    print(sorted(hub.Module(name=name).context()[1]))
assert "prefect" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    text = "['pooled_output', 'sequence_output']"
    assert done.stdout.splitlines() == [text, "['feature_map']", text]


SIZES = {"vocab_size": 40, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"hidden_size": 10**9}, r"hidden_size: 1000000000 \(expected a whole number from 1 to 10,000,000\)"),
        ({"hidden_size": 1_000_000, "intermediate_size": 1_000_000}, r"parameters, more than limits\.max_parameters"),
        ({"vocab_size": 10_000_000, "hidden_size": 1024}, r"parameters, more than limits\.max_parameters"),
        ({"num_hidden_layers": -1}, "num_hidden_layers: -1"),
        ({"num_hidden_layers": 10**8, "hidden_size": 1, "num_attention_heads": 1}, "num_hidden_layers: 100000000"),
        ({"num_attention_heads": 0}, "num_attention_heads: 0"),
        ({"num_attention_heads": 3}, "hidden_size: 8 .expected a multiple of the 3 heads"),
        ({"hidden_size": float("nan")}, "hidden_size: nan"),
        ({"hidden_size": 7.5}, "hidden_size: 7.5"),
        ({"hidden_size": float("inf")}, "hidden_size: inf"),
        ({"hidden_size": [[[8]]]}, "expected numbers"),
        ({"hidden_size": True}, "expected numbers"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps: nan"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob: 1.5"),
        ({"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob: -0.1"),
        ({"initializer_range": float("inf")}, "initializer_range: inf"),
        ({"type_vocab_size": -3}, "type_vocab_size: -3"),
        ({"max_position_embeddings": 0}, "max_position_embeddings: 0"),
        ({"model_type": "roberta", "pad_token_id": 600}, "beyond padding id 600"),
        ({"model_type": "roberta", "pad_token_id": -9}, "pad_token_id: -9"),
        ({"hidden_act": ["gelu"]}, "is not known"),
        ({"hidden_act": "x" * 10**6}, "is not known"),
        ({"model_type": "y" * 10**6}, "is not known"),
    ],
)
def test_numbers_beyond_their_range_are_refused(tmp_path: Path, values: dict[str, Any], fault: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **SIZES}))
    read_config(tmp_path, pretrained=False)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **SIZES, **values}))
    with pytest.raises(ModuleError, match=rf"config\.json: .*{fault}") as caught:
        read_config(tmp_path, pretrained=False)
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    "values",
    [
        {"pretrained_cfg": {"input_size": [3, 10**6, 10**6]}},
        {"pretrained_cfg": {"input_size": [3, float("nan"), float("nan")]}},
        {"pretrained_cfg": {"mean": [float("nan")] * 3}},
        {"pretrained_cfg": {"std": [float("inf")] * 3}},
        {"pretrained_cfg": {"std": [True] * 3}},
        {"pretrained_cfg": [1]},
        {"architecture": ["resnet18"]},
        {"architecture": "x" * 10**6},
    ],
)
def test_an_image_module_of_impossible_numbers_is_refused(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", **values}))
    with pytest.raises(ModuleError, match=r"config\.json: ") as caught:
        read_config(tmp_path, pretrained=False)
    assert len(str(caught.value)) < 2_000


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a":' * 100_000, "nested too deep"),
        ('{"model_type": "bert", "hidden_size": 8, "hidden_size": 9}', "'hidden_size' is there twice"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "config.json"),
        ("\ufeff{}", "config.json"),
        (" " * 10_000_001, r"limits\.max_config_bytes"),
    ],
)
def test_a_configuration_that_is_no_plain_json_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModuleError, match=fault):
        read_config(tmp_path, pretrained=False)


def test_a_configuration_larger_than_its_weights_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    module = tmp_path / "module"
    shutil.copytree(tiny_bert, module)
    values = json.loads((module / "config.json").read_text())
    read_config(module)
    (module / "config.json").write_text(json.dumps({**values, "num_hidden_layers": 900}))
    with pytest.raises(ModuleError, match=r"describes [\d,]+ parameters, but the weights have [\d,]+ bytes"):
        read_config(module)


@pytest.mark.slow
def test_the_number_of_parameters_is_that_of_the_network(tiny_bert: Path) -> None:
    for values in ({}, {"embedding_size": 4}, {"use_task_id": True}):
        for kind in FAMILIES:
            config = TextConfig.from_hugging_face(
                {"model_type": kind, "dim": 8, "n_heads": 2, "n_layers": 2, "hidden_dim": 16, **SIZES, **values}
            )
            shapes = build_graph(config).shapes
            assert config.num_parameters == sum(int(np.prod(shape)) for shape in shapes.values()), (kind, values)


def test_a_file_of_another_folder_does_not_come_into_the_store(tiny_bert: Path, tmp_path: Path) -> None:
    module = tmp_path / "module"
    shutil.copytree(tiny_bert, module)
    (tmp_path / "credentials.json").write_text('{"key": "secret"}')
    (module / "further.json").symlink_to(tmp_path / "credentials.json")
    with pytest.raises(ModuleError, match=r"further\.json: a link that leads out of the module's folder"):
        load_module.fn(ModuleSpec(name=str(module)), str(tmp_path / "store"))
    assert not list((tmp_path / "store").rglob("further.json"))
    (module / "further.json").unlink()
    (module / "model.safetensors").rename(tmp_path / "weights")
    (module / "model.safetensors").symlink_to(tmp_path / "weights")
    with pytest.raises(ModuleError, match=r"model\.safetensors: a link that leads out"):
        Module(str(module)).context()
