"""Rows of DuckDB and Polars become a data set, without a copy in pandas of yours between: both speak Arrow.

A query of DuckDB and a frame of Polars, eager or lazy, go to `dataset_from_frames` as they are. Types stay: dates, decimals,
lists and categories of further columns are in the data set as they were.
"""

import sys

import duckdb
import polars as pl

from hubflow.schemas import DatasetRef
from hubflow.stages import dataset_from_frames

TASK = "text_classification"


def dataset_of_query(parquet: str, store: str) -> DatasetRef:
    """Rows of a SQL query over a Parquet file."""
    with duckdb.connect() as connection:
        reviews = connection.sql(
            "SELECT body AS text, CASE WHEN stars > 3 THEN 'good' ELSE 'bad' END AS label, stars, bought "
            "FROM read_parquet($file) WHERE stars != 3 ORDER BY id",
            params={"file": parquet},
        )
        return dataset_from_frames.fn(reviews, TASK, store, source="reviews")


def dataset_of_lazy_frame(parquet: str, store: str) -> DatasetRef:
    """The same rows as a lazy frame, which Polars computes when hubflow asks for them."""
    verdict = pl.when(pl.col("stars") > 3).then(pl.lit("good")).otherwise(pl.lit("bad"))
    reviews = pl.scan_parquet(parquet).filter(pl.col("stars") != 3).sort("id")
    reviews = reviews.select(pl.col("body").alias("text"), verdict.alias("label"), "stars", "bought")
    return dataset_from_frames.fn(reviews, TASK, store, source="reviews")


if __name__ == "__main__":
    print(dataset_of_query(sys.argv[1], "hubflow-store"), dataset_of_lazy_frame(sys.argv[1], "hubflow-store"), sep="\n")
