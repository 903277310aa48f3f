"""dataset_from_frames: frames of every kind give the rows that files give, and what cannot be read is named."""

import datetime
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image
from prefect import flow

from hubflow.errors import ContractError, DataError
from hubflow.schemas.labels import LabelMap
from hubflow.schemas.references import DatasetRef
from hubflow.schemas.settings import DatasetSpec
from hubflow.schemas.tasks import TaskName
from hubflow.stages.dataset_from_frames import dataset_from_frames
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.store import Store

TEXT: TaskName = "text_classification"
TEXTS = [f"text {place}" for place in range(10)]
KEYS = [2**60 + 1, None, *range(8)]


class Streamed:
    """What offers the Arrow PyCapsule interface of a stream, and nothing else: as Polars' frames and DuckDB's relations do."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


class Batched:
    """What offers the Arrow PyCapsule interface of one batch, and nothing else."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self._batch.__arrow_c_array__(requested_schema)


def kept(folder: Path, frames: Any, task: TaskName = TEXT, **options: Any) -> pa.Table:
    """What is kept of train."""
    reference = dataset_from_frames.fn(frames, task, str(folder / "store"), dev_fraction=0, **options)
    return pa.parquet.read_table(Store(folder / "store").open(reference).folder / "train.parquet")


def fault(folder: Path, frames: Any, task: TaskName = TEXT, **options: Any) -> str:
    with pytest.raises((DataError, ContractError)) as caught:
        kept(folder, frames, task, **options)
    return str(caught.value)


def arrow_type(kind: Any) -> Any:
    return pd.ArrowDtype(kind)


CODES = pa.array([0, 1] * 5, pa.uint32())
LABELS: dict[str, tuple[Any, list[str]]] = {
    **{
        f"whole numbers, {kind}": (pd.Series([1, 0] * 5, dtype=kind), ["1", "0"])
        for kind in ("int64", "uint8", "Int8", "Int64", "float32", "Float64", "int64[pyarrow]", "double[pyarrow]", object)
    },
    **{
        f"truth, {kind}": (pd.Series([True, False] * 5, dtype=kind), ["true", "false"])
        for kind in ("bool", "boolean", "bool[pyarrow]", object)
    },
    **{
        f"text, {kind}": (pd.Series(["a", "b"] * 5, dtype=kind), ["a", "b"])
        for kind in ("str", "string[python]", "string[pyarrow]", object, "category")
    },
    **{
        f"text, {kind}": (pd.Series(["a", "b"] * 5, dtype=arrow_type(kind)), ["a", "b"])
        for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()))
    },
    "categories of views": (
        pd.Series(pd.arrays.ArrowExtensionArray(pa.DictionaryArray.from_arrays(CODES, pa.array(["a", "b"], pa.string_view())))),
        ["a", "b"],
    ),
    "categories of numbers": (pd.Categorical([1, 0] * 5), ["1", "0"]),
    "categories of truth": (pd.Categorical([True, False] * 5), ["true", "false"]),
    "of several types": (pd.Series([1, "0", 1.0, False, True, "1.0 ", 0, 1, 0, 1], dtype=object), ["1", "0", "true", "false"]),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_dtype_become_their_text(name: str, tmp_path: Path) -> None:
    values, expected = LABELS[name]
    labels = kept(tmp_path, {"train": pd.DataFrame({"text": TEXTS, "label": values})}).column("label").to_pylist()
    assert set(labels) == set(expected)
    assert len(labels) == 10
    if len(expected) == 2:
        assert labels == expected * 5


RECORDS = [{"text": text, "label": place % 2, "key": KEYS[place]} for place, text in enumerate(TEXTS)]
TABLE = pa.Table.from_pylist(RECORDS)
FRAMES: dict[str, Any] = {
    "pandas": lambda: TABLE.to_pandas(types_mapper=pd.ArrowDtype),
    "nullable pandas": lambda: TABLE.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get),
    "an odd index": lambda: TABLE.to_pandas(types_mapper=pd.ArrowDtype).set_axis([7] * 10, axis="index"),
    "an Arrow table": lambda: TABLE,
    "a record batch": lambda: TABLE.to_batches()[0],
    "a reader of batches": lambda: TABLE.to_reader(max_chunksize=3),
    "an Arrow stream": lambda: Streamed(TABLE),
    "an Arrow array": lambda: Batched(TABLE.to_batches()[0]),
    "views and dictionaries": lambda: Streamed(
        TABLE.set_column(0, "text", TABLE["text"].cast(pa.string_view())).set_column(
            1, "label", TABLE["label"].dictionary_encode()
        )
    ),
    "a list of dicts": lambda: RECORDS,
    "a generator of dicts": lambda: iter(RECORDS),
    "a mapping of columns": lambda: {name: np.array(TABLE[name].to_pylist(), dtype=object) for name in TABLE.column_names},
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("alone", [False, True])
def test_frames_of_every_kind_give_the_same_rows(name: str, alone: bool, tmp_path: Path) -> None:
    found = kept(tmp_path, FRAMES[name]() if alone else {"train": FRAMES[name]()})
    assert found.column("row").to_pylist() == list(range(1, 11))
    assert found.column("text").to_pylist() == TEXTS
    assert found.column("label").to_pylist() == ["0", "1"] * 5
    assert found.column("key").to_pylist() == KEYS
    assert found.schema.field("key").type == pa.int64()


