"""Programs as they are built for a GPU, looked at where there is none: operators, casts, and what a step hands to the host."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_modules import settings

from hubflow.programs import session as sessions
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import leave_dynamic_mode, paddle
from hubflow.tasks.task import TaskSpec
from hubflow.training.distributed import World
from hubflow.training.program import TrainProgram

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PARAMETERS = "builtin.parameter"


class Place:
    """What stands for a GPU: a Paddle for CPUs makes no place of one."""


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs be built, and none be run, for a GPU."""
    leave_dynamic_mode()
    if paddle.is_compiled_with_cuda():
        pytest.skip("this Paddle has GPUs of its own: tests/gpu")
    monkeypatch.setattr(paddle, "CUDAPlace", Place)
    monkeypatch.setattr(sessions, "place_of", lambda device: Place())
    monkeypatch.setattr(paddle.static, "Executor", lambda place: None)


def built(task: str, module: Path, precision: str) -> tuple[Session, TrainProgram]:
    session = Session(TaskSpec(task, 2), module, "gpu", precision=precision, sub_batches=2, trains=True)
    return session, TrainProgram(session, settings(precision=precision), None, World.alone())


def operators(program: Any) -> Counter[str]:
    return Counter(op.name() for op in program.global_block().ops)


# A Paddle for CPUs knows no batch norm of bfloat16, and no product of float16: these cannot be built here.
@pytest.mark.parametrize(("kind", "precision"), [("text", "float32"), ("text", "bfloat16"), ("image", "float32")])
def test_a_step_hands_one_small_result_to_the_host(kind: str, precision: str, tiny_bert: Path, digits_module: Path) -> None:
    session, update = built(f"{kind}_classification", tiny_bert if kind == "text" else digits_module, precision)
    found = operators(session.task.main_program())
    assert not [name for name in found if name.startswith(("custom_op.", "onednn_op.")) or "memcpy" in name or "print" in name]
    assert "pd_op.unique" not in found  # how many there are must be known on the host
    (report,) = [update._report]
    assert list(report.shape) == [2 + len(session.blocks) + 1]  # loss, stops, and a norm for each block and the head


def test_weights_sums_and_what_the_optimizer_keeps_are_in_float32(tiny_bert: Path) -> None:
    session, _ = built("text_classification", tiny_bert, "bfloat16")
    ops = session.task.main_program().global_block().ops
    assert {str(op.result(0).dtype) for op in ops if op.name() == PARAMETERS} == {"paddle.float32"}
    for op in ops:
        if op.name() == "pd_op.adamw_":
            assert {str(value.dtype) for value in op.operands_source()[:2]} == {"paddle.float32"}
        if op.name() in ("pd_op.layer_norm", "pd_op.softmax", "pd_op.cross_entropy_with_softmax", "pd_op.squared_l2_norm"):
            assert str(op.operand_source(0).dtype) == "paddle.float32", op.name()
        if op.name() == "pd_op.matmul":
            assert {str(value.dtype) for value in op.operands_source()} == {"paddle.bfloat16"}


def test_a_weight_is_cast_once_a_step(tiny_bert: Path) -> None:
    session, _ = built("text_classification", tiny_bert, "bfloat16")
    ops = session.task.main_program().global_block().ops
    cast = Counter(
        op.operand_source(0).name
        for op in ops
        if op.name() == "pd_op.cast" and op.operand_source(0).get_defining_op().name() == PARAMETERS
    )
    products = operators(session.task.main_program())["pd_op.matmul"]
    assert set(cast.values()) == {1}
    assert products >= len(cast) > 0


def test_sub_batches_are_of_cpus_alone(tiny_bert: Path) -> None:
    session, _ = built("text_classification", tiny_bert, "float32")
    assert session.sub_batches == 1
    assert not session.has_kernels
