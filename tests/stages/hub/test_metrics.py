"""Metrics: exactly what scikit-learn and seqeval give, over all rows."""

import warnings
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from seqeval.scheme import IOB2

from hubflow.stages.hub.metrics import (
    classification_metrics,
    confusion,
    entities,
    entity_metrics,
    log_softmax,
    strict_entities,
)

IOB_TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-a-b", "I-a-b"]
ANY_TAGS = [*IOB_TAGS, "E-PER", "S-LOC", "E-LOC", "S-PER", "B", "I"]


def tag_rows(tags: list[str]) -> st.SearchStrategy[list[tuple[list[str], list[str]]]]:
    pair = st.tuples(st.sampled_from(tags), st.sampled_from(tags))
    row = st.lists(pair, max_size=12).map(lambda pairs: ([left for left, _ in pairs], [right for _, right in pairs]))
    return st.lists(row, min_size=1, max_size=6)


def by_seqeval(truth: list[list[str]], predicted: list[list[str]], **mode: Any) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"precision": seqeval.metrics.precision_score, "recall": seqeval.metrics.recall_score}
        scores = {**names, "f1": seqeval.metrics.f1_score}
        return {name: float(score(truth, predicted, zero_division=0, **mode)) for name, score in scores.items()}


@settings(max_examples=200, deadline=None)
@given(tag_rows(ANY_TAGS))
def test_entity_scores_are_seqevals_in_default_mode(rows: list[tuple[list[str], list[str]]]) -> None:
    """Defect 2: entity F1 was wrong."""
    truth, predicted = [left for left, _ in rows], [right for _, right in rows]
    assert entity_metrics(truth, predicted) == pytest.approx(by_seqeval(truth, predicted))


@settings(max_examples=200, deadline=None)
@given(tag_rows(IOB_TAGS))
def test_entity_scores_are_seqevals_in_strict_iob2(rows: list[tuple[list[str], list[str]]]) -> None:
    """Defect 2: entity F1 was wrong."""
    truth, predicted = [left for left, _ in rows], [right for _, right in rows]
    found = entity_metrics(truth, predicted, "strict")
    if any(tag != "O" for row in truth + predicted for tag in row):
        assert found == pytest.approx(by_seqeval(truth, predicted, mode="strict", scheme=IOB2))
    else:
        assert found == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


def test_the_two_modes_differ_where_an_entity_does_not_begin_with_b() -> None:
    tags = ["I-PER", "I-PER", "O", "B-LOC", "I-PER"]
    assert entities(tags) == [("PER", 0, 1), ("LOC", 3, 3), ("PER", 4, 4)]
    assert strict_entities(tags) == [("LOC", 3, 3)]


def test_entities_do_not_run_over_the_end_of_a_row() -> None:
    rows = [["B-PER"], ["I-PER"]]
    assert entity_metrics(rows, rows) == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert entity_metrics(rows, [["B-PER"], ["O"]])["recall"] == 0.5


def test_rows_of_different_lengths_are_refused_rather_than_cut() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        entity_metrics([["O"], ["O"]], [["O"]])


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(*[arrays(np.int64, n, elements=st.integers(0, 3))] * 2)))
def test_classification_scores_are_scikit_learns(labels: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = labels
    found = classification_metrics(truth, predicted, 4)
    averaged: dict[str, Any] = {"labels": [0, 1, 2, 3], "average": "macro", "zero_division": 0}
    assert found == pytest.approx(
        {
            "accuracy": sklearn.metrics.accuracy_score(truth, predicted),
            "precision_macro": sklearn.metrics.precision_score(truth, predicted, **averaged),
            "recall_macro": sklearn.metrics.recall_score(truth, predicted, **averaged),
            "f1_macro": sklearn.metrics.f1_score(truth, predicted, **averaged),
        }
    )
    assert found["accuracy"] == int((truth == predicted).sum()) / len(truth)
    np.testing.assert_array_equal(
        confusion(truth, predicted, 4), sklearn.metrics.confusion_matrix(truth, predicted, labels=range(4))
    )


def test_log_probabilities_of_large_scores_are_finite() -> None:
    found = log_softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]], np.float32))
    np.testing.assert_allclose(found, [[0, -1000], [-np.log(2)] * 2])
