"""Lanes: what several compute side by side is what one computes."""

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_modules import settings, some_texts, some_tokens, text_split, token_split, write_text_module

from hubflow.data.encoded import EncodedSplit
from hubflow.modules.module import build_graph, load_weights, read_config
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import paddle
from hubflow.tasks.task import TaskSpec
from hubflow.training.callbacks import TrainState
from hubflow.training.distributed import World
from hubflow.training.loop import TrainStep
from hubflow.training.program import TrainProgram

pytestmark = pytest.mark.slow

SPECS = {
    "text": TaskSpec("text_classification", 2, head_dropout=0.0),
    "tokens": TaskSpec("sequence_labelling", 5),
}
ROUNDING = 2e-5
Job = tuple[TaskSpec, Path, EncodedSplit]


@pytest.fixture(params=["text", "tokens"])
def job(request: Any, tmp_path: Path) -> Job:
    """A task without dropout, its module and rows."""
    bert = write_text_module(tmp_path / "bert", "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    rows = (
        text_split(tmp_path, bert, *some_texts(7)) if request.param == "text" else token_split(tmp_path, bert, *some_tokens(7))
    )
    return SPECS[request.param], bert, rows


def trained(job: Job, sub_batches: int, steps: int = 3) -> dict[str, Any]:
    """Weights after some updates of all rows, by plain gradient descent."""
    spec, module, rows = job
    session = Session(spec, module, "cpu", sub_batches=sub_batches)
    update = TrainProgram(session, settings(optimizer="sgd", weight_decay=0.0), None, World.alone())
    session.initialise(0)
    update.initialise()
    train_step = TrainStep(rows, rows.example_weights(None), 0, 1, World.alone())
    state = TrainState()
    for _ in range(steps):
        train_step.run(update, state, np.arange(len(rows)), 0.1, False)
        state.step += 1
    return session.weights()


@pytest.mark.parametrize("sub_batches", [2, 3])
def test_updates_are_those_of_one_lane_but_for_rounding(job: Job, sub_batches: int) -> None:
    one, several = trained(job, 1), trained(job, sub_batches)
    assert one.keys() == several.keys()
    for name, weights in one.items():
        np.testing.assert_allclose(several[name], weights, atol=ROUNDING, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_any_number_of_rows_is_evaluated_alike(job: Job, rows: int) -> None:
    spec, module, split = job
    found = []
    for sub_batches in (1, 3):
        session = Session(spec, module, "cpu", sub_batches=sub_batches)
        session.initialise(0)
        names = ("logits", "loss", "num_examples", "accuracy")
        fetch = [session.task.test_variable(name) for name in names]
        found.append(session.run(session.task.test_program(), split.feed(np.arange(rows)), fetch))
    assert found[1][0][rows:].shape[0] == max(0, 3 - rows)  # rows beyond those fed fill the sub_batches, and count for nothing
    np.testing.assert_allclose(found[1][0][:rows], found[0][0], atol=ROUNDING)
    for one, several in zip(found[0][1:], found[1][1:], strict=True):
        np.testing.assert_allclose(several, one, atol=ROUNDING)


def test_dropout_is_a_function_of_the_step_whatever_lane_is_faster(tiny_bert: Path, tmp_path: Path) -> None:
    rows = text_split(tmp_path, tiny_bert, *some_texts(6))
    job = SPECS["text"], tiny_bert, rows
    first, again = trained(job, 2), trained(job, 2)
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    session = Session(SPECS["text"], tiny_bert, "cpu", sub_batches=2)
    session.initialise(0)
    draws = []
    for seed in (1, 2, 1):
        session.seed_dropout(seed)
        draws.append(session.run(session.task.main_program(), rows.feed(np.arange(6)), [session.task.variable("logits")])[0])
    assert not np.array_equal(draws[0], draws[1])
    assert np.array_equal(draws[0], draws[2])


def test_a_lane_waits_for_no_other_ones_dropout(job: Job) -> None:
    """What Paddle draws in the program's order is in it layer by layer, not sub_batch by sub_batch."""
    spec, module, _ = job
    session = Session(replace(spec, attention_dropout=0.1), module, "cpu", sub_batches=2)
    drawn = [op for op in session.task.main_program().global_block().ops if op.name() == "pd_op.dropout"]
    assert len(drawn) == 4  # of two layers in two sub_batches
    assert not is_after(drawn[1], drawn[0])
    assert is_after(drawn[2], drawn[0]) or is_after(drawn[2], drawn[1])
    assert not is_after(drawn[3], drawn[2])


def is_after(op: Any, other: Any) -> bool:
    """Whether `op` needs what `other` gives."""
    waiting, seen = [op], set()
    while waiting:
        one = waiting.pop()
        if one.id() == other.id():
            return True
        if one.id() not in seen:
            seen.add(one.id())
            waiting += [value.get_defining_op() for value in one.operands_source() if value.get_defining_op() is not None]
    return False


@pytest.mark.parametrize(
    "options",
    [
        {"first_only": True},
        {"fuses_biases": True},
        {"fused_attention": "float32"},
        {"fused_attention": "float32", "first_only": True},
    ],
)
def test_whatever_a_graph_is_built_for_it_gives_the_same_output_and_gradients(options: dict[str, Any], tmp_path: Path) -> None:
    bert = write_text_module(tmp_path / "bert", "bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    feed = text_split(tmp_path, bert, *some_texts(5)).feed(np.arange(5))
    inputs = {name: array for name, array in feed.items() if name != "label"}
    found = []
    for chosen in ({}, options):
        graph = build_graph(read_config(bert), **chosen)
        assert ("sequence_output" in graph.outputs) is not chosen.get("first_only", False)
        assert any(op.name() == "pd_op.addmm" for op in graph.program.global_block().ops) is chosen.get("fuses_biases", False)
        pooled = graph.outputs["pooled_output"]
        with paddle.static.program_guard(graph.program, paddle.static.Program()):
            pairs = paddle.static.append_backward((pooled * pooled).sum())
        scope, executor = paddle.static.Scope(), paddle.static.Executor(paddle.CPUPlace())
        load_weights(read_config(bert), bert, graph, scope)
        fetched = executor.run(graph.program, feed=inputs, fetch_list=[pooled, *(slope for _, slope in pairs)], scope=scope)
        names = ["pooled_output", *(parameter.name for parameter, _ in pairs)]
        found.append(dict(zip(names, fetched, strict=True)))
    assert found[0].keys() == found[1].keys()
    for name, expected in found[0].items():
        np.testing.assert_allclose(found[1][name], expected, atol=2e-5, err_msg=name)


def test_attention_in_16_bits_is_asked_of_paddle_as_a_gpu_takes_it(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Paddle without CUDA has not the operator that computes it there, so what the choice is made of is looked at."""
    asked: list[Any] = []
    theirs = inspect.unwrap(paddle.nn.functional.scaled_dot_product_attention)
    monkeypatch.setitem(theirs.__globals__, "select_sdp_for_sdpa", lambda given: asked.append(given) or "math")
    config = read_config(tiny_bert)
    graph = build_graph(config, fused_attention="bfloat16")
    assert len(asked) == config.num_layers
    for given in asked:
        assert given.dtype == (paddle.bfloat16,) * 3
        assert list(given.query_shape)[2:] == [config.num_heads, config.hidden_size // config.num_heads]
        assert list(given.attn_mask_shape)[1] == 1
        assert (given.dropout, given.is_causal) == (config.attention_dropout, False)
    tests = graph.program.clone()
    tests.set_is_test_attr()
    assert all(op.attrs()["is_test"] for op in tests.global_block().ops if op.name() == "pd_op.dropout")
