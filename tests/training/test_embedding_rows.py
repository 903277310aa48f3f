"""Gradients of embeddings by the rows that occur: the updates are those of gradients in the table's size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_modules import settings, some_texts, text_split

from hubflow.data.encoded import TextSplit
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import get_variable
from hubflow.tasks.task import TaskSpec
from hubflow.training import program as embedding_rows
from hubflow.training.callbacks import TrainState
from hubflow.training.distributed import World
from hubflow.training.loop import TrainStep
from hubflow.training.program import DENSE, TrainProgram

pytestmark = pytest.mark.slow

SPEC = TaskSpec("text_classification", 2)
WORDS = "embeddings.word.weight"


def updated(module: Path, rows: TextSplit, **chosen: Any) -> tuple[TrainProgram, list[float]]:
    """After three updates, each of other rows; and the gradients' norms."""
    session = Session(SPEC, module, "cpu", sub_batches=2)
    update = TrainProgram(session, settings(**chosen), None, World.alone())
    session.initialise(0)
    update.initialise()
    train_step, state, norms = TrainStep(rows, rows.example_weights(None), 0, 1, World.alone()), TrainState(), []
    for step in range(3):
        norms.append(train_step.run(update, state, np.arange(4 * step, 4 * step + 4), 0.01, False).grad_norm)
        state.step += 1
    return update, norms


def is_by_rows(update: TrainProgram) -> bool:
    """Whether the words' gradient reaches the optimizer by the rows that occur."""
    return update.session.scope.find_var(f"{DENSE}{WORDS}") is not None


@pytest.fixture
def rows(tiny_bert: Path, tmp_path: Path) -> TextSplit:
    """Three updates' rows."""
    return text_split(tmp_path, tiny_bert, *some_texts(12))


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"optimizer": "sgd"},
        {"optimizer": {"name": "momentum"}, "max_grad_norm": None},
        {"optimizer": "lamb", "layerwise_lr_decay": 0.5},
        {"max_grad_value": 0.001},
        {"max_grad_norm": 0.01},
    ],
)
def test_weights_and_what_the_optimizer_keeps_are_those_of_whole_gradients(
    chosen: dict[str, Any], tiny_bert: Path, rows: TextSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, norms = updated(tiny_bert, rows, **chosen)
    assert not is_by_rows(whole)
    monkeypatch.setattr(embedding_rows, "LARGE", 1)
    narrow, found = updated(tiny_bert, rows, **chosen)
    assert is_by_rows(narrow)
    np.testing.assert_allclose(found, norms, rtol=1e-5)
    expected, state = whole.state(), narrow.state()
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(state[name], array, rtol=1e-4, atol=2e-6, err_msg=name)
    assert not get_variable(narrow.session.scope, f"{DENSE}{WORDS}").any()


@pytest.mark.parametrize("chosen", [{"gradient_accumulation_steps": 2}, {"l2": 0.1}, {"l2_sp": 0.1}])
def test_what_adds_to_all_rows_has_whole_gradients(
    chosen: dict[str, Any], tiny_bert: Path, rows: TextSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_rows, "LARGE", 1)
    assert not is_by_rows(updated(tiny_bert, rows, **chosen)[0])


def test_small_tables_have_whole_gradients(tiny_bert: Path, rows: TextSplit) -> None:
    assert not is_by_rows(updated(tiny_bert, rows)[0])
