"""Mixed precision: refused where a device has it not, built into the program where it has, and float16's loss scale."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_modules import settings, some_texts, text_split

from hubflow.errors import DeviceError, TrainingError
from hubflow.programs import precision as mixed
from hubflow.programs.precision import require_precision
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import paddle
from hubflow.schemas.settings import LoraSettings
from hubflow.schemas.training import Precision
from hubflow.tasks.task import TaskSpec
from hubflow.training.callbacks import TrainState
from hubflow.training.distributed import World
from hubflow.training.loop import FIRST_LOSS_SCALE, TrainStep, require_finite
from hubflow.training.program import TrainProgram

pytestmark = pytest.mark.slow

CPU = paddle.CPUPlace()
HAS_BFLOAT16 = bool(mixed.cpu_flags().intersection(mixed.BFLOAT16_FLAGS))
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


def test_float16_needs_a_gpu() -> None:
    with pytest.raises(DeviceError, match="float16 needs a GPU, and this run is on the CPU"):
        require_precision("float16", CPU, is_image=False)


def test_a_cpu_without_bfloat16_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed, "cpu_flags", lambda: frozenset({"avx", "avx2", "sse"}))
    with pytest.raises(DeviceError, match=r"a CPU with amx_bf16 or avx512_bf16; this one has avx, avx2\. Use float32"):
        require_precision("bfloat16", CPU, is_image=False)


def test_a_cpu_with_bfloat16_trains_text_modules_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    require_precision("bfloat16", CPU, is_image=False)
    with pytest.raises(DeviceError, match="trains image modules on a GPU, or on a CPU with avx512_bf16"):
        require_precision("bfloat16", CPU, is_image=True)


def test_products_are_built_in_bfloat16_and_weights_norms_and_losses_in_float32(
    tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float16 is not built here: Paddle without CUDA knows no such product."""
    monkeypatch.setattr(mixed, "cpu_flags", lambda: frozenset({"amx_bf16"}))
    session = Session(TaskSpec("text_classification", 2), tiny_bert, "cpu", precision="bfloat16")
    TrainProgram(session, settings(precision="bfloat16"), None, World.alone())
    kinds = ("matmul", "matmul_grad", "layer_norm", "cross_entropy_with_softmax", "adamw_")
    found: dict[str, set[str]] = {}
    for op in session.task.main_program().global_block().ops:
        if op.name() in {f"pd_op.{kind}" for kind in kinds} | {"builtin.parameter"}:
            kind = str(op.result(0).dtype).rpartition(".")[2].lower()
            found.setdefault(op.name().partition(".")[2], set()).add(kind)
    assert found == {
        "parameter": {"float32"},
        "matmul": {"bfloat16"},
        "matmul_grad": {"bfloat16"},
        "layer_norm": {"float32"},
        "cross_entropy_with_softmax": {"float32"},
        "adamw_": {"float32"},
    }


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU does not compute in bfloat16")
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("trained", [{}, {"trainable": False}, {"lora": LoraSettings(rank=1)}], ids=["all", "head", "lora"])
def test_steps_in_bfloat16_are_near_those_in_float32(
    tiny_bert: Path, tmp_path: Path, trained: dict[str, Any], parts: int
) -> None:
    losses: dict[str, list[float]] = {}
    rows = text_split(tmp_path, tiny_bert, *some_texts(8))
    spec = TaskSpec("text_classification", 2, dropout=0.0, attention_dropout=0.0, head_dropout=0.0, **trained)
    for precision in PRECISIONS:
        session = Session(spec, tiny_bert, "cpu", precision=precision, sub_batches=2)
        session.initialise(0)
        update = TrainProgram(session, settings(precision=precision, gradient_accumulation_steps=parts), None, World.alone())
        update.initialise()
        train_step, state = TrainStep(rows, rows.example_weights(None), 0, parts, World.alone()), TrainState()
        losses[precision] = [train_step.run(update, state, np.arange(8), 3e-3, stop=False).loss for _ in range(8)]
    half, whole = losses["bfloat16"], losses["float32"]
    assert half != whole
    np.testing.assert_allclose(half, whole, rtol=0.05)
    assert half[-1] < half[0]


def test_a_session_takes_back_the_flag_by_which_onednn_computes_everything(tiny_bert: Path) -> None:
    paddle.set_flags({mixed.ONEDNN: True})
    try:
        Session(TaskSpec("text_classification", 2), tiny_bert, "cpu").initialise(0)
        assert not paddle.get_flags([mixed.ONEDNN])[mixed.ONEDNN]
    finally:
        paddle.set_flags({mixed.ONEDNN: False})


class Scaled:
    """A task whose updates are computed in two steps, as in float16, and its rows."""

    def __init__(self, module: Path, folder: Path) -> None:
        self.rows = text_split(folder, module, *some_texts(8))
        self.session = Session(TaskSpec("text_classification", 2, dropout=0.0, attention_dropout=0.0), module, "cpu")
        self.session.initialise(0)
        self.update = TrainProgram(self.session, settings(gradient_accumulation_steps=2), None, World.alone())
        self.update.initialise()
        self.train_step = TrainStep(self.rows, self.rows.example_weights(None), 0, 2, World.alone())

    def take(self, state: TrainState) -> Any:
        return self.train_step.run(self.update, state, np.arange(8), 1e-3, stop=False)


def test_the_loss_scale_changes_no_result(tiny_bert: Path, tmp_path: Path) -> None:
    plain, scaled = Scaled(tiny_bert, tmp_path / "plain"), Scaled(tiny_bert, tmp_path / "scaled")
    first, second = plain.take(TrainState()), scaled.take(TrainState(loss_scale=FIRST_LOSS_SCALE))
    assert second.loss == pytest.approx(first.loss, rel=1e-5)
    assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-4)
    weights = scaled.session.weights()
    for name, array in plain.session.weights().items():
        np.testing.assert_allclose(weights[name], array, atol=1e-5, err_msg=name)


def test_an_update_that_overflows_is_left_out_and_the_scale_halved(tiny_bert: Path, tmp_path: Path) -> None:
    scaled = Scaled(tiny_bert, tmp_path)
    before = scaled.update.state()
    state = TrainState(loss_scale=1e38)
    report = scaled.take(state)
    assert not np.isfinite(report.grad_norm)
    assert state.loss_scale == 5e37
    after = scaled.update.state()
    assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    state.loss_scale = FIRST_LOSS_SCALE
    assert np.isfinite(scaled.take(state).grad_norm), "what overflowed is not added to the next update"


def test_a_scale_that_can_fall_no_further_ends_the_run(tiny_bert: Path, tmp_path: Path) -> None:
    scaled = Scaled(tiny_bert, tmp_path)
    state = TrainState(loss_scale=1e38)
    report = scaled.take(state)
    require_finite(report, state, np.arange(8))  # may yet be helped by a smaller scale
    state.loss_scale = 0.5
    with pytest.raises(TrainingError, match="step 1: the loss is"):
        require_finite(report, state, np.arange(8))
