"""Parquet files that decode to more than a machine bears, and sound ones of every layout, which are read as they are."""

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
import pytest
from pyarrow import parquet

from hubflow.data.columns import to_frame
from hubflow.data.readers.parquet_pages import HADOOP_LZ4, ColumnChunk, PageError, _decompressed, column_pages
from hubflow.data.readers.reading import iter_rows
from hubflow.errors import DataError
from hubflow.schemas.settings import DatasetSpec
from hubflow.schemas.tasks import TaskName

TEXT: TaskName = "text_classification"
BIG = "x" * 1_000_000


@contextmanager
def within(seconds: float, mib: int) -> Iterator[None]:
    """Refuse a block that takes longer, or needs more memory beyond the most that was needed before."""
    begun, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - begun < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) // 1024 < mib


def write(folder: Path, columns: dict[str, Any], rows: int, **options: Any) -> Path:
    path = folder / "a.parquet"
    given = {"text": arrow.array(["a"] * rows), "label": arrow.array(["x"] * rows)}
    parquet.write_table(arrow.table(given | columns), path, **({"compression": "zstd"} | options))
    return path


def repeated(value: Any, rows: int, kind: Any = None) -> Any:
    """One value in every row, as a dictionary, so that it takes no memory here."""
    return arrow.DictionaryArray.from_arrays(arrow.array(np.zeros(rows, np.int32)), arrow.array([value], kind))


def read(path: Path, task: TaskName = TEXT) -> Iterator[pd.DataFrame]:
    for chunk in iter_rows(DatasetSpec(train="x", format="parquet"), path, "train", task, True):
        assert not len(chunk.malformed)
        yield chunk.rows


def refused(path: Path, fault: str, task: TaskName = TEXT) -> None:
    with within(30, 1_500), pytest.raises(DataError, match=fault) as caught:
        for _ in read(path, task):
            pass
    assert str(path) in str(caught.value)


@pytest.mark.slow
def test_a_text_that_many_rows_refer_to_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": repeated(BIG, 2_200)}, 2_200, store_schema=False)
    assert path.stat().st_size < 1_000
    with within(30, 800):
        lengths = [length for rows in read(path) for length in rows["text"].str.len()]
    assert lengths == [1_000_000] * 2_200


def test_a_small_file_of_gigabytes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"text": repeated(BIG, 20_000)}, 20_000, store_schema=False)
    refused(path, r"a file of \d+ bytes that decodes to 20,000,\d+,\d+, more than limits\.max_decoded_bytes")


def test_bytes_of_a_fixed_size_that_many_rows_refer_to_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"more": repeated(b"x" * 100_000, 2_000, arrow.binary(100_000))}
    path = write(tmp_path, columns, 2_000, store_schema=False)
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_BATCH_BYTES", "8000000")
    assert [len(rows) for rows in read(path)] == [19] * 105 + [5]
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_DECODED_BYTES", "100000000")
    refused(path, r"decodes to 200,[\d,]+, more than limits\.max_decoded_bytes")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("times", "fault"),
    [
        (150_000, r"record 1: [\d,]+ bytes, more than an eighth of limits\.max_batch_bytes"),
        (3_000_000, r"column 'tokens\.list\.element': the lists of a row group may take 3,\d+,\d+,\d+ bytes"),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
def test_a_row_with_a_text_many_times_is_refused(
    tmp_path: Path, times: int, fault: str, version: str, compression: str
) -> None:
    words = arrow.ListArray.from_arrays(arrow.array([0, times], arrow.int32()), repeated("y" * 1_000, times))
    table, path = arrow.table({"tokens": words, "labels": words}), tmp_path / "a.parquet"
    parquet.write_table(table, path, store_schema=False, data_page_version=version, compression=compression)
    refused(path, fault, "sequence_labelling")


def test_lists_with_one_long_text_among_many_short_ones_are_read(tmp_path: Path) -> None:
    words = [["a" if (row + place) % 3 else "bc" for place in range(100)] for row in range(2_000)]
    words[7][3] = "x" * 20_000  # times all of them it would be too much
    table, path = arrow.table({"tokens": words, "labels": [["O"] * 100] * 2_000}), tmp_path / "a.parquet"
    for version in ("1.0", "2.0"):
        parquet.write_table(table, path, data_page_version=version)
        assert [list(row) for rows in read(path, "sequence_labelling") for row in rows["tokens"]] == words


@pytest.mark.slow
def test_a_row_with_many_numbers_is_refused(tmp_path: Path) -> None:
    numbers = arrow.ListArray.from_arrays(arrow.array([0, 50_000_000], arrow.int32()), np.zeros(50_000_000, np.int8))
    refused(write(tmp_path, {"more": numbers}, 1), r"record 1: [\d,]+ bytes, more than an eighth of limits\.max_batch_bytes")


def test_lists_of_a_row_group_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_BATCH_BYTES", "10000000")
    numbers = arrow.ListArray.from_arrays(arrow.array([0, 2_000_000], arrow.int32()), np.zeros(2_000_000, np.int8))
    refused(write(tmp_path, {"more": numbers}, 1), r"the lists of a row group may take 16,000,\d+ bytes")


def test_a_page_that_decompresses_to_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"more": arrow.array(np.zeros(4_000_000))}
    options = {"use_dictionary": False, "data_page_size": 1 << 30, "max_rows_per_page": 1 << 30}
    path = write(tmp_path, columns, 4_000_000, **options)
    assert sum(map(len, read(path))) == 4_000_000
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_BATCH_BYTES", "10000000")
    refused(path, r"pages that are decoded together have [\d,]+ bytes, more than limits\.max_batch_bytes")


