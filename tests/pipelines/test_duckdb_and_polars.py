"""The examples with DuckDB and Polars: the same rows from both, and a contract for Polars that quarantines."""

import datetime
from pathlib import Path

import polars as pl
import pytest
from example_programs import load_example

from hubflow.errors import ContractError
from hubflow.store.store import Store
from hubflow.testing import read_quarantine

REVIEWS = pl.DataFrame(
    {
        "id": range(20),
        "body": [f"product number {number}" for number in range(20)],
        "stars": [1, 2, 3, 4, 5] * 4,
        "bought": [datetime.date(2024, 2, 28) + datetime.timedelta(days=number) for number in range(20)],
    }
)


def test_duckdb_and_polars_give_the_same_data_set(tmp_path: Path, hubflow_store: str) -> None:
    REVIEWS.write_parquet(tmp_path / "reviews.parquet")
    example = load_example("pipelines/duckdb_and_polars")
    of_query = example.dataset_of_query(str(tmp_path / "reviews.parquet"), hubflow_store)
    of_lazy_frame = example.dataset_of_lazy_frame(str(tmp_path / "reviews.parquet"), hubflow_store)
    tables = [pl.read_parquet(Store(hubflow_store).open(one).folder / "train.parquet") for one in (of_query, of_lazy_frame)]
    assert of_query.rows == of_lazy_frame.rows
    assert tables[0].equals(tables[1])
    assert tables[0].schema["bought"] == pl.Date
    assert set(tables[0].select("stars", "label").unique().rows()) == {(1, "bad"), (2, "bad"), (4, "good"), (5, "good")}


def test_the_contract_for_polars_quarantines(hubflow_store: str) -> None:
    example = load_example("pipelines/polars_contract")
    rows = REVIEWS.rename({"body": "text"}).with_columns(
        label=pl.when(pl.col("stars") > 3).then(pl.lit("a")).otherwise(pl.lit("b"))
    )
    one_wrong = rows.with_columns(stars=pl.when(pl.col("id") == 4).then(pl.lit(6)).otherwise(pl.col("stars")))
    dataset = example.dataset_of_reviews(one_wrong, hubflow_store)
    assert sum(dataset.rows.values()) == 19
    (folder,) = (Path(hubflow_store) / "quarantine").iterdir()
    found = read_quarantine(hubflow_store, folder)
    assert found[["row", "stars"]].to_numpy().tolist() == [[5, 6]]
    assert list(found["checks"].iloc[0]) == ["stars: less_than_or_equal_to(5)"]
    with pytest.raises(ContractError, match=r"is_short; 20 row\(s\) differ"):
        example.dataset_of_reviews(rows.with_columns(text=pl.lit("long " * 500)), hubflow_store)
