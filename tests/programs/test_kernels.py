"""hubflow's own operators in bfloat16: their values, gradients and bits, and what is done where they cannot be had."""

import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from small_modules import image_split, settings, some_texts, text_split

from hubflow.data.encoded import EncodedSplit
from hubflow.errors import DeviceError
from hubflow.inference.export import as_exported
from hubflow.modules.networks.sub_batches import SEED
from hubflow.programs import kernels
from hubflow.programs.kernels import COMPILERS, NEEDED, find_kernels
from hubflow.programs.precision import cpu_flags
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import functional as F
from hubflow.runtime.paddle_import import leave_dynamic_mode, paddle, set_variable
from hubflow.schemas.settings import LoraSettings
from hubflow.tasks.task import TaskSpec
from hubflow.training.callbacks import TrainState
from hubflow.training.distributed import World
from hubflow.training.loop import TrainStep
from hubflow.training.program import TrainProgram

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not cpu_flags() >= NEEDED, reason="this CPU does not have AVX512-BF16"),
    pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="there is no C++ compiler"),
]
Floats = NDArray[np.float32]


def rounded(values: Floats) -> NDArray[np.float64]:
    """Values as bfloat16 has them: rounded to the nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return (((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).astype(np.uint32).view(np.float32).astype(np.float64)


class Layer:
    """A program of one linear layer, with the gradients of `sum(y * slope)`."""

    def __init__(self, rows: int, inner: int, columns: int, trains: bool = True) -> None:
        leave_dynamic_mode()
        own = find_kernels()
        assert own is not None
        random = np.random.default_rng(rows)
        shapes = {"x": (rows, inner), "w": (inner, columns), "b": (columns,), "slope": (rows, columns)}
        self.values: dict[str, Floats] = {name: random.normal(size=shape).astype("float32") for name, shape in shapes.items()}
        self.main, self.startup, self.scope = paddle.static.Program(), paddle.static.Program(), paddle.static.Scope()
        with paddle.utils.unique_name.guard(), paddle.static.program_guard(self.main, self.startup):
            x, slope = (paddle.static.data(name, [-1, self.values[name].shape[1]], "float32") for name in ("x", "slope"))
            x.stop_gradient = False
            w, b = (
                paddle.create_parameter(list(shapes[name]), "float32", name=name, attr=paddle.ParamAttr(name, trainable=trains))
                for name in ("w", "b")
            )
            y = own.linear(x, w, b)
            asked = [x, w, b] if trains else [x]
            self.fetched = [y, *paddle.static.gradients([(y * slope).sum()], asked)]

    def run(self) -> list[Floats]:
        """y and its gradients by x, w and b."""
        executor = paddle.static.Executor(paddle.CPUPlace())
        executor.run(self.startup, scope=self.scope)
        for name in ("w", "b"):
            set_variable(self.scope, name, self.values[name], paddle.CPUPlace())
        feed = {name: self.values[name] for name in ("x", "slope")}
        found: list[Floats] = executor.run(self.main, feed=feed, fetch_list=self.fetched, scope=self.scope)
        return found


@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(1, 1, 1), (1, 5, 70), (2, 64, 64), (7, 33, 65), (37, 96, 130), (19, 17, 15), (300, 384, 96)]
)
def test_values_and_gradients_are_those_of_factors_rounded_to_bfloat16(rows: int, inner: int, columns: int) -> None:
    layer = Layer(rows, inner, columns)
    x, w, slope = (rounded(layer.values[name]) for name in ("x", "w", "slope"))
    expected = [x @ w + layer.values["b"], slope @ w.T, x.T @ slope, layer.values["slope"].sum(0, dtype=np.float64)]
    for found, wanted in zip(layer.run(), expected, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


def test_weights_that_are_not_trained_have_the_same_values_and_only_a_gradient_of_the_input() -> None:
    trained, frozen = Layer(37, 96, 130).run(), Layer(37, 96, 130, trains=False).run()
    assert [one.tobytes() for one in frozen] == [one.tobytes() for one in trained[:2]]


def test_what_is_no_number_stays_one_and_stays_in_its_row() -> None:
    layer = Layer(9, 33, 70)
    layer.values["x"][4, 32], layer.values["x"][6, 0] = np.nan, np.inf
    y = layer.run()[0]
    assert np.isnan(y[4]).all()
    assert not np.isfinite(y[6]).any()
    assert np.isfinite(np.delete(y, [4, 6], 0)).all()


def gradients_of(function: Callable[..., Any], values: dict[str, Floats]) -> list[Floats]:
    """What a function of variables gives, and the gradients of its sum with slopes by each of them but the mask."""
    leave_dynamic_mode()
    main, startup = paddle.static.Program(), paddle.static.Program()
    with paddle.utils.unique_name.guard(), paddle.static.program_guard(main, startup):
        given = {name: paddle.static.data(name, list(value.shape), "float32") for name, value in values.items()}
        slope = given.pop("slope")
        asked = [variable for name, variable in given.items() if name != "mask"]
        for variable in asked:
            variable.stop_gradient = False
        y = function(**given)
        fetched = [y, *paddle.static.gradients([(y * slope).sum()], asked)]
    scope = paddle.static.Scope()
    set_variable(scope, SEED, np.zeros(1, np.float32), paddle.CPUPlace())
    found: list[Floats] = paddle.static.Executor(paddle.CPUPlace()).run(main, feed=values, fetch_list=fetched, scope=scope)
    return found


@pytest.mark.slow
def test_large_blocks_of_memory_are_used_again_without_a_trace() -> None:
    own = find_kernels()
    assert own is not None
    for rows in (2300, 1900, 2300, 4100, 1900):  # of 6 MB and more; blocks of the first ones fit the later ones, or do not
        random = np.random.default_rng(rows)
        values = {name: random.normal(size=(rows, 1000)).astype("float32") for name in ("x", "slope")}
        values |= {name: random.normal(size=1000).astype("float32") for name in ("weight", "bias")}
        y, of_x, of_weight, of_bias = gradients_of(partial(own.layer_norm, epsilon=1e-12), values)
        centred = values["x"] - values["x"].mean(1, keepdims=True)
        unit = centred / centred.std(1, keepdims=True)
        np.testing.assert_allclose(y, unit * values["weight"] + values["bias"], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(of_weight, (values["slope"] * unit).sum(0), rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(of_bias, values["slope"].sum(0), rtol=1e-3, atol=1e-2)
        assert np.abs(of_x.sum(1)).max() < 1e-2  # a shift of x changes nothing


@pytest.mark.parametrize(("rows", "size"), [(1, 3), (5, 16), (7, 45), (64, 384)])
def test_layers_are_normalised_as_paddle_does_it(rows: int, size: int) -> None:
    random = np.random.default_rng(size)
    values = {name: random.normal(size=(rows, size)).astype("float32") for name in ("x", "slope")}
    values |= {name: random.normal(size=size).astype("float32") for name in ("weight", "bias")}
    own = find_kernels()
    assert own is not None
    theirs = gradients_of(lambda x, weight, bias: F.layer_norm(x, [size], weight, bias, 1e-12), values)
    for found, wanted in zip(gradients_of(partial(own.layer_norm, epsilon=1e-12), values), theirs, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_gelu_is_that_of_the_normal_distribution() -> None:
    x = np.concatenate([np.linspace(-12, 12, 4001), [0.0, -0.0, 100.0, -100.0, 1e30, -1e30]]).astype("float32")
    own = find_kernels()
    assert own is not None
    y, slope = gradients_of(own.gelu, {"x": x, "slope": np.ones_like(x)})
    below, density = norm.cdf(x.astype(float)), norm.pdf(x.astype(float))
    np.testing.assert_allclose(y, x * below, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slope, below + np.where(density > 0, x * density, 0), rtol=1e-6, atol=2e-6)
    y, slope = gradients_of(own.gelu, {"x": np.full(3, np.nan, np.float32), "slope": np.ones(3, np.float32)})
    assert np.isnan(y).all()
    assert np.isnan(slope).all()


def softmax_attention(query: Any, key: Any, value: Any, mask: Any, heads: int, kept: Any = 1.0) -> Any:
    """Attention by operators of Paddle, `kept` being by what each weight `[batch, heads, queries, seq]` is multiplied."""

    def by_head(x: Any) -> Any:
        return x.reshape([mask.shape[0], -1, heads, x.shape[-1] // heads]).transpose([0, 2, 1, 3])

    scores = paddle.matmul(by_head(query), by_head(key), transpose_y=True) / (query.shape[-1] // heads) ** 0.5 + mask
    weights = F.softmax(scores) * kept
    return paddle.matmul(weights, by_head(value)).transpose([0, 2, 1, 3]).reshape([-1, query.shape[-1]])


def attention_values(batch: int, queries: int, length: int, hidden: int) -> dict[str, Floats]:
    """Inputs of attention; the last token of each row but the first is padding."""
    random = np.random.default_rng(length)
    counts = {"query": queries, "key": length, "value": length, "slope": queries}
    values = {name: random.normal(size=(batch * count, hidden)).astype("float32") for name, count in counts.items()}
    mask = np.zeros((batch, 1, 1, length), np.float32)
    mask[1:, ..., -1] = -1e4
    return {**values, "mask": mask}


ATTENTIONS = [
    (1, 1, 1, 1, 4),
    (2, 5, 5, 3, 8),
    (3, 1, 17, 2, 32),
    (2, 20, 20, 12, 32),
    (1, 33, 33, 1, 70),
    (2, 230, 230, 2, 16),
]
"""Rows, queries and tokens of each, heads, and the size of a head."""


@pytest.mark.parametrize(("batch", "queries", "length", "heads", "size"), ATTENTIONS)
def test_attention_is_that_of_paddles_operators(batch: int, queries: int, length: int, heads: int, size: int) -> None:
    own = find_kernels()
    assert own is not None
    values = attention_values(batch, queries, length, heads * size)
    theirs = gradients_of(partial(softmax_attention, heads=heads), values)
    for found, wanted in zip(gradients_of(partial(own.attention, heads=heads, dropout=0.0), values), theirs, strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=0.05, atol=0.02 * float(np.abs(wanted).max()))


@pytest.mark.parametrize("length", [16, 130])
def test_dropped_weights_of_attention_are_the_same_in_both_directions(length: int) -> None:
    values = attention_values(2, length, length, 2 * length)
    values["query"] *= 0.1  # weights that are much alike
    own = find_kernels()
    assert own is not None
    alone = {**values, "value": np.tile(np.eye(length, dtype="float32"), (2, 2))}  # then the result is the weights
    dropped = gradients_of(partial(own.attention, heads=2, dropout=0.25), alone)[0].reshape(2, length, 2, length)
    kept = (dropped.transpose(0, 2, 1, 3) != 0) / np.float32(0.75)
    kept[1:, ..., -1] = 1.0  # padding has no weight, kept or not
    assert 0.2 < 1 - 0.75 * kept[0].mean() < 0.3
    again = find_kernels()
    assert again is not None
    found = gradients_of(partial(again.attention, heads=2, dropout=0.25), values)
    theirs = gradients_of(lambda **given: softmax_attention(**given, heads=2, kept=paddle.to_tensor(kept)), values)
    for one, wanted in zip(found, theirs, strict=True):
        np.testing.assert_allclose(one, wanted, rtol=0.05, atol=0.02 * float(np.abs(wanted).max()))


def dropped_twice(seed: float, probability: float = 0.1, size: int = 200_000) -> list[Floats]:
    """Ones, dropped out at the first place of a program, their slopes, and the same at the second place."""
    leave_dynamic_mode()
    own, main, scope = find_kernels(), paddle.static.Program(), paddle.static.Scope()
    assert own is not None
    with paddle.utils.unique_name.guard(), paddle.static.program_guard(main, paddle.static.Program()):
        x = paddle.static.data("x", [size], "float32")
        x.stop_gradient = False
        y = own.dropout(x, probability)
        fetched = [y, *paddle.static.gradients([y.sum()], [x]), own.dropout(x, probability)]
    set_variable(scope, SEED, np.array([seed], np.float32), paddle.CPUPlace())
    feed = {"x": np.ones(size, np.float32)}
    found: list[Floats] = paddle.static.Executor(paddle.CPUPlace()).run(main, feed=feed, fetch_list=fetched, scope=scope)
    return found


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_scales_up_the_others(probability: float) -> None:
    y, slope, other = dropped_twice(7.0, probability)
    assert np.isin(y, np.float32([0.0, 1.0 / (1.0 - np.float32(probability))])).all()
    assert y.tobytes() == slope.tobytes()
    for one in (y, other):
        is_zero = one == 0
        deviation = (probability * (1 - probability) / len(one)) ** 0.5
        assert abs(is_zero.mean() - probability) < 5 * deviation
        for distance in (1, 2, 16, 384):  # elements near each other say nothing about one another
            together = (is_zero[distance:] & is_zero[:-distance]).mean()
            assert abs(together - probability**2) < 5 * (probability**2 / len(one)) ** 0.5
    assert abs(((y == 0) & (other == 0)).mean() - probability**2) < 5 * (probability**2 / len(y)) ** 0.5


def test_dropout_is_a_function_of_the_seed() -> None:
    first, again, other = (dropped_twice(seed)[0] for seed in (1.0, 1.0, 2.0))
    assert first.tobytes() == again.tobytes()
    assert abs(((first == 0) & (other == 0)).mean() - 0.01) < 0.002


TEXT, IMAGE = TaskSpec("text_classification", 2), TaskSpec("image_classification", 2)


def trained(
    spec: TaskSpec, module: Path, split: EncodedSplit, frozen: Collection[str] = (), parts: int = 1, precision: str = "bfloat16"
) -> tuple[Session, list[float]]:
    """A session after five steps, and their losses."""
    chosen = settings(precision=precision, gradient_accumulation_steps=parts)
    session = Session(spec, module, "cpu", frozenset(frozen), precision=chosen.precision, sub_batches=2, trains=True)
    session.initialise(0)
    update = TrainProgram(session, chosen, None, World.alone())
    update.initialise()
    step, state, losses = TrainStep(split, split.example_weights(None), 0, parts, World.alone()), TrainState(), []
    for _ in range(5):
        losses.append(step.run(update, state, np.arange(len(split)), 1e-3, stop=False).loss)
        state.step += 1
    return session, losses


@pytest.fixture
def texts(tiny_bert: Path, tmp_path: Path) -> EncodedSplit:
    """Eight texts, encoded."""
    return text_split(tmp_path / "texts", tiny_bert, *some_texts(8))


@pytest.fixture
def images(tmp_path: Path) -> EncodedSplit:
    """Eight images, encoded."""
    return image_split(tmp_path / "images", 8)


def test_training_is_near_float32_and_the_same_twice_to_the_bit(tiny_bert: Path, texts: EncodedSplit) -> None:
    (session, half), (again, same) = (trained(TEXT, tiny_bert, texts) for _ in range(2))
    assert session.has_kernels
    assert session.sub_batches == 2
    whole = trained(TEXT, tiny_bert, texts, precision="float32")[1]
    assert half == same
    assert all(np.array_equal(value, again.weights()[name]) for name, value in session.weights().items())
    np.testing.assert_allclose(half, whole, rtol=0.02)
    assert half != whole


def moved(session: Session, spec: TaskSpec, module: Path) -> set[str]:
    """The weights that are not as they were before any training."""
    fresh = Session(spec, module, "cpu")
    fresh.initialise(0)
    before = fresh.weights()
    return {name for name, value in session.weights().items() if not np.array_equal(before[name], value)}


@pytest.mark.parametrize(("frozen", "parts"), [(0, 2), (1, 1), (2, 1), (99, 1)])
@pytest.mark.parametrize("kind", ["text", "image"])
def test_what_is_frozen_or_computed_in_parts_is_trained_as_in_float32(
    kind: str, frozen: int, parts: int, tiny_bert: Path, digits_module: Path, request: pytest.FixtureRequest
) -> None:
    spec, module = (TEXT, tiny_bert) if kind == "text" else (IMAGE, digits_module)
    split = request.getfixturevalue("texts" if kind == "text" else "images")
    blocks = Session(spec, module, "cpu").blocks[:frozen]
    (session, half), (other, whole) = (trained(spec, module, split, blocks, parts, way) for way in ("bfloat16", "float32"))
    assert (session.has_kernels, other.has_kernels) == (True, False)
    np.testing.assert_allclose(half, whole, rtol=0.05)
    assert moved(session, spec, module) == moved(other, spec, module)


def test_images_train_near_float32_and_the_same_twice_to_the_bit(digits_module: Path, images: EncodedSplit) -> None:
    (session, half), (again, same) = (trained(IMAGE, digits_module, images) for _ in range(2))
    names = {op.name() for op in session.task.main_program().global_block().ops}
    assert {"custom_op.hubflow_convolution_grad", "custom_op.hubflow_batch_norm_grad"} <= names
    assert not [name for name in names if "conv2d" in name or "batch_norm_" in name.removesuffix("_grad")]
    whole = trained(IMAGE, digits_module, images, precision="float32")[1]
    assert half == same
    assert all(np.array_equal(value, again.weights()[name]) for name, value in session.weights().items())
    np.testing.assert_allclose(half, whole, rtol=0.05)
    assert half != whole
    exported = as_exported(session)
    assert not [op for op in exported.task.inference_program().global_block().ops if "hubflow" in op.name()]


def test_images_are_refused_without_the_operators(digits_module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBFLOW_KERNELS", "off")
    kernels._is_loaded.cache_clear()
    try:
        with pytest.raises(DeviceError, match=r"image modules on a GPU, or on a CPU .*HUBFLOW_KERNELS not off.* use float32"):
            Session(TaskSpec("image_classification", 2), digits_module, "cpu", precision="bfloat16", trains=True)
    finally:
        kernels._is_loaded.cache_clear()


def test_adapters_are_trained_beside_weights_that_stay(tiny_bert: Path, texts: EncodedSplit) -> None:
    spec = replace(TEXT, lora=LoraSettings(rank=2))
    session, losses = trained(spec, tiny_bert, texts)
    assert session.has_kernels
    assert np.isfinite(losses).all()
    names = moved(session, spec, tiny_bert)
    assert names
    assert all("lora" in name or name.startswith("head") for name in names)


def test_a_test_program_drops_nothing_out(tiny_bert: Path, texts: EncodedSplit) -> None:
    session, _ = trained(TEXT, tiny_bert, texts)
    programs = (session.task.main_program(), session.task.test_program())
    main, test = ({op.name() for op in program.global_block().ops} for program in programs)
    assert {"custom_op.hubflow_dropout", "custom_op.hubflow_attention"} <= main
    assert "custom_op.hubflow_dropout" not in test
    assert "custom_op.hubflow_attention" in test
    losses = []
    for seed in (1, 2):
        session.seed_dropout(seed)
        feed = texts.feed(np.arange(8), np.random.default_rng(0))
        losses.append(session.run(session.task.test_program(), feed, [session.task.test_variable("loss")])[0])
    assert losses[0].tobytes() == losses[1].tobytes()


def test_sub_batches_add_their_gradients_to_each_others(
    tiny_bert: Path, texts: EncodedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, together = trained(TEXT, tiny_bert, texts)
    names = Counter(op.name() for op in session.task.main_program().global_block().ops)
    added, kept = names["custom_op.hubflow_linear_backward_onto"], names["custom_op.hubflow_linear_grad"]
    assert added == kept == names["custom_op.hubflow_linear"] / 2 > 0
    monkeypatch.setattr("hubflow.programs.session.add_up_gradients", lambda program: 0)
    _, apart = trained(TEXT, tiny_bert, texts)
    np.testing.assert_allclose(together, apart, rtol=1e-5)


def test_what_is_exported_has_operators_of_paddle_alone(tiny_bert: Path, texts: EncodedSplit) -> None:
    session, _ = trained(TEXT, tiny_bert, texts)
    exported = as_exported(session)
    names = {op.name() for op in exported.task.inference_program().global_block().ops}
    assert not [name for name in names if "hubflow" in name]
    assert any("hubflow" in op.name() for op in session.task.main_program().global_block().ops)


def found_in_a_new_process(**environment: str) -> "subprocess.CompletedProcess[str]":
    program = "import logging; logging.basicConfig(level='INFO', format='%(message)s')\n"
    program += "from hubflow.programs.kernels import find_kernels; print(find_kernels() is not None)"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})


@pytest.mark.soak
def test_they_are_compiled_once_into_a_folder_that_is_the_users_alone(tmp_path: Path) -> None:
    first, second = (found_in_a_new_process(HUBFLOW_CACHE=str(tmp_path / "cache")) for _ in range(2))
    assert (first.stdout, second.stdout) == ("True\n", "True\n")
    assert "compiling" in first.stderr
    assert "compiling" not in second.stderr
    (library,) = (tmp_path / "cache" / "kernels").glob("*.so")
    assert (tmp_path / "cache" / "kernels").stat().st_mode & 0o077 == 0
    library.chmod(0o777)
    refused = found_in_a_new_process(HUBFLOW_CACHE=str(tmp_path / "cache"))
    assert refused.stdout == "False\n"
    assert "can be written by others; make it yours alone (chmod go-w)" in refused.stderr


def test_without_a_compiler_paddle_computes_and_it_is_said(tmp_path: Path) -> None:
    done = found_in_a_new_process(HUBFLOW_CACHE=str(tmp_path), PATH=str(tmp_path))
    assert done.stdout == "False\n"
    assert "bfloat16: no C++ compiler (c++, g++, clang++) is installed" in done.stderr


def test_a_compiler_that_fails_is_told(tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'no header named extension.h' >&2\nexit 1\n", encoding="utf-8")
    compiler.chmod(0o755)
    done = found_in_a_new_process(HUBFLOW_CACHE=str(tmp_path), PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert done.stdout == "False\n"
    assert "cannot be made, Paddle's are used: no header named extension.h" in done.stderr
    assert not list((tmp_path / "kernels").glob("*.so"))


@pytest.mark.soak
def test_once_compiled_they_need_no_compiler_and_a_library_that_does_not_load_is_told(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    assert found_in_a_new_process(HUBFLOW_CACHE=cache).stdout == "True\n"
    assert found_in_a_new_process(HUBFLOW_CACHE=cache, PATH=str(tmp_path)).stdout == "True\n"
    (library,) = (tmp_path / "cache" / "kernels").glob("*.so")
    library.write_bytes(b"no library")
    done = found_in_a_new_process(HUBFLOW_CACHE=cache)
    assert done.stdout == "False\n"
    assert "Paddle's are used" in done.stderr


def test_they_can_be_switched_off(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "hubflow")
    monkeypatch.setenv("HUBFLOW_KERNELS", "off")
    kernels._is_loaded.cache_clear()
    try:
        session = Session(TaskSpec("text_classification", 2), tiny_bert, "cpu", precision="bfloat16", trains=True)
    finally:
        kernels._is_loaded.cache_clear()
    assert not session.has_kernels
    assert caplog.records == []
