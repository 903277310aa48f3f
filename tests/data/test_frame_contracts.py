"""Contracts for Polars and Arrow: rows that break them are quarantined as those that break the same contract for pandas."""

import datetime
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from hubflow.errors import ContractError, DataError, SettingsError
from hubflow.schemas.references import DatasetRef
from hubflow.schemas.rows import RowsError, contract_identity, contract_of
from hubflow.schemas.settings import DatasetSpec
from hubflow.stages.dataset_from_frames import dataset_from_frames
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.store import Store
from hubflow.testing import read_quarantine

TEXT = "text_classification"
LIBRARIES = ("pandas", "polars", "pyarrow")
SOURCES = {
    "own_pandas": """
import pandas as pd
import pandera.pandas as pa
from hubflow.schemas import TextRows as Base

def short(values):
    return values.str.len() < 12

def agree(rows):
    return (rows["label"] == "good") == (rows["stars"] >= 3)

def sound(rows):
    return rows["words"].map(lambda words: words is None or "bad" not in words)

WHOLE, NULLABLE, FLOAT, LIST = int, pd.Int64Dtype, float, object
""",
    "own_polars": """
import polars as pl
import pandera.polars as pa
from pandera.polars import DataFrameModel as Base

def short(data):
    return data.lazyframe.select(pl.col(data.key).str.len_chars() < 12)

def agree(data):
    return data.lazyframe.select((pl.col("label") == "good") == (pl.col("stars") >= 3))

def sound(data):
    return data.lazyframe.select(~pl.col("words").list.contains("bad"))

WHOLE, NULLABLE, FLOAT, LIST = pl.Int64, pl.Int64, pl.Float64, pl.List(pl.String)
""",
    "own_pyarrow": """
import pyarrow
import pyarrow.compute as pc
import pandera.pyarrow as pa
from pandera.pyarrow import DataFrameModel as Base

def short(data):
    return pc.less(pc.utf8_length(data.table[data.key]), 12)

def agree(data):
    good, many = pc.equal(data.table["label"], "good"), pc.greater_equal(data.table["stars"], 3)
    return pc.equal(good, many)

def sound(data):
    return pyarrow.array([words is None or "bad" not in words for words in data.table["words"].to_pylist()])

WHOLE, NULLABLE, FLOAT, LIST = pyarrow.int64(), pyarrow.int64(), pyarrow.float64(), pyarrow.list_(pyarrow.string())
""",
}
CLASSES = """

class Reviews(Base):
    text: str
    label: str
    stars: WHOLE = pa.Field(ge=1, le=5)
    country: str = pa.Field(isin=["DE", "FR"])

    @pa.check("text", name="is_short")
    def is_short(cls, data):
        return short(data)

    @pa.dataframe_check(name="agrees")
    def agrees(cls, data):
        return agree(data)

class Coerced(Base):
    stars: WHOLE = pa.Field(ge=1, le=5, coerce=True)

class Plain(Base):
    stars: WHOLE = pa.Field(ge=1, le=5)

class Warned(Base):
    stars: WHOLE = pa.Field(ge=1, le=5, raise_warning=True)

class Raising(Base):
    text: str

    @pa.check("text")
    def broken(cls, data):
        return data.no_such_method()

class Patterned(Base):
    score: float = pa.Field(alias="score_.+", regex=True, ge=0, n_failure_cases=1)
    words: LIST = pa.Field(nullable=True)

    @pa.dataframe_check
    def is_sound(cls, data):
        return sound(data)

class Partial(Base):
    stars: NULLABLE = pa.Field(ge=1, le=5, nullable=True)
    price: FLOAT = pa.Field(lt=10)

class Unique(Base):
    country: str = pa.Field(unique=True)

class Dropping(Base):
    stars: WHOLE = pa.Field(le=5)

    class Config:
        drop_invalid_rows = True

class Strict(Base):
    text: str
    label: str

    class Config:
        strict = True
"""
ROWS = pd.DataFrame(
    [
        ("good film", "good", 5, "DE"),
        ("bad film", "bad", 1, "FR"),
        ("a very very good film", "good", 6, "DE"),
        ("dull film", "bad", 4, "DE"),
        ("fine film", "good", 4, None),
        (None, "good", 4, "DE"),
        ("nice film", "good", 0, "XX"),
        ("sad film", "bad", 2, "FR"),
    ],
    columns=["text", "label", "stars", "country"],
)
MOST = 0.9


