"""The contracts of rows: what is accepted, and what a fault's message says."""

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest

from hubflow.errors import ContractError
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.rows import ImageRows, RowsError, TextPairRows, TextRows, TokenRows, validate_rows

LABELS = LabelMap(labels=("neg", "pos"))
TAGS = LabelMap(labels=("O", "B-PER"))


def text_rows(**columns: Any) -> pd.DataFrame:
    size = len(next(iter(columns.values()), "ab"))
    usual = {"row": range(2, size + 2), "text": ["good"] * size, "label": ["pos"] * size}
    return pd.DataFrame({**usual, **columns})


def fault(frame: pd.DataFrame, model: type, labels: LabelMap | None = None) -> RowsError:
    with pytest.raises(ContractError) as caught:
        validate_rows(frame, model, "reviews.tsv", labels)
    assert isinstance(caught.value, RowsError)
    return caught.value


def test_good_rows_pass_with_their_further_columns_over_a_fresh_index() -> None:
    frame = text_rows(text=["a", "b"], source=["x", "y"])
    frame.index = pd.Index([7, 7])
    accepted = validate_rows(frame, TextRows, "reviews.tsv", LABELS)
    assert list(accepted.index) == [0, 1]
    assert list(accepted["source"]) == ["x", "y"]


def test_no_rows_are_a_fault_though_no_check_fails() -> None:
    assert "holds no rows" in str(fault(text_rows(text=["a"]).iloc[:0], TextRows))


def test_an_unknown_label_is_named_with_row_value_and_the_known_labels() -> None:
    error = fault(text_rows(label=["pos", "pso"]), TextRows, LABELS)
    message = str(error)
    assert message.startswith("reviews.tsv: 1 row(s) break the contract TextRows")
    assert "row 3 ('pso')" in message
    assert "'neg', 'pos'" in message
    assert "correct the label" in message


def test_faults_are_found_by_position_though_index_labels_repeat() -> None:
    frame = text_rows(label=["pos", "x", "neg"])
    frame.index = pd.Index([0, 0, 0])
    assert fault(frame, TextRows, LABELS).failures["row"].tolist() == [3]


@pytest.mark.parametrize("blank", ["", "  \t", "\u3000", None])
def test_a_row_without_text_is_named(blank: str | None) -> None:
    assert "text: expected" in (message := str(fault(text_rows(text=["a", blank, "b"]), TextRows)))
    assert "row 3" in message


@pytest.mark.parametrize("blank", ["", None])
def test_a_row_without_label_is_named(blank: str | None) -> None:
    assert "row 3" in str(fault(text_rows(label=["pos", blank]), TextRows))


def test_the_second_text_of_a_pair_is_held_to_the_same() -> None:
    assert "text_pair: expected" in str(fault(text_rows(text_pair=["a", " "]), TextPairRows))
    assert "text_pair: expected a column" in str(fault(text_rows(), TextPairRows))


def test_every_kind_of_fault_is_counted_and_examples_are_bounded() -> None:
    size = 5_000
    error = fault(text_rows(text=[""] * size, label=["y" * 1_000] * size), TextRows, LABELS)
    message = str(error)
    assert len(message) < 2_000
    assert message.count(f"{size} row(s) differ") == 2
    assert f"({size - 5} more)" in message
    assert len(error.failures) == 2 * size


def test_failures_are_a_frame_that_survives_pickling_and_the_full_report_is_the_cause() -> None:
    error = fault(text_rows(label=["pos", "psy"]), TextRows, LABELS)
    assert error.failures.to_dict("records") == [{"row": 3, "column": "label", "check": "known_label", "value": "psy"}]
    assert isinstance(error.__cause__, pa.errors.SchemaErrors)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made just here
    assert str(again) == str(error)
    assert again.failures.equals(error.failures)


def test_a_column_of_another_type_is_one_fault_not_several() -> None:
    message = str(fault(text_rows(text=[1, 2]).assign(row=[1.0, 2.0]), TextRows))
    assert "row: expected whole numbers; found 'float64'" in message
    assert "AttributeError" not in message


def test_row_numbers_begin_at_one() -> None:
    assert "row numbers from 1" in str(fault(text_rows(row=[0, 1]), TextRows))


def test_token_rows_pass_as_lists_and_as_the_arrays_that_parquet_gives() -> None:
    frame = pd.DataFrame({"row": [1, 4], "tokens": [["a"], ["b", "c"]], "labels": [["O"], ["O", "B-PER"]]})
    validate_rows(frame, TokenRows, "ner.txt", TAGS)
    frame["tokens"] = pd.Series([np.array(items, dtype=object) for items in frame["tokens"]])
    validate_rows(frame, TokenRows, "ner.txt", TAGS)


@pytest.mark.parametrize(
    ("tokens", "labels", "said"),
    [
        (["a", "b"], ["O"], "2 tokens, 1 labels"),
        ([], [], "at least one string"),
        (["a", ""], ["O", "O"], "none of them empty"),
        (["a", None], ["O", "O"], "at least one string"),
        (None, ["O"], "a value in every row"),
        ("ab", ["O", "O"], "at least one string"),
        ([1], ["O"], "at least one string"),
        (["a", "b"], ["O", "I-X"], "'I-X'"),
    ],
)
def test_a_faulty_sentence_is_named(tokens: object, labels: object, said: str) -> None:
    frame = pd.DataFrame({"row": [1, 4], "tokens": [["a"], tokens], "labels": [["O"], labels]})
    message = str(fault(frame, TokenRows, TAGS))
    assert said in message
    assert "row 4" in message
    assert "row 1 " not in message


def test_image_rows_need_a_hash() -> None:
    frame = pd.DataFrame({"row": [1, 2], "path": ["a.png", "b.png"], "label": ["pos", "neg"], "sha256": ["0" * 64, "0" * 63]})
    assert "row 2" in str(fault(frame, ImageRows, LABELS))
    validate_rows(frame.iloc[:1], ImageRows, "images", LABELS)


def test_rows_to_predict_need_no_label_but_a_label_that_is_there_is_checked() -> None:
    frame = text_rows().drop(columns="label")
    validate_rows(frame, TextRows, "reviews.tsv", LABELS, labelled=False)
    validate_rows(pd.DataFrame({"row": [1], "tokens": [["a"]]}), TokenRows, "ner.txt", TAGS, labelled=False)
    with pytest.raises(ContractError, match="'psy'"):
        validate_rows(text_rows(label=["psy"]), TextRows, "reviews.tsv", LABELS, labelled=False)
