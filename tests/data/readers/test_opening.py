"""Compressed files give the rows of plain ones; what is no text file of rows is named for what it is."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from hubflow.data.readers.opening import plain_name
from hubflow.data.readers.reading import iter_rows, read_label_list, read_rows
from hubflow.errors import DataError
from hubflow.schemas.settings import DatasetSpec
from hubflow.schemas.tasks import TaskName

CSV = b"text,label\n" + b"".join(b"good %d,pos\nbad %d,neg\n" % (number, number) for number in range(50))
SOURCES: dict[str, tuple[bytes, TaskName]] = {
    "csv": (CSV, "text_classification"),
    "tsv": (CSV.replace(b",", b"\t"), "text_classification"),
    "jsonl": (b'{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n', "text_classification"),
    "conll": (b"EU B-ORG\nsays O\n\nOn O\n", "sequence_labelling"),
    "msra": (b"a\x02b\tO\x02B-X\n", "sequence_labelling"),
}


def zipped(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


def tarred(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("a.csv")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "two gz in one": lambda content: gzip.compress(content[:10]) + gzip.compress(content[10:]),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
    "two zst in one": lambda content: zstd(content[:10]) + zstd(content[10:]),
    "zip": lambda content: zipped(("a/", b""), ("a/train", content), ("__MACOSX/a/._train", b"\0"), (".DS_Store", b"\0")),
}


def read(path: Path, content: bytes, format: str = "csv", task: TaskName | None = None, **options: Any) -> pd.DataFrame:
    path.write_bytes(content)
    spec = DatasetSpec.model_validate({"format": format, "train": str(path), **options})
    return read_rows(spec, path, "train", task)


def fault(path: Path, content: bytes, format: str = "csv", **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, content, format, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("how", COMPRESS)
@pytest.mark.parametrize("format", SOURCES)
def test_a_compressed_file_gives_the_rows_of_the_plain_one(how: str, format: str, tmp_path: Path) -> None:
    content, task = SOURCES[format]
    plain = read(tmp_path / "plain", content, format, task)
    assert read(tmp_path / "compressed", COMPRESS[how](content), format, task).equals(plain)
    assert len(plain) >= 1


def test_a_compressed_label_list_is_read(tmp_path: Path) -> None:
    (tmp_path / "labels.txt.gz").write_bytes(gzip.compress(b"neg\npos\n"))
    assert read_label_list(tmp_path / "labels.txt.gz") == ["neg", "pos"]


@pytest.mark.slow
@pytest.mark.parametrize("how", COMPRESS)
def test_a_compressed_file_is_never_in_memory_as_a_whole(how: str, tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    content = b"text,label\n" + b"the same line of text again and again,1\n" * 1_000_000  # 40 MB
    path.write_bytes(COMPRESS[how](content))
    del content
    spec = DatasetSpec(format="tsv", delimiter=",", train=str(path))
    tracemalloc.start()
    try:
        rows = iter_rows(spec, path, "train", chunk_rows=1_000)
        assert sum(len(next(rows).rows) for _ in range(50)) == 50_000
        assert tracemalloc.get_traced_memory()[1] < 60_000_000  # as text and lines at once it takes 170 MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("how", "damage"), [(how, damage) for how in ("gz", "bz2", "xz") for damage in ("cut", "changed")] + [("zst", "cut")]
)
def test_a_damaged_compressed_file_is_refused_by_its_name(how: str, damage: str, tmp_path: Path) -> None:
    whole = COMPRESS[how](os.urandom(20_000).hex().encode() + CSV)
    broken = whole[:-100] if damage == "cut" else whole[:5000] + bytes(100) + whole[5100:]
    assert "damaged, cut off or locked" in fault(tmp_path / "a", broken, header=False, text_column=0, label_column=0)


MARKED = CSV.decode()
NAMED: dict[str, tuple[bytes, str]] = {
    "xlsx": (zipped(("[Content_Types].xml", b""), ("xl/workbook.xml", b"")), "is an Excel workbook (.xlsx); expected a text"),
    "docx": (zipped(("[Content_Types].xml", b""), ("word/document.xml", b"")), "is a Word document"),
    "ods": (zipped(("mimetype", b"application/vnd.oasis"), ("content.xml", b"")), "is an OpenDocument file"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "is an old Excel workbook"),
    "zip of two": (zipped(("a.csv", CSV), ("b.csv", CSV)), "is a zip file of 2 files (a.csv, b.csv)"),
    "zip of one without a name": (zipped(("?", CSV), ("b.csv", CSV)).replace(b"?", b"\0"), "is a zip file of 2 files"),
    "zip of none": (zipped(), "is a zip file of 0 files"),
    "tar": (tarred(CSV), "is a tar archive"),
    "tar.gz": (gzip.compress(tarred(CSV)), "is a tar archive"),
    "twice": (gzip.compress(gzip.compress(CSV)), "is compressed with gzip"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", "is a 7-Zip archive"),
    "parquet": (b"PAR1\x15\x04", "is a Parquet file; expected a text file of rows: set `format: parquet`"),
    "feather": (b"ARROW1\x00\x00", "is an Arrow IPC (Feather) file"),
    "sqlite": (b"SQLite format 3\x00", "is an SQLite database"),
    "pdf": (b"%PDF-1.7\n", "is a PDF document"),
    "png": (b"\x89PNG\r\n\x1a\n", "is a PNG image"),
    "pickle": (b"\x80\x04\x95", "is a Python pickle"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0a\nsize 9\n", "is a Git LFS pointer"),
    "annex": (b"/annex/objects/SHA256E-s9--0a.csv\n", "is a git-annex pointer"),
    "html": (b"<!DOCTYPE html>\n<html lang='en'>\n", "is an HTML page"),
    "html after blank lines": (b"\n\n<html><head><title>Sign in, please</title>\n", "is an HTML page"),
    "xml": (b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>', "is an XML document"),
    "utf-16-le without mark": (
        MARKED.encode("utf-16-le"),
        "looks like UTF-16 without a byte-order mark; set `encoding: utf-16-le`",
    ),
    "utf-16-be without mark": (MARKED.encode("utf-16-be"), "set `encoding: utf-16-be`"),
    "empty gz": (gzip.compress(b""), "the file is empty"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_no_text_file_is_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    content, said = NAMED[name]
    assert said in fault(tmp_path / "train.csv", content)


def test_a_locked_zip_file_and_another_file_as_parquet_are_named(tmp_path: Path) -> None:
    locked = bytearray(zipped(("a.csv", CSV)))
    for place in (locked.index(b"PK\x03\x04") + 6, locked.index(b"PK\x01\x02") + 8):
        locked[place] |= 1  # the flag of a password
    assert "encrypted" in fault(tmp_path / "a.zip", bytes(locked))
    assert "it is another file, such as CSV" in fault(tmp_path / "a.parquet", CSV, "parquet")
    assert "it is compressed with gzip" in fault(tmp_path / "b.parquet", gzip.compress(b"PAR1"), "parquet")
    assert "it is a Git LFS pointer" in fault(tmp_path / "c.parquet", NAMED["lfs"][0], "parquet")
    assert "it is damaged or cut off" in fault(tmp_path / "d.parquet", b"PAR1" + bytes(50), "parquet")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("format", ["csv", "jsonl", "conll"])
def test_a_file_with_the_byte_order_mark_of_utf_16_is_read_as_such(encoding: str, format: str, tmp_path: Path) -> None:
    content, task = SOURCES[format]
    marked = content.decode().encode(encoding)
    assert read(tmp_path / "a", marked, format, task).equals(read(tmp_path / "b", content, format, task))
    assert read(tmp_path / "c", gzip.compress(marked), format, task).equals(read(tmp_path / "b", content, format, task))
    said = fault(tmp_path / "d", marked, format, encoding="latin-1")
    assert f"begins with the byte-order mark of {encoding.upper()}" in said


def test_carriage_returns_end_lines_where_there_are_no_line_feeds(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    found = read(path, CSV.replace(b"\n", b"\r"))
    (chunk,) = iter_rows(DatasetSpec(format="csv", train=str(path)), path, "train")
    assert chunk.coerced == {"carriage returns as line ends": 101}
    assert found.equals(read(tmp_path / "b.csv", CSV))
    kept = read(tmp_path / "c.tsv", b"text\tlabel\na\rb\t1\n", "tsv")
    assert kept["text"].tolist() == ["a\rb"]


def test_an_encoding_that_fits_is_not_always_chinese(tmp_path: Path) -> None:
    said = fault(tmp_path / "a.csv", "text,label\ncafé noir,1\nélan né,0\n".encode("cp1252"))
    assert "line 2: byte 0xe9" in said
    assert "for example cp1252, which reads this file" in said


@pytest.mark.parametrize(
    ("name", "plain"),
    [("a.csv.gz", "a.csv"), ("x.JSONL.zst", "x.JSONL"), ("a.csv", "a.csv"), ("a.gz", "a"), ("reviews.tsv.zip", "reviews.tsv")],
)
def test_the_plain_name_of_a_file(name: str, plain: str, tmp_path: Path) -> None:
    assert plain_name(tmp_path / name) == plain


def test_the_plain_name_of_a_zip_file_is_that_of_the_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "export.zip").write_bytes(zipped(("data/rows.jsonl", b"{}")))
    assert plain_name(tmp_path / "export.zip") == "rows.jsonl"
    assert plain_name(tmp_path / "missing.zip") == "missing"
