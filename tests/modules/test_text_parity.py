"""Text encoders agree with the reference library on the same weights, and say what they cannot be built from."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_modules import GOLDEN, golden_facts, write_module

from hubflow.errors import ModuleError, WeightsError
from hubflow.modules.module import Module
from hubflow.modules.networks.text import TextConfig
from hubflow.runtime.paddle_import import paddle

CASES = sorted(path.stem for path in GOLDEN.glob("*.json") if "config" in json.loads(path.read_text()))
INPUTS = ("input_ids", "position_ids", "segment_ids", "input_mask")
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    with paddle.static.scope_guard(paddle.static.Scope()):
        yield


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return golden_module(tmp_path / "bert", "bert")


def golden_module(folder: Path, case: str, **config: Any) -> Path:
    facts = golden_facts(case)
    return write_module(folder, {**facts["config"], **config}, facts["tensors"])


def evaluate(context: tuple[dict[str, Any], dict[str, Any], Any], feed: dict[str, Any]) -> dict[str, Any]:
    _inputs, outputs, program = context
    mapping = paddle.pir.IrMapping()
    test = program.clone(mapping)
    test.set_is_test_attr()
    fetch = [mapping.look_up(value) for value in outputs.values()]
    values = paddle.static.Executor(paddle.CPUPlace()).run(test, feed=feed, fetch_list=fetch)
    return dict(zip(outputs, values, strict=True))


def alter(folder: Path, **tensors: Any) -> None:
    """Put tensors into the module's weights, or take out those that are None."""
    weights = {**load_file(folder / "model.safetensors"), **{name.replace("__", "."): value for name, value in tensors.items()}}
    save_file({name: value for name, value in weights.items() if value is not None}, folder / "model.safetensors")


def test_every_text_architecture_has_a_golden_case() -> None:
    found = {golden_facts(case)["config"]["model_type"] for case in CASES}
    assert found >= {"bert", "roberta", "ernie", "electra", "distilbert", "xlm-roberta"}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_outputs_agree_with_the_reference_library(case: str, tmp_path: Path) -> None:
    with np.load(GOLDEN / f"{case}.npz") as arrays:
        golden = dict(arrays)
    feed = {name: golden[name] for name in INPUTS}
    found = evaluate(Module(str(golden_module(tmp_path / case, case))).context(max_seq_len=12), feed)
    real = golden["input_mask"] == 1
    assert np.abs(found["sequence_output"] - golden["sequence_output"])[real].max() < TOLERANCE
    # Without a pooler the pooled output is the first token's vector.
    pooled = golden.get("pooled_output", golden["sequence_output"][:, 0])
    assert np.abs(found["pooled_output"] - pooled).max() < TOLERANCE


def test_padding_does_not_change_what_real_tokens_give(bert: Path) -> None:
    with np.load(GOLDEN / "bert.npz") as arrays:
        feed = {name: arrays[name] for name in INPUTS}
    context = Module(str(bert)).context(max_seq_len=12)
    padded = evaluate(context, feed)["sequence_output"]
    for row, length in enumerate(feed["input_mask"].sum(1).astype(int)):
        alone = evaluate(context, {name: value[row : row + 1, :length] for name, value in feed.items()})
        np.testing.assert_allclose(alone["sequence_output"][0], padded[row, :length], atol=1e-5)


def test_every_missing_unexpected_and_wrongly_shaped_tensor_is_listed_at_once(bert: Path) -> None:
    alter(
        bert,
        pooler__dense__bias=None,
        encoder__layer__1__output__dense__bias=None,
        encoder__layer__7__output__dense__bias=np.zeros(32, np.float32),
        embeddings__LayerNorm__weight=np.zeros(5, np.float32),
    )
    with pytest.raises(WeightsError) as caught:
        Module(str(bert)).context(max_seq_len=12)
    message = str(caught.value)
    assert str(bert) in message
    assert "2 missing: encoder.1.ffn.outer.bias [32], pooler.bias [32]" in message
    assert "1 unexpected: encoder.layer.7.output.dense.bias [32]" in message
    assert "1 of the wrong shape: embeddings.norm.weight (expected [32], found [5])" in message


def test_weights_that_do_not_fit_put_nothing_into_the_scope(bert: Path) -> None:
    alter(bert, pooler__dense__bias=np.zeros(5, np.float32))
    with pytest.raises(WeightsError):
        Module(str(bert)).context(max_seq_len=12)
    assert paddle.static.global_scope().find_var("embeddings.word.weight") is None


