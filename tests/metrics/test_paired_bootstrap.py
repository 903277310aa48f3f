"""The paired bootstrap: the metric's own value, intervals as drawing rows one by one gives them, and pairs that matter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score
from sklearn.metrics import accuracy_score, balanced_accuracy_score, matthews_corrcoef
from sklearn.metrics import f1_score as class_f1

from hubflow.metrics.paired_bootstrap import PairedValues, evaluated_classes, evaluated_losses, evaluated_tags, paired_interval

LABELS = ["cat", "cow", "dog"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def guesses(truth: list[str], share: float, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [one if random.random() < share else str(random.choice(LABELS)) for one in truth]


@pytest.fixture(scope="module")
def rows() -> tuple[list[str], list[str], list[str]]:
    """True labels, and predictions of a better and a worse model."""
    truth = [str(one) for one in np.random.default_rng(0).choice(LABELS, 300, p=[0.6, 0.3, 0.1])]
    return truth, guesses(truth, 0.85, 1), guesses(truth, 0.6, 2)


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        ("accuracy", accuracy_score),
        ("balanced_accuracy", balanced_accuracy_score),
        ("mcc", matthews_corrcoef),
        ("f1_macro", lambda true, guess: class_f1(true, guess, average="macro")),
    ],
)
def test_the_value_and_the_interval_are_those_of_drawing_rows_one_by_one(
    metric: str, reference: Callable[..., float], rows: Any
) -> None:
    truth, better, worse = (np.array(one) for one in rows)
    ours, theirs = (evaluated_classes(LABELS, rows[0], one, metric) for one in rows[1:])
    assert ours.value == pytest.approx(reference(truth, better))
    assert theirs.value == pytest.approx(reference(truth, worse))
    random = np.random.default_rng(5)
    drawn = [random.integers(0, len(truth), len(truth)) for _ in range(500)]
    expected = np.quantile([reference(truth[at], better[at]) - reference(truth[at], worse[at]) for at in drawn], [0.025, 0.975])
    assert paired_interval(ours, theirs, 4000, 0.95, 0) == pytest.approx(expected, abs=0.025)


def test_models_that_make_the_same_mistakes_differ_by_nothing_and_others_by_chance(rows: Any) -> None:
    truth, better, _ = rows
    same, other = (
        evaluated_classes(LABELS, truth, better, "accuracy"),
        evaluated_classes(LABELS, truth, better[::-1], "accuracy"),
    )
    assert paired_interval(same, same, 500, 0.95, 0) == (0.0, 0.0)
    low, high = paired_interval(same, other, 500, 0.95, 0)
    assert low < high


def test_a_label_that_the_data_does_not_have_is_a_mistake_and_no_class() -> None:
    evaluated = evaluated_classes(LABELS, ["cat", "cow", "dog"], ["cat", "cow", "owl"], "f1_macro")
    assert evaluated.value == pytest.approx(2 / 3)


def test_a_smaller_loss_is_better() -> None:
    random = np.random.default_rng(0)
    high = random.random(2000) + 0.2
    low = high - 0.1 - 0.05 * random.random(2000)
    ours, theirs = evaluated_losses(low.tolist()), evaluated_losses(high.tolist())
    assert ours.value == pytest.approx(-low.mean())
    interval = paired_interval(ours, theirs, 500, 0.95, 0)
    assert interval == pytest.approx((0.125, 0.125), abs=0.002)


def sentences(count: int, share: float, seed: int) -> tuple[list[list[str]], list[list[str]]]:
    random = np.random.default_rng(seed)
    truth = [[str(tag) for tag in random.choice(TAGS, random.integers(1, 9))] for _ in range(count)]
    return truth, [[tag if random.random() < share else "O" for tag in tags] for tags in truth]


@pytest.mark.parametrize(("metric", "reference"), [("f1", f1_score), ("precision", precision_score)])
def test_of_tags_sentences_are_drawn_and_entities_counted_as_seqeval_does(metric: str, reference: Any) -> None:
    truth, better = sentences(120, 0.9, 3)
    _, worse = sentences(120, 0.7, 3)
    ours, theirs = (evaluated_tags(truth, one, metric) for one in (better, worse))
    assert ours.value == pytest.approx(reference(truth, better))
    random = np.random.default_rng(1)

    def of(guess: list[list[str]], at: Any) -> float:
        return float(reference([truth[row] for row in at], [guess[row] for row in at]))

    drawn = [random.integers(0, len(truth), len(truth)) for _ in range(150)]
    expected = np.quantile([of(better, at) - of(worse, at) for at in drawn], [0.025, 0.975])
    assert paired_interval(ours, theirs, 2000, 0.95, 0) == pytest.approx(expected, abs=0.04)


def test_the_accuracy_of_words_and_the_strict_reading_have_their_own_counts() -> None:
    truth, predicted = [["B-PER", "I-PER", "O"]], [["I-PER", "I-PER", "O"]]
    assert evaluated_tags(truth, predicted, "accuracy").value == pytest.approx(2 / 3)
    assert evaluated_tags(truth, predicted, "f1").value == 1.0
    assert evaluated_tags(truth, predicted, "f1_strict").value == 0.0


def test_the_same_seed_gives_the_same_interval(rows: Any) -> None:
    ours, theirs = (evaluated_classes(LABELS, rows[0], one, "accuracy") for one in rows[1:])
    pairs: list[tuple[PairedValues, PairedValues]] = [(ours, theirs)] * 2
    assert len({paired_interval(*pair, 300, 0.9, 7) for pair in pairs}) == 1
