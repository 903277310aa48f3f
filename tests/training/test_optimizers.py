"""Optimizers: each does what its paper says with the arguments that it is given, computed anew here by numpy in float64."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from small_modules import write_image_module

from hubflow.errors import SettingsError
from hubflow.modules.module import Module
from hubflow.runtime.paddle_import import BUILD_LOCK, get_variable, paddle, set_variable
from hubflow.schemas.parsing import parse_settings
from hubflow.schemas.training import AnyOptimizer, TrainSettings
from hubflow.tasks.task import create_img_cls_task
from hubflow.training.optimizers import CLASSES, apply, is_decayed

Array = np.ndarray
Arrays = dict[str, Array]
SHAPES = {
    "encoder.0.output.weight": (3, 4),
    "encoder.0.output.bias": (4,),
    "encoder.0.norm.weight": (4,),
    "batch_norm2d_0.w_0": (4,),
    "head.output.weight": (4, 2),
    "head.output.bias": (2,),
}
DECAYED = {"encoder.0.output.weight", "head.output.weight"}
RATES = (0.05, 0.1, 0.03, 0.07, 0.02)
Rule = Callable[[Array, Array, dict[str, Any], float, int], Array]


NAMES = [kind.model_fields["name"].default for kind in CLASSES]  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def scope() -> Iterator[Any]:
    scope = paddle.static.Scope()
    with paddle.static.scope_guard(scope):
        yield scope


def some_arrays(seed: int) -> Arrays:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 0.5, shape).astype(np.float32) for name, shape in SHAPES.items()}


GRADIENTS = [some_arrays(seed) for seed in range(1, 6)]
ZEROS = [{name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}] * 5


def settings_of(optimizer: Any) -> AnyOptimizer:
    return parse_settings(TrainSettings, {"optimizer": optimizer}).optimizer


def steps_of_paddle(optimizer: AnyOptimizer, weight_decay: float, gradients: list[Arrays]) -> list[Arrays]:
    """Values of SHAPES before and after each step: of a program that `apply` wrote, fed with `gradients`."""
    paddle.enable_static()
    main, startup = paddle.static.Program(), paddle.static.Program()
    with BUILD_LOCK, paddle.utils.unique_name.guard(), paddle.static.program_guard(main, startup):
        pairs = []
        for name, shape in SHAPES.items():
            attribute = paddle.ParamAttr(name=name, initializer=paddle.nn.initializer.Constant(0.0))
            parameter = paddle.create_parameter(list(shape), "float32", name=name, attr=attribute)
            pairs.append((parameter, paddle.static.data(f"gradient of {name}", list(shape), "float32")))
        rate = apply(optimizer, weight_decay, 77.0, pairs)
    scope, place = paddle.static.global_scope(), paddle.CPUPlace()
    executor = paddle.static.Executor(place)
    executor.run(startup)
    for name, value in some_arrays(0).items():
        set_variable(scope, name, value, place)
    history = [{name: get_variable(scope, name) for name in SHAPES}]
    for now, given in zip(RATES, gradients, strict=True):
        set_variable(scope, rate, np.asarray(now, np.float32), place)
        executor.run(main, feed={f"gradient of {name}": value for name, value in given.items()})
        history.append({name: get_variable(scope, name) for name in SHAPES})
    return history


def steps_of_paper(rule: Rule, weight_decay: float, gradients: list[Arrays], is_lamb: bool = False) -> list[Arrays]:
    """The same by numpy: `rule` gives the change of one parameter, after the decoupled decay (Loshchilov and Hutter)."""
    values = {name: value.astype(np.float64) for name, value in some_arrays(0).items()}
    kept: dict[str, dict[str, Any]] = {name: {} for name in SHAPES}
    history = [dict(values)]
    for number, (rate, given) in enumerate(zip(RATES, gradients, strict=True), 1):
        for name, value in values.items():
            decay = weight_decay if name in DECAYED else 0.0
            if is_lamb:
                kept[name] |= {"decay": decay, "is_adapted": name in DECAYED}
            start = value if is_lamb else value * (1 - rate * decay)
            values[name] = start + rule(start, given[name].astype(np.float64), kept[name], rate, number)
        history.append(dict(values))
    return history


def sgd() -> Rule:
    return lambda _w, g, _kept, rate, _t: -rate * g


def momentum(mu: float = 0.9, nesterov: bool = False) -> Rule:
    def rule(_w: Array, g: Array, kept: dict[str, Any], rate: float, _t: int) -> Array:
        kept["v"] = v = mu * kept.get("v", 0.0) + g
        return -rate * (g + mu * v if nesterov else v)

    return rule


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Rule:
    def rule(_w: Array, g: Array, kept: dict[str, Any], rate: float, t: int) -> Array:
        kept["m"] = m = b1 * kept.get("m", 0.0) + (1 - b1) * g
        kept["v"] = v = b2 * kept.get("v", 0.0) + (1 - b2) * g**2
        return -rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)

    return rule


def adamax(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Rule:
    def rule(_w: Array, g: Array, kept: dict[str, Any], rate: float, t: int) -> Array:
        kept["m"] = m = b1 * kept.get("m", 0.0) + (1 - b1) * g
        # The paper's u has no epsilon; it keeps the division below from being by 0.
        kept["u"] = u = np.maximum(b2 * kept.get("u", 0.0) + eps, np.abs(g))
        return -rate / (1 - b1**t) * m / u

    return rule


def adagrad(eps: float = 1e-6, start: float = 0.0) -> Rule:
    def rule(_w: Array, g: Array, kept: dict[str, Any], rate: float, _t: int) -> Array:
        kept["n"] = n = kept.get("n", start) + g**2
        return -rate * g / (np.sqrt(n) + eps)

    return rule


def rmsprop(rho: float = 0.95, eps: float = 1e-6, mu: float = 0.0, centered: bool = False) -> Rule:
    def rule(_w: Array, g: Array, kept: dict[str, Any], rate: float, _t: int) -> Array:
        kept["n"] = n = rho * kept.get("n", 0.0) + (1 - rho) * g**2
        kept["g"] = mean = rho * kept.get("g", 0.0) + (1 - rho) * g if centered else 0.0
        # Graves, eq. 38-41: epsilon is below the root.
        kept["d"] = d = mu * kept.get("d", 0.0) - rate * g / np.sqrt(n - mean**2 + eps)
        return np.asarray(d)

    return rule


def lamb(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-6) -> Rule:
    def rule(w: Array, g: Array, kept: dict[str, Any], rate: float, t: int) -> Array:
        kept["m"] = m = b1 * kept.get("m", 0.0) + (1 - b1) * g
        kept["v"] = v = b2 * kept.get("v", 0.0) + (1 - b2) * g**2
        r = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) + kept["decay"] * w
        norms = np.linalg.norm(w), np.linalg.norm(r)
        # The authors' code leaves norms and biases out of decay and adaptation both.
        return -rate * (norms[0] / norms[1] if kept["is_adapted"] and all(norms) else 1.0) * r

    return rule


CASES: list[tuple[Any, Rule]] = [
    ("sgd", sgd()),
    ("momentum", momentum()),
    ({"name": "momentum", "momentum": 0.5}, momentum(0.5)),
    ({"name": "momentum", "nesterov": True, "momentum": 0.8}, momentum(0.8, nesterov=True)),
    ("adam", adam()),
    ({"name": "adam", "beta1": 0.5, "beta2": 0.7, "epsilon": 0.01}, adam(0.5, 0.7, 0.01)),
    ("adamw", adam()),
    ({"name": "adamw", "beta1": 0.5, "beta2": 0.7, "epsilon": 0.01}, adam(0.5, 0.7, 0.01)),
    ("adamax", adamax()),
    ({"name": "adamax", "beta1": 0.5, "beta2": 0.7, "epsilon": 0.01}, adamax(0.5, 0.7, 0.01)),
    ("adagrad", adagrad()),
    ({"name": "adagrad", "epsilon": 0.01, "initial_accumulator_value": 0.3}, adagrad(0.01, 0.3)),
    ("rmsprop", rmsprop()),
    ({"name": "rmsprop", "rho": 0.6, "epsilon": 0.01}, rmsprop(0.6, 0.01)),
    ({"name": "rmsprop", "momentum": 0.7, "epsilon": 0.01}, rmsprop(eps=0.01, mu=0.7)),
    ({"name": "rmsprop", "centered": True, "momentum": 0.7, "epsilon": 0.01}, rmsprop(0.95, 0.01, 0.7, centered=True)),
    ("lamb", lamb()),
    ({"name": "lamb", "beta1": 0.5, "beta2": 0.7, "epsilon": 0.01}, lamb(0.5, 0.7, 0.01)),
]


def name_of(case: Any) -> str:
    return case if isinstance(case, str) else "-".join(str(value) for value in case.values())


@pytest.mark.parametrize(("optimizer", "rule"), CASES, ids=[name_of(case) for case, _ in CASES])
def test_five_steps_are_those_of_the_paper(optimizer: Any, rule: Rule) -> None:
    """Defect 8: arguments of an optimizer were ignored; and the rate is the one that is set before each step, not the first."""
    weight_decay = 0.0 if isinstance(optimizer, str) else 0.5
    settings = settings_of(optimizer)
    found = steps_of_paddle(settings, weight_decay, GRADIENTS)
    expected = steps_of_paper(rule, weight_decay, GRADIENTS, settings.name == "lamb")
    for step, (ours, papers) in enumerate(zip(found, expected, strict=True)):
        for name in SHAPES:
            np.testing.assert_allclose(ours[name], papers[name], rtol=1e-6, atol=1e-6, err_msg=f"{name} after step {step}")


def test_every_optimizer_is_among_those_compared_and_each_argument_makes_a_difference() -> None:
    names = set(NAMES)
    assert {settings_of(case).name for case, _ in CASES} == names
    plain = {name: steps_of_paper(rule, 0.0, GRADIENTS)[-1] for name, rule in CASES[:-2] if isinstance(name, str)}
    for case, rule in CASES[:-2]:
        if not isinstance(case, str):
            changed = steps_of_paper(rule, 0.0, GRADIENTS)[-1]
            assert np.abs(changed["head.output.bias"] - plain[case["name"]]["head.output.bias"]).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_without_a_gradient_weights_shrink_by_the_rate_times_the_decay_and_nothing_else_moves(name: str) -> None:
    history = steps_of_paddle(settings_of(name), 0.5, ZEROS)
    for rate, before, after in zip(RATES, history, history[1:], strict=False):
        # LAMB's trust ratio scales the decay as it does the rest of the update: a step is as long as the rate says.
        factor = 1 - rate if name == "lamb" else 1 - rate * 0.5
        for key in SHAPES:
            if key in DECAYED:
                np.testing.assert_allclose(after[key], before[key] * factor, rtol=5e-7)
            else:
                assert after[key].tobytes() == before[key].tobytes()


def test_an_unknown_optimizer_is_refused_with_the_list() -> None:
    """Defect 8: an unknown optimizer name silently became Adam."""
    known = "sgd, momentum, adam, adamw, adamax, adagrad, rmsprop, lamb"
    with pytest.raises(SettingsError, match=rf"optimizer: 'adagard' is not known; did you mean 'adagrad'\? Known: {known}"):
        settings_of("adagard")


@pytest.mark.parametrize("name", ["digits", "text", "resnet"])
def test_weight_decay_reaches_every_matrix_and_kernel_and_no_norm_or_bias(name: str, tiny_bert: Any, tmp_path: Any) -> None:
    places = {"digits": lambda: "digits", "text": lambda: str(tiny_bert), "resnet": lambda: resnet(tmp_path)}
    _inputs, outputs, program = Module(places[name]()).context()
    create_img_cls_task(next(iter(outputs.values())), 2, hidden_units=[3])
    parameters = {value.name: list(value.shape) for value in program.global_block().all_parameters()}
    assert {key for key in parameters if is_decayed(key)} == {key for key, shape in parameters.items() if len(shape) > 1}


def resnet(folder: Any) -> str:
    return str(write_image_module(folder / "resnet", "resnet18_timm"))
