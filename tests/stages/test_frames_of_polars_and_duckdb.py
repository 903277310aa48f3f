"""dataset_from_frames on what Polars and DuckDB give: types and nulls come through, and what cannot is named."""

import datetime
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from hubflow.errors import ContractError, DataError
from hubflow.stages.dataset_from_frames import dataset_from_frames
from hubflow.store.store import Store

TEXT = "text_classification"
BASE = pl.DataFrame({"text": [f"text {number}" for number in range(10)], "label": ["a", "b"] * 5})


def kept(folder: Path, frames: Any, task: str = TEXT, **options: Any) -> pa.Table:
    """What is kept of train."""
    reference = dataset_from_frames.fn(frames, task, str(folder / "store"), dev_fraction=0, **options)
    return pa.parquet.read_table(Store(folder / "store").open(reference).folder / "train.parquet")


def fault(folder: Path, frames: Any, **options: Any) -> str:
    with pytest.raises((DataError, ContractError)) as caught:
        kept(folder, frames, **options)
    return str(caught.value)


@pytest.fixture
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A table `reviews` of ten rows."""
    connection = duckdb.connect()
    connection.execute(
        "CREATE TABLE reviews AS SELECT i AS id, 'text ' || i AS text, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END AS label "
        "FROM range(10) t(i)"
    )
    yield connection
    connection.close()


MORE: dict[str, tuple[pl.Series, Any]] = {
    "date": (pl.Series([datetime.date(2024, 2, 29), None] * 5), pa.date32()),
    "time": (pl.Series([datetime.time(1, 2, 3, 4), None] * 5), pa.time64("ns")),
    "datetime": (pl.Series([datetime.datetime(2024, 1, 1, 1, 2, 3, 4567), None] * 5), pa.timestamp("us")),
    "zone": (
        pl.Series([datetime.datetime(2024, 7, 1), None] * 5).dt.replace_time_zone("Europe/Berlin"),
        pa.timestamp("us", "Europe/Berlin"),
    ),
    "duration": (pl.Series([datetime.timedelta(seconds=5), None] * 5), pa.duration("us")),
    "decimal": (pl.Series(["1.10", None] * 5).cast(pl.Decimal(9, 2)), pa.decimal128(9, 2)),
    "list": (pl.Series([[1, 2], None] * 5), pa.large_list(pa.int64())),
    "array": (pl.Series([[1.0, 2.0], None] * 5, dtype=pl.Array(pl.Float64, 2)), pa.list_(pa.float64(), 2)),
    "struct": (pl.Series([{"a": 1, "b": "x"}] * 10), pa.struct({"a": pa.int64(), "b": pa.large_string()})),
    "bytes": (pl.Series([b"xy", None] * 5), pa.large_binary()),
    "int8": (pl.Series([1, None] * 5, dtype=pl.Int8), pa.int8()),
    "uint64": (pl.Series([2**63 + 1, None] * 5, dtype=pl.UInt64), pa.uint64()),
    "int64": (pl.Series([2**60 + 1, None] * 5), pa.int64()),
    "float32": (pl.Series([1.5, None] * 5, dtype=pl.Float32), pa.float32()),
    "categorical": (pl.Series(["x", None] * 5, dtype=pl.Categorical), pa.large_string()),
    "enum": (pl.Series(["x", None] * 5, dtype=pl.Enum(["x", "y"])), pa.large_string()),
    "null": (pl.Series([None] * 10), pa.null()),
}


@pytest.mark.parametrize("name", MORE)
def test_columns_of_polars_keep_values_nulls_and_types(name: str, tmp_path: Path) -> None:
    values, kind = MORE[name]
    found = kept(tmp_path, BASE.with_columns(more=values))["more"]
    assert found.to_pylist() == values.to_list()
    assert found.type == kind


def test_a_float_that_is_no_number_is_no_null(tmp_path: Path) -> None:
    found = kept(tmp_path, BASE.with_columns(more=pl.Series([float("nan"), None] * 5)))["more"].to_pylist()
    assert [str(value) for value in found] == ["nan", "None"] * 5


@pytest.mark.parametrize("kind", [pl.Enum(["a", "b"]), pl.Categorical, pl.String], ids=["an enum", "categories", "text"])
def test_labels_and_texts_of_polars_may_be_categories(kind: Any, tmp_path: Path) -> None:
    frame = BASE.with_columns(pl.col("label").cast(kind), text=pl.col("text").cast(pl.Categorical))
    found = kept(tmp_path, frame)
    assert found["label"].to_pylist() == ["a", "b"] * 5
    assert found["text"].to_pylist() == BASE["text"].to_list()


LAZY: dict[str, Callable[[], Any]] = {
    "a lazy frame": BASE.lazy,
    "chunks": lambda: pl.concat([BASE[:3], BASE[3:]], rechunk=False),
    "a lazy query": lambda: pl.concat([BASE, BASE]).lazy().unique(maintain_order=True),
    "by split": lambda: {"train": BASE.lazy(), "dev": BASE.lazy().head(4)},
    "a list of dicts": lambda: BASE.rows(named=True),
}


@pytest.mark.parametrize("name", LAZY)
def test_frames_of_polars_may_be_lazy_or_in_chunks(name: str, tmp_path: Path) -> None:
    assert kept(tmp_path, LAZY[name]())["text"].to_pylist() == BASE["text"].to_list()


def test_a_lazy_frame_and_its_rows_are_one_data_set(tmp_path: Path) -> None:
    lazy = dataset_from_frames.fn(BASE.lazy(), TEXT, str(tmp_path))
    assert dataset_from_frames.fn(BASE, TEXT, str(tmp_path)) == lazy


def test_row_numbers_of_polars_name_the_rows(tmp_path: Path) -> None:
    frame = BASE.with_row_index("row", offset=11).with_columns(text=pl.Series(["a", None] * 5))
    assert frame.schema["row"] == pl.UInt32
    said = fault(tmp_path, frame)
    assert "5 row(s) differ: row 12 (missing), row 14 (missing)" in said
    assert kept(tmp_path, BASE.with_row_index("row", offset=11))["row"].to_pylist() == list(range(11, 21))
    too_large = BASE.with_columns(row=pl.Series([2**63 + place for place in range(10)], dtype=pl.UInt64))
    for frame in (too_large, too_large.rows(named=True)):
        assert f"column 'row' holds {2**63 + 9}; expected numbers of rows, from 1 to {2**63 - 1}" in fault(tmp_path, frame)


@pytest.mark.parametrize("kind", [pl.List(pl.String), pl.List(pl.Enum(["O", "B-X"])), pl.Array(pl.String, 2)], ids=str)
def test_sentences_of_polars_are_lists_of_any_kind(kind: Any, tmp_path: Path) -> None:
    frame = pl.DataFrame({"tokens": [["a", "b"]] * 10, "labels": [["O", "B-X"]] * 10})
    found = kept(tmp_path, frame.with_columns(pl.col("labels").cast(kind)), "sequence_labelling")
    assert found["labels"].to_pylist() == [["O", "B-X"]] * 10


def test_what_polars_cannot_give_is_named(tmp_path: Path) -> None:
    objects = BASE.with_columns(more=pl.Series([object()] * 10, dtype=pl.Object))
    wide = BASE.with_columns(wide=pl.Series(range(10)).cast(pl.Int128))
    assert "Arrow has no such type: column(s) 'more' (Object); cast or drop them" in fault(tmp_path, objects)
    assert "Arrow has no such type: column(s) 'wide' (Int128); cast or drop them" in fault(tmp_path, wide.lazy())
    assert "its rows cannot be computed (ColumnNotFoundError: " in fault(tmp_path, BASE.lazy().select("nope"))
    assert "record 1 is DataFrame; expected a pandas frame" in fault(tmp_path, BASE.iter_slices(3))
    assert "holds no rows" in fault(tmp_path, BASE[:0])


COLUMNS: dict[str, tuple[str, Any, Any]] = {
    "date": ("DATE '2024-01-02'", datetime.date(2024, 1, 2), pa.date32()),
    "decimal": ("1.10::DECIMAL(9, 2)", Decimal("1.10"), pa.decimal128(9, 2)),
    "hugeint": ("(2::HUGEINT ** 70)::HUGEINT", Decimal(2**70), pa.decimal128(38)),
    "utinyint": ("7::UTINYINT", 7, pa.uint8()),
    "list": ("[1, NULL]", [1, None], pa.list_(pa.int32())),
    "array": ("[1, 2]::INT[2]", [1, 2], pa.list_(pa.int32(), 2)),
    "struct": ("{'a': 1}", {"a": 1}, pa.struct({"a": pa.int32()})),
    "map": ("MAP {'k': 1}", [("k", 1)], pa.map_(pa.string(), pa.int32())),
    "enum": ("'x'::ENUM('x', 'y')", "x", pa.dictionary(pa.uint8(), pa.string())),
    "uuid": ("'00000000-0000-0000-0000-000000000001'::UUID", "00000000-0000-0000-0000-000000000001", pa.large_string()),
    "time": ("TIME '01:02:03'", datetime.time(1, 2, 3), pa.time64("us")),
    "timestamp": ("TIMESTAMP '2024-01-01 01:02:03'", datetime.datetime(2024, 1, 1, 1, 2, 3), pa.timestamp("us")),
    "blob": ("'xy'::BLOB", b"xy", pa.binary()),
    "json": ("""'{"a": 1}'::JSON""", '{"a": 1}', pa.large_string()),
    "null": ("NULL::INT", None, pa.int32()),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_duckdb_keep_values_and_types(name: str, database: Any, tmp_path: Path) -> None:
    sql, value, kind = COLUMNS[name]
    query = f"SELECT text, label, {sql} AS more FROM reviews ORDER BY id"  # noqa: S608  # of ours
    found = kept(tmp_path, database.sql(query))["more"]
    assert found.to_pylist() == [value] * 10
    assert found.type == kind or (pa.types.is_map(kind) and pa.types.is_map(found.type))


def test_a_relation_of_duckdb_gives_its_rows_each_time(database: Any, tmp_path: Path) -> None:
    relation = database.sql("SELECT text, label FROM reviews ORDER BY id")
    first = dataset_from_frames.fn(relation, TEXT, str(tmp_path))
    assert dataset_from_frames.fn(relation, TEXT, str(tmp_path)) == first
    assert dataset_from_frames.fn(relation.pl(), TEXT, str(tmp_path)) == first
    both = dataset_from_frames.fn({"train": relation, "dev": relation.limit(4)}, TEXT, str(tmp_path))
    assert both.rows == {"train": 10, "dev": 4}


def test_labels_and_row_numbers_of_duckdb_may_be_of_its_wide_integers(database: Any, tmp_path: Path) -> None:
    """A sum is a HUGEINT, which is a decimal in Arrow; a literal such as 1.0 is a decimal too."""
    query = "SELECT sum(1) OVER (ORDER BY id) AS row, text, CASE WHEN id % 2 = 0 THEN 1.0 ELSE 0.0 END AS label FROM reviews"
    found = kept(tmp_path, database.sql(f"{query} ORDER BY id"))
    assert found["row"].to_pylist() == list(range(1, 11))
    assert found["label"].to_pylist() == ["1", "0"] * 5
    assert "row: expected whole numbers" in fault(tmp_path, database.sql("SELECT id + 1.5 AS row, text, label FROM reviews"))


def test_what_duckdb_cannot_give_is_named(database: Any, tmp_path: Path) -> None:
    query = "SELECT text, label, {} AS more FROM reviews"
    failing = database.sql(query.format("error('boom')"))
    assert "its rows cannot be computed (InvalidInputException: " in fault(tmp_path, failing)
    assert "'more' (month_day_nano_interval)" in fault(tmp_path, database.sql(query.format("INTERVAL 1 MONTH")))
    executed = database.execute("SELECT text, label FROM reviews")
    assert "found DuckDBPyConnection; expected" in fault(tmp_path, executed)
    assert "a relation of DuckDB" in fault(tmp_path, executed)
    relation = database.sql("SELECT text, label FROM reviews")
    database.close()
    assert "its rows cannot be computed (ConnectionException: " in fault(tmp_path, relation)


def test_a_reader_that_was_read_before_is_told_from_one_without_rows(database: Any, tmp_path: Path) -> None:
    reader = database.sql("SELECT text, label FROM reviews ORDER BY id").to_arrow_reader()
    assert kept(tmp_path, reader)["text"].to_pylist() == BASE["text"].to_list()
    assert "train: the reader gives no rows; a reader gives its rows once" in fault(tmp_path, reader)
    shared = BASE.to_arrow().to_reader()
    assert "dev: the reader gives no rows" in fault(tmp_path, {"train": shared, "dev": shared})
