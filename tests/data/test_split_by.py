"""split_by: the hash of a key decides for ever which split a row goes to, whatever rows come and go."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from hubflow.errors import DataError, SettingsError
from hubflow.schemas.references import DatasetRef
from hubflow.schemas.settings import DatasetSpec
from hubflow.stages.dataset_from_frames import dataset_from_frames
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.store import Store

TASK = "text_classification"
SHARES = {"dev_fraction": 0.2, "test_fraction": 0.3}


def orders(numbers: range) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "order": list(numbers),
            "text": [f"the film of order {number}" for number in numbers],
            "label": ["good" if number % 3 else "bad" for number in numbers],
        }
    )


def splits_of(store: Path, dataset: DatasetRef) -> dict[str, str]:
    """The split of each order."""
    folder = Store(store).open(dataset).folder
    found = {}
    for split in dataset.rows:
        for order in pq.read_table(folder / f"{split}.parquet", columns=["order"]).column("order").to_pylist():
            found[str(order)] = split
    return found


def load(tmp_path: Path, name: str, rows: pd.DataFrame, **more: Any) -> dict[str, str]:
    rows.to_csv(tmp_path / name, index=False)
    spec = DatasetSpec(format="csv", train=str(tmp_path / name), **SHARES, **{"split_by": "order", **more})
    return splits_of(tmp_path / "store", load_dataset.fn(spec, TASK, str(tmp_path / "store")))


def test_rows_that_come_and_go_move_no_other(tmp_path: Path) -> None:
    first = load(tmp_path, "monday.csv", orders(range(300)))
    later = pd.concat([orders(range(900, 1200)), orders(range(40, 300)).iloc[::-1]])
    second = load(tmp_path, "tuesday.csv", later)
    both = set(first) & set(second)
    assert len(both) == 260
    assert {order: first[order] for order in both} == {order: second[order] for order in both}
    counts = pd.Series(second).value_counts(normalize=True)
    assert abs(counts["dev"] - 0.2) < 0.06
    assert abs(counts["test"] - 0.3) < 0.06


def test_frames_and_files_and_columns_of_texts_agree(tmp_path: Path) -> None:
    store, rows = tmp_path / "store", orders(range(120))
    expected = load(tmp_path, "orders.csv", rows)
    for frame in (rows, rows.assign(order=rows["order"].astype(str))):
        dataset = dataset_from_frames.fn(frame, TASK, str(store), split_by="order", **SHARES)
        assert splits_of(store, dataset) == expected
    by_text = load(tmp_path, "orders.csv", rows, split_by="text")
    assert by_text != expected
    assert by_text == load(tmp_path, "reversed.csv", rows.iloc[::-1], split_by="text")


def test_another_seed_makes_other_splits(tmp_path: Path) -> None:
    rows = orders(range(120))
    assert load(tmp_path, "orders.csv", rows, split_seed=1) != load(tmp_path, "orders.csv", rows)


def test_a_split_that_is_given_needs_no_key(tmp_path: Path) -> None:
    orders(range(5, 9)).drop(columns="order").to_csv(tmp_path / "test.csv", index=False)
    orders(range(100)).to_csv(tmp_path / "train.csv", index=False)
    spec = DatasetSpec(format="csv", train=str(tmp_path / "train.csv"), test=str(tmp_path / "test.csv"), split_by="order")
    assert load_dataset.fn(spec, TASK, str(tmp_path / "store")).rows["test"] == 4


def test_a_row_without_a_key_is_named(tmp_path: Path) -> None:
    rows = orders(range(10)).astype({"order": object})
    rows.loc[4, "order"] = None
    with pytest.raises(DataError, match=r"orders\.csv: row 6 has no value in the column 'order' of split_by"):
        load(tmp_path, "orders.csv", rows)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'number'; found 3 column.*correct split_by"):
        load(tmp_path, "orders.csv", orders(range(10)), split_by="number")


def test_groups_decide_already(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="leave split_by out"):
        dataset_from_frames.fn(orders(range(9)), TASK, str(tmp_path), split_by="order", group_column="order")
