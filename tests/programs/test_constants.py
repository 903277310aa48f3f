"""Constants of a program made once: what it computes stays, and what only looks alike is kept apart."""

from pathlib import Path

import numpy as np
import pytest
from small_modules import settings, some_texts, text_split

from hubflow.programs import session as session_module
from hubflow.programs.passes import CONSTANTS, share_constants
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import leave_dynamic_mode, paddle
from hubflow.tasks.task import TaskSpec
from hubflow.training.callbacks import TrainState
from hubflow.training.distributed import World
from hubflow.training.loop import TrainStep
from hubflow.training.program import TrainProgram

pytestmark = pytest.mark.slow


def test_equal_constants_are_one_and_others_are_kept_apart() -> None:
    leave_dynamic_mode()
    main = paddle.static.Program()
    with paddle.static.program_guard(main):
        given = [
            (1.0, "float32"),
            (1.0, "float64"),
            (1.0000001, "float32"),
            (2.0, "float32"),
            (1.0, "float32"),
            (2.0, "float32"),
        ]
        made = [paddle.full([2], value, kind) * 1.0 for value, kind in given]
        reshaped = [made[0].reshape([2, 1]), made[0].reshape([1, 2]), made[0].reshape([2, 1])]
    before = sum(op.name() in CONSTANTS for op in main.global_block().ops)
    dropped = share_constants(main)
    left = [op for op in main.global_block().ops if op.name() in CONSTANTS]
    assert len(left) == before - dropped
    assert dropped >= 2
    assert share_constants(main) == 0
    found = paddle.static.Executor(paddle.CPUPlace()).run(main, fetch_list=[*made, *reshaped])
    for array, (value, kind) in zip(found, given, strict=False):
        assert array.dtype == kind
        assert (array == np.asarray(value, kind)).all()
    assert [array.shape for array in found[len(made) :]] == [(2, 1), (1, 2), (2, 1)]


def test_a_step_gives_the_same_bits_with_fewer_operators(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = text_split(tmp_path, tiny_bert, *some_texts(8))
    weights, operators = [], []
    for is_shared in (False, True):
        with monkeypatch.context() as patch:
            if not is_shared:
                patch.setattr(session_module, "share_constants", lambda program: 0)
            session = Session(TaskSpec("text_classification", 2), tiny_bert, "cpu", sub_batches=2)
            session.initialise(0)
            update = TrainProgram(session, settings(), None, World.alone())
            update.initialise()
        train_step, state = TrainStep(rows, rows.example_weights(None), 0, 1, World.alone()), TrainState()
        for _ in range(3):
            train_step.run(update, state, np.arange(8), 1e-3, stop=False)
        weights.append(session.weights())
        operators.append(len(session.task.main_program().global_block().ops))
    assert operators[1] < 0.9 * operators[0]
    plain, shared = weights
    assert all(plain[name].tobytes() == shared[name].tobytes() for name in plain)
