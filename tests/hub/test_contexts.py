"""Contexts of one scope: each has weights of its own, whatever the order of building, startup and training."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_modules import write_text_module
from small_sessions import own_scope

from hubflow import hub
from hubflow.errors import TaskError
from hubflow.runtime.paddle_import import get_variable, paddle
from hubflow.tasks.task import data_variables

pytestmark = pytest.mark.slow

STEPS = 3


@pytest.fixture(autouse=True)
def scope() -> Iterator[Any]:
    with own_scope() as scope:
        yield scope


class Hand:
    """A task built, started and trained by hand, as a user of the Task API does it."""

    def __init__(self, module: str, kind: str, seed: int = 1, **options: Any) -> None:
        self.kind, self.seed, self.step = kind, seed, 0
        self.executor = paddle.static.Executor(paddle.CPUPlace())
        self.inputs, outputs, self.program = hub.Module(module, **options).context()
        if kind == "image":
            self.task = hub.create_img_cls_task(outputs["feature_map"], num_classes=2, hidden_units=[4])
        elif kind == "text":
            self.task = hub.create_text_cls_task(outputs["pooled_output"], num_classes=2)
        else:
            with paddle.static.program_guard(self.program):
                seq_len = paddle.static.data("seq_len", [-1], "int64")
            self.task = hub.create_seq_label_task(outputs["sequence_output"], seq_len, num_classes=2)
        with paddle.static.program_guard(self.task.main_program(), self.task.startup_program()):
            paddle.optimizer.AdamW(1e-2).minimize(self.task.variable("loss"))

    def start(self) -> "Hand":
        paddle.seed(self.seed)
        self.executor.run(self.task.startup_program())
        return self

    def train(self, steps: int = 1) -> "Hand":
        for _ in range(steps):
            self.step += 1
            paddle.seed(100 * self.seed + self.step)  # of dropout, which is drawn from one generator of the process
            self.executor.run(self.task.main_program(), feed=self.feed(), fetch_list=[self.task.variable("loss")])
        return self

    def feed(self) -> dict[str, Any]:
        generator = np.random.default_rng(self.step)
        if self.kind == "image":
            pixels = generator.standard_normal((4, 3, 8, 8)).astype(np.float32)
            return {"image": pixels, "label": generator.integers(0, 2, 4)}
        ids = generator.integers(5, 50, (4, 6))
        text = {
            "input_ids": ids,
            "position_ids": np.tile(np.arange(6), (4, 1)),
            "segment_ids": np.zeros_like(ids),
            "input_mask": np.ones((4, 6), np.float32),
        }
        if self.kind == "text":
            return {**text, "label": generator.integers(0, 2, 4)}
        return {**text, "seq_len": np.full(4, 6), "label": generator.integers(0, 2, (4, 6))}

    def said(self) -> bytes:
        """What the inference program gives of fixed rows."""
        program, step, self.step = self.task.inference_program(), self.step, 99
        feed = {value.name: self.feed()[value.name] for value in data_variables(program)}
        fetched = [op.operand_source(0) for op in program.global_block().ops if op.name() == "pd_op.fetch"]
        found: bytes = self.executor.run(program, feed=feed, fetch_list=fetched)[0].tobytes()
        self.step = step
        return found


@pytest.fixture(scope="module")
def makers(tiny_bert: Path) -> dict[str, Callable[..., Hand]]:
    return {
        "text": lambda **options: Hand(str(tiny_bert), "text", **options),
        "tokens": lambda **options: Hand(str(tiny_bert), "tokens", **options),
        "image": lambda **options: Hand("digits", "image", **options),
        "fresh image": lambda **options: Hand("digits", "image", pretrained=False, **options),
    }


def alone(make: Callable[..., Hand], **options: Any) -> bytes:
    with own_scope():
        paddle.seed(0)
        return make(**options).start().train(STEPS).said()


PAIRS = [("text", "text"), ("image", "image"), ("text", "image"), ("tokens", "text"), ("image", "fresh image")]


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_tasks_of_two_contexts_do_not_touch_each_other(left: str, right: str, makers: dict[str, Callable[..., Hand]]) -> None:
    expected = alone(makers[left], seed=1), alone(makers[right], seed=2)

    def fresh(kind: str, seed: int) -> Hand:
        paddle.seed(0)
        return makers[kind](seed=seed)

    one, other = fresh(left, 1), fresh(right, 2)  # built, started and trained in turn
    other.start(), one.start()
    for _ in range(STEPS):
        one.train(), other.train()
    assert (one.said(), other.said()) == expected
    one = fresh(left, 1).start().train(STEPS)  # the second is built when the first is trained
    before = one.said()
    other = fresh(right, 2).start().train(STEPS)
    assert (before, one.said(), other.said()) == (expected[0], *expected)
    one, other = fresh(left, 1).start().train(STEPS - 1), fresh(right, 2).start()  # started while the other trains
    other.train(STEPS), one.train()
    assert (one.said(), other.said()) == expected


def test_a_cell_that_is_run_again_starts_from_the_pretrained_weights(makers: dict[str, Callable[..., Hand]]) -> None:
    runs = [makers["text"]().start().train(STEPS).said() for _ in range(3)]
    assert len(set(runs)) == 1


def test_the_first_context_of_a_scope_has_the_plain_names(tiny_bert: Path, scope: Any) -> None:
    word, head = "embeddings.word.weight", "head.output.weight"
    first, second = Hand(str(tiny_bert), "text"), Hand(str(tiny_bert), "text")
    names = [{value.name for value in one.program.global_block().all_parameters()} for one in (first, second)]
    assert {word, head} <= names[0]
    assert {f"context_2.{word}", f"context_2.{head}"} <= names[1]
    assert not names[0] & names[1] - {"learning_rate_0"}
    np.testing.assert_array_equal(get_variable(scope, word), get_variable(scope, f"context_2.{word}"))
    with own_scope():
        other = Hand(str(tiny_bert), "text")
        assert word in {value.name for value in other.program.global_block().all_parameters()}


def test_a_scope_of_its_own_holds_a_task_with_its_plain_names(makers: dict[str, Callable[..., Hand]]) -> None:
    outside = makers["image"]().start().train(STEPS)
    before = outside.said()
    with own_scope():
        makers["image"](seed=5).start().train(STEPS)
    assert outside.said() == before


def test_a_head_on_a_program_that_has_an_optimizer_is_refused(tiny_bert: Path) -> None:
    """The earlier task's updates would run with every step of the later one."""
    _, outputs, program = hub.Module(str(tiny_bert)).context()
    task = hub.create_text_cls_task(outputs["pooled_output"], 2)
    hub.create_text_cls_task(outputs["pooled_output"], 3)  # a second head on one context, before either is trained
    with paddle.static.program_guard(program, task.startup_program()):
        paddle.optimizer.SGD(0.1).minimize(task.variable("loss"))
    with pytest.raises(TaskError, match=r"has an optimizer already.*call context\(\) again"):
        hub.create_text_cls_task(outputs["pooled_output"], 2)


def test_modules_of_two_families_share_a_scope(tmp_path: Path) -> None:
    hands = [Hand(str(write_text_module(tmp_path / name, name)), "text") for name in ("bert", "ernie", "distilbert")]
    said = [hand.start().said() for hand in hands]
    hands[1].train(2)
    assert [hand.said() == one for hand, one in zip(hands, said, strict=True)] == [True, False, True]
