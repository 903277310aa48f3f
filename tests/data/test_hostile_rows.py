"""Files of rows that would stall a machine: what they may ask of it is bounded, and the error names the limit."""

import bz2
import gzip
import json
import lzma
import re
import resource
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hubflow.data.readers.chunks import Chunk
from hubflow.data.readers.reading import iter_rows, read_label_list
from hubflow.data.staging import as_table
from hubflow.errors import DataError
from hubflow.schemas.settings import DatasetSpec
from hubflow.schemas.tasks import TaskName

TEXT: TaskName = "text_classification"
WORDS: TaskName = "sequence_labelling"
MIB = 1 << 20


@contextmanager
def within(seconds: float, mib: int = 1_500) -> Iterator[None]:
    """Refuse a block that takes longer, or needs more memory beyond the most that was needed before."""
    begun, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - begun < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) // 1024 < mib


def chunks(path: Path, task: TaskName = TEXT, **settings: Any) -> list[Chunk]:
    return list(iter_rows(DatasetSpec(train="x", **settings), path, "train", task, True))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_json_lines_that_share_no_names_are_refused(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": "a", "label": "b", f"name {number}": 1}) + "\n" for number in range(20_000))
    path = write(tmp_path / "a.jsonl", lines)
    with within(20), pytest.raises(DataError, match=r"a\.jsonl: more than 2,000 columns \(20,002\), limits\.max_columns"):
        chunks(path, format="jsonl")


def test_json_lines_whose_names_come_late_are_refused(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": "a", f"name {number % 1_999}": 1}) + "\n" for number in range(20_000))
    path = write(tmp_path / "a.jsonl", lines + '{"label": "b"}\n' + '{"one": 1, "more": 2}\n')
    with within(60), pytest.raises(DataError, match=r"limits\.max_columns"):
        chunks(path, format="jsonl")


@pytest.mark.slow
def test_json_lines_of_few_names_are_read_in_bounded_memory(tmp_path: Path) -> None:
    lines = "".join(
        json.dumps({"text": "a", "label": "b", f"name {number % 1_500}": 1, "x": number}) + "\n" for number in range(8_000)
    )
    path = write(tmp_path / "a.jsonl", lines)
    with within(120, 2_000):
        rows = 0
        for chunk in iter_rows(DatasetSpec(train="x", format="jsonl"), path, "train", TEXT, True):
            assert chunk.rows["x"].tolist() == list(range(rows, rows + len(chunk.rows)))
            rows += len(chunk.rows)
    assert rows == 8_000


@pytest.mark.slow
def test_objects_in_a_column_that_share_no_names_are_read(tmp_path: Path) -> None:
    records = [{"text": "a", "label": "b", "inner": {f"name {number}": [{f"x{number}": 1}]}} for number in range(20_000)]
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    with within(20):
        found = chunks(path, format="jsonl")
        values = [text for chunk in found for text in as_table(chunk.rows, "a").column("inner").to_pylist()]
    assert [json.loads(value) for value in values] == [record["inner"] for record in records]


def test_an_object_whose_names_repeat_at_the_end_is_malformed(tmp_path: Path) -> None:
    names = ", ".join(f'"n{number}": 1' for number in range(300_000))
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": "b"}\n{' + names + ', "n299999": 1}\n')
    with within(20):
        (chunk,) = chunks(path, format="jsonl")
    assert "the name 'n299999' repeats" in chunk.malformed["found"].iloc[0]


VALUES = {
    "lists": ("[" * 100 + "]" * 100, r"nested in more than 64 levels, limits\.max_nesting"),
    "objects": ('{"a":' * 900 + "1" + "}" * 900, r"nested"),
    "many lists": ("[" * 100_000 + "]" * 100_000, "recursion"),
    "a whole number": ("9" * 1_000_000, "4300"),
    "decimals": ("0." + "9" * 1_000_000, "a number of 1,000,002 characters"),
    "an exponent of many digits": ("1e" + "9" * 4_000, "a number with the exponent 9"),
    "an exponent": ("1e99999999999999999999", "a number with the exponent 9"),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("is_array", [False, True])
def test_a_record_that_no_reader_bears_is_malformed(tmp_path: Path, name: str, is_array: bool) -> None:
    value, found = VALUES[name]
    record = '{"text": "a", "label": "b", "x": ' + value + "}"
    good = '{"text": "a", "label": "b", "x": 1}'
    path = write(tmp_path / "a.jsonl", f"[{good}, {record}]" if is_array else f"{good}\n{record}\n")
    with within(20):
        try:
            (chunk,) = chunks(path, format="jsonl")
        except DataError as error:
            assert is_array and "nested too deeply" in str(error)  # where it ends is not known
            return
    assert chunk.malformed["check"].tolist() == ["json"]
    assert len(chunk.rows) == 1
    assert re.search(found, chunk.malformed["found"].iloc[0])


def test_an_exponent_that_no_float_holds_stays_as_it_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 1e999999999, "x": -1e999999999}\n')
    with within(5):
        (chunk,) = chunks(path, format="jsonl")
    assert chunk.rows["label"].tolist() == ["1E+999999999"]
    assert as_table(chunk.rows, "a").column("x").to_pylist() == ["-1E+999999999"]


@pytest.mark.parametrize("quoting", [True, False])
def test_a_file_of_too_many_columns_is_refused(tmp_path: Path, quoting: bool) -> None:
    names = ",".join(["text", "label", *(f"c{number}" for number in range(100_000))])
    path = write(tmp_path / "a.csv", names + "\n" + ",".join(["1"] * 100_002) + "\n")
    with (
        within(10),
        pytest.raises(DataError, match=r"a\.csv: line 1: more than 2,000 columns \(100,002\), limits\.max_columns"),
    ):
        chunks(path, format="csv", quoting=quoting)
    path = write(tmp_path / "a.csv", "text,label\n" + "a,b\n" * 3 + ",".join(["1"] * 100_002) + "\n")
    (chunk,) = chunks(path, format="csv", quoting=quoting)
    assert chunk.malformed["check"].tolist() == ["fields"]


def test_sentences_of_too_many_columns_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", (" ".join(["a"] * 3_000) + "\n") * 2)
    with pytest.raises(DataError, match=r"more than 2,000 columns \(3,000\), limits\.max_columns"):
        chunks(path, WORDS, format="conll")


ENDLESS: dict[str, tuple[str, str, TaskName]] = {
    "a field": ("a.csv", "text,label\n" + "x" * 5_000_000, TEXT),
    "a field without quotes": ("a.tsv", "text\tlabel\n" + "x" * 5_000_000, TEXT),
    "a quoted field": ("a.csv", 'text,label\n"' + "x\n" * 2_500_000, TEXT),
    "a record": ("a.csv", 'text,label\n"' + '\n","' * 1_000_000, TEXT),
    "a value": ("a.jsonl", '{"text": "' + "x" * 5_000_000 + '"}', TEXT),
    "a value of an array": ("a.json", '[{"text": "' + "x" * 9_000_000 + '"}]', TEXT),
    "a sentence": ("a.conll", "a B-X\n" * 2_000_000, WORDS),
    "a word": ("a.conll", "a" * 5_000_000, WORDS),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", ENDLESS)
def test_what_does_not_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    name, content, task = ENDLESS[what]
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_LINE_CHARS", "1000000")
    kind = {"json": "jsonl"}.get(name.partition(".")[2], name.partition(".")[2])
    with within(20), pytest.raises(DataError, match=r"1,000,000 characters, limits\.max_line_chars"):
        chunks(write(tmp_path / name, content), task, format=kind)


ROWS = b"text,label\n" + b"a fine film,good\n" * 150_000


def compressed(folder: Path, kind: str, content: bytes) -> Path:
    path = folder / f"a.csv.{kind}"
    if kind == "zst":
        import pyarrow as arrow

        with arrow.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(content)
        return path
    if kind.startswith("zip"):
        method = {"zip": zipfile.ZIP_DEFLATED, "zip2": zipfile.ZIP_BZIP2, "zipx": zipfile.ZIP_LZMA}[kind]
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a.csv", content)
        return path
    return write(path, {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind](content))


KINDS = ("gz", "bz2", "xz", "zst", "zip", "zip2", "zipx")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_compressed_file_holds_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = compressed(tmp_path, kind, ROWS)
    assert sum(len(chunk.rows) for chunk in chunks(path, format="csv")) == 150_000
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_DECODED_BYTES", "1000000")
    with pytest.raises(DataError, match=r"content has more than 1,000,000 bytes, limits\.max_decoded_bytes"):
        chunks(path, format="csv")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_refused_after_a_line_of_it(tmp_path: Path, kind: str) -> None:
    path = compressed(tmp_path, kind, bytes(1 << 27))
    assert path.stat().st_size < MIB
    with within(30, 700), pytest.raises(DataError, match=r"a\.csv"):
        chunks(path, format="csv")


def test_an_xz_file_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 30}]
    path = write(tmp_path / "a.csv.xz", lzma.compress(b"text,label\na,b\n", filters=filters))
    with within(5, 200), pytest.raises(DataError, match=r"a\.csv\.xz: .*Memory usage limit"):
        chunks(path, format="csv")


def test_streams_of_xz_one_after_the_other_are_one_file(tmp_path: Path) -> None:
    parts = lzma.compress(b"text,label\na,b\n") + lzma.compress(b"c,d\n") + lzma.compress(b"")
    (chunk,) = chunks(write(tmp_path / "a.csv.xz", parts), format="csv")
    assert chunk.rows["text"].tolist() == ["a", "c"]
    with pytest.raises(DataError, match="damaged, cut off"):
        chunks(write(tmp_path / "b.csv.xz", parts[:-70]), format="csv")


def test_a_file_that_is_read_at_once_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_DOCUMENT_BYTES", "1000000")
    path = write(tmp_path / "labels.txt", gzip.compress(b"".join(b"label %d\n" % number for number in range(300_000))))
    with pytest.raises(DataError, match=r"more than 1,000,000 bytes, limits\.max_document_bytes"):
        read_label_list(path)
    path = write(tmp_path / "a.csv", gzip.compress(ROWS))
    with pytest.raises(DataError, match=r"limits\.max_document_bytes"):
        chunks(path, format="csv", encoding="utf-7")