def test_frames_give_what_the_same_parquet_file_gives(tmp_path: Path) -> None:
    table = TABLE.drop_columns("key").append_column("day", pa.array([datetime.date(2024, 2, 29)] * 10))
    table = table.append_column("price", pa.array([Decimal("1.10")] * 10, pa.decimal128(9, 2)))
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    spec = DatasetSpec(format="parquet", train=str(tmp_path / "a.parquet"), dev_fraction=0)
    reference = load_dataset.fn(spec, TEXT, str(tmp_path / "store"))
    read = pa.parquet.read_table(Store(tmp_path / "store").open(reference).folder / "train.parquet")
    for frame in (table, Streamed(table), table.to_pandas(types_mapper=pd.ArrowDtype)):
        found = kept(tmp_path, frame)
        assert found.to_pylist() == read.to_pylist()
        assert found.schema.field("price").type == pa.decimal128(9, 2)


def test_columns_are_named_as_in_the_settings_of_files(tmp_path: Path) -> None:
    frame = pd.DataFrame({"body": TEXTS, "reply": TEXTS[::-1], "y": [0, 1] * 5, "text": "other"})
    names = {"text_column": "body", "text_pair_column": "reply", "label_column": "y"}
    found = kept(tmp_path, frame, **names)
    assert found.select(["text", "text_pair", "label", "source_text"]).slice(0, 1).to_pylist() == [
        {"text": "text 0", "text_pair": "text 9", "label": "0", "source_text": "other"}
    ]
    without = pd.DataFrame(list(zip(TEXTS, [0, 1] * 5, strict=True)))
    assert kept(tmp_path, without, text_column=0, label_column=1).column("text").to_pylist() == TEXTS
    assert "no column 'text'; found 4 column(s): 'body', 'reply', 'y', 'note'" in fault(
        tmp_path, frame.rename(columns={"text": "note"})
    )
    grouped = kept(tmp_path, frame, group_column="y", **names)
    assert len(grouped) == 10


@pytest.mark.parametrize(
    "tags",
    [
        [["O", "B-X"]] * 10,
        [np.array(["O", "B-X"])] * 10,
        pd.Series([["O", "B-X"]] * 10, dtype=arrow_type(pa.list_(pa.string_view()))),
        pd.Series([["O", "B-X"]] * 10, dtype=arrow_type(pa.list_(pa.dictionary(pa.int32(), pa.string())))),
    ],
)
def test_sentences_are_lists_of_any_kind(tags: Any, tmp_path: Path) -> None:
    frame = pd.DataFrame({"words": [("a", "b")] * 10, "ner_tags": tags})
    found = kept(tmp_path, frame, "sequence_labelling", tokens_column="words", label_column="ner_tags")
    assert found.select(["tokens", "labels"]).slice(9).to_pylist() == [{"tokens": ["a", "b"], "labels": ["O", "B-X"]}]


def test_numbers_as_tags_are_named_by_the_labels(tmp_path: Path) -> None:
    for tags in ([[0, 1]] * 10, [np.array([0, 1])] * 10, pd.Series([[0, 1]] * 10, dtype=arrow_type(pa.list_(pa.int8())))):
        frame = pd.DataFrame({"tokens": [["a", "b"]] * 10, "labels": tags})
        found = kept(tmp_path, frame, "sequence_labelling", labels=["O", "B-X"])
        assert found.column("labels").to_pylist() == [["O", "B-X"]] * 10


def picture(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(stream, "PNG")
    return stream.getvalue()


def test_images_are_files_or_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(picture("red"))
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"file": ["a.png", tmp_path / "a.png"] * 5, "label": [True, False] * 5})
    found = kept(tmp_path, frame, "image_classification", path_column="file")
    assert found.column("path").to_pylist() == [str(tmp_path / "a.png")] * 10
    images = pd.DataFrame({"image": [picture("red"), picture("blue")] * 5, "label": [True, False] * 5})
    of_bytes = kept(tmp_path, images, "image_classification")
    assert of_bytes.column("sha256")[0] == found.column("sha256")[0]
    assert of_bytes.column("sha256")[0] != of_bytes.column("sha256")[1]
    missing = pd.DataFrame({"path": ["a.png"] * 9 + [None], "label": [0, 1] * 5})
    assert "row 10 (missing)" in fault(tmp_path, missing, "image_classification")
    assert "no such file; did you mean 'a.png'?" in fault(
        tmp_path, missing.fillna(str(tmp_path / "b.png")), "image_classification"
    )


