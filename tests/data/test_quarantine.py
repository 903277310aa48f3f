"""Quarantine: what is quarantined, under which names, what goes on, and what a person is told."""

import contextlib
import copy
import datetime
import json
import linecache
import logging
import pickle
import sys
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
import pyarrow.parquet
import pytest
from filelock import FileLock
from pandera.typing import Series
from pyarrow import parquet

from hubflow.data.ingestion import Plan, ingest_rows
from hubflow.data.quarantine import as_quarantined, read_quarantine, sort_out
from hubflow.data.readers.reading import iter_rows, read_rows
from hubflow.errors import ContractError, DataError, SettingsError
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import DatasetRef, Finding, Split
from hubflow.schemas.rows import RowsError, TextRows, TokenRows, contract_identity, row_schema
from hubflow.schemas.settings import DatasetSpec
from hubflow.schemas.tasks import TaskName
from hubflow.stages.dataset_from_frames import dataset_from_frames
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.store import Store

TEXT: TaskName = "text_classification"


class Priced(TextRows):
    """Texts with a price that is checked."""

    price: Series[float] = pa.Field(gt=0, coerce=True, n_failure_cases=2)

    @pa.check("text")
    def short(cls, values: Any) -> Any:
        return values.str.len() < 20

    @pa.dataframe_check
    def priced_by_label(cls, rows: Any) -> Any:
        return (rows["label"] != "free") | (rows["price"] < 1)


