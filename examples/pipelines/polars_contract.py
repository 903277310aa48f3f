"""A contract of your own for Polars: pandera's backend for Polars checks the rows, and rows that break it are quarantined.

The rows keep hubflow's contract `TextRows` too. Columns have the names that it gives them, `text` and `label`, and your further
columns have yours.
"""

import sys

import pandera.polars as pa
import polars as pl

from hubflow.schemas import DatasetRef
from hubflow.stages import dataset_from_frames


class Reviews(pa.DataFrameModel):
    """A short text with 1 to 5 stars and the day of the purchase."""

    text: pl.String
    stars: pl.Int64 = pa.Field(ge=1, le=5)
    bought: pl.Date

    @pa.check("text")
    def is_short(cls, data: pa.PolarsData) -> pl.LazyFrame:
        """Fewer than 2,000 characters."""
        return data.lazyframe.select(pl.col(data.key).str.len_chars() < 2_000)


def dataset_of_reviews(reviews: pl.DataFrame, store: str) -> DatasetRef:
    """Reviews that keep the contract; up to a tenth of them may break it, and are quarantined."""
    return dataset_from_frames.fn(reviews, "text_classification", store, contract=Reviews, max_invalid_fraction=0.1)


if __name__ == "__main__":
    print(dataset_of_reviews(pl.read_parquet(sys.argv[1]), "hubflow-store"))
