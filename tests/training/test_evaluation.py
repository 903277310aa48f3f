"""Evaluation: exact over all rows, whatever the batch size, the padding or the order of the labels."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
from seqeval.scheme import IOB2
from small_modules import ENTITY_LABELS, SENTIMENT, image_split, some_texts, some_tokens, text_split, token_split

from hubflow.data.encoded import EncodedSplit
from hubflow.errors import SettingsError
from hubflow.metrics.sequence_labelling import outside_id
from hubflow.programs.session import Session
from hubflow.runtime.paddle_import import set_variable
from hubflow.schemas.labels import LabelMap
from hubflow.tasks.task import TaskSpec
from hubflow.training.evaluation import evaluate_split, log_probabilities, require_defined

ROWS = 23
BATCH_SIZES = (1, 4, 7, 22, 23, 64)


def opinionated(spec: TaskSpec, module: Path) -> Session:
    """A session whose head is random enough to predict every class."""
    session = Session(spec, module, "cpu")
    session.initialise(0)
    shape = session.weights()["head.output.weight"].shape
    weight = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    set_variable(session.scope, "head.output.weight", weight, session.place)
    return session


def one_by_one(session: Session, split: EncodedSplit) -> list[Any]:
    """Logits of each row run alone, without padding."""
    logits = session.task.test_variable("logits")
    return [session.run(session.task.test_program(), split.feed(np.array([row])), [logits])[0][0] for row in range(len(split))]


def centred(session: Session, split: EncodedSplit) -> Session:
    """The session, its bias such that each class is predicted of some rows."""
    middle = np.median(np.stack(one_by_one(session, split)), axis=0)
    set_variable(session.scope, "head.output.bias", -middle, session.place)
    return session


@pytest.fixture(scope="module")
def text_case(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, EncodedSplit]:
    split = text_split(tmp_path_factory.mktemp("texts"), tiny_bert, *some_texts(ROWS))
    return centred(opinionated(TaskSpec("text_classification", 2), tiny_bert), split), split


@pytest.fixture(scope="module")
def image_case(digits_module: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, EncodedSplit]:
    split = image_split(tmp_path_factory.mktemp("images"), ROWS)
    return centred(opinionated(TaskSpec("image_classification", 2), digits_module), split), split


@pytest.fixture(scope="module")
def token_session(tiny_bert: Path) -> Session:
    return opinionated(TaskSpec("sequence_labelling", 5), tiny_bert)


@pytest.fixture(params=["text", "image"])
def case(request: pytest.FixtureRequest) -> tuple[Session, EncodedSplit]:
    found: tuple[Session, EncodedSplit] = request.getfixturevalue(f"{request.param}_case")
    return found


def test_classification_is_exact_for_every_batch_size(case: tuple[Session, Any]) -> None:
    """Defects 3 and 12: metrics were averaged per batch, unweighted; rows of the last batch were dropped."""
    session, split = case
    logits = np.stack(one_by_one(session, split))
    predicted = logits.argmax(-1)
    assert set(predicted) == {0, 1}
    losses = -log_probabilities(logits)[np.arange(ROWS), split.label]
    right = int((predicted == split.label).sum())
    for batch_size in BATCH_SIZES:
        seen: list[int] = []
        found = evaluate_split(session, split, SENTIMENT, batch_size, seen.append)
        assert sum(seen) == ROWS
        assert found.metrics["accuracy"] == right / ROWS
        assert found.metrics["loss"] == pytest.approx(losses.mean(), rel=1e-5)
        # Defect 5: what is evaluated keeps the order of its rows.
        assert found.predicted == predicted.tolist()
        np.testing.assert_allclose(found.losses, losses, rtol=1e-4, atol=1e-5)


def tags_of(split: Any, session: Session, label_map: LabelMap) -> tuple[list[list[str]], list[list[str]]]:
    """True and predicted tags of every word, each row run alone; a word that was cut off is O."""
    truth, predicted = [], []
    for row, logits in enumerate(one_by_one(session, split)):
        pieces = split.first_piece[row]
        truth.append([label_map.labels[label] for label in split.word_labels[row]])
        predicted.append([label_map.labels[logits[piece].argmax()] if piece >= 0 else "O" for piece in pieces])
    return truth, predicted


@pytest.mark.parametrize("labels", list(itertools.islice(itertools.permutations(ENTITY_LABELS.labels), 0, 120, 29)))
def test_entity_scores_are_seqevals_for_any_order_of_labels_any_padding_and_any_batch_size(
    labels: tuple[str, ...], token_session: Session, tiny_bert: Path, tmp_path: Path
) -> None:
    """Defect 2: entity F1 was wrong on padded data."""
    label_map = LabelMap(labels=labels)
    split = token_split(tmp_path, tiny_bert, *some_tokens(ROWS), label_map, max_seq_len=12)
    truth, predicted = tags_of(split, token_session, label_map)
    strict: dict[str, Any] = {"mode": "strict", "scheme": IOB2}
    for batch_size in BATCH_SIZES:
        metrics = evaluate_split(token_session, split, label_map, batch_size).metrics
        for suffix, mode in (("", {}), ("_strict", strict)):
            names = ("precision", "recall", "f1")
            expected = [getattr(seqeval.metrics, f"{name}_score")(truth, predicted, zero_division=0, **mode) for name in names]
            assert [metrics[f"{name}{suffix}"] for name in names] == pytest.approx(expected)
        words = sum(map(len, truth))
        right = sum(left == guess for rows in zip(truth, predicted, strict=True) for left, guess in zip(*rows, strict=True))
        assert metrics["accuracy"] == right / words


def test_words_that_were_cut_off_count_as_missed(token_session: Session, tiny_bert: Path, tmp_path: Path) -> None:
    """Defect 12: what the model did not see is not left out of the score."""
    tokens, labels = [["film"] * 5 + ["Paris"]], [["O"] * 5 + ["B-LOC"]]
    split = token_split(tmp_path, tiny_bert, tokens, labels, max_seq_len=4)
    found = evaluate_split(token_session, split, ENTITY_LABELS, 8)
    assert found.metrics["recall"] == 0
    assert len(found.predicted[0]) == 6
    assert found.predicted[0][2:] == [0] * 4


def test_the_loss_of_a_sequence_task_is_the_mean_over_its_words(
    token_session: Session, tiny_bert: Path, tmp_path: Path
) -> None:
    """Defects 3 and 7: batches of few words weigh as their words, and padding weighs nothing."""
    split: Any = token_split(tmp_path, tiny_bert, *some_tokens(ROWS))
    losses = []
    for row, logits in enumerate(one_by_one(token_session, split)):
        pieces = split.first_piece[row]
        kept = pieces >= 0
        losses += (-log_probabilities(logits[pieces[kept]])[np.arange(kept.sum()), split.word_labels[row][kept]]).tolist()
    for batch_size in BATCH_SIZES:
        found = evaluate_split(token_session, split, ENTITY_LABELS, batch_size)
        assert found.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_word_without_a_piece_counts_as_outside_or_as_the_first_label() -> None:
    assert outside_id(LabelMap(labels=("B-X", "O"))) == 1
    assert outside_id(LabelMap(labels=("B-X", "I-X"))) == 0


def test_evaluation_changes_no_weight(image_case: tuple[Session, EncodedSplit]) -> None:
    session, split = image_case
    before = session.weights()
    evaluate_split(session, split, SENTIMENT, 4)
    assert all(np.array_equal(before[name], value) for name, value in session.weights().items())


@pytest.mark.parametrize("metric", ["roc_auc", "mcc"])
def test_a_metric_that_one_label_alone_leaves_undefined_is_refused(metric: str, tiny_bert: Path, tmp_path: Path) -> None:
    texts = some_texts(6)[0]
    of_one = text_split(tmp_path / "one", tiny_bert, texts, ["positive"] * 6)
    with pytest.raises(SettingsError, match=f"'{metric}' is not defined on dev: all 6 rows of dev have the label 'positive'"):
        require_defined(metric, of_one, SENTIMENT)
    require_defined("accuracy", of_one, SENTIMENT)
    of_two = text_split(tmp_path / "two", tiny_bert, texts, ["positive"] * 5 + ["negative"])
    require_defined(metric, of_two, SENTIMENT)


@pytest.mark.parametrize("metric", ["f1", "precision", "recall_strict"])
def test_an_entity_metric_on_rows_without_entities_is_refused(metric: str, tiny_bert: Path, tmp_path: Path) -> None:
    tokens = some_tokens(4)[0]
    outside = token_split(tmp_path / "none", tiny_bert, tokens, [["O"] * len(row) for row in tokens])
    with pytest.raises(SettingsError, match=f"'{metric}' is not defined on dev: no word of its 4 rows is part of an entity"):
        require_defined(metric, outside, ENTITY_LABELS)
    require_defined("loss", outside, ENTITY_LABELS)
    tags = [["B-LOC"] + ["O"] * (len(row) - 1) for row in tokens]
    require_defined(metric, token_split(tmp_path / "some", tiny_bert, tokens, tags), ENTITY_LABELS)