@pytest.mark.parametrize(
    ("numbers", "place"),
    [
        (pd.Series([1, None, *range(3, 11)], dtype="Int64"), 2),
        (pd.Series([1, None, *range(3, 11)], dtype="int64[pyarrow]"), 2),
        (pd.Series([1.0, np.nan, *range(3, 11)]), 2),
        (pd.Series(["1", *range(2, 11)], dtype=object), 1),
    ],
)
def test_a_row_without_a_number_is_named_by_its_place(numbers: Any, place: int, tmp_path: Path) -> None:
    said = fault(tmp_path, pd.DataFrame({"row": numbers, "text": TEXTS, "label": [0, 1] * 5}))
    assert "row: expected whole numbers" in said
    assert f"position {place} " in said


def test_numbers_of_rows_may_be_of_any_type_of_whole_numbers(tmp_path: Path) -> None:
    for kind in ("int32", "Int64", "int64[pyarrow]"):
        frame = pd.DataFrame({"row": pd.Series(range(11, 21), dtype=kind), "text": TEXTS, "label": [0, 1] * 5})
        assert kept(tmp_path, frame).column("row").to_pylist() == list(range(11, 21))


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ("reviews", "train: found str; expected a pandas frame, an Arrow table"),
        ({"train": None}, "train: found NoneType; expected a pandas frame"),
        ({"train": ["good", "bad"]}, "train: record 1 is str; expected"),
        ({"train": pd.Series(TEXTS)}, "cannot be read as an Arrow table"),
        ({"train": {"text": TEXTS, "label": [1]}}, "columns are of different lengths: {'text': 10, 'label': 1}"),
        ({"dev": pd.DataFrame()}, "found the splits dev; expected train at least"),
        ({"train": pd.DataFrame({"text": range(10), "label": [0, 1] * 5})}, "column 'text' is of type int64; expected text"),
        (
            {"train": pd.DataFrame({"text": TEXTS, "label": pd.date_range("2024", periods=10)})},
            "column 'label' is of type timestamp[us]; expected text or numbers",
        ),
        (
            {"train": [{"text": "a", "label": 1}, {"text": 5, "label": 0}]},
            "text: expected text; 1 row(s) differ: row 2 (5)",
        ),
    ],
)
def test_what_cannot_be_read_is_named(frames: Any, said: str, tmp_path: Path) -> None:
    message = fault(tmp_path, frames)
    assert said in message
    assert "string[pyarrow]" not in message


def test_labels_may_be_listed_as_values(tmp_path: Path) -> None:
    reference = dataset_from_frames.fn(
        pd.DataFrame({"text": TEXTS, "label": [0, 1] * 5}), TEXT, str(tmp_path), labels=[2, 1, 0], dev_fraction=0
    )
    assert reference.num_classes == 3
    assert Store(tmp_path).open(reference).facts["label_counts"]["train"] == {"2": 0, "1": 5, "0": 5}


def test_the_same_rows_are_reused_whatever_holds_them_in_chunks(tmp_path: Path) -> None:
    whole = dataset_from_frames.fn(TABLE, TEXT, str(tmp_path))
    assert dataset_from_frames.fn(TABLE.to_reader(max_chunksize=2), TEXT, str(tmp_path)) == whole
    assert dataset_from_frames.fn(TABLE.slice(0, 9), TEXT, str(tmp_path)) != whole


def test_it_is_a_task_as_the_other_stages_are(prefect_server: str, tmp_path: Path) -> None:
    @flow
    def keep() -> DatasetRef:
        return dataset_from_frames({"train": TABLE.to_pandas()}, TEXT, str(tmp_path), dev_fraction=0.2)

    reference = keep()
    assert reference.rows == {"train": 8, "dev": 2}
    assert dataset_from_frames.name == "dataset_from_frames"


