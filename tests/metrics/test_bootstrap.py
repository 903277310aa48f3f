"""Bootstrap: weighted rows are rows repeated, intervals cover what they should, and pairs of models matter."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics
from evaluated_splits import classes, sentences, tags_of
from seqeval.metrics import f1_score, precision_score
from seqeval.scheme import IOB2
from sklearn.metrics import accuracy_score, balanced_accuracy_score, matthews_corrcoef
from sklearn.metrics import f1_score as class_f1

from hubflow.metrics import classification
from hubflow.metrics.bootstrap import bootstrap_intervals, bootstrap_weights, improvement, paired_interval
from hubflow.metrics.classification import ClassificationMetrics
from hubflow.metrics.sequence_labelling import SequenceLabellingMetrics
from hubflow.metrics.streaming import MetricOptions
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.settings import BootstrapSettings


@pytest.mark.parametrize("num_classes", [2, 4])
def test_weights_give_what_scikit_learn_gives_of_rows_repeated_so_often(num_classes: int, tmp_path: Path) -> None:
    metrics: Any = classes(tmp_path, 40, num_classes).metrics
    for weights in bootstrap_weights(40, 5, 3):
        found = metrics.statistics(5)(weights)
        for place, weight in enumerate(weights):
            rows = np.repeat(np.arange(40), weight)
            labels, predicted = metrics.labels[rows], metrics.predicted[rows]
            known: dict[str, Any] = {"labels": range(num_classes), "zero_division": 0}
            scores = metrics.scores[rows]
            scores = scores - scores[:, ::-1] if num_classes == 2 else scores
            areas = [sklearn.metrics.roc_auc_score(labels == one, scores[:, one]) for one in np.unique(labels)]
            expected = {
                "accuracy": sklearn.metrics.accuracy_score(labels, predicted),
                "f1_macro": sklearn.metrics.f1_score(labels, predicted, average="macro", **known),
                "precision_weighted": sklearn.metrics.precision_score(labels, predicted, average="weighted", **known),
                "balanced_accuracy": sklearn.metrics.recall_score(
                    labels, predicted, average="macro", labels=np.unique(labels), zero_division=0
                ),
                "mcc": sklearn.metrics.matthews_corrcoef(labels, predicted),
                "loss": metrics.losses[rows].mean(),
                "roc_auc": np.mean(areas),
            }
            assert {name: found[name][place] for name in expected} == pytest.approx(expected)


def test_sentences_repeated_give_what_seqeval_gives(tmp_path: Path) -> None:
    evaluated = sentences(tmp_path, 30)
    truth, predicted = tags_of(evaluated)
    metrics: Any = evaluated.metrics
    once = metrics.statistics(1)(np.ones((1, 30), np.int64))
    flat = metrics.compute()
    del flat["ece"]
    assert {name: values[0] for name, values in once.items()} == pytest.approx(flat)
    for weights in bootstrap_weights(30, 3, 5):
        found = metrics.statistics(1)(weights)
        for place, weight in enumerate(weights):
            rows = np.repeat(np.arange(30), weight)
            lists = [[tags[row] for row in rows] for tags in (truth, predicted)]
            assert found["f1"][place] == pytest.approx(seqeval.metrics.f1_score(*lists))
            assert found["precision_strict"][place] == pytest.approx(
                seqeval.metrics.precision_score(*lists, mode="strict", scheme=IOB2)
            )


def test_draws_are_the_same_however_they_are_parted() -> None:
    whole = np.concatenate(list(bootstrap_weights(37, 25, 1)))
    assert whole.shape == (25, 37)
    assert (whole.sum(1) == 37).all()
    np.testing.assert_array_equal(whole, np.concatenate(list(bootstrap_weights(37, 25, 1, at_once=4))))
    assert (whole != np.concatenate(list(bootstrap_weights(37, 25, 2)))).any()


def test_intervals_hold_their_metric_and_are_those_of_theory(tmp_path: Path) -> None:
    metrics: Any = classes(tmp_path, 800, 3).metrics
    found, notes = bootstrap_intervals(metrics, BootstrapSettings(resamples=2000))
    assert notes == []
    flat = metrics.compute()
    assert set(found) == set(flat)
    for name, interval in found.items():
        if name != "ece":  # which rows drawn again make larger
            assert interval.low < flat[name] < interval.high
    share = flat["accuracy"]
    half = 1.96 * (share * (1 - share) / 800) ** 0.5
    assert found["accuracy"].low == pytest.approx(share - half, abs=0.003)
    assert found["accuracy"].high == pytest.approx(share + half, abs=0.003)
    narrower = bootstrap_intervals(metrics, BootstrapSettings(resamples=2000, confidence=0.5))[0]
    assert found["mcc"].low < narrower["mcc"].low < narrower["mcc"].high < found["mcc"].high
    assert bootstrap_intervals(metrics, BootstrapSettings(resamples=0)) == ({}, [])


def test_areas_of_too_many_values_are_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics: Any = classes(tmp_path, 50, 3).metrics
    monkeypatch.setattr(classification, "MAX_AREA_VALUES", 50 * 3 * 10 - 1)
    found, notes = bootstrap_intervals(metrics, BootstrapSettings(resamples=10))
    assert "roc_auc" not in found
    assert notes == ["no interval of roc_auc: 50 rows of 3 labels are too many to draw again"]
    assert "roc_auc" in bootstrap_intervals(metrics, BootstrapSettings(resamples=9))[0]


@pytest.mark.parametrize("counts", [[30, 60, 10], [3, 0, 1, 2, 4, 1, 1, 1]])
def test_rows_that_are_alike_are_drawn_as_often_as_rows_one_by_one(counts: list[int]) -> None:
    kinds, resamples = np.array(counts), 20_000
    drawn = np.concatenate(list(bootstrap_weights(kinds, resamples, 0)))
    rows = np.concatenate(list(bootstrap_weights(int(kinds.sum()), resamples, 1)))
    by_kind = rows @ np.eye(len(kinds), dtype=np.int64)[np.repeat(np.arange(len(kinds)), kinds)]
    assert (drawn.sum(1) == kinds.sum()).all()
    np.testing.assert_allclose(drawn.mean(0), by_kind.mean(0), atol=0.15)
    np.testing.assert_allclose(drawn.std(0), by_kind.std(0), rtol=0.03)


LABELS = ["cat", "cow", "dog"]
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def guesses(truth: list[str], share: float, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [one if random.random() < share else str(random.choice(LABELS)) for one in truth]


def evaluated_classes(truth: Any, predicted: Any) -> ClassificationMetrics:
    names = [*LABELS, *sorted({*predicted} - {*LABELS})]
    metrics = ClassificationMetrics(np.array([names.index(one) for one in truth]), len(LABELS), MetricOptions())
    metrics.update_predicted(np.arange(len(truth)), np.array([names.index(one) for one in predicted]))
    return metrics


@pytest.fixture(scope="module")
def rows() -> tuple[list[str], list[str], list[str]]:
    """True labels, and predictions of a better and a worse model."""
    truth = [str(one) for one in np.random.default_rng(0).choice(LABELS, 300, p=[0.6, 0.3, 0.1])]
    return truth, guesses(truth, 0.85, 1), guesses(truth, 0.6, 2)


@pytest.mark.slow
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
    ours, theirs = (evaluated_classes(rows[0], one) for one in rows[1:])
    assert ours.compute()[metric] == pytest.approx(reference(truth, better))
    assert theirs.compute()[metric] == pytest.approx(reference(truth, worse))
    random = np.random.default_rng(5)
    drawn = [random.integers(0, len(truth), len(truth)) for _ in range(500)]
    expected = np.quantile([reference(truth[at], better[at]) - reference(truth[at], worse[at]) for at in drawn], [0.025, 0.975])
    assert paired_interval(ours, theirs, metric, metric == "loss", 4000, 0.95, 0) == pytest.approx(expected, abs=0.025)


def test_models_that_make_the_same_mistakes_differ_by_nothing_and_others_by_chance(rows: Any) -> None:
    truth, better, _ = rows
    same, other = (
        evaluated_classes(truth, better),
        evaluated_classes(truth, better[::-1]),
    )
    assert paired_interval(same, same, "accuracy", False, 500, 0.95, 0) == (0.0, 0.0)
    low, high = paired_interval(same, other, "accuracy", False, 500, 0.95, 0)
    assert low < high


def test_a_smaller_loss_is_better() -> None:
    random = np.random.default_rng(0)
    high = random.random(2000) + 0.2
    low = high - 0.1 - 0.05 * random.random(2000)
    ours, theirs = (ClassificationMetrics(np.zeros(2000, np.int64), 2, MetricOptions()) for _ in range(2))
    for metrics, losses in ((ours, low), (theirs, high)):
        metrics.update_predicted(np.arange(2000), np.zeros(2000, np.int64), losses)
    assert ours.compute()["loss"] == pytest.approx(low.mean())
    assert improvement(ours.compute()["loss"], theirs.compute()["loss"], lower_is_better=True) > 0
    assert paired_interval(ours, theirs, "loss", True, 500, 0.95, 0) == pytest.approx((0.125, 0.125), abs=0.002)


def tagged(count: int, share: float, seed: int) -> tuple[list[list[str]], list[list[str]]]:
    random = np.random.default_rng(seed)
    truth = [[str(tag) for tag in random.choice(TAGS, random.integers(1, 9))] for _ in range(count)]
    return truth, [[tag if random.random() < share else "O" for tag in tags] for tags in truth]


def evaluated_tags(truth: Any, predicted: Any) -> SequenceLabellingMetrics:
    ids = ([np.array([TAGS.index(tag) for tag in tags]) for tags in rows] for rows in (truth, predicted))
    metrics = SequenceLabellingMetrics(next(ids), LabelMap(labels=tuple(TAGS)), MetricOptions())
    metrics.update_predicted(np.arange(len(truth)), next(ids))
    return metrics


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "reference"), [("f1", f1_score), ("precision", precision_score)])
def test_of_tags_sentences_are_drawn_and_entities_counted_as_seqeval_does(metric: str, reference: Any) -> None:
    truth, better = tagged(120, 0.9, 3)
    _, worse = tagged(120, 0.7, 3)
    ours, theirs = (evaluated_tags(truth, one) for one in (better, worse))
    assert ours.compute()[metric] == pytest.approx(reference(truth, better))
    random = np.random.default_rng(1)

    def of(guess: list[list[str]], at: Any) -> float:
        return float(reference([truth[row] for row in at], [guess[row] for row in at]))

    drawn = [random.integers(0, len(truth), len(truth)) for _ in range(150)]
    expected = np.quantile([of(better, at) - of(worse, at) for at in drawn], [0.025, 0.975])
    assert paired_interval(ours, theirs, metric, metric == "loss", 2000, 0.95, 0) == pytest.approx(expected, abs=0.04)


def test_the_same_seed_gives_the_same_interval_and_other_rows_are_refused(rows: Any) -> None:
    ours, theirs = (evaluated_classes(rows[0], one) for one in rows[1:])
    assert len({paired_interval(ours, theirs, "accuracy", False, 300, 0.9, 7) for _ in range(2)}) == 1
    fewer = evaluated_classes(rows[0][:-1], rows[2][:-1])
    with pytest.raises(ValueError, match="300 and 299 rows were evaluated"):
        paired_interval(ours, fewer, "accuracy", False, 300, 0.9, 7)


def test_a_hundred_thousand_rows_take_seconds() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 10, 100_000)
    pair = []
    for share in (0.9, 0.85):
        metrics = ClassificationMetrics(truth, 10, MetricOptions())
        predicted = np.where(random.random(len(truth)) < share, truth, random.integers(0, 10, len(truth)))
        metrics.update_predicted(np.arange(len(truth)), predicted)
        pair.append(metrics)
    started = time.perf_counter()
    low, high = paired_interval(pair[0], pair[1], "f1_macro", False, 2000, 0.95, 0)
    assert 0.03 < low < high < 0.06
    assert time.perf_counter() - started < 10
