"""Heads: their layers, how they start, and what their loss counts."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from small_sessions import own_scope

from hubflow.errors import TaskError
from hubflow.runtime.paddle_import import get_variable, keep_program, paddle, set_variable
from hubflow.schemas.labels import IGNORED_LABEL
from hubflow.tasks.task import Task, create_img_cls_task, create_seq_label_task, create_text_cls_task


@pytest.fixture(autouse=True)
def scope() -> Iterator[Any]:
    with own_scope() as scope:
        yield scope


def inputs(**shapes: list[int]) -> list[Any]:
    """Input variables of a new program; those called `seq_len` or `label` are int64."""
    paddle.enable_static()
    program = paddle.static.Program()
    kinds = {name: "int64" if name in ("seq_len", "label") else "float32" for name in shapes}
    with paddle.static.program_guard(program, paddle.static.Program()):
        values = [paddle.static.data(name, shape, kinds[name]) for name, shape in shapes.items()]
    keep_program(program, values)
    return values


def start(task: Task, seed: int = 0) -> None:
    paddle.seed(seed)
    paddle.static.Executor(paddle.CPUPlace()).run(task.startup_program())


def measure(task: Task, feed: dict[str, Any], *names: str) -> list[Any]:
    fetch = [task.test_variable(name) for name in names]
    return list(paddle.static.Executor(paddle.CPUPlace()).run(task.test_program(), feed=feed, fetch_list=fetch))


def parameters(task: Task) -> dict[str, list[int]]:
    return {value.name: list(value.shape) for value in task.main_program().global_block().all_parameters()}


def make_sequence_task(size: int = 6, num_classes: int = 4) -> Task:
    feature, seq_len = inputs(feature=[-1, -1, size], seq_len=[-1])
    task = create_seq_label_task(feature, seq_len, num_classes)
    start(task)
    return task


@pytest.mark.parametrize("make", [create_img_cls_task, create_text_cls_task])
def test_the_output_layer_starts_truncated_normal_with_bias_zero(make: Any, scope: Any) -> None:
    (feature,) = inputs(feature=[-1, 500])
    task = make(feature, num_classes=40, hidden_units=[300])
    start(task)
    for name in ("head.hidden.0", "head.output"):
        weight, bias = get_variable(scope, f"{name}.weight"), get_variable(scope, f"{name}.bias")
        assert not bias.any()
        assert 0.0170 < weight.std() < 0.0182  # 0.0176: what is left of 0.02 when cut at two deviations
        assert abs(weight.mean()) < 0.001
        assert np.abs(weight).max() <= 0.04 + 1e-6


def test_the_output_layer_of_a_sequence_task_starts_truncated_normal_with_bias_zero(scope: Any) -> None:
    make_sequence_task(size=500, num_classes=40)
    weight = get_variable(scope, "head.output.weight")
    assert 0.0170 < weight.std() < 0.0182
    assert np.abs(weight).max() <= 0.04 + 1e-6
    assert not get_variable(scope, "head.output.bias").any()


def test_hidden_units_are_layers_with_relu_in_their_order(scope: Any) -> None:
    (feature,) = inputs(feature=[-1, 4])
    task = create_img_cls_task(feature, num_classes=3, hidden_units=[7, 5])
    start(task)
    assert parameters(task) == {
        "head.hidden.0.weight": [4, 7],
        "head.hidden.0.bias": [7],
        "head.hidden.1.weight": [7, 5],
        "head.hidden.1.bias": [5],
        "head.output.weight": [5, 3],
        "head.output.bias": [3],
    }
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in parameters(task).items()}
    for name, value in weights.items():
        set_variable(scope, name, value, paddle.CPUPlace())
    x = generator.standard_normal((6, 4)).astype(np.float32)
    expected = x
    for layer in ("hidden.0", "hidden.1"):
        expected = np.maximum(expected @ weights[f"head.{layer}.weight"] + weights[f"head.{layer}.bias"], 0)
    expected = expected @ weights["head.output.weight"] + weights["head.output.bias"]
    (logits,) = measure(task, {"feature": x, "label": np.zeros(6, np.int64)}, "logits")
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_dropout_is_on_in_training_alone() -> None:
    (feature,) = inputs(feature=[-1, 50])
    task = create_text_cls_task(feature, num_classes=2)
    start(task)
    feed = {"feature": np.ones((400, 50), np.float32), "label": np.zeros(400, np.int64)}
    (still,) = measure(task, feed, "logits")
    assert np.ptp(still, axis=0).max() == 0
    executor = paddle.static.Executor(paddle.CPUPlace())
    (noisy,) = executor.run(task.main_program(), feed=feed, fetch_list=[task.variable("logits")])
    assert np.ptp(noisy, axis=0).min() > 0


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_that_is_no_share_is_refused(dropout: float) -> None:
    flat, deep, seq_len = inputs(flat=[-1, 4], deep=[-1, -1, 4], seq_len=[-1])
    for make in (create_img_cls_task, create_text_cls_task):
        with pytest.raises(TaskError, match=f"dropout is {dropout}; expected a share from 0"):
            make(flat, num_classes=2, dropout=dropout)
    with pytest.raises(TaskError, match=f"dropout is {dropout}; expected a share from 0"):
        create_seq_label_task(deep, seq_len, num_classes=2, dropout=dropout)


def test_a_text_heads_dropout_is_a_tenth_unless_set() -> None:
    feed = {"feature": np.ones((100, 500), np.float32), "label": np.zeros(100, np.int64)}
    shares = []
    for dropout in (None, 0.0, 0.5):
        (feature,) = inputs(feature=[-1, 500])
        task = create_text_cls_task(feature, num_classes=2, dropout=dropout)
        start(task)
        # Each logit is a sum over the features that are kept, so its variance over rows tells the share that is dropped.
        weight = get_variable(paddle.static.global_scope(), "head.output.weight")
        executor = paddle.static.Executor(paddle.CPUPlace())
        (found,) = executor.run(task.main_program(), feed=feed, fetch_list=[task.variable("logits")])
        spread = (found.var(0) / (weight**2).sum(0)).mean()  # p / (1 - p)
        shares.append(float(spread / (1 + spread)))
    np.testing.assert_allclose(shares, [0.1, 0, 0.5], atol=0.05)


@pytest.mark.parametrize("shape", [[-1], [-1, 1]])
def test_labels_may_be_given(shape: list[int]) -> None:
    feature, label = inputs(feature=[-1, 4], label=shape)
    task = create_img_cls_task(feature, num_classes=3, labels=label)
    start(task)
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    values = np.array([0, 1, 2, 1, 0]).reshape([5, *shape[1:]])
    loss, count = measure(task, {"feature": rows, "label": values}, "loss", "num_examples")
    assert loss == pytest.approx(np.log(3), abs=0.1)
    assert count == 5


def test_loss_and_accuracy_are_means_over_the_examples() -> None:
    (feature,) = inputs(feature=[-1, 4])
    task = create_img_cls_task(feature, num_classes=3)
    start(task)
    rows = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    label = np.array([0, 1, 2, 0, 1, 2, 0])
    feed = {"feature": rows, "label": label}
    loss, accuracy, probs, count = measure(task, feed, "loss", "accuracy", "probs", "num_examples")
    assert loss == pytest.approx(-np.log(probs[np.arange(7), label]).mean(), rel=1e-5)
    assert accuracy == pytest.approx((probs.argmax(-1) == label).mean())
    assert count == 7


def test_more_padding_changes_neither_loss_nor_accuracy_of_a_sequence_task() -> None:
    """Defect 7: sequence loss was averaged over padding, so that longer padding gave a smaller loss."""
    task = make_sequence_task()
    generator = np.random.default_rng(0)
    feature = generator.standard_normal((3, 5, 6)).astype(np.float32)
    label = generator.integers(0, 4, (3, 5))
    seq_len = np.array([5, 3, 1])
    expected = None
    for padding, filler in ((0, 0), (1, 0), (20, 3), (20, IGNORED_LABEL)):
        feed = {
            "feature": np.pad(feature, ((0, 0), (0, padding), (0, 0)), constant_values=7),
            "label": np.pad(label, ((0, 0), (0, padding)), constant_values=filler),
            "seq_len": seq_len,
        }
        found = [float(value) for value in measure(task, feed, "loss", "accuracy", "num_examples")]
        expected = expected or found
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert expected is not None
    assert expected[2] == 9


def test_special_tokens_and_continuation_pieces_carry_no_loss() -> None:
    """Defect 7: only the tokens that have a label of their own count."""
    task = make_sequence_task()
    generator = np.random.default_rng(1)
    feature = generator.standard_normal((2, 4, 6)).astype(np.float32)
    label = np.array([[IGNORED_LABEL, 2, IGNORED_LABEL, 1], [3, IGNORED_LABEL, IGNORED_LABEL, IGNORED_LABEL]])
    feed = {"feature": feature, "label": label, "seq_len": np.array([4, 4])}
    loss, count, probs = measure(task, feed, "loss", "num_examples", "probs")
    kept = label != IGNORED_LABEL
    assert count == 3
    assert loss == pytest.approx(-np.log(probs[kept][np.arange(3), label[kept]]).mean(), rel=1e-5)


def test_a_batch_without_a_counted_token_has_loss_zero() -> None:
    task = make_sequence_task()
    feed = {"feature": np.ones((1, 2, 6), np.float32), "label": np.full((1, 2), IGNORED_LABEL), "seq_len": np.array([2])}
    loss, accuracy, count = measure(task, feed, "loss", "accuracy", "num_examples")
    assert (loss, accuracy, count) == (0, 0, 0)


def test_fewer_than_two_classes_and_features_of_the_wrong_rank_are_refused() -> None:
    flat, deep, seq_len = inputs(flat=[-1, 4], deep=[-1, -1, 4], seq_len=[-1])
    with pytest.raises(TaskError, match="num_classes is 1; a head needs at least 2"):
        create_text_cls_task(flat, num_classes=1)
    with pytest.raises(TaskError, match=r"shape \[-1, -1, 4\]; expected 2 dimensions, a module's feature_map or pooled_output"):
        create_img_cls_task(deep, num_classes=2)
    with pytest.raises(TaskError, match=r"expected 3 dimensions, a module's sequence_output"):
        create_seq_label_task(flat, seq_len, num_classes=2)


def test_a_second_head_on_the_same_feature_has_weights_of_its_own(scope: Any) -> None:
    (feature,) = inputs(feature=[-1, 4])
    first = create_img_cls_task(feature, num_classes=2)
    second = create_img_cls_task(feature, num_classes=3)
    start(first)
    start(second)
    names = [value.name for value in second.main_program().global_block().all_parameters()]
    assert len(names) == len(set(names)) == 4
    feed = {"feature": np.ones((2, 4), np.float32), "label": np.array([0, 1])}
    assert measure(first, feed, "probs")[0].shape == (2, 2)
    assert measure(second, feed, "probs")[0].shape == (2, 3)
    set_variable(scope, "head.output.bias", np.array([5.0, 0], np.float32), paddle.CPUPlace())
    assert measure(first, feed, "probs")[0][0, 0] > 0.9
    assert measure(second, feed, "probs")[0][0, 0] < 0.5
