"""Verification of learning: the first losses are those of always, and each head learns 32 rows by heart."""

import json
from pathlib import Path

import numpy as np
import pytest
from learning import GOLDEN_ROWS, GOLDEN_STEPS, TASKS, learn
from small_modules import GOLDEN

from hubflow.schemas.tasks import TaskName

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("task", TASKS)
def test_the_first_20_losses_are_the_golden_ones(task: TaskName, tiny_bert: Path, digits_module: Path, tmp_path: Path) -> None:
    """A change of row order, dropout, objective, optimizer or schedule shows here; `make_losses.py` writes them anew."""
    golden = json.loads((GOLDEN / "losses.json").read_text())[task]
    state = learn(task, GOLDEN_ROWS, tmp_path, tiny_bert, digits_module, max_steps=GOLDEN_STEPS)
    assert [entry["step"] for entry in state.steps] == list(range(1, 21))
    for name, tolerance in (("loss", 1e-3), ("grad_norm", 2e-2), ("learning_rate", 1e-6)):
        np.testing.assert_allclose([entry[name] for entry in state.steps], golden[name], rtol=tolerance, err_msg=name)


@pytest.mark.soak
@pytest.mark.parametrize("task", TASKS)
def test_32_rows_are_learned_by_heart(task: TaskName, tiny_bert: Path, digits_module: Path, tmp_path: Path) -> None:
    values = {"learning_rate": 3e-3, "schedule": "constant", "weight_decay": 0.0}
    state = learn(task, 32, tmp_path, tiny_bert, digits_module, max_steps=240, **values)
    assert state.steps[0]["loss"] > 0.3
    assert max(entry["loss"] for entry in state.steps[-8:]) < 0.01
