"""Task: what it refuses, and how its programs share weights and differ in what they need."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from small_sessions import own_scope

from hubflow.errors import TaskError
from hubflow.runtime.paddle_import import keep_program, paddle, set_variable
from hubflow.tasks.task import Task, create_img_cls_task, data_variables

LABEL = np.array([0, 1, 2, 0])


@pytest.fixture(autouse=True)
def scope() -> Iterator[Any]:
    with own_scope() as scope:
        yield scope


def feature(name: str = "x", size: int = 4) -> Any:
    paddle.enable_static()
    program = paddle.static.Program()
    with paddle.static.program_guard(program, paddle.static.Program()):
        value = paddle.static.data(name, [-1, size], "float32")
    keep_program(program, [value])
    return value


def started(**options: Any) -> Task:
    task = create_img_cls_task(feature(), num_classes=3, **options)
    paddle.static.Executor(paddle.CPUPlace()).run(task.startup_program())
    return task


def run(program: Any, feed: dict[str, Any], *fetch: Any) -> Any:
    return paddle.static.Executor(paddle.CPUPlace()).run(program, feed=feed, fetch_list=list(fetch))


def probabilities(task: Task, x: np.ndarray) -> np.ndarray:
    program = task.inference_program()
    fetched = [op.operand_source(0) for op in program.global_block().ops if op.name() == "pd_op.fetch"]
    result: np.ndarray = run(program, {"x": x}, *fetched)[0]
    return result


def some_rows(rows: int = 4) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32)


def test_an_unknown_variable_lists_the_known_ones() -> None:
    task = started()
    known = "known: loss, accuracy, label, logits, probs, num_examples"
    with pytest.raises(TaskError, match=f"no variable 'acc'; {known}"):
        task.variable("acc")
    with pytest.raises(TaskError, match=known):
        task.test_variable("acc")


def test_an_unknown_task_type_lists_the_known_ones() -> None:
    task = started()
    with pytest.raises(TaskError, match="'regression' is not known; use one of image_classification, text_classification, seq"):
        Task("regression", {"loss": task.variable("loss")}, task.main_program(), task.startup_program())  # type: ignore[arg-type]


def test_variables_of_another_program_are_refused_by_name() -> None:
    task, other = started(), started()
    variables = {"loss": other.variable("loss"), "probs": task.variable("probs")}
    with pytest.raises(TaskError, match=r"variable\(s\) loss are not in main_program"):
        Task("image_classification", variables, task.main_program(), task.startup_program())


def test_without_probs_an_inference_program_must_be_given() -> None:
    task = started()
    variables = {"loss": task.variable("loss")}
    with pytest.raises(TaskError, match=r"no 'probs'.*pass inference_program"):
        Task("image_classification", variables, task.main_program(), task.startup_program())
    own = task.inference_program()
    made = Task("image_classification", variables, task.main_program(), task.startup_program(), own)
    assert made.inference_program() is own


def test_metric_variables_are_the_loss_and_what_measures() -> None:
    task = started()
    assert task.metric_variable_names() == ["loss", "accuracy"]
    extra = {name: task.variable(name) for name in ("loss", "probs", "label", "logits")}
    with paddle.static.program_guard(task.main_program()):
        extra["perplexity"] = paddle.exp(task.variable("loss"))
    made = Task("image_classification", extra, task.main_program(), task.startup_program())
    assert made.metric_variable_names() == ["loss", "perplexity"]
    fetched = run(made.test_program(), {"x": some_rows(), "label": LABEL}, made.test_variable("perplexity"))
    assert np.isfinite(fetched[0])


def test_the_inference_program_needs_no_label_and_has_one_output() -> None:
    task = started(hidden_units=[5])
    assert [value.name for value in data_variables(task.inference_program())] == ["x"]
    assert probabilities(task, some_rows()).shape == (4, 3)


def test_the_inference_program_sees_weights_that_are_trained_later(scope: Any) -> None:
    task = started()
    before = probabilities(task, some_rows())
    set_variable(scope, "head.output.bias", np.array([9.0, 0, 0], np.float32), paddle.CPUPlace())
    after = probabilities(task, some_rows())
    assert (after.argmax(-1) == 0).all()
    assert not np.allclose(before, after)


def test_the_programs_agree_on_the_same_rows() -> None:
    task = started()
    feed = {"x": some_rows(), "label": LABEL}
    names = ("loss", "accuracy", "probs")
    main = run(task.main_program(), feed, *(task.variable(name) for name in names))
    test = run(task.test_program(), feed, *(task.test_variable(name) for name in names))
    for left, right in zip(main, test, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)
    np.testing.assert_allclose(probabilities(task, some_rows()), test[2], atol=1e-6)


def test_an_optimizer_added_later_is_in_no_other_program() -> None:
    task = started()
    with paddle.static.program_guard(task.main_program(), task.startup_program()):
        paddle.optimizer.SGD(0.1).minimize(task.variable("loss"))
    paddle.static.Executor(paddle.CPUPlace()).run(task.startup_program())
    feed = {"x": some_rows(), "label": LABEL}
    first = probabilities(task, some_rows())
    run(task.test_program(), feed, task.test_variable("loss"))
    np.testing.assert_array_equal(probabilities(task, some_rows()), first)
    run(task.main_program(), feed, task.variable("loss"))
    assert not np.allclose(probabilities(task, some_rows()), first)
