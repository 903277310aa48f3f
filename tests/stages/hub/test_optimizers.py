"""Optimizers: each does what its name and its settings say."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hubflow.schemas.errors import SettingsError
from hubflow.schemas.settings import TrainSettings, parse_settings
from hubflow.stages.hub.errors import TaskError
from hubflow.stages.hub.heads import create_img_cls_task
from hubflow.stages.hub.module import Module
from hubflow.stages.hub.optimizers import add_optimizer, is_decayed
from hubflow.stages.hub.runtime import get_variable, keep_program, paddle

NAMES = ("head.output.weight", "head.output.bias")
RATE = 0.1


@pytest.fixture(autouse=True)
def scope() -> Iterator[Any]:
    scope = paddle.static.Scope()
    with paddle.static.scope_guard(scope):
        yield scope


def settings(**values: Any) -> TrainSettings:
    return TrainSettings(**{"learning_rate": RATE, "max_grad_norm": None, **values})


def weights_after(scope: Any, steps: int, **values: Any) -> list[dict[str, Any]]:
    """Weights of a softmax regression before and after each step, with the gradients of each step under `grad:`."""
    paddle.enable_static()
    program = paddle.static.Program()
    with paddle.static.program_guard(program, paddle.static.Program()):
        x = paddle.static.data("x", [-1, 3], "float32")
    keep_program(program, [x])
    task = create_img_cls_task(x, num_classes=2)
    rate = add_optimizer(task, settings(**values))
    executor = paddle.static.Executor(paddle.CPUPlace())
    paddle.seed(0)
    executor.run(task.startup_program())
    rows = np.array([[1, 2, 3], [3, -1, 0.5]], np.float32)
    label = np.array([0, 1])
    history = []
    for _ in range(steps + 1):
        weight, bias = (get_variable(scope, name) for name in NAMES)
        scores = rows @ weight + bias
        probs = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        errors = (probs - np.eye(2)[label]) / 2
        history.append({"weight": weight, "bias": bias, "grad:weight": rows.T @ errors, "grad:bias": errors.sum(0)})
        rate.set(scope, paddle.CPUPlace(), RATE)
        executor.run(task.main_program(), feed={"x": rows, "label": label})
    return history


def test_sgd_follows_the_gradient(scope: Any) -> None:
    before, after = weights_after(scope, 1, optimizer="sgd")
    for name in ("weight", "bias"):
        np.testing.assert_allclose(after[name], before[name] - RATE * before[f"grad:{name}"], atol=1e-6)


def test_momentum_uses_its_momentum(scope: Any) -> None:
    """Defect 8: momentum ignored its arguments."""
    first, second, third = weights_after(scope, 2, optimizer="momentum")
    velocity = first["grad:weight"]
    np.testing.assert_allclose(second["weight"], first["weight"] - RATE * velocity, atol=1e-6)
    velocity = 0.9 * velocity + second["grad:weight"]
    np.testing.assert_allclose(third["weight"], second["weight"] - RATE * velocity, atol=1e-6)


def test_adam_takes_steps_of_the_learning_rate(scope: Any) -> None:
    before, after = weights_after(scope, 1, optimizer="adam")
    expected = before["weight"] - RATE * np.sign(before["grad:weight"])
    np.testing.assert_allclose(after["weight"], expected, atol=1e-4)


def test_adamw_decays_weights_and_leaves_biases_alone(scope: Any) -> None:
    before, after = weights_after(scope, 1, optimizer="adamw", weight_decay=0.5)
    expected = before["weight"] * (1 - RATE * 0.5) - RATE * np.sign(before["grad:weight"])
    np.testing.assert_allclose(after["weight"], expected, atol=1e-4)
    np.testing.assert_allclose(after["bias"], before["bias"] - RATE * np.sign(before["grad:bias"]), atol=1e-4)


def test_gradients_are_clipped_to_their_global_norm(scope: Any) -> None:
    before, after = weights_after(scope, 1, optimizer="sgd", max_grad_norm=0.01)
    moved = np.concatenate([(after[name] - before[name]).ravel() for name in ("weight", "bias")])
    assert np.linalg.norm(moved) == pytest.approx(RATE * 0.01, rel=1e-3)


def test_an_unknown_optimizer_is_refused_with_the_list() -> None:
    """Defect 8: an unknown optimizer name silently became Adam."""
    with pytest.raises(SettingsError, match=r"optimizer: .*'adamw', 'adam', 'momentum' or 'sgd' \(found 'adagard'\)"):
        parse_settings(TrainSettings, {"optimizer": "adagard"})


def test_an_unknown_optimizer_that_went_around_the_settings_is_refused_too(scope: Any) -> None:
    """Defect 8: an unknown optimizer name silently became another."""
    _inputs, outputs, _program = Module("digits").context()
    task = create_img_cls_task(outputs["feature_map"], 2)
    with pytest.raises(TaskError, match="'adagard' is not known; use one of adamw, adam, momentum, sgd"):
        add_optimizer(task, settings().model_copy(update={"optimizer": "adagard"}))


@pytest.mark.parametrize("name", ["digits", "text"])
def test_weight_decay_reaches_every_matrix_and_kernel_and_no_norm_or_bias(name: str, tiny_bert: Any) -> None:
    _inputs, outputs, program = Module(name if name == "digits" else str(tiny_bert)).context()
    create_img_cls_task(next(iter(outputs.values())), 2, hidden_units=[3])
    parameters = {value.name: list(value.shape) for value in program.global_block().all_parameters()}
    assert {key for key in parameters if is_decayed(key)} == {key for key, shape in parameters.items() if len(shape) > 1}


def test_a_learning_rate_that_is_set_is_used(scope: Any) -> None:
    before, after = weights_after(scope, 1, optimizer="sgd", learning_rate=77.0)
    assert np.abs(after["weight"] - before["weight"]).max() < 1