def test_heads_of_other_tasks_and_buffers_in_a_checkpoint_are_left_out(bert: Path) -> None:
    extra = {"cls__predictions__bias": np.zeros(9, np.float32), "embeddings__position_ids": np.arange(40)[None]}
    alter(bert, **extra)
    Module(str(bert)).context(max_seq_len=12)


def test_an_unknown_model_type_lists_the_known_ones(tmp_path: Path) -> None:
    folder = golden_module(tmp_path / "gpt", "bert", model_type="gpt9")
    with pytest.raises(ModuleError, match=r"config\.json: model_type 'gpt9' is not known; known .*bert, .*roberta"):
        Module(str(folder))


@pytest.mark.parametrize("max_seq_len", [0, -1, 41, 10_000])
def test_a_max_seq_len_outside_the_position_table_is_refused_with_the_range(bert: Path, max_seq_len: int) -> None:
    with pytest.raises(ModuleError, match=rf"max_seq_len is {max_seq_len}; this module allows 1 to 40 tokens"):
        Module(str(bert)).context(max_seq_len=max_seq_len)


@pytest.mark.parametrize("case", ["bert", "roberta"])
def test_the_longest_allowed_sequence_can_be_fed(case: str, tmp_path: Path) -> None:
    module = Module(str(golden_module(tmp_path / case, case)))
    longest = module.config.max_positions  # type: ignore[union-attr]
    assert longest == 40
    ids = np.full((1, longest), 7)
    feed = {
        "input_ids": ids,
        "position_ids": np.arange(longest)[None],
        "segment_ids": np.zeros_like(ids),
        "input_mask": np.ones((1, longest), np.float32),
    }
    assert np.isfinite(evaluate(module.context(max_seq_len=longest), feed)["sequence_output"]).all()


def test_missing_sizes_and_unknown_activations_are_named(tmp_path: Path) -> None:
    folder = golden_module(tmp_path / "bert", "bert", hidden_act="tanhshrink")
    with pytest.raises(ModuleError, match=r"activation 'tanhshrink' is not known; known: gelu"):
        Module(str(folder))
    config = {**golden_facts("bert")["config"], "hidden_size": None, "vocab_size": None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModuleError, match="lacks vocab_size, hidden_size"):
        Module(str(folder))
    with pytest.raises(ModuleError, match="lacks pad_token_id"):
        TextConfig.from_hugging_face({"model_type": "roberta", "pad_token_id": None})
    assert TextConfig.from_hugging_face({"model_type": "bert", "pad_token_id": None}).position_offset == 0


LEFT_OUT = {
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps", "hidden_act", "initializer_range"),
    "roberta": ("hidden_dropout_prob", "pad_token_id", "layer_norm_eps", "type_vocab_size"),
    "electra": ("attention_probs_dropout_prob", "hidden_act"),
    "distilbert": ("dropout", "attention_dropout", "activation"),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_a_field_that_is_left_out_has_the_value_that_transformers_gives_it(case: str) -> None:
    given = {**golden_facts(case)["config"]}
    for name in LEFT_OUT[case]:
        given.pop(name, None)
    config = TextConfig.from_hugging_face(given)
    assert (config.hidden_dropout, config.attention_dropout) == (0.1, 0.1)
    assert (config.activation, config.initializer_range) == ("gelu", 0.02)
    assert config.position_offset == (2 if case == "roberta" else 0)


def test_a_configuration_of_its_type_alone_is_the_base_model() -> None:
    bert, electra = (TextConfig.from_hugging_face({"model_type": name}) for name in ("bert", "electra"))
    distilbert, roberta = (TextConfig.from_hugging_face({"model_type": name}) for name in ("distilbert", "roberta"))
    assert (bert.vocab_size, bert.hidden_size, bert.num_layers, bert.num_heads) == (30522, 768, 12, 12)
    assert (bert.intermediate_size, bert.position_rows, bert.segments, bert.layer_norm_eps) == (3072, 512, 2, 1e-12)
    assert (electra.embedding_size, electra.hidden_size, electra.intermediate_size, electra.num_heads) == (128, 256, 1024, 4)
    assert (distilbert.num_layers, distilbert.hidden_size, distilbert.segments) == (6, 768, 0)
    assert (roberta.vocab_size, roberta.max_positions) == (50265, 510)


def test_a_folder_without_weights_says_what_was_looked_for(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with pytest.raises(ModuleError, match=r"no weights; looked for model\.safetensors.*pretrained=False"):
        Module(str(tmp_path / "bare"))
    Module(str(tmp_path / "bare"), pretrained=False).context(max_seq_len=12)
