"""Intervals: metrics of weighted rows are those of the rows repeated, and intervals cover what they should."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics
from evaluated_splits import classes, sentences, tags_of
from seqeval.scheme import IOB2

from hubflow.metrics import weighted as statistics
from hubflow.metrics.bootstrap import bootstrap_weights
from hubflow.metrics.intervals import intervals_of
from hubflow.metrics.weighted import ClassStatistics, SequenceStatistics
from hubflow.schemas.settings import BootstrapSettings


@pytest.mark.parametrize("num_classes", [2, 4, 9])
def test_each_row_once_gives_the_flat_metrics(num_classes: int, tmp_path: Path) -> None:
    judge: Any = classes(tmp_path, 150, num_classes).judge
    found = ClassStatistics(judge, 1)(np.ones((1, 150), np.int64))
    assert {name: values[0] for name, values in found.items()} == pytest.approx({"loss": judge.loss, **judge.metrics()})


@pytest.mark.parametrize("num_classes", [2, 4])
def test_weights_give_what_scikit_learn_gives_of_rows_repeated_so_often(num_classes: int, tmp_path: Path) -> None:
    judge: Any = classes(tmp_path, 40, num_classes).judge
    for weights in bootstrap_weights(40, 5, 3):
        found = ClassStatistics(judge, 5)(weights)
        for place, weight in enumerate(weights):
            rows = np.repeat(np.arange(40), weight)
            labels, predicted = judge.labels[rows], judge.predicted[rows]
            known: dict[str, Any] = {"labels": range(num_classes), "zero_division": 0}
            scores = judge.scores[rows]
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
                "loss": judge.losses[rows].mean(),
                "roc_auc": np.mean(areas),
            }
            assert {name: found[name][place] for name in expected} == pytest.approx(expected)


def test_sentences_repeated_give_what_seqeval_gives(tmp_path: Path) -> None:
    evaluated = sentences(tmp_path, 30)
    truth, predicted = tags_of(evaluated)
    judge: Any = evaluated.judge
    once = SequenceStatistics(judge)(np.ones((1, 30), np.int64))
    flat = {"loss": judge.loss, **judge.metrics()}
    del flat["ece"]
    assert {name: values[0] for name, values in once.items()} == pytest.approx(flat)
    for weights in bootstrap_weights(30, 3, 5):
        found = SequenceStatistics(judge)(weights)
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
    judge: Any = classes(tmp_path, 800, 3).judge
    found, notes = intervals_of(judge, BootstrapSettings(resamples=2000))
    assert notes == []
    flat = {"loss": judge.loss, **judge.metrics()}
    assert set(found) == set(flat)
    for name, interval in found.items():
        if name != "ece":  # which rows drawn again make larger
            assert interval.low < flat[name] < interval.high
    share = flat["accuracy"]
    half = 1.96 * (share * (1 - share) / 800) ** 0.5
    assert found["accuracy"].low == pytest.approx(share - half, abs=0.003)
    assert found["accuracy"].high == pytest.approx(share + half, abs=0.003)
    narrower = intervals_of(judge, BootstrapSettings(resamples=2000, confidence=0.5))[0]
    assert found["mcc"].low < narrower["mcc"].low < narrower["mcc"].high < found["mcc"].high
    assert intervals_of(judge, BootstrapSettings(resamples=0)) == ({}, [])


def test_areas_of_too_many_values_are_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge: Any = classes(tmp_path, 50, 3).judge
    monkeypatch.setattr(statistics, "MAX_AREA_VALUES", 50 * 3 * 10 - 1)
    found, notes = intervals_of(judge, BootstrapSettings(resamples=10))
    assert "roc_auc" not in found
    assert notes == ["no interval of roc_auc: 50 rows of 3 labels are too many to draw again"]
    assert "roc_auc" in intervals_of(judge, BootstrapSettings(resamples=9))[0]