@pytest.mark.slow
def test_texts_that_continue_the_ones_before_are_read_in_bounded_memory(tmp_path: Path) -> None:
    wanted = np.arange(20_000, 40_000)
    ends = np.concatenate([[0], np.cumsum(wanted)]).astype(np.int32)
    texts = arrow.StringArray.from_buffers(len(wanted), arrow.py_buffer(ends), arrow.py_buffer(b"q" * int(ends[-1])))
    encodings = {"text": "DELTA_BYTE_ARRAY", "label": "PLAIN"}
    path = write(tmp_path, {"text": texts}, 20_000, use_dictionary=False, column_encoding=encodings)
    del texts
    assert path.stat().st_size < 1_000
    with within(60, 1_200):
        lengths = [length for rows in read(path) for length in rows["text"].str.len()]
    assert lengths == wanted.tolist()


def test_too_many_columns_are_refused(tmp_path: Path) -> None:
    refused(
        write(tmp_path, {f"c{place}": [1] for place in range(20_000)}, 1),
        r"more than 2,000 columns \(20,002\), limits\.max_columns",
    )


def test_too_many_fields_are_refused(tmp_path: Path) -> None:
    struct = arrow.array([{f"f{place}": 1 for place in range(20_000)}])
    refused(write(tmp_path, {"more": struct}, 1), r"more than 2,000 columns \(20,002\), limits\.max_columns")


def test_a_type_that_is_nested_deeply_is_refused(tmp_path: Path) -> None:
    for levels, fault in ((80, r"nested in more than 64 levels, limits\.max_nesting"), (900, "cannot be read as Parquet")):
        nested = arrow.array([1])
        for _ in range(levels):
            nested = arrow.StructArray.from_arrays([nested], ["a"])
        refused(write(tmp_path, {"more": nested}, 1), fault)


def test_a_large_footer_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {}, 2_000, row_group_size=1)
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_FOOTER_BYTES", "10000")
    refused(path, r"its footer has [\d,]+ bytes, more than limits\.max_footer_bytes \(10,000\)")


@pytest.mark.parametrize("features", ["[" * 50_000, '{"a":' * 50_000, "null", "[[]]", '{"label": {"feature": {"feature": 1}}}'])
def test_metadata_of_another_form_names_no_classes(tmp_path: Path, features: str) -> None:
    table = arrow.table({"text": ["a"], "label": ["b"]})
    deep = (
        features
        if features.endswith(("}", "l", "]"))
        else features + {"[": "]", "": "1" + "}"}[features[0] if features[0] == "[" else ""] * 50_000
    )
    for given in (f'{{"info": {{"features": {deep}}}}}', f'{{"info": {{"features": {{"label": {deep}}}}}}}'):
        path = tmp_path / "a.parquet"
        parquet.write_table(table.replace_schema_metadata({"huggingface": given}), path)
        (rows,) = read(path)
        assert rows["label"].tolist() == ["b"]