@pytest.fixture(autouse=True)
def contracts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, source in SOURCES.items():
        (tmp_path / f"{name}.py").write_text(source + CLASSES, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in SOURCES:
        sys.modules.pop(name, None)


def contract(library: str, name: str) -> type:
    found: type = getattr(__import__(f"own_{library}"), name)
    return found


def ingest(folder: Path, library: str, name: str, rows: Any = ROWS, most: float = MOST, **options: Any) -> DatasetRef:
    store = str(folder / f"store-{library}")
    own = contract(library, name)
    return dataset_from_frames.fn(rows, TEXT, store, contract=own, max_invalid_fraction=most, dev_fraction=0, **options)


def kept(folder: Path, library: str, reference: DatasetRef) -> pa.Table:
    return pa.parquet.read_table(Store(folder / f"store-{library}").open(reference).folder / "train.parquet")


def quarantined(folder: Path, library: str) -> pd.DataFrame:
    (path,) = (folder / f"store-{library}" / "quarantine").glob("*/train.parquet")
    return read_quarantine(folder, path)


@pytest.mark.parametrize("library", LIBRARIES)
def test_rows_that_break_the_contract_are_quarantined_with_every_check(library: str, tmp_path: Path) -> None:
    reference = ingest(tmp_path, library, "Reviews")
    assert kept(tmp_path, library, reference)["row"].to_pylist() == [1, 2, 8]
    found = quarantined(tmp_path, library)
    assert {row: sorted(checks) for row, checks in zip(found["row"], found["checks"], strict=True)} == {
        3: ["stars: less_than_or_equal_to(5)", "text: is_short"],
        4: ["whole row: agrees"],
        5: ["country: not_nullable"],
        6: ["text: not_nullable"],
        7: ["country: isin(['DE', 'FR'])", "stars: greater_than_or_equal_to(1)", "whole row: agrees"],
    }
    assert found["stars"].tolist() == [6, 4, 4, 4, 0]


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_error_names_rows_and_values(library: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError) as error:
        ingest(tmp_path, library, "Reviews", most=0.1)
    message = str(error.value)
    assert "5 row(s) break the contract Reviews" in message
    assert "stars: expected less_than_or_equal_to(5); 1 row(s) differ: row 3 (6)" in message
    assert "row 7 ('XX')" in message
    assert "stars: expected greater_than_or_equal_to(1); 1 row(s) differ: row 7 (0); correct or remove it" in message
    assert read_quarantine(tmp_path, error.value)["row"].tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("library", LIBRARIES)
def test_it_is_named_in_the_settings_of_files_too(library: str, tmp_path: Path) -> None:
    ROWS.to_parquet(tmp_path / "rows.parquet")
    spec = DatasetSpec.model_validate(
        {
            "format": "parquet",
            "train": str(tmp_path / "rows.parquet"),
            "contract": f"own_{library}:Plain",
            "dev_fraction": 0,
            "max_invalid_fraction": MOST,
        }
    )
    reference = load_dataset.fn(spec, TEXT, str(tmp_path / f"store-{library}"))
    found = kept(tmp_path, library, reference)
    assert found["row"].to_pylist() == [1, 2, 4, 5, 8]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_the_contract_and_the_frame_may_be_of_different_libraries(library: str, kind: str, tmp_path: Path) -> None:
    table = pa.Table.from_pandas(ROWS, preserve_index=False)
    frame = {"pandas": ROWS, "polars": pl.from_arrow(table), "pyarrow": table}[kind]
    assert kept(tmp_path, library, ingest(tmp_path, library, "Reviews", frame))["row"].to_pylist() == [1, 2, 8]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_values_are_coerced_where_they_keep_their_meaning(library: str, tmp_path: Path) -> None:
    rows = ROWS.assign(text="a film", stars=["5", "1", "many", "4", "3", "2", "1", "9"])
    found = kept(tmp_path, library, ingest(tmp_path, library, "Coerced", rows))
    assert found["stars"].to_pylist() == [5, 1, 4, 3, 2, 1]
    assert found.schema.field("stars").type == pa.int64()
    assert quarantined(tmp_path, library)["row"].tolist() == [3, 8]
    rows = ROWS.assign(text="a film", stars=[5.0, 1.0, 1.5, 4.0, 3.0, 2.0, 1.0, 2.5])
    assert kept(tmp_path, library, ingest(tmp_path, library, "Coerced", rows))["row"].to_pylist() == [1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_column_that_is_missing_or_of_another_type_is_named(library: str, tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"country: expected a column of this name; found 'columns row, text, label, stars'"):
        ingest(tmp_path, library, "Reviews", ROWS.drop(columns="country"))
    with pytest.raises(RowsError, match="stars: expected a column of this name"):  # which a check uses, and raises for
        ingest(tmp_path, library, "Reviews", ROWS.drop(columns="stars"))
    with pytest.raises(RowsError, match="stars: expected"):
        ingest(tmp_path, library, "Reviews", ROWS.assign(stars="five"))
    with pytest.raises(RowsError, match=r"contract Strict\n  - .*: expected column_in_schema"):
        ingest(tmp_path, library, "Strict", ROWS.dropna())


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_check_that_raises_is_shown_as_the_users_own(library: str, tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"a check of the contract Raising raised an error.*\n  - broken: .*no_such_method"):
        ingest(tmp_path, library, "Raising")


@pytest.mark.parametrize("library", LIBRARIES)
def test_checks_that_only_warn_reach_the_report(library: str, tmp_path: Path) -> None:
    reference = ingest(tmp_path, library, "Warned", ROWS.assign(text="a film"))
    facts = Store(tmp_path / f"store-{library}").open(reference).facts
    found = {one["check"]: one["examples"] for one in facts["data_report"]["findings"] if one["check"].startswith("contract")}
    assert found == {
        "contract: less_than_or_equal_to(5)": ["row 3 (6)"],
        "contract: greater_than_or_equal_to(1)": ["row 7 (0)"],
    }
    assert reference.rows == {"train": 8}


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_would_change_rows_without_a_word_is_refused(library: str) -> None:
    with pytest.raises(SettingsError, match="asks for unique values of 'country'"):
        contract_of("text", contract(library, "Unique"))
    with pytest.raises(SettingsError, match="Dropping has drop_invalid_rows"):
        contract_of("text", contract(library, "Dropping"))


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_source_of_a_contract_is_another_contract(library: str, tmp_path: Path) -> None:
    before = contract_identity(contract_of("text", contract(library, "Reviews")))
    assert before["name"] == f"own_{library}:Reviews"
    sys.modules.pop(f"own_{library}")
    path = tmp_path / f"own_{library}.py"
    path.write_text(path.read_text(encoding="utf-8").replace("le=5", "le=6"), encoding="utf-8")
    after = contract_identity(contract_of("text", contract(library, "Reviews")))
    assert before["name"] == after["name"]
    assert before["source_sha256"] != after["source_sha256"]


def test_types_of_polars_reach_its_contract(tmp_path: Path) -> None:
    import pandera.polars as pap

    class Typed(pap.DataFrameModel):
        day: pl.Date
        at: pl.Datetime("us")  # type: ignore[valid-type]
        price: pl.Decimal(9, 2)  # type: ignore[valid-type]
        words: pl.List(pl.String)  # type: ignore[valid-type]
        small: pl.Int8 = pap.Field(nullable=True)
        part: pl.Float64 = pap.Field(nullable=True)
        kind: pl.String  # categories are text
        level: pl.Enum(["low", "high"]) = pap.Field(coerce=True)  # type: ignore[valid-type]

    frame = pl.DataFrame(
        {
            "text": ["a", "b"],
            "label": ["x", "y"],
            "day": [datetime.date(2024, 2, 29)] * 2,
            "at": [datetime.datetime(2024, 2, 29, 1, 2, 3, 4)] * 2,
            "price": pl.Series(["1.10", "2.20"]).cast(pl.Decimal(9, 2)),
            "words": [["a"], ["b", "c"]],
            "small": pl.Series([1, None], dtype=pl.Int8),
            "part": [0.5, None],
            "kind": pl.Series(["k", "l"], dtype=pl.Categorical),
            "level": pl.Series(["low", "high"], dtype=pl.Enum(["low", "high"])),
        }
    )
    reference = dataset_from_frames.fn(frame, TEXT, str(tmp_path / "store"), contract=Typed, dev_fraction=0)
    found = pl.read_parquet(Store(tmp_path / "store").open(reference).folder / "train.parquet")
    assert found.drop("row", "kind", "level").equals(frame.drop("kind", "level"))
    assert found["kind"].cast(pl.String).to_list() == ["k", "l"]
    assert found["level"].cast(pl.String).to_list() == ["low", "high"]


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_rows_of_a_wrong_type_are_quarantined_before_the_contract_sees_them(library: str, tmp_path: Path) -> None:
    rows = ROWS.assign(text=["good film", 5, *["a film"] * 6])
    ingest(tmp_path, library, "Plain", rows.assign(stars=3))
    assert quarantined(tmp_path, library)["row"].tolist() == [2]
    mixed = ROWS.assign(text="a film", stars=3, odd=pd.Series([1, "two", *[3.5] * 6], dtype=object))
    with pytest.raises(DataError, match="column 'odd' has values of several types"):
        ingest(tmp_path, library, "Plain", mixed)


def test_a_model_of_another_library_is_refused_with_those_that_fit() -> None:
    with pytest.raises(SettingsError, match=r"no subclass of hubflow.schemas.rows.TextRows.*pandera.polars or pandera.pyarrow"):
        contract_of("text", dict)


def test_coercion_that_pandera_does_not_do_is_refused() -> None:
    with pytest.raises(SettingsError, match="Coerced has `coerce` for 'stars', which pandera does not apply to Arrow tables"):
        contract_of("text", contract("pyarrow", "Coerced"))


@pytest.mark.parametrize("library", LIBRARIES)
def test_columns_by_pattern_lists_and_every_failing_row(library: str, tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "text": [f"text {number}" for number in range(6)],
            "label": ["a", "b", "a", "b", "b", "a"],
            "score_a": [1.0, -1.0, -2.0, 0.0, 0.0, 0.0],
            "score_b": [1.0, 1.0, -2.0, 0.0, 0.0, -5.0],
            "words": [["x"], ["x"], None, ["x", "bad"], [], ["x"]],
        }
    )
    assert kept(tmp_path, library, ingest(tmp_path, library, "Patterned", rows))["row"].to_pylist() == [1, 5]
    found = quarantined(tmp_path, library)
    assert {row: sorted(checks) for row, checks in zip(found["row"], found["checks"], strict=True)} == {
        2: ["score_a: greater_than_or_equal_to(0)"],
        3: ["score_a: greater_than_or_equal_to(0)", "score_b: greater_than_or_equal_to(0)"],
        4: ["whole row: is_sound"],
        6: ["score_b: greater_than_or_equal_to(0)"],
    }


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_type_of_a_column_of_json_lines_does_not_depend_on_its_chunk(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first chunks have no stars, and prices that are whole; the faults of later ones have the numbers of their rows."""
    lines = [{"text": f"text {number}", "label": "ab"[number % 2], "stars": None, "price": number % 5} for number in range(30)]
    lines[20] |= {"stars": 9, "price": 2.5}
    lines[21] |= {"stars": 5}
    lines[29] |= {"price": 10.5}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr("hubflow.data.readers.records.CHUNK_ROWS", 5)
    spec = DatasetSpec(format="jsonl", train=str(path), dev_fraction=0, max_invalid_fraction=MOST)
    load_dataset.fn(spec, TEXT, str(tmp_path / f"store-{library}"), contract=contract(library, "Partial"))
    found = quarantined(tmp_path, library)
    assert found["row"].tolist() == [21, 30]
    assert [list(checks) for checks in found["checks"]] == [["stars: less_than_or_equal_to(5)"], ["price: less_than(10)"]]
