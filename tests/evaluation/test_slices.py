"""Slices: every row is in one slice of a kind, and each slice's metrics are those of its rows alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import seqeval.metrics
import sklearn.metrics
from evaluated_splits import classes, sentences, tags_of

from hubflow.errors import SettingsError
from hubflow.evaluation.slices import slices_of
from hubflow.schemas.settings import SliceSettings

ROWS = 120


def by_column(folder: Path, values: Any, **more: Any) -> dict[str, Any]:
    evaluated = classes(folder, ROWS, source=values)
    settings = SliceSettings(columns=("source",), length=False, labels=False, **more)
    return {one.value: one for one in slices_of(evaluated, settings, 0.95)}


def test_each_value_of_a_column_is_evaluated_as_its_rows_alone(tmp_path: Path) -> None:
    values = np.array(["web", "shop", None], object)[np.arange(ROWS) % 3]
    found = by_column(tmp_path, values)
    assert set(found) == {"web", "shop", "(missing)"}
    streamed: Any = classes(tmp_path, ROWS).metrics
    for place, name in enumerate(["web", "shop", "(missing)"]):
        rows = np.arange(ROWS) % 3 == place
        labels, predicted = streamed.labels[rows], streamed.predicted[rows]
        metrics = found[name].metrics
        assert found[name].rows == rows.sum()
        assert metrics["accuracy"] == (labels == predicted).mean()
        assert metrics["f1_macro"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
        assert metrics["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, predicted))
        assert metrics["loss"] == pytest.approx(streamed.losses[rows].mean())
        low, high = found[name].accuracy_interval
        assert low < metrics["accuracy"] < high


def test_rare_values_share_a_slice_and_numbers_of_many_values_are_cut_into_ranges(tmp_path: Path) -> None:
    names = by_column(tmp_path, [f"v{place % 2 if place < 100 else place}" for place in range(ROWS)], max_values=3)
    assert {value: one.rows for value, one in names.items()} == {"v0": 50, "v1": 50, "(other)": 20}
    numbers = by_column(tmp_path, pd.array([None, *range(1, ROWS)], dtype="Int64"), max_values=3)
    assert [one.rows for one in numbers.values()] == [30, 30, 29, 30, 1]
    assert list(numbers)[-1] == "(missing)"
    few = by_column(tmp_path, np.arange(ROWS) % 2 == 0, max_values=2)
    assert {value: one.rows for value, one in few.items()} == {"True": 60, "False": 60}


def test_lengths_are_cut_at_the_edges_or_into_quarters(tmp_path: Path) -> None:
    evaluated = classes(tmp_path, 90)
    at = SliceSettings(labels=False, length_edges=(2, 5))
    assert [(one.value, one.rows) for one in slices_of(evaluated, at, 0.95)] == [("0–2", 20), ("3–5", 30), ("6–", 40)]
    quarters = slices_of(evaluated, SliceSettings(labels=False), 0.95)
    assert [one.value for one in quarters] == ["0–3", "4–5", "6–7", "8–"]
    assert sum(one.rows for one in quarters) == 90


def test_the_slices_by_label_have_the_recall_of_each(tmp_path: Path) -> None:
    evaluated = classes(tmp_path, ROWS, 6)
    streamed: Any = evaluated.metrics
    found = slices_of(evaluated, SliceSettings(length=False), 0.95)
    recall = sklearn.metrics.recall_score(streamed.labels, streamed.predicted, average=None)
    assert {one.value: one.metrics["accuracy"] for one in found} == pytest.approx(
        {f"label {place}": value for place, value in enumerate(recall)}
    )
    assert len(slices_of(evaluated, SliceSettings(length=False, max_values=2), 0.95)) == 2


def test_sentences_are_cut_by_the_entities_that_are_in_them(tmp_path: Path) -> None:
    evaluated = sentences(tmp_path, 40)
    truth, predicted = tags_of(evaluated)
    found = {one.value: one for one in slices_of(evaluated, SliceSettings(length=False), 0.95)}
    for kind in ("LOC", "PER"):
        rows = [row for row, tags in enumerate(truth) if any(tag.endswith(kind) for tag in tags)]
        assert found[kind].rows == len(rows)
        expected = seqeval.metrics.f1_score([truth[row] for row in rows], [predicted[row] for row in rows])
        assert found[kind].metrics["f1"] == pytest.approx(expected)
        assert found[kind].accuracy_interval is None
    assert found["(no entity)"].rows == sum(set(tags) == {"O"} for tags in truth)


def test_a_column_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"test has no column 'sauce'; it has row, text, label"):
        slices_of(classes(tmp_path, 5), SliceSettings(columns=("sauce",)), 0.95)
