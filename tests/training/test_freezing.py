"""Freezing: what is frozen stays as it was and costs nothing, what is not learns, whatever is frozen the names are the same."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_modules import image_split, some_texts, some_tokens, text_split, token_split
from small_sessions import add_descent, moved, step

from hubflow.errors import TaskError
from hubflow.programs.session import Session
from hubflow.tasks.task import TaskSpec

pytestmark = pytest.mark.slow

TEXT = TaskSpec("text_classification", 2)
IMAGE = TaskSpec("image_classification", 2)
STATISTICS = ("._mean", "._variance")


def gradient_ops(session: Session) -> list[str]:
    return [op.name() for op in session.task.main_program().global_block().ops if "_grad" in op.name()]


def names_in(session: Session, blocks: Iterable[str], statistics: bool = True) -> set[str]:
    kept = {name: variable for name, variable in session.names.items() if statistics or not name.endswith(STATISTICS)}
    return {name for name, variable in kept.items() if session.block_of(variable) in set(blocks)}


@pytest.fixture
def text_feed(tiny_bert: Path, tmp_path: Path) -> dict[str, Any]:
    return text_split(tmp_path, tiny_bert, *some_texts(4)).feed(np.arange(4))


@pytest.fixture
def image_feed(tmp_path: Path) -> dict[str, Any]:
    return image_split(tmp_path, 8).feed(np.arange(8))


def frozen_sets(blocks: tuple[str, ...]) -> list[frozenset[str]]:
    """Nothing, the bottom, a middle one alone, all but the bottom, everything."""
    chosen = (blocks[:0], blocks[:2], blocks[1:2], blocks[1:], blocks)
    return [frozenset(some) for some in chosen]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("kind", ["text", "image"])
def test_what_is_frozen_stays_and_the_rest_learns(
    kind: str, number: int, tiny_bert: Path, digits_module: Path, request: pytest.FixtureRequest
) -> None:
    spec, module = (TEXT, tiny_bert) if kind == "text" else (IMAGE, digits_module)
    blocks = Session(spec, module, "cpu").blocks
    frozen = frozen_sets(blocks)[number]
    session = Session(spec, module, "cpu", frozen)
    with_gradient = add_descent(session)
    session.initialise(0)
    before = session.weights()
    step(session, request.getfixturevalue(f"{kind}_feed"))
    trained = {*blocks, "head"} - frozen
    idle = {name for name in before if name.endswith("attention.key.bias")}  # no scores differ by it: its gradient is 0
    assert moved(session, before) | idle == names_in(session, trained) | idle
    assert with_gradient == {session.names[name] for name in names_in(session, trained, statistics=False)}
    parameters = session.task.main_program().global_block().all_parameters()
    still = {session.names[name] for name in names_in(session, frozen)}
    assert all(value.stop_gradient and not value.trainable for value in parameters if value.name in still)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_nothing_is_computed_backwards_below_the_lowest_trained_block(kind: str, tiny_bert: Path, digits_module: Path) -> None:
    spec, module = (TEXT, tiny_bert) if kind == "text" else (IMAGE, digits_module)
    blocks = Session(spec, module, "cpu").blocks
    counts = []
    for number in range(len(blocks) + 1):
        session = Session(spec, module, "cpu", frozenset(blocks[:number]))
        add_descent(session)
        counts.append(len(gradient_ops(session)))
    assert counts == sorted(set(counts), reverse=True)
    assert counts[-1] < 12  # the head's alone


def test_a_frozen_module_is_all_blocks_frozen(tiny_bert: Path) -> None:
    session = Session(TaskSpec("text_classification", 2, trainable=False), tiny_bert, "cpu")
    assert session.frozen == set(session.blocks)
    assert {session.block_of(name) for name in add_descent(session)} == {"head"}


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_session_is_rebuilt_with_other_blocks_frozen_on_the_same_weights(
    kind: str, tiny_bert: Path, digits_module: Path, request: pytest.FixtureRequest
) -> None:
    spec, module = (TEXT, tiny_bert) if kind == "text" else (IMAGE, digits_module)
    feed = request.getfixturevalue(f"{kind}_feed")
    blocks = Session(spec, module, "cpu").blocks
    first = Session(spec, module, "cpu", frozenset(blocks))
    add_descent(first)
    first.initialise(0)
    step(first, feed)
    before = first.weights()
    second = first.refrozen(frozenset(blocks[:1]))
    assert second.names == first.names
    assert second.scope is first.scope
    assert second.frozen == {blocks[0]}
    assert first.frozen == set(blocks)
    assert moved(second, before) == set()
    add_descent(second)
    step(second, feed)
    assert names_in(second, ["head"]) < moved(second, before)
    assert {second.block_of(second.names[name]) for name in moved(second, before)} == {*blocks[1:], "head"}
    before = second.weights()
    step(first, feed)
    assert moved(first, before) == names_in(first, ["head"])


def test_a_sequence_task_trains_with_a_block_frozen(tiny_bert: Path, tmp_path: Path) -> None:
    session = Session(TaskSpec("sequence_labelling", 5), tiny_bert, "cpu", frozenset(["encoder.0"]))
    with_gradient = add_descent(session)
    session.initialise(0)
    before = session.weights()
    step(session, token_split(tmp_path, tiny_bert, *some_tokens(4)).feed(np.arange(4)))
    assert {session.block_of(name) for name in with_gradient} == {"embeddings", "encoder.1", "head"}
    assert not {"pooler.weight", "pooler.bias"} & with_gradient
    assert not moved(session, before) & names_in(session, ["encoder.0"])


def test_an_unknown_block_is_refused_with_the_known_ones(digits_module: Path) -> None:
    with pytest.raises(TaskError, match=r"no block\(s\) layer1; known, bottom to top: block1, block2, block3"):
        Session(IMAGE, digits_module, "cpu", frozenset(["layer1", "block1"]))
    with pytest.raises(TaskError, match=r"no block\(s\) x"):
        Session(IMAGE, digits_module, "cpu").refrozen(frozenset(["x"]))


def test_the_block_of_every_variable_is_known_and_of_no_other(tiny_bert: Path) -> None:
    session = Session(TEXT, tiny_bert, "cpu")
    assert {session.block_of(variable) for variable in session.names.values()} == {*session.blocks, "head"}
    assert session.block_of("pooler.weight") == session.blocks[-1]
    with pytest.raises(TaskError, match="'learning_rate_0' is no parameter"):
        session.block_of("learning_rate_0")
