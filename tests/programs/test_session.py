"""Sessions: a task rebuilt from its specification, the same every time, and held to the checkpoints it loads."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_modules import image_split, some_texts, some_tokens, text_split, token_split
from small_sessions import add_descent

from hubflow.errors import TaskError, WeightsError
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import paddle
from hubflow.tasks.task import TaskSpec

pytestmark = pytest.mark.slow

TEXT = TaskSpec("text_classification", 2)


def started(spec: TaskSpec, module: Path, seed: int = 0) -> Session:
    session = Session(spec, module, "cpu")
    session.initialise(seed)
    return session


def test_names_are_a_function_of_the_specification(tiny_bert: Path, digits_module: Path) -> None:
    for spec, module in ((TEXT, tiny_bert), (TaskSpec("image_classification", 3, (7, 5)), digits_module)):
        assert Session(spec, module, "cpu").names == Session(spec, module, "cpu").names
    names = Session(TaskSpec("image_classification", 3, (7, 5)), digits_module, "cpu").names
    assert {name for name in names if name.startswith("head.")} == {
        f"head.{layer}.{part}" for layer in ("hidden.0", "hidden.1", "output") for part in ("weight", "bias")
    }


@pytest.mark.parametrize("pretrained", [True, False])
def test_fresh_weights_are_a_function_of_the_seed(pretrained: bool, tiny_bert: Path) -> None:
    spec = TaskSpec("text_classification", 2, pretrained=pretrained)
    first, same, other = (started(spec, tiny_bert, seed).weights() for seed in (5, 5, 6))
    assert all(first[name].tobytes() == same[name].tobytes() for name in first)
    assert not np.array_equal(first["head.output.weight"], other["head.output.weight"])
    differs = not np.array_equal(first["embeddings.word.weight"], other["embeddings.word.weight"])
    assert differs is not pretrained


def test_two_sessions_do_not_share_weights(tiny_bert: Path) -> None:
    first, second = started(TEXT, tiny_bert, 1), started(TEXT, tiny_bert, 2)
    before = first.weights()["head.output.weight"]
    second.initialise(3)
    np.testing.assert_array_equal(first.weights()["head.output.weight"], before)


def test_weights_that_are_saved_are_loaded(tiny_bert: Path, tmp_path: Path) -> None:
    first = started(TEXT, tiny_bert, 1)
    save_file(first.weights(), tmp_path / "model.safetensors")
    second = Session(TEXT, tiny_bert, "cpu")
    second.load(tmp_path)
    assert all(value.tobytes() == second.weights()[name].tobytes() for name, value in first.weights().items())


def test_a_checkpoint_of_another_task_is_refused_with_its_tensors(tiny_bert: Path, tmp_path: Path) -> None:
    weights = started(TEXT, tiny_bert).weights()
    session = Session(TEXT, tiny_bert, "cpu")
    for name, altered, expected in (
        ("missing", {key: value for key, value in weights.items() if key != "head.output.bias"}, "missing.*head.output.bias"),
        ("unexpected", {**weights, "head.hidden.0.bias": np.zeros(3, np.float32)}, "unexpected: head.hidden.0.bias"),
        ("shape", {**weights, "pooler.bias": np.zeros(3, np.float32)}, r"pooler\.bias \(expected \[32\], found \[3\]\)"),
    ):
        (tmp_path / name).mkdir()
        save_file(altered, tmp_path / name / "model.safetensors")
        with pytest.raises(WeightsError, match=expected):
            session.load(tmp_path / name)


def test_a_checkpoint_with_another_number_of_classes_is_refused(tiny_bert: Path, tmp_path: Path) -> None:
    save_file(started(TaskSpec("text_classification", 3), tiny_bert).weights(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"head\.output\.bias \(expected \[2\], found \[3\]\)"):
        Session(TEXT, tiny_bert, "cpu").load(tmp_path)


def test_all_that_the_next_step_depends_on_is_state(tiny_bert: Path, tmp_path: Path) -> None:
    split = text_split(tmp_path, tiny_bert, *some_texts(4))
    feed = split.feed(np.arange(4))
    session = Session(TEXT, tiny_bert, "cpu")
    add_descent(session, paddle.optimizer.Adam)
    session.initialise(0)

    def step() -> dict[str, bytes]:
        paddle.seed(7)
        session.run(session.task.main_program(), feed, [session.task.variable("loss")])
        return {name: value.tobytes() for name, value in session.state().items()}

    step()
    state = session.state()
    first = step()
    step()
    session.load_state(state)
    assert step() == first


def test_a_module_of_the_wrong_kind_is_refused(tiny_bert: Path, digits_module: Path) -> None:
    with pytest.raises(
        TaskError, match="image_classification needs a module with the output 'feature_map'; this one has pooled_"
    ):
        Session(TaskSpec("image_classification", 2), tiny_bert, "cpu")
    with pytest.raises(TaskError, match="needs a module with the output 'pooled_output'; this one has feature_map"):
        Session(TEXT, digits_module, "cpu")


def test_hidden_units_of_a_sequence_task_are_refused(tiny_bert: Path) -> None:
    with pytest.raises(TaskError, match=r"hidden_units \[8\]: a sequence labelling head has one layer"):
        Session(TaskSpec("sequence_labelling", 2, (8,)), tiny_bert, "cpu")


def logits(session: Session, feed: dict[str, Any], seed: int, test: bool = False) -> Any:
    paddle.seed(seed)
    task = session.task
    program, value = (task.test_program(), task.test_variable) if test else (task.main_program(), task.variable)
    return session.run(program, feed, [value("logits")])[0]


STILL = {"head_dropout": 0.0, "dropout": 0.0, "attention_dropout": 0.0}


@pytest.mark.parametrize("name", [None, *STILL])
@pytest.mark.parametrize("task", ["text_classification", "sequence_labelling"])
def test_every_dropout_that_is_set_acts_in_training_alone(task: Any, name: str | None, tiny_bert: Path, tmp_path: Path) -> None:
    still = TaskSpec(task, 2 if task == "text_classification" else 5, **STILL)
    spec = replace(still, **{name: 0.5}) if name else still
    if task == "text_classification":
        feed = text_split(tmp_path, tiny_bert, *some_texts(4)).feed(np.arange(4))
    else:
        feed = token_split(tmp_path, tiny_bert, *some_tokens(4)).feed(np.arange(4))
    session = started(spec, tiny_bert)
    assert np.array_equal(logits(session, feed, 1), logits(session, feed, 2)) is (name is None)
    expected = logits(started(still, tiny_bert), feed, 1, test=True)
    np.testing.assert_array_equal(logits(session, feed, 1, test=True), expected)
    np.testing.assert_array_equal(logits(session, feed, 2, test=True), expected)


@pytest.mark.parametrize("dropout", [None, 0.0, 0.5])
def test_an_image_heads_dropout_is_none_unless_set(dropout: float | None, digits_module: Path, tmp_path: Path) -> None:
    session = started(TaskSpec("image_classification", 2, head_dropout=dropout), digits_module)
    feed = image_split(tmp_path, 8).feed(np.arange(8))
    assert np.array_equal(logits(session, feed, 1), logits(session, feed, 2)) is (not dropout)


def test_dropout_of_an_image_module_is_refused(digits_module: Path) -> None:
    with pytest.raises(TaskError, match="an image module has no dropout to set; set the head's"):
        Session(TaskSpec("image_classification", 2, attention_dropout=0.1), digits_module, "cpu")
