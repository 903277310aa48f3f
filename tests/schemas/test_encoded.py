"""The contract of encoded rows: each breach is named with its rows."""

from typing import Any

import pyarrow as pa
import pytest

from hubflow.errors import ContractError
from hubflow.schemas.rows import check_encoded_text

LIMITS: dict[str, Any] = {"vocab_size": 10, "max_seq_len": 4, "num_classes": 3, "source": "train"}


def batch(**columns: Any) -> pa.RecordBatch:
    """Two classification rows that keep the contract, with `columns` in place of theirs."""
    good = {"row": [1, 2], "input_ids": [[1, 2, 3], [9]], "segment_ids": [[0, 0, 1], [0]], "label": [0, 2]}
    return pa.record_batch({name: pa.array(value) for name, value in {**good, **columns}.items() if value is not None})


def token_batch(**columns: Any) -> pa.RecordBatch:
    """Two token rows that keep the contract."""
    good = {"label": None, "word_labels": [[0, 2], [1]], "first_piece": [[1, -1], [0]]}
    return batch(**{**good, **columns})


def test_rows_within_the_contract_pass() -> None:
    check_encoded_text(batch(), **LIMITS)
    check_encoded_text(token_batch(), **LIMITS)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"input_ids": [[1, 2, 3], []], "segment_ids": [[0, 0, 1], []]}, "1 to 4 tokens"),
        ({"input_ids": [[1, 2, 3], [1] * 5], "segment_ids": [[0, 0, 1], [0] * 5]}, "1 to 4 tokens"),
        ({"segment_ids": [[0, 0, 1], [0, 0]]}, "as many segment ids as token ids"),
        ({"input_ids": [[1, 2, 3], [10]]}, r"token ids in 0\.\.9"),
        ({"input_ids": [[1, 2, 3], [-1]]}, r"token ids in 0\.\.9"),
        ({"label": [0, 3]}, r"label in 0\.\.2"),
        ({"label": [0, -1]}, r"label in 0\.\.2"),
    ],
)
def test_a_breach_of_a_classification_row_names_split_check_and_row(columns: dict[str, Any], expected: str) -> None:
    with pytest.raises(ContractError, match=rf"train: 1 encoded row\(s\) .*expected {expected}; rows \[2\]"):
        check_encoded_text(batch(**columns), **LIMITS)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"word_labels": [[0, 2], [1, 1]]}, "as many first pieces as words"),
        ({"word_labels": [[0, 2], [3]]}, r"word labels in 0\.\.2"),
        ({"word_labels": [[0, 2], [-100]]}, r"word labels in 0\.\.2"),
        ({"first_piece": [[1, -1], [-2]]}, "first pieces inside the row, or -1"),
        ({"first_piece": [[1, -1], [4]]}, "first pieces inside the row, or -1"),
        ({"first_piece": [[1, -1], [1]]}, "first pieces inside the row, or -1"),
    ],
)
def test_a_breach_of_a_token_row_names_split_check_and_row(columns: dict[str, Any], expected: str) -> None:
    with pytest.raises(ContractError, match=rf"train: 1 encoded row\(s\) .*expected {expected}; rows \[2\]"):
        check_encoded_text(token_batch(**columns), **LIMITS)


def test_at_most_ten_rows_are_listed() -> None:
    rows = 50
    many = pa.record_batch(
        {
            "row": pa.array(range(1, rows + 1)),
            "input_ids": pa.array([[1]] * rows),
            "segment_ids": pa.array([[0]] * rows),
            "label": pa.array([9] * rows),
        }
    )
    with pytest.raises(ContractError, match=r"50 encoded row\(s\).*rows \[1, 2, 3, 4, 5, 6, 7, 8, 9, 10\]$"):
        check_encoded_text(many, **LIMITS)


def test_a_slice_of_a_batch_is_held_to_its_own_rows() -> None:
    both = batch(label=[7, 2])
    check_encoded_text(pa.RecordBatch.from_pylist(both.slice(1).to_pylist(), schema=both.schema), **LIMITS)
    check_encoded_text(both.slice(1), **LIMITS)
    with pytest.raises(ContractError, match=r"rows \[1\]"):
        check_encoded_text(both.slice(0, 1), **LIMITS)


def test_a_slice_of_token_rows_is_held_to_its_own_rows() -> None:
    both = token_batch(word_labels=[[0, 7], [1]], first_piece=[[3, -1], [0]])
    check_encoded_text(both.slice(1), **LIMITS)
    with pytest.raises(ContractError, match=r"rows \[1\]"):
        check_encoded_text(both.slice(0, 1), **LIMITS)


def test_a_row_number_below_one_is_told_as_the_contracts_tell() -> None:
    with pytest.raises(ContractError, match="train: breaks the contract EncodedRows"):
        check_encoded_text(batch(row=[0, 2]), **LIMITS)