def frame(size: int, **columns: Any) -> pd.DataFrame:
    usual = {"row": range(1, size + 1), "text": [f"text {place}" for place in range(size)], "label": ["a", "b"] * (size // 2)}
    return pd.DataFrame({**usual, **columns})


class Loader:
    """Writes sources and loads them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"

    def write(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def load(self, task: TaskName = TEXT, contract: Any = None, reuse: bool = True, **spec: Any) -> DatasetRef:
        settings = DatasetSpec.model_validate({"format": "csv", "dev_fraction": 0, **spec})
        return load_dataset.fn(settings, task, str(self.store), reuse, contract)

    @property
    def report(self) -> dict[str, Any]:
        """The last one that was published."""
        reports = (self.store / "data-reports").glob("*/report.json")
        return dict(json.loads(max(reports, key=lambda path: path.stat().st_mtime_ns).read_text()))

    def rows(self, reference: DatasetRef, split: Split = "train") -> pd.DataFrame:
        return pd.read_parquet(Store(self.store).open(reference).folder / f"{split}.parquet")

    def table(self, reference: DatasetRef, split: Split = "train") -> Any:
        return parquet.read_table(Store(self.store).open(reference).folder / f"{split}.parquet")

    def quarantined(self, split: Split = "train") -> pd.DataFrame:
        return pd.read_parquet(self.store / self.report["splits"][split]["quarantine"])


@pytest.fixture
def loader(tmp_path: Path) -> Loader:
    return Loader(tmp_path)


def reviews(size: int = 20) -> str:
    return "text,label\n" + "".join(f"review {place},{place % 2}\n" for place in range(size))


# Reading it again


def test_an_error_names_its_quarantine_which_is_read_with_the_values_as_they_were(loader: Loader) -> None:
    columns = {
        "text": ["fine", " ", "dull", " "],
        "label": ["a", "b", "a", "b"],
        "count": [1, 2**62 + 1, 3, 4],
        "price": [Decimal("1.20"), Decimal("2.30"), Decimal("3.40"), None],
        "day": [datetime.date(2026, 11, number) for number in (1, 2, 3, 4)],
        "at": [datetime.datetime(2026, 11, number, 12, tzinfo=datetime.UTC) for number in (1, 2, 3, 4)],
        "share": [0.1, 1e-12, 0.3, 0.4],
        "known": [True, False, True, True],
        "picture": [b"1", b"12", b"123", b"1234"],
    }
    arrow.parquet.write_table(arrow.table(columns), loader.folder / "train.parquet")
    with pytest.raises(ContractError) as caught:
        loader.load(train=str(loader.folder / "train.parquet"), format="parquet")
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # made just here
    assert error.quarantine is not None and error.quarantine.is_file()
    rows = read_quarantine(error)
    assert rows["row"].tolist() == [2, 4]
    assert [list(checks) for checks in rows["checks"]] == [["text: has_text"], ["text: has_text"]]
    assert rows["count"].tolist() == [2**62 + 1, 4]
    assert rows["count"].dtype == "int64"
    assert rows["price"].tolist() == [Decimal("2.30"), None]
    assert rows["day"].tolist() == [datetime.date(2026, 11, 2), datetime.date(2026, 11, 4)]
    assert rows["at"].tolist() == [pd.Timestamp("2026-11-02T12:00Z"), pd.Timestamp("2026-11-04T12:00Z")]
    assert rows["share"].tolist() == [1e-12, 0.4]
    assert rows["known"].tolist() == [False, True]
    assert rows["known"].dtype == bool
    assert rows["picture"].tolist() == ["2 bytes", "4 bytes"]
    assert "typed_values" not in rows
    assert read_quarantine(str(error.quarantine)).equals(rows)


def test_lists_of_tokens_come_back_as_lists(loader: Loader) -> None:
    train = loader.write("train.jsonl", json.dumps({"tokens": ["a", "b"], "labels": ["O"]}) + "\n")
    with pytest.raises(ContractError) as caught:
        loader.load("sequence_labelling", train=train, format="jsonl", label_column="labels")
    rows = read_quarantine(caught.value)
    assert (rows["tokens"].tolist(), rows["labels"].tolist()) == ([["a", "b"]], [["O"]])


def test_the_error_of_several_splits_names_the_folder_of_them_all(loader: Loader) -> None:
    train, dev = (loader.write(f"{split}.csv", reviews() + ",1\n") for split in ("train", "dev"))
    with pytest.raises(DataError) as caught:
        loader.load(train=train, dev=dev)
    rows = read_quarantine(caught.value)
    assert list(zip(rows["split"], rows["row"], strict=True)) == [("train", 22), ("dev", 22)]


def test_values_of_other_types_in_one_column_and_damaged_text_come_back_as_they_were(tmp_path: Path) -> None:
    values = [1, "1", None, 2.5, [1, [None, "x"]], {"a": True}, "\ud800", float("inf")]
    rejected = frame(len(values), checks=[["x"]] * len(values))
    rejected["mixed"] = pd.Series(values, dtype=object)
    rejected["typed_values"] = "own"
    nothing = pd.DataFrame({"row": [], "check": [], "content": []})
    as_quarantined(rejected, nothing).to_parquet(tmp_path / "train.parquet")
    rows = read_quarantine(tmp_path / "train.parquet")
    assert rows["mixed"].tolist() == values
    assert set(rows["source_typed_values"]) == {"own"}


def test_an_error_without_a_quarantine_and_a_file_that_is_none_are_refused(loader: Loader) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        loader.load(train="nowhere.csv")
    with pytest.raises(DataError, match=r"no rows were quarantined before this error: nowhere\.csv"):
        read_quarantine(caught.value)
    with pytest.raises(DataError, match="the quarantined rows cannot be read"):
        read_quarantine(loader.write("text.parquet", "text"))


# Sorting out


def test_rows_are_sorted_by_the_checks_that_they_fail_and_keep_their_further_columns() -> None:
    rows = frame(4, text=["a", " ", "c", "d"], label=["x", "y", "z", None], id=[1, 2, 3, 4])
    rows.index = pd.Index([0, 0, 1, 1])
    accepted, rejected = sort_out(rows, TextRows, LabelMap(labels=("x", "y")))
    assert accepted[["row", "id"]].to_numpy().tolist() == [[1, 1]]
    assert rejected["row"].tolist() == [2, 3, 4]
    assert rejected["checks"].tolist() == [["text: has_text"], ["label: known_label"], ["label: not_nullable"]]
    assert rejected["id"].tolist() == [2, 3, 4]


def test_dropping_invalid_rows_lets_bad_ones_pass_and_drops_good_ones_where_sorting_out_does_not() -> None:
    """What pandera's own `drop_invalid_rows` does, for which this is not built on it."""

    class Counted(TextRows):
        score: Series[int] = pa.Field(gt=0, n_failure_cases=2)

    dropping = copy.deepcopy(Counted.to_schema())
    dropping.drop_invalid_rows = True
    rows = frame(6, score=[-1, -1, -1, -1, 1, 1])
    assert dropping.validate(rows, lazy=True)["score"].tolist() == [-1, -1, 1, 1]  # beyond the cases that are listed
    repeated = frame(4, text=["a", " ", "c", "d"]).set_axis([0, 0, 1, 2])
    plain = copy.deepcopy(TextRows.to_schema())
    plain.drop_invalid_rows = True
    assert plain.validate(repeated, lazy=True)["row"].tolist() == [3, 4]  # row 1 shares the label of row 2
    assert sort_out(rows, Counted)[0]["score"].tolist() == [1, 1]
    assert sort_out(repeated, TextRows)[0]["row"].tolist() == [1, 3, 4]


def test_own_checks_are_named_and_a_check_of_the_whole_row_counts_once() -> None:
    rows = frame(6, price=["1", "x", "-1", "-2", "-3", "5"])
    rows.loc[5, "label"] = "free"
    rows.loc[0, "text"] = "far too long a text to be short"
    accepted, rejected = sort_out(rows, Priced)
    assert accepted.empty
    assert dict(zip(rejected["row"], rejected["checks"], strict=True)) == {
        1: ["text: short"],
        2: ["price: coerce_dtype('float64')"],
        3: ["price: greater_than(0)"],
        4: ["price: greater_than(0)"],
        5: ["price: greater_than(0)"],
        6: ["whole row: priced_by_label"],
    }


def test_a_sentence_of_uneven_lists_fails_once() -> None:
    rows = pd.DataFrame({"row": [1, 2], "tokens": [["a"], ["b", "c"]], "labels": [["O"], ["O"]]})
    accepted, rejected = sort_out(rows, TokenRows)
    assert accepted["row"].tolist() == [1]
    assert rejected["checks"].tolist() == [["tokens: equal_lengths"]]


def test_the_fault_of_a_whole_column_is_an_error_at_once() -> None:
    with pytest.raises(RowsError, match="row: expected whole numbers; found 'float64'"):
        sort_out(frame(2, row=[1.0, 2.0]), TextRows)
    with pytest.raises(RowsError, match="label: expected a column of this name"):
        sort_out(frame(2).drop(columns="label"), TextRows)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_accepted_keeps_the_contract_and_nothing_is_lost(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = 500
    rows = frame(
        size,
        text=random.choice(["fine", " ", "far too long a text to be short", None], size),
        label=random.choice(["a", "b", "free", ""], size),
        price=random.choice(["0.5", "2", "-1", "much", None], size),
    )
    accepted, rejected = sort_out(rows, Priced, LabelMap(labels=("a", "free")))
    row_schema(Priced, LabelMap(labels=("a", "free"))).validate(accepted)
    assert sorted([*accepted["row"], *rejected["row"]]) == rows["row"].tolist()
    is_good = rows["text"].eq("fine") & rows["label"].isin(["a", "free"]) & rows["price"].isin(["0.5", "2"])
    is_good &= rows["label"].ne("free") | rows["price"].ne("2")
    assert accepted["row"].tolist() == rows["row"][is_good].tolist()


# Loading


def test_bad_rows_within_the_limit_are_set_aside_and_the_rest_goes_on(loader: Loader, caplog: Any) -> None:
    content = reviews() + ",1\nlonely\n\xe9,0\n".replace("\xe9", "?") + " ,\n"
    train = loader.write("train.csv", content.encode() + b"caf\xe9,1\n")
    with caplog.at_level(logging.WARNING):
        reference = loader.load(train=train, max_invalid_fraction=0.2)
    assert reference.rows == {"train": 21}
    quarantined = loader.quarantined()
    assert quarantined["row"].tolist() == [22, 23, 25, 26]
    assert [list(checks) for checks in quarantined["checks"]] == [
        ["text: has_text"],
        ["line: fields"],
        ["text: has_text", "label: has_label"],
        ["line: encoding"],
    ]
    assert quarantined["content"].tolist()[1::2] == ["lonely", "caf\\xe9,1"]
    assert quarantined["label"].iloc[0] == "1"
    report = loader.report["splits"]["train"]
    assert (report["read"], report["accepted"], report["rejected"], report["malformed"]) == (25, 21, 4, 2)
    assert report["checks"] == {"line: fields": 1, "line: encoding": 1, "text: has_text": 2, "label: has_label": 1}
    assert report["first_rejected"][0] == {"row": 22, "checks": ["text: has_text"], "text": "", "label": "1"}
    assert "4 of 25 rows are quarantined" in caplog.text
    of_content = Store(loader.store).open(reference).facts["data_report"]
    assert of_content["splits"] == loader.report["splits"]
    assert "drift" not in of_content["facts"]


def test_more_than_the_limit_is_an_error_that_names_counts_rows_and_file_after_the_report(loader: Loader) -> None:
    train = loader.write("train.csv", reviews() + ",1\n,0\na,b,c\n")
    with pytest.raises(ContractError) as caught:
        loader.load(train=train, max_invalid_fraction=0.1)
    message = str(caught.value)
    assert "train.csv: 2 row(s) break the contract TextRows" in message
    assert "2 row(s) differ: row 22 (''), row 23 ('')" in message
    assert "expected 2 field(s) in every line, as in line 1; line 24 has 3" in message
    path = loader.store / loader.report["splits"]["train"]["quarantine"]
    assert f"3 of 23 row(s) (13.04%) are quarantined, with every check that they failed, in {path}" in message
    assert loader.report["error"] == message
    assert len(loader.quarantined()) == 3
    assert loader.load(train=train, max_invalid_fraction=0.2).rows == {"train": 20}


def test_the_default_is_strict_and_an_encoding_that_fits_is_named(loader: Loader) -> None:
    train = loader.write("train.csv", reviews().encode() + "房间太小,0\n".encode("gb18030"))
    with pytest.raises(ContractError, match=r"line 22: byte 0xb7 at offset \d+ is not utf-8.*gb18030, which reads this file"):
        loader.load(train=train)


def test_a_run_again_replaces_the_quarantine_and_the_same_bytes_come_of_the_same_rows(loader: Loader) -> None:
    train = loader.write("train.csv", reviews() + ",1\n")
    first = loader.load(train=train, max_invalid_fraction=0.1)
    before = loader.quarantined()
    assert loader.load(train=train, max_invalid_fraction=0.1, reuse=False) == first
    assert loader.quarantined().equals(before)
    assert loader.load(train=train, max_invalid_fraction=0.1) == first
    assert [path.name for path in (loader.store / "quarantine").rglob("*.*")] == ["train.parquet"]


def test_a_label_that_train_lacks_is_set_aside_from_dev(loader: Loader) -> None:
    train, dev = loader.write("train.csv", reviews()), loader.write("dev.csv", reviews() + "odd,7\n")
    reference = loader.load(train=train, dev=dev, max_invalid_fraction=0.1)
    assert reference.rows == {"train": 20, "dev": 20}
    assert loader.quarantined("dev")["checks"].tolist() == [["label: known_label"]]
    assert loader.report["splits"]["train"]["quarantine"] is None


def test_what_reading_converts_is_counted(loader: Loader) -> None:
    lines = ['{"text": "a", "label": 1, "more": [1]}', '{"text": "b", "label": "0"}', '{"text": "c", "label": true, "more": 2}']
    loader.load(format="jsonl", train=loader.write("a.jsonl", "\ufeff" + "\r\n".join(lines)))
    coerced = {"byte-order mark": 1, "CRLF line ends": 2, "label": 2}
    assert loader.report["splits"]["train"]["coerced"] == coerced
    pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}).to_parquet(loader.folder / "a.parquet")
    loader.load(format="parquet", train=str(loader.folder / "a.parquet"))
    assert loader.report["splits"]["train"]["coerced"] == {"label": 2}


@pytest.mark.parametrize(
    ("format", "content", "rows", "checks"),
    [
        ("tsv", b"text\tlabel\na\t0\nb\nc\xff\t1\nd\t1\n", [2, 5], {3: "fields", 4: "encoding"}),
        ("csv", b'text,label\na,0\n"b"x,1\nc,1,2\nd,1\n', [2, 5], {3: "quoting", 4: "fields"}),
        (
            "jsonl",
            b'{"text": "a", "label": 0}\n{"text"\n[1]\n{"text": 5, "label": 1}\n{"text": "\\ud800", "label": 1}\n'
            b'{"text": "\xff", "label": 1}\n{"text": "b", "label": 1}\n',
            [1, 7],
            {2: "json", 3: "json", 4: "type", 5: "surrogate", 6: "encoding"},
        ),
        ("conll", b"a O\nb B-X\n\nc\nd O\n\n\xff O\n\ne O\n", [1, 9], {4: "columns", 7: "encoding"}),
        ("msra", b"a\tO\nb O\n\xff\tO\nc\tB-X\n", [1, 4], {2: "fields", 3: "encoding"}),
    ],
)
def test_a_line_that_cannot_be_read_is_told_apart_and_reading_goes_on(
    loader: Loader, format: str, content: bytes, rows: list[int], checks: dict[int, str]
) -> None:
    spec = DatasetSpec.model_validate({"format": format, "train": loader.write("a", content)})
    for chunk_rows in (65_536, 1):
        chunks = list(iter_rows(spec, spec.train, "train", chunk_rows=chunk_rows))
        assert [row for chunk in chunks for row in chunk.rows["row"]] == rows
        malformed = pd.concat([chunk.malformed for chunk in chunks])
        assert dict(zip(malformed["row"], malformed["check"], strict=True)) == checks


def test_text_of_a_parquet_record_that_is_not_utf8_is_told_apart(loader: Loader) -> None:
    texts = arrow.array([b"a", b"\xff", b"c"], arrow.binary()).view(arrow.string())
    path = loader.folder / "a.parquet"
    arrow.parquet.write_table(arrow.table({"text": texts, "label": ["0", "1", "1"]}), path)
    (chunk,) = iter_rows(DatasetSpec(format="parquet", train=str(path)), path, "train")
    assert chunk.rows["row"].tolist() == [1, 3]
    assert chunk.malformed[["row", "check"]].to_numpy().tolist() == [[2, "encoding"]]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["csv", "tsv", "jsonl", "conll", "msra"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_small_chunks_and_small_blocks_give_the_rows_of_one(
    loader: Loader, format: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"好 {place} \u2028 é" for place in range(300)]
    sep = "," if format == "csv" else "\t"
    content = {
        "jsonl": "\n".join(json.dumps({"text": text, "label": 1}, ensure_ascii=False) for text in texts),
        "conll": "\r\n\r\n".join(f"a{place} O\r\n好 B-X" for place in range(300)),
        "msra": "\n\n".join(f"a{place}\x02好\tO\x02B-X" for place in range(300)),
    }.get(format, f"text{sep}label\r\n" + "".join(f"{text}{sep}{'1' if sep != ',' else csv_field(text)}\r\n" for text in texts))
    spec = DatasetSpec.model_validate(
        {"format": format, "train": loader.write("a", content.encode(encoding)), "encoding": encoding}
    )
    whole = read_rows(spec, spec.train, "train")
    assert len(whole) == 300
    monkeypatch.setattr("hubflow.data.readers.chunks.BLOCK_BYTES", 37)
    chunks = list(iter_rows(spec, spec.train, "train", chunk_rows=7))
    assert max(len(chunk.rows) for chunk in chunks) <= 7
    assert pd.concat([chunk.rows for chunk in chunks], ignore_index=True).equals(whole)


def csv_field(text: str) -> str:
    return f'"{text},\n""{text}"""'


def test_columns_of_json_lines_that_come_late_are_kept(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubflow.data.readers.chunks.BLOCK_BYTES", 40)
    lines = [
        json.dumps({"text": f"t{place}", "label": place % 2} | ({"id": place} if place > 5 else {})) for place in range(12)
    ]
    reference = loader.load(format="jsonl", train=loader.write("a.jsonl", "\n".join(lines)), group_column="id")
    assert loader.table(reference)["id"].to_pylist()[5:8] == [None, 6, 7]


# Contracts and groups of a user's own


def test_an_own_contract_from_the_settings_is_applied_and_its_values_travel(loader: Loader, monkeypatch: Any) -> None:
    loader.write("my_contract.py", OWN_CONTRACT)
    monkeypatch.syspath_prepend(str(loader.folder))
    train = loader.write("a.csv", "text,label,price\na,0,1.5\nb,1,-1\nc,1,2\n")
    reference = loader.load(train=train, contract=None, max_invalid_fraction=0.5, **{})
    spec = {"train": train, "max_invalid_fraction": 0.5}
    settings = DatasetSpec.model_validate({"format": "csv", "dev_fraction": 0, "contract": "my_contract:Priced", **spec})
    own = load_dataset.fn(settings, TEXT, str(loader.store))
    assert own.path != reference.path
    assert loader.rows(own)["price"].tolist() == [1.5, 2.0]
    assert loader.quarantined()["checks"].tolist() == [["price: positive"]]
    assert loader.report["splits"]["train"]["coerced"] == {"price": 2}  # of the rows that are kept
    del sys.modules["my_contract"]


OWN_CONTRACT = """
import pandera.pandas as pa
from filelock import FileLock
from pandera.typing import Series
from hubflow.schemas.rows import TextRows

class Priced(TextRows):
    price: Series[float] = pa.Field(coerce=True)

    @pa.check("price")
    def positive(cls, values):
        return values > 0
"""


class Whole(TextRows):
    """Conversions that may change what a value means."""

    stars: Series[int] = pa.Field(coerce=True)
    fresh: Series[bool] = pa.Field(coerce=True)


def test_a_conversion_that_changes_what_a_value_means_is_a_fault_of_its_row() -> None:
    rows = frame(4, stars=[1.0, 1.5, 2.0, 3.0], fresh=["True", "1", "no", "false"])
    accepted, rejected = sort_out(rows, Whole)
    assert accepted[["row", "stars", "fresh"]].to_numpy().tolist() == [[1, 1, True]]
    checks = {row: list(failed) for row, failed in zip(rejected["row"], rejected["checks"], strict=True)}
    expected = {2: ["stars: coerced_value"], 3: ["fresh: coerced_value"], 4: ["fresh: coerced_value"]}
    assert checks == expected  # the text "false" is True to Python


class Shortened(TextRows):
    """A parser that changes values, and one that leaves rows out."""

    @pa.parser("text")
    def cut(cls, values: Any) -> Any:
        return values.str.slice(0, 6)


class Filtered(TextRows):
    """A parser that leaves rows out."""

    @pa.dataframe_parser
    def without_first(cls, rows: Any) -> Any:
        return rows.iloc[1:]


class Dropping(TextRows):
    """What pandera would do without a word."""

    class Config:
        """Of pandera."""

        drop_invalid_rows = True


def test_what_a_parser_changes_is_counted_and_what_it_leaves_out_is_refused(loader: Loader) -> None:
    train = loader.write("a.csv", reviews(20))
    loader.load(train=train, contract=Shortened)
    assert loader.report["splits"]["train"]["coerced"] == {"text": 20}
    with pytest.raises(SettingsError, match="a parser of Filtered made 19 rows of 20"):
        loader.load(train=train, contract=Filtered)


def test_a_constant_beside_a_contract_makes_another_data_set(loader: Loader, monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(loader.folder))
    train = loader.write("a.csv", "text,label,price\na,0,1.5\nb,1,5\nc,1,2\n")
    paths = []
    for name, limit in (("limits_a", 9), ("limits_b", 3)):
        loader.write(f"{name}.py", OWN_CONTRACT.replace("values > 0", "values < LIMIT") + f"\nLIMIT = {limit}\n")
        paths.append(loader.load(train=train, contract=f"{name}:Priced", max_invalid_fraction=0.5).path)
    first = contract_identity(sys.modules["limits_a"].Priced)
    loader.write("limits_a.py", OWN_CONTRACT + "\nLIMIT = 3\n")
    linecache.checkcache()
    assert contract_identity(sys.modules["limits_a"].Priced)["source_sha256"] != first["source_sha256"]
    assert len(set(paths)) == 2


class Unique(TextRows):
    """A contract that cannot be held chunk by chunk."""

    id: Series[str] = pa.Field(unique=True)


@pytest.mark.parametrize(
    ("contract", "said"),
    [
        ("no_such_module:Rows", "no_such_module cannot be imported"),
        ("hubflow.schemas.rows:Rows", "has no 'Rows'"),
        ("hubflow.schemas.rows:TokenRows", "is no subclass of hubflow.schemas.rows.TextRows"),
        ("hubflow.schemas.rows:label_column", "is no subclass of"),
        (TokenRows, "is no subclass of"),
        (Unique, "asks for unique values of 'id'"),
        (Dropping, "drop_invalid_rows = True, which would change the rows without a word"),
    ],
)
def test_a_contract_that_is_none_for_these_rows_is_refused(loader: Loader, contract: Any, said: str) -> None:
    spec = {"contract": contract} if isinstance(contract, str) else {}
    settings = DatasetSpec.model_validate({"format": "csv", "train": loader.write("a.csv", reviews()), **spec})
    with pytest.raises(SettingsError, match=said):
        load_dataset.fn(settings, TEXT, str(loader.store), contract=None if spec else contract)


def test_the_group_column_travels_and_must_be_there(loader: Loader) -> None:
    train = loader.write("a.csv", "text,label,who\na,0,x\nb,1,y\n")
    assert loader.rows(loader.load(train=train, group_column="who"))["who"].tolist() == ["x", "y"]
    with pytest.raises(DataError, match="no column 'whom'; found 3 column"):
        loader.load(train=train, group_column="whom")


def test_what_a_killed_load_left_is_removed_by_the_next_but_not_what_is_in_use(loader: Loader) -> None:
    loader.store.mkdir()
    left, used = loader.store / ".staging.left", loader.store / ".staging.used"
    for folder in (left, used):
        folder.mkdir()
        (folder / "train-0.parquet").touch()
        folder.with_name(f"{folder.name}.lock").touch()
    with FileLock(f"{used}.lock"):
        loader.load(train=loader.write("a.csv", reviews()))
        assert not left.exists()
        assert used.exists()
    assert not list(loader.store.glob(".staging.left*"))


@pytest.mark.parametrize(("group", "ours"), [("row", "source_row"), ("review", "text"), ("text", "text")])
def test_the_group_column_is_the_one_of_the_file(loader: Loader, group: str, ours: str) -> None:
    """Whatever the columns of the contract are called."""
    names = "review,category,row" if group != "text" else "text,category,row"
    rows = "".join(f"same {place // 3},{place % 2},g{place // 5}\n" for place in range(120))
    reference = loader.load(
        train=loader.write("a.csv", f"{names}\n{rows}"),
        text_column=names.split(",", maxsplit=1)[0],
        label_column="category",
        group_column=group,
        dev_fraction=0.3,
    )
    parts = [set(loader.rows(reference, split)[ours]) for split in ("train", "dev")]  # type: ignore[arg-type]
    assert parts[0] & parts[1] == set()


def test_a_fault_of_groups_names_the_first_rows(loader: Loader) -> None:
    rows = "text,label,who\na,0,x\nb,1,y\n"
    with pytest.raises(ContractError, match=r"1 value.*of 'who' are in both train and dev.*first: train row 2 = dev row 2"):
        loader.load(train=loader.write("a.csv", rows), dev=loader.write("b.csv", "text,label,who\nc,0,x\n"), group_column="who")


def test_a_column_called_checks_and_the_end_of_a_long_line_are_not_lost(loader: Loader) -> None:
    rows = reviews(20).replace("text,label", "text,label,checks").replace(",0\n", ",0,hum\n").replace(",1\n", ",1,hum\n")
    loader.load(train=loader.write("a.csv", f"{rows},1,mine\n{'long' * 5_000},1\n"), max_invalid_fraction=0.2)
    quarantined = loader.quarantined()
    assert quarantined["source_checks"].iloc[0] == "mine"
    assert quarantined["content"].iloc[1].endswith("… [10002 more characters]")


def test_splits_that_are_made_here_keep_groups_whole(loader: Loader) -> None:
    """And a group stays where it is when others come; rows without one are drawn one by one."""
    lines = [f"review {place},{place % 2},{'' if place % 10 == 0 else f'author {place // 7}'}\n" for place in range(2_000)]

    def split_of(rows: list[str]) -> dict[str, str]:
        reference = loader.load(
            train=loader.write("a.csv", "text,label,who\n" + "".join(rows)),
            group_column="who",
            dev_fraction=0.2,
            test_fraction=0.1,
        )
        parts = {split: loader.rows(reference, split) for split in reference.rows}
        assert sum(len(part) for part in parts.values()) == len(rows)
        assert 0.15 < len(parts["dev"]) / len(rows) < 0.25
        assert 0.06 < len(parts["test"]) / len(rows) < 0.14
        alone = {split: int((part["who"] == "").sum()) for split, part in parts.items()}
        assert min(alone.values()) > 0
        known = [(who, split) for split, part in parts.items() for who in part["who"].unique() if who]
        assert len(dict(known)) == len(known)
        return dict(known)

    before, after = split_of(lines[:1_500]), split_of(lines)
    assert all(after[who] == split for who, split in before.items())


def test_rows_at_hand_go_the_same_way(tmp_path: Path) -> None:
    rows = frame(100)
    rows.loc[7, "text"] = ""
    reference = dataset_from_frames.fn(
        {"train": rows}, TEXT, str(tmp_path), dev_fraction=0.1, max_invalid_fraction=0.01, contract=TextRows
    )
    assert reference.rows == {"train": 89, "dev": 10}
    assert Store(tmp_path).open(reference).facts["data_report"]["splits"]["train"]["first_rejected"][0]["row"] == 8


# Observers


class Watcher:
    """Notes what it is shown, and finds what it is told to."""

    def __init__(self, policy: Any) -> None:
        self.seen: dict[str, list[int]] = {}
        self.policy = policy

    def add(self, split: Split, rows: pd.DataFrame) -> None:
        self.seen.setdefault(split, []).extend(rows["row"])

    def findings(self) -> list[Finding]:
        return [Finding(check="seen", policy=self.policy, splits=("train",), count=1, message="something is odd")]

    def facts(self) -> dict[str, Any]:
        return {"watched": len(self.seen)}


def kept(loader: Loader, watcher: Watcher, train: str, **spec: Any) -> tuple[DatasetRef | None, dict[str, Any]]:
    """What is kept under watch, if anything, and the report."""
    settings = DatasetSpec.model_validate({"format": "csv", "train": train, "dev_fraction": 0, **spec})
    plan = Plan(settings, TEXT, "text", {"train": Path(train)}, TextRows)
    reports: list[dict[str, Any]] = []
    reference = None
    with contextlib.suppress(ContractError):
        chunks = partial(iter_rows, settings, Path(train), "train", TEXT)
        reference = ingest_rows(Store(loader.store), "key", plan, {"train": chunks}, None, {}, [watcher], reports.append)
    return reference, reports[-1]


def test_observers_see_every_row_that_is_kept_once(loader: Loader, caplog: Any) -> None:
    watcher = Watcher("warn")
    train = loader.write("a.csv", reviews(50) + ",1\n")
    reference, report = kept(loader, watcher, train, dev_fraction=0.2, max_rows=30, max_invalid_fraction=0.1)
    assert reference is not None
    assert watcher.seen == {split: loader.rows(reference, split)["row"].tolist() for split in ("train", "dev")}  # type: ignore[arg-type]
    assert report["facts"] == {"watched": 2}
    assert report["findings"][0]["message"] == "something is odd"
    assert "something is odd" in caplog.text


def test_a_finding_that_fails_is_raised_after_the_report_and_nothing_is_kept(loader: Loader) -> None:
    reference, report = kept(loader, Watcher("fail"), loader.write("a.csv", reviews()))
    assert reference is None
    assert report["findings"][0]["policy"] == "fail"
    assert report["error"] == "seen: something is odd"
    assert list(loader.store.rglob("*.parquet")) == []
