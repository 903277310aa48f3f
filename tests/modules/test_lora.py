"""LoRA: adapters that change nothing at first, learn alone with the head, and are gone from the export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_exports import facts_of
from small_modules import MAX_SEQ_LEN, SENTIMENT, some_texts, text_split
from small_sessions import add_descent, moved, step

from hubflow.errors import TaskError, WeightsError
from hubflow.inference.export import as_exported, write_export
from hubflow.inference.predictor import Predictor
from hubflow.modules.networks.text import is_adapter, merged
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import set_variable
from hubflow.schemas.settings import LoraSettings
from hubflow.store.store import Store
from hubflow.tasks.task import TaskSpec

pytestmark = pytest.mark.slow

ROWS = 6
BASE = TaskSpec("text_classification", 2)
ALL_TARGETS = LoraSettings(rank=3, alpha=6, dropout=0.1, targets=("query", "key", "value", "output"))


def with_lora(lora: LoraSettings = LoraSettings(), pretrained: bool = True) -> TaskSpec:  # noqa: B008 - it is frozen
    return TaskSpec("text_classification", 2, pretrained=pretrained, lora=lora)


def started(spec: TaskSpec, module: Path, seed: int = 0) -> Session:
    session = Session(spec, module, "cpu")
    session.initialise(seed)
    return session


def adapted(module: Path, lora: LoraSettings) -> Session:
    """A session whose adapters and head are far from where they start."""
    session = started(with_lora(lora), module)
    generator = np.random.default_rng(3)
    for name, value in session.weights().items():
        if is_adapter(name) or name.startswith("head."):
            noise = (0.3 * generator.standard_normal(value.shape)).astype(np.float32)
            set_variable(session.scope, name, noise, session.place)
    return session


def probabilities(session: Session, feed: dict[str, Any]) -> Any:
    return session.run(session.task.test_program(), feed, [session.task.test_variable("probs")])[0]


@pytest.fixture
def feed(tiny_bert: Path, tmp_path: Path) -> dict[str, Any]:
    return text_split(tmp_path / "rows", tiny_bert, *some_texts(ROWS)).feed(np.arange(ROWS))


@pytest.mark.parametrize("pretrained", [True, False])
def test_at_the_start_it_gives_what_the_module_gives(pretrained: bool, tiny_bert: Path, feed: dict[str, Any]) -> None:
    base = started(TaskSpec("text_classification", 2, pretrained=pretrained), tiny_bert)
    session = started(with_lora(ALL_TARGETS, pretrained), tiny_bert)
    np.testing.assert_array_equal(probabilities(session, feed), probabilities(base, feed))
    weights = session.weights()
    assert all(np.array_equal(value, weights[name]) for name, value in base.weights().items())


def test_adapters_start_uniform_and_zero_by_the_seed(tiny_bert: Path) -> None:
    first, same, other = (started(with_lora(LoraSettings(rank=16)), tiny_bert, seed).weights() for seed in (1, 1, 2))
    names = [name for name in first if is_adapter(name)]
    assert sorted(names) == sorted(
        f"encoder.{layer}.attention.{target}.{part}"
        for layer in range(2)
        for target in ("query", "value")
        for part in ("lora_a", "lora_b")
    )
    hidden = first["pooler.bias"].size
    bound = 1 / np.sqrt(hidden)
    for name in names:
        assert np.array_equal(first[name], same[name])
        if name.endswith("lora_b"):
            assert first[name].shape == (16, hidden)
            assert not first[name].any()
        else:
            assert first[name].shape == (hidden, 16)
            assert np.abs(first[name]).max() <= bound
            assert first[name].std() == pytest.approx(bound / np.sqrt(3), rel=0.1)
            assert not np.array_equal(first[name], other[name])


def test_adapters_and_head_alone_learn_and_have_gradients(tiny_bert: Path, feed: dict[str, Any]) -> None:
    session = Session(with_lora(), tiny_bert, "cpu")
    with_gradient = add_descent(session)
    session.initialise(0)
    before = session.weights()
    adapters = {name for name in before if is_adapter(name)}
    head = {name for name in before if name.startswith("head.")}
    assert with_gradient == adapters | head
    step(session, feed)
    step(session, feed)  # A has no gradient as long as B is zero
    assert moved(session, before) == adapters | head


def test_adapters_of_a_frozen_block_are_frozen(tiny_bert: Path, feed: dict[str, Any]) -> None:
    session = Session(with_lora(), tiny_bert, "cpu", frozenset(["embeddings", "encoder.0"]))
    assert {session.block_of(name) for name in add_descent(session)} == {"encoder.1", "head"}
    session.initialise(0)
    before = session.weights()
    step(session, feed)
    step(session, feed)
    assert {name.rpartition(".attention")[0] or "head" for name in moved(session, before)} == {"encoder.1", "head"}


@pytest.mark.parametrize("lora", [LoraSettings(), ALL_TARGETS, LoraSettings(rank=1, targets=("output",))])
def test_merged_weights_give_the_same(lora: LoraSettings, tiny_bert: Path, feed: dict[str, Any]) -> None:
    session = adapted(tiny_bert, lora)
    before = session.weights()
    plain = as_exported(session)
    assert not [name for name in plain.names if is_adapter(name)]
    expected = probabilities(session, feed)
    np.testing.assert_allclose(probabilities(plain, feed), expected, atol=1e-5)
    assert np.abs(probabilities(plain, feed) - probabilities(started(BASE, tiny_bert), feed)).max() > 1e-2
    assert moved(session, before) == set()
    assert as_exported(plain) is plain


def test_merging_adds_the_product_to_the_projection_alone() -> None:
    weights = {
        "x.weight": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32),
        "x.lora_a": np.array([[1.0], [2.0]], np.float32),
        "x.lora_b": np.array([[10.0, 100.0]], np.float32),
        "y.weight": np.ones((2, 2), np.float32),
    }
    found = merged(weights, 0.5)
    assert found.keys() == {"x.weight", "y.weight"}
    np.testing.assert_array_equal(found["x.weight"], np.array([[6.0, 52.0], [13.0, 104.0]], np.float32))
    assert found["x.weight"].dtype == np.float32
    assert weights["x.weight"][0, 0] == 1


def test_the_exported_program_has_no_adapters_and_predicts_the_same(tiny_bert: Path, tmp_path: Path) -> None:
    texts, labels = some_texts(ROWS)
    split = text_split(tmp_path / "rows", tiny_bert, texts, labels)
    session = adapted(tiny_bert, ALL_TARGETS)
    store = Store(tmp_path / "store")
    with store.create("exports", "lora") as draft:
        write_export(session, draft.folder, SENTIMENT, "text", {"max_seq_len": MAX_SEQ_LEN})
        draft.facts |= facts_of("text_classification", SENTIMENT)
    folder = store.load("exports", "lora").folder
    assert "lora" not in json.dumps(json.loads((folder / "program.json").read_text(encoding="utf-8")))
    found = [row.probabilities for row in Predictor.load(folder, threads=1).predict(texts, batch_size=3)]
    np.testing.assert_allclose(found, probabilities(session, split.feed(np.arange(ROWS))), atol=1e-5)


def test_a_checkpoint_must_hold_the_adapters(tiny_bert: Path, tmp_path: Path) -> None:
    session = adapted(tiny_bert, LoraSettings())
    save_file(session.weights(), tmp_path / "model.safetensors")
    again = Session(with_lora(), tiny_bert, "cpu")
    again.load(tmp_path)
    assert moved(again, session.weights()) == set()
    save_file(started(BASE, tiny_bert).weights(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"encoder\.0\.attention\.query\.lora_a.*missing"):
        again.load(tmp_path)


def test_lora_on_an_image_module_is_refused(digits_module: Path) -> None:
    with pytest.raises(TaskError, match="no attention projections for LoRA"):
        Session(TaskSpec("image_classification", 2, lora=LoraSettings()), digits_module, "cpu")