def test_dictionaries_of_any_values_keep_them(tmp_path: Path) -> None:
    views = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None] + [0] * 7, pa.uint32()), pa.array(["x", "y"], pa.string_view())
    )
    numbers = pa.array([1, None, 2**60 + 1] + [4] * 7).dictionary_encode()
    days = pa.array([datetime.date(2024, 1, 1), None] * 5).dictionary_encode()
    inside = pa.array([{"n": 1}] * 10, pa.struct({"n": pa.dictionary(pa.int8(), pa.int64())}))
    table = TABLE.append_column("views", views).append_column("numbers", numbers)
    found = kept(tmp_path, Streamed(table.append_column("days", days).append_column("inside", inside)))
    assert found["views"].to_pylist() == ["x", "y", None] + ["x"] * 7
    assert found["numbers"].to_pylist() == [1, None, 2**60 + 1] + [4] * 7
    assert found["days"].to_pylist() == [datetime.date(2024, 1, 1), None] * 5
    assert found["inside"].to_pylist() == [{"n": 1}] * 10
    categories = pd.DataFrame({"text": TEXTS, "label": [1, 0] * 5, "year": pd.Categorical([2023, None] * 5)})
    assert kept(tmp_path, categories)["year"].to_pylist() == [2023, None] * 5


def test_integers_beyond_64_bits_are_kept(tmp_path: Path) -> None:
    records = [{**record, "key": 2**63 + place if place else None} for place, record in enumerate(RECORDS)]
    found = kept(tmp_path, records)["key"]
    assert found.type == pa.uint64()
    assert found.to_pylist() == [None, *(2**63 + place for place in range(1, 10))]
    records = [{**record, "key": -(2**70) if place else 2**64} for place, record in enumerate(RECORDS)]
    assert kept(tmp_path, records)["key"].to_pylist() == [2**64] + [-(2**70)] * 9


def test_a_column_that_parquet_cannot_hold_is_named(tmp_path: Path) -> None:
    months = pa.array([pa.MonthDayNano([1, 2, 3])] * 10)
    message = fault(tmp_path, TABLE.append_column("span", months))
    assert "'span' (month_day_nano_interval)" in message
    assert "remove the column" in message
    message = fault(tmp_path, pd.DataFrame({"text": TEXTS, "label": [1, 0] * 5, "wave": [1j] * 10}))
    assert "wave" in message
    assert "complex128" in message


def class_metadata(**features: Any) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": features}})}


def test_class_names_of_an_arrow_table_name_its_labels(tmp_path: Path) -> None:
    named = {"names": ["neg", "pos"], "_type": "ClassLabel"}
    table = pa.table({"text": TEXTS, "label": [1, 0] * 4 + [1, -1]}).replace_schema_metadata(class_metadata(label=named))
    for frame in (table, table.to_batches()[0], table.to_reader(), Streamed(table)):
        found = kept(tmp_path, frame, max_invalid_fraction=0.1)["label"].to_pylist()
        assert found == ["pos", "neg"] * 4 + ["pos"]
    tags = {"feature": {"names": ["O", "B-ORG"], "_type": "ClassLabel"}, "_type": "Sequence"}
    sentences = pa.table({"tokens": [["EU", "says"], ["x"]], "ner_tags": [[1, 0], [0]]})
    sentences = sentences.replace_schema_metadata(class_metadata(ner_tags=tags))
    found = kept(tmp_path, sentences, "sequence_labelling", label_column="ner_tags")["labels"].to_pylist()
    assert found == [["B-ORG", "O"], ["O"]]
    message = fault(tmp_path, pa.table({"text": TEXTS, "label": [7] * 10}).replace_schema_metadata(class_metadata(label=named)))
    assert "record 1: column 'label' holds the class 7" in message


def test_a_mapping_of_splits_without_train_is_refused(tmp_path: Path) -> None:
    assert "expected train at least" in fault(tmp_path, {"dev": {"text": TEXTS, "label": [1, 0] * 5}})


def test_the_scheme_of_tags_can_be_set(tmp_path: Path) -> None:
    frame = pd.DataFrame({"tokens": [["a", "b"], ["c"]], "labels": [[3, 1], [2]]})
    assert "tag_scheme" in fault(tmp_path, frame, "sequence_labelling")
    for labels in (None, ["1", "2", "3"]):
        reference = dataset_from_frames.fn(
            frame, "sequence_labelling", str(tmp_path / "store"), labels, dev_fraction=0, tag_scheme="plain"
        )
        label_map = LabelMap.load(Store(tmp_path / "store").open(reference).folder / "label_map.json")
        assert label_map == LabelMap(labels=("1", "2", "3"), tag_scheme="plain")


@pytest.mark.parametrize("values", [[1.0, 0.0] * 5, ["1.0", "0 "] * 5, [" 1", 0] * 5])
def test_numbers_are_named_by_the_labels_however_they_are_written(values: list[Any], tmp_path: Path) -> None:
    found = kept(tmp_path, pd.DataFrame({"text": TEXTS, "label": values}), labels=["neg", "pos"])
    assert found["label"].to_pylist() == ["pos", "neg"] * 5
