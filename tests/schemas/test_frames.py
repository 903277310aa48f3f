"""Contracts of the tables that stages hand on: what keeps them passes unchanged, and each breach is told with its line."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from hubflow.errors import ContractError
from hubflow.schemas.frames import (
    require_evaluated,
    require_evaluations,
    require_metrics,
    require_predictions,
    require_steps,
    split_summary,
)
from hubflow.schemas.labels import LabelMap

LABELS = LabelMap(labels=("a", "b"))
ROWS = [3, 1, 7]


def steps(**columns: Any) -> pd.DataFrame:
    good = {
        "step": [1, 5, 10],
        "epoch": [1, 1, 2],
        "loss": [0.5, 0.4, 0.3],
        "learning_rate": [0.1, 0.5, 1.0],
        "grad_norm": [1.0] * 3,
    }
    return pd.DataFrame({**good, **columns})


def rates(step: Any) -> Any:
    return step / 10


def test_a_history_within_its_contract_passes_unchanged() -> None:
    good = steps(learning_rate=[0.1, 0.5, 1.0])
    assert require_steps(good, "steps.parquet", rates) is good


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"step": [1, 5, 5]}, "step: expected rising; 1 line.s.: step 5"),
        ({"step": [0, 5, 10]}, "step 0"),
        ({"epoch": [1, 2, 1]}, "epoch: expected not falling; 1 line.s.: step 10"),
        ({"loss": [0.5, np.inf, 0.3]}, "loss: expected finite; 1 line.s.: step 5"),
        ({"loss": [0.5, 0.4, np.nan]}, "loss: .*step 10"),
        ({"grad_norm": [1.0, -1.0, 1.0]}, "grad_norm: .*step 5"),
        ({"learning_rate": [0.1, 0.6, 1.0]}, "learning rate as the schedule says; 1 line.s.: step 5"),
        ({"note": ["x", "y", "z"]}, "note"),
    ],
)
def test_each_breach_of_a_history_names_the_step(columns: dict[str, Any], expected: str) -> None:
    with pytest.raises(ContractError, match=expected) as caught:
        require_steps(steps(**columns), "steps.parquet", rates)
    assert str(caught.value).startswith("steps.parquet: breaks the contract TrainingSteps")


def test_evaluations_hold_known_metrics_that_are_finite() -> None:
    good = pd.DataFrame({"step": [5, 10], "epoch": [1, 2], "loss": [1.5, 0.5], "accuracy": [0.5, 1.0]})
    assert require_evaluations(good, "evaluations", "text_classification") is good
    assert require_evaluations(pd.DataFrame([]), "evaluations", "text_classification").empty
    for column, values, expected in [
        ("accuracy", [0.5, np.nan], "metrics finite; 1 line.s.: step 10"),
        ("accurracy", [0.5, 0.5], "metrics known"),
        ("accuracy", ["x", "y"], "metrics finite"),
        ("step", [10, 10], "step: expected rising"),
    ]:
        with pytest.raises(ContractError, match=expected):
            require_evaluations(good.assign(**{column: values}), "evaluations", "text_classification")


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"dev": {"accuracy": 1.01}}, "0 to 1"),
        ({"dev": {"accuracy": float("nan")}}, "value"),
        ({"dev": {"loss": float("inf")}}, "finite"),
        ({"dev": {"loss": -0.5}}, "a loss from 0"),
        ({"dev": {"bleu": 0.5}}, "metric: .*found bleu"),
        ({"dev": {"mcc": -1.5}}, "mcc from -1"),
        ({"dev": {"log_loss": -0.5}}, "a loss from 0"),
        ({"dev": {"top_0_accuracy": 0.5}}, "metric: .*found top_0_accuracy"),
        ({"val": {"loss": 0.5}}, "split: .*found val"),
    ],
)
def test_metrics_are_known_finite_and_in_their_range(metrics: dict[str, dict[str, float]], expected: str) -> None:
    good = {
        "dev": {"loss": 1.5, "accuracy": 0.5, "mcc": -0.5},
        "test": {"accuracy": 1.0, "top_7_accuracy": 1.0, "my:cost": -9.0},
    }
    assert require_metrics(good, "evaluate", "text_classification") is good
    assert require_metrics({}, "evaluate", "text_classification") == {}
    with pytest.raises(ContractError, match=expected):
        require_metrics(metrics, "evaluate", "text_classification")


def predictions(**columns: Any) -> pd.DataFrame:
    good = {"row": ROWS, "predicted": ["a", "b", "a"], "probability": [0.9, 0.7, 0.5]}
    table = {"probability_a": [0.9, 0.3, 0.5], "probability_b": [0.1, 0.7, 0.5]}
    return pd.DataFrame({**good, **table, "id": [1, 2, 3], "probability_x": [5, 5, 5], **columns})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"row": [1, 3, 7]}, "one line for each row, in order; 2 line.s.: row 1, row 3"),
        ({"predicted": ["a", "c", "a"]}, "predicted: expected label of the map; 1 line.s.: row 1; found c"),
        ({"probability_a": [0.9, 0.3, 0.6]}, "together one; 1 line.s.: row 7"),
        ({"probability_a": [1.1, 0.3, 0.5], "probability_b": [-0.1, 0.7, 0.5]}, "in 0..1, together one; 1 line.s.: row 3"),
        ({"probability_b": [np.nan, 0.7, 0.5]}, "together one; 1 line.s.: row 3"),
        ({"probability": [0.9, 0.7, 1.5]}, "probability: .*row 7; found 1.5"),
    ],
)
def test_each_breach_of_predictions_names_the_row(columns: dict[str, Any], expected: str) -> None:
    good = predictions()
    assert require_predictions(good, LABELS, ROWS, "predict") is good
    with pytest.raises(ContractError, match=expected):
        require_predictions(predictions(**columns), LABELS, ROWS, "predict")


def test_missing_rows_and_missing_probabilities_are_told() -> None:
    with pytest.raises(ContractError, match="one line for each row"):
        require_predictions(predictions().head(2), LABELS, ROWS, "predict")
    with pytest.raises(ContractError, match="a probability of each label"):
        require_predictions(predictions().drop(columns="probability_b"), LABELS, ROWS, "predict")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"predicted": [["a"], ["b"]]}, "as many predictions as tokens; 1 line.s.: row 9"),
        ({"predicted": [["a"], ["b", "x"]]}, "label of the map; 1 line.s.: row 9"),
        ({"probability": [[0.5], [0.5]]}, "as many predictions as tokens"),
        ({"probability": [[0.5], [1.5, np.nan]]}, "probabilities in 0..1; 1 line.s.: row 9"),
    ],
)
def test_predictions_of_tokens_have_the_tokens_lengths(columns: dict[str, Any], expected: str) -> None:
    good = {
        "row": [2, 9],
        "tokens": [["x"], ["y", "z"]],
        "predicted": [["a"], ["b", "a"]],
        "probability": [[0.5], [0.5, np.nan]],
    }
    require_predictions(pd.DataFrame(good), LABELS, [2, 9], "predict", is_sequence=True)
    with pytest.raises(ContractError, match=expected):
        require_predictions(pd.DataFrame({**good, **columns}), LABELS, [2, 9], "predict", is_sequence=True)


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("row", [3, 1, 8], "one line for each row, in order; 1 line.s.: row 8"),
        ("label", ["a", "b", "c"], "label: expected label of the map; 1 line.s.: row 7"),
        ("predicted", ["x", "b", "a"], "predicted: expected label of the map; 1 line.s.: row 3"),
        ("loss", [0.1, -1.0, 0.1], "loss: .*row 1"),
        ("loss", [0.1, np.inf, 0.1], "loss: expected finite; 1 line.s.: row 1"),
    ],
)
def test_each_breach_of_evaluated_rows_names_the_row(column: str, values: list[Any], expected: str) -> None:
    good = pd.DataFrame(
        {"row": ROWS, "loss": [0.1, 0.2, 0.3], "label": ["a", "b", "a"], "predicted": "a", "position": range(3)}
    )
    assert require_evaluated(good, LABELS, ROWS, "dev") is good
    with pytest.raises(ContractError, match=expected):
        require_evaluated(good.assign(**{column: values}), LABELS, ROWS, "dev")


def test_evaluated_sentences_have_a_prediction_for_each_label() -> None:
    good = pd.DataFrame({"row": [1, 2], "position": [0, 1], "loss": [0.1, 0.2], "label": [["a"], ["b", "a"]]})
    good["predicted"] = [["b"], ["b", "a"]]
    require_evaluated(good, LABELS, [1, 2], "dev")
    with pytest.raises(ContractError, match=r"as many predictions as labels; 1 line.s.: row 2"):
        require_evaluated(good.assign(predicted=[["b"], ["b"]]), LABELS, [1, 2], "dev")


def test_a_split_summary_has_the_share_of_each_label() -> None:
    summary = split_summary({"train": 4, "dev": 1}, {"train": {"a": 3, "b": 1}, "dev": {"a": 0, "b": 1}})
    assert summary["share"].tolist() == [0.75, 0.25, 0.0, 1.0]
    assert split_summary({"train": 4}, {"train": {}}).empty
    with pytest.raises(ContractError, match="sum to one"):
        split_summary({"train": 4}, {"train": {"a": 0}})


def test_a_contract_checked_with_more_does_not_keep_it_for_the_next() -> None:
    with pytest.raises(ContractError, match="schedule"):
        require_steps(steps(), "first", lambda step: step * 0.0)
    require_steps(steps(), "second")
