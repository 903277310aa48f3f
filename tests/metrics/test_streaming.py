"""Streaming: batches in any order, and parts that are merged, give what all rows at once give; so do training's consumers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from hubflow.inference.batch.shard import evaluate_classes, evaluate_words
from hubflow.metrics import MetricOptions, counts_for, metrics_for
from hubflow.metrics.streaming import Calibration
from hubflow.schemas.labels import LabelMap

CLASSES = LabelMap(labels=("cat", "cow", "dog", "owl", "pig"))
TAGS = LabelMap(labels=("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))
ROWS = 61
Split = tuple[Any, Callable[[Any], tuple[Any, Any]]]
"""True ids, and what gives log probabilities and seen words of some rows."""


def split_of(is_sequence: bool, seed: int = 0) -> Split:
    generator = np.random.default_rng(seed)
    if not is_sequence:
        scores = log_softmax(generator.normal(size=(ROWS, 5)) * 2, axis=-1)
        return generator.integers(0, 5, ROWS), lambda rows: (scores[rows], None)
    truth = [generator.integers(0, 5, generator.integers(1, 9)) for _ in range(ROWS)]
    seen = [np.arange(len(tags)) < len(tags) - (row % 4 == 0) for row, tags in enumerate(truth)]
    of_row = [log_softmax(generator.normal(size=(int(one.sum()), 5)) * 2, axis=-1) for one in seen]
    return truth, lambda rows: (np.concatenate([of_row[row] for row in rows]), [seen[row] for row in rows])


def label_map_of(is_sequence: bool) -> LabelMap:
    return TAGS if is_sequence else CLASSES


def metrics_of(split: Split, is_sequence: bool, parts: list[Any]) -> Any:
    truth, scores_of = split
    metrics = metrics_for(truth, label_map_of(is_sequence), MetricOptions(), is_sequence)
    for rows in parts:
        metrics.update(rows, *scores_of(rows))
    return metrics


@pytest.mark.parametrize("is_sequence", [False, True])
def test_batches_in_any_order_give_what_one_batch_gives(is_sequence: bool) -> None:
    split = split_of(is_sequence)
    whole = metrics_of(split, is_sequence, [np.arange(ROWS)])
    order = np.random.default_rng(1).permutation(ROWS)
    for size in (1, 7, 60):
        parts = metrics_of(split, is_sequence, [order[start : start + size] for start in range(0, ROWS, size)])
        assert parts.compute() == pytest.approx(whole.compute(), rel=1e-12)
        np.testing.assert_array_equal(parts.rows, np.arange(ROWS))
        np.testing.assert_array_equal(parts.losses, whole.losses)
        assert [np.asarray(one).tolist() for one in parts.predicted] == [np.asarray(one).tolist() for one in whole.predicted]


@pytest.mark.parametrize("is_sequence", [False, True])
def test_parts_that_are_merged_give_what_the_whole_gives(is_sequence: bool) -> None:
    split, names = split_of(is_sequence), label_map_of(is_sequence).labels
    whole = metrics_of(split, is_sequence, [np.arange(ROWS)])
    first, second = (metrics_of(split, is_sequence, [np.arange(start, ROWS, 2)]) for start in (0, 1))
    first.merge(second)
    assert first.compute() == pytest.approx(whole.compute(), rel=1e-12)
    assert first.details(names) == whole.details(names)
    np.testing.assert_array_equal(first.is_wrong(), whole.is_wrong())
    with pytest.raises(ValueError, match=r"30 row\(s\) are in both metrics that are merged, the first at position 1"):
        first.merge(second)


@pytest.mark.parametrize("is_sequence", [False, True])
def test_weights_of_one_give_the_flat_metrics_also_of_some_rows_alone(is_sequence: bool) -> None:
    split = split_of(is_sequence)
    half = np.arange(0, ROWS, 2)
    for rows in (np.arange(ROWS), half):
        metrics = metrics_of(split, is_sequence, [rows])
        expected = {name: value for name, value in metrics.compute().items() if not (is_sequence and name == "ece")}
        found = metrics.statistics(1)(np.ones((1, len(rows)), np.int64))
        assert {name: values[0] for name, values in found.items()} == pytest.approx(expected)
    of_whole = metrics_of(split, is_sequence, [np.arange(ROWS)]).statistics(1, half)(np.ones((1, len(half)), np.int64))
    assert {name: values[0] for name, values in of_whole.items()} == pytest.approx(expected)


@pytest.mark.parametrize("is_sequence", [False, True])
def test_evaluation_verification_and_prediction_give_the_same_figures_of_the_same_rows(is_sequence: bool) -> None:
    split, label_map = split_of(is_sequence), label_map_of(is_sequence)
    evaluated = metrics_of(split, is_sequence, [np.arange(ROWS)])
    verified = metrics_for(split[0], label_map, MetricOptions(), is_sequence)
    verified.update_predicted(np.arange(ROWS), evaluated.predicted)
    flat = evaluated.compute()
    assert set(flat) - set(verified.compute()) == ({"loss", "ece"} if is_sequence else PROBABILISTIC)
    assert verified.compute() == {name: flat[name] for name in verified.compute()}
    counts = counts_for(label_map, is_sequence)
    for rows in np.array_split(np.arange(ROWS), 3):
        if is_sequence:
            labels: Any = [[label_map.labels[tag] for tag in split[0][row]] for row in rows]
            shard = evaluate_words(rows.tolist(), labels, [evaluated.predicted[row] for row in rows], label_map)
        else:
            labels = [label_map.labels[label] for label in split[0][rows]]
            shard = evaluate_classes(rows.tolist(), labels, evaluated.predicted[rows], label_map)
        assert shard.labelled == len(rows)
        counts.merge(counts.from_state(shard.counts))
    predicted = counts.compute()
    assert len(predicted) >= 3
    assert predicted == {name: flat[name] for name in predicted}


PROBABILISTIC = {"loss", "log_loss", "ece", "top_3_accuracy", "roc_auc"}


def test_losses_alone_give_the_loss_and_nothing_that_needs_probabilities() -> None:
    split = split_of(False)
    evaluated = metrics_of(split, False, [np.arange(ROWS)])
    known = metrics_for(split[0], CLASSES, MetricOptions(), False)
    known.update_predicted(np.arange(ROWS), evaluated.predicted, evaluated.losses)
    assert known.compute()["loss"] == evaluated.compute()["loss"]
    assert set(evaluated.compute()) - set(known.compute()) == PROBABILISTIC - {"loss", "log_loss"}
    assert set(known.statistics(1)(np.ones((1, ROWS), np.int64))) == set(known.compute())


def test_the_calibration_error_is_that_of_its_definition() -> None:
    confidence = np.array([0.05, 0.1, 0.15, 0.9, 0.95, 1.0])
    right = np.array([False, True, False, True, True, False])
    calibration = Calibration(10)
    calibration.update(confidence[:4], right[:4])
    calibration.update(confidence[4:], right[4:])
    assert calibration.count.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 1, 2]
    gaps = [2 * abs(0.5 - 0.075), abs(0 - 0.15), abs(1 - 0.9), 2 * abs(0.5 - 0.975)]
    assert calibration.error == pytest.approx(sum(gaps) / 6)
