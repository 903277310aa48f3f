"""Classification: exactly what scikit-learn and scipy give, over all rows."""

import json
import warnings
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax

from hubflow.metrics.classification import ClassCounts, ClassificationMetrics, confusion_of
from hubflow.metrics.streaming import MetricOptions


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(*[arrays(np.int64, n, elements=st.integers(0, 3))] * 2)))
def test_classification_scores_are_scikit_learns(labels: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = labels
    counts = ClassCounts(4)
    counts.update(truth, predicted)
    found = counts.compute()
    averaged: dict[str, Any] = {"labels": [0, 1, 2, 3], "zero_division": 0}
    kinds = {
        "precision": sklearn.metrics.precision_score,
        "recall": sklearn.metrics.recall_score,
        "f1": sklearn.metrics.f1_score,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found == pytest.approx(
            {
                "accuracy": sklearn.metrics.accuracy_score(truth, predicted),
                **{
                    f"{name}_{kind}": score(truth, predicted, average=kind, **averaged)
                    for kind in ("macro", "weighted")
                    for name, score in kinds.items()
                },
                "balanced_accuracy": sklearn.metrics.recall_score(
                    truth, predicted, labels=np.unique(truth), average="macro", zero_division=0
                ),
                "mcc": sklearn.metrics.matthews_corrcoef(truth, predicted),
            }
        )
        assert counts.averages()["micro"] == pytest.approx(
            {name: score(truth, predicted, average="micro", **averaged) for name, score in kinds.items()}
        )
    assert found["accuracy"] == int((truth == predicted).sum()) / len(truth)
    matrix = sklearn.metrics.confusion_matrix(truth, predicted, labels=range(4))
    assert confusion_of(truth, predicted, ["a", "b", "c", "d"]).counts == matrix.tolist()


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 7), st.integers(1, 40), st.integers(1, 9))
def test_scores_of_probabilities_are_scikit_learns_for_any_batches(seed: int, classes: int, rows: int, batch: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = log_softmax(generator.normal(size=(rows, classes)).round(1) * 3, axis=-1)  # rounded: some are equal
    metrics = ClassificationMetrics(labels, classes, MetricOptions(top_k=(1, 3), bins=5))
    order = generator.permutation(rows)
    for start in range(0, rows, batch):
        places = order[start : start + batch]
        metrics.update(places, logits[places])
    found, probabilities = metrics.compute(), np.exp(logits)
    assert found["log_loss"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities, labels=range(classes)))
    assert found["top_1_accuracy"] == found["accuracy"] == (logits.argmax(-1) == labels).mean()
    assert ("top_3_accuracy" in found) == (classes > 3)
    if classes > 3:
        apart = logits - 1e-9 * np.arange(classes)  # of equal scores the first class wins here, the last in scikit-learn
        top = sklearn.metrics.top_k_accuracy_score(labels, apart, k=3, labels=range(classes))
        assert found["top_3_accuracy"] == pytest.approx(top)
    present, kept = np.unique(labels), logits.astype(np.float32)  # as scores are kept; what it makes equal counts by half
    areas = [sklearn.metrics.roc_auc_score(labels == one, kept[:, one]) for one in present] if len(present) > 1 else []
    if classes == 2 and areas:
        areas = [sklearn.metrics.roc_auc_score(labels, kept[:, 1] - kept[:, 0])]
    assert found.get("roc_auc") == (pytest.approx(np.mean(areas)) if areas else None)


def test_counts_are_read_back_from_json_and_an_empty_state_is_of_no_rows() -> None:
    counts = ClassCounts(3)
    counts.update(np.array([0, 2, 2]), np.array([0, 2, 0]))
    again = counts.from_state(json.loads(json.dumps(counts.state())))
    assert vars(again).keys() == vars(counts).keys()
    assert all((vars(again)[name] == values).all() for name, values in vars(counts).items())
    assert counts.from_state({}).compute() == ClassCounts(3).compute()


def test_a_prediction_that_is_none_of_the_labels_is_wrong_and_no_class() -> None:
    metrics = ClassificationMetrics(np.array([0, 1, 2, 2]), 3, MetricOptions())
    metrics.update_predicted(np.arange(4), np.array([0, 1, 3, 2]))
    found = metrics.compute()
    assert (found["accuracy"], found["f1_macro"]) == (0.75, pytest.approx((1 + 1 + 2 / 3) / 3))
    weighted = metrics.statistics(1)(np.ones((1, 4), np.int64))
    assert {name: values[0] for name, values in weighted.items()} == pytest.approx(found)


@pytest.mark.parametrize(("right", "rows"), [(0, 10), (40, 50), (1, 1), (7, 2000)])
def test_the_interval_of_an_accuracy_is_wilsons_and_holds_it(right: int, rows: int) -> None:
    metrics = ClassificationMetrics(np.zeros(rows, np.int64), 2, MetricOptions())
    metrics.update_predicted(np.arange(rows), (np.arange(rows) >= right).astype(np.int64))
    interval = metrics.accuracy_interval(np.ones(rows, bool), 0.9)
    assert interval is not None
    low, high = interval
    z, share = 1.6448536269514722, right / rows
    middle, width = share + z**2 / (2 * rows), z * (share * (1 - share) / rows + z**2 / (4 * rows**2)) ** 0.5
    expected = (middle - width) / (1 + z**2 / rows), (middle + width) / (1 + z**2 / rows)
    assert (low, high) == pytest.approx(expected, abs=1e-12)
    assert low <= share <= high