def sound() -> dict[str, Any]:
    words = arrow.array([["a", "b"], None, [], ["c", None]])
    return {
        "text": arrow.array(["a", "b", None, "\u00e9"]),
        "large": arrow.array(["a", None, "c", "d"], arrow.large_string()),
        "view": arrow.array(["a", "b" * 40, None, "d"], arrow.string_view()),
        "bytes": arrow.array([b"\xff", b"", None, b"x"]),
        "fixed": arrow.array([b"ab", None, b"cd", b"ef"], arrow.binary(2)),
        "category": arrow.array(["x", "y", None, "x"]).dictionary_encode(),
        "numbers": arrow.array([1, None, 2, 1]).dictionary_encode(),
        "words": words,
        "large words": words.cast(arrow.large_list(arrow.large_string())),
        "pairs": arrow.array([["a", "b"], None, ["c", "d"], ["e", None]], arrow.list_(arrow.string(), 2)),
        "map": arrow.array([[("k", "v")], [], None, [("a", None)]], arrow.map_(arrow.string(), arrow.string())),
        "struct": arrow.array([{"a": "x", "b": [{"c": "y"}]}, None, {"a": None, "b": []}, {"a": "z", "b": None}]),
        "lists of lists": arrow.array([[["a"], []], None, [], [None, ["b", "c"]]]),
        "json": arrow.array(['{"a": 1}', None, "[]", "2"], arrow.json_()),
        "money": arrow.array(["1.25", None, "3.50", "0.00"]).cast(arrow.decimal128(30, 2)),
        "when": arrow.array([1, None, 3, 4], arrow.timestamp("us", "Europe/Berlin")),
        "nothing": arrow.nulls(4),
        "flag": arrow.array([True, None, False, True]),
    }


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("use_dictionary", [True, False])
@pytest.mark.parametrize("store_schema", [True, False])
def test_sound_columns_of_every_type_are_read_as_they_are(
    tmp_path: Path, version: str, use_dictionary: bool, store_schema: bool
) -> None:
    many = {name: arrow.chunked_array([column] * 50) for name, column in sound().items()}
    options = {"data_page_version": version, "use_dictionary": use_dictionary, "store_schema": store_schema}
    path = write(tmp_path, many, 200, row_group_size=70, write_page_index=True, write_statistics=True, **options)
    found = pd.concat(list(read(path)), ignore_index=True)
    whole = to_frame(parquet.read_table(path))
    for name in many:
        assert found[name].dtype == whole[name].dtype, name
        pd.testing.assert_series_equal(found[name], whole[name])


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "brotli", "lz4", "zstd"])
def test_sound_text_of_every_encoding_is_read_as_it_is(tmp_path: Path, encoding: str, compression: str) -> None:
    texts = [f"text {number} " * (number % 40) for number in range(30_000)]
    words = [[f"word{place}" for place in range(number % 7)] for number in range(30_000)]
    columns = {
        "text": arrow.array(texts),
        "words": arrow.array(words) if encoding != "DELTA_BYTE_ARRAY" else arrow.array(texts),
    }
    encodings = {
        "text": encoding,
        "label": "PLAIN",
        ("words.list.element" if encoding != "DELTA_BYTE_ARRAY" else "words"): encoding,
    }
    path = write(
        tmp_path,
        columns,
        30_000,
        compression=compression,
        use_dictionary=False,
        column_encoding=encodings,
        row_group_size=9_000,
    )
    found = pd.concat(list(read(path)), ignore_index=True)
    assert found["text"].tolist() == texts
    assert json.dumps([list(one) if not isinstance(one, str) else one for one in found["words"]]) == json.dumps(
        columns["words"].to_pylist()
    )


def test_a_name_of_a_column_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"\u00e9": [1]}, 1, store_schema=False)
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xc3a"))
    refused(path, "cannot be read as Parquet")


def test_a_header_of_a_page_that_holds_a_number_for_a_struct_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pages"
    path.write_bytes(bytes([0x15, 0, 0x15, 2, 0x15, 2, 0x25, 2, 0]) + b"x")  # field 5, of a page of values, is a number
    chunk = ColumnChunk("UNCOMPRESSED", num_values=1, data_page_offset=0, dictionary_page_offset=0)
    with path.open("rb") as stream, pytest.raises(PageError, match="a number where it should hold more"):
        column_pages(stream, chunk, 0)


def test_blocks_of_lz4_as_hadoop_writes_them_are_decompressed() -> None:
    codec, content = arrow.Codec("lz4_raw"), b"abc" * 1_000
    block = codec.compress(content, asbytes=True)
    framed = len(content).to_bytes(4, "big") + len(block).to_bytes(4, "big") + block
    assert _decompressed(framed, HADOOP_LZ4, 3_000) == content
    assert _decompressed(framed + framed, HADOOP_LZ4, 6_000) == content + content
    assert _decompressed(block, HADOOP_LZ4, 3_000) == content
    with pytest.raises((arrow.ArrowException, OSError)):
        _decompressed(bytes(100_000), HADOOP_LZ4, 3_000)
