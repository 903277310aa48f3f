"""Readers: each format as written, and each fault with its file and line."""

import csv
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as arrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from hubflow.data.readers.reading import iter_rows, read_label_list, read_rows
from hubflow.errors import DataError
from hubflow.schemas.references import Split
from hubflow.schemas.settings import DatasetSpec
from hubflow.schemas.tasks import TaskName

few = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
characters = st.characters(exclude_categories=["Cs"])
TRAIN: Split = "train"


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, format: str, task: TaskName | None = None, labelled: bool = True, **options: object) -> pd.DataFrame:
    spec = DatasetSpec.model_validate({"format": format, "train": str(path), **options})
    return read_rows(spec, path, TRAIN, task, labelled)


def fault(path: Path, format: str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, format, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


# CSV and TSV


def test_a_tsv_keeps_quotes_and_numbers_and_na_as_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'label\ttext\n01\t"quoted\n1.0\tNA\nnull\tnull\nNA\tnan\n')
    rows = read(path, "tsv")
    assert rows["text"].tolist() == ['"quoted', "NA", "null", "nan"]
    assert rows["label"].tolist() == ["01", "1.0", "null", "NA"]
    assert rows["row"].tolist() == [2, 3, 4, 5]


def test_a_csv_field_may_hold_commas_quotes_and_line_ends_and_rows_keep_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"a, ""b""\nc",1\n\nplain,0\n')
    rows = read(path, "csv")
    assert rows["text"].tolist() == ['a, "b"\nc', "plain"]
    assert rows["row"].tolist() == [2, 5]


def test_columns_are_taken_by_position_without_a_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "1\tid\tone\n0\tid\ttwo")
    rows = read(path, "tsv", header=False, text_column=2, label_column=0)
    assert rows[["row", "text", "label", "column_1"]].to_numpy().tolist() == [[1, "one", "1", "id"], [2, "two", "0", "id"]]


def test_further_columns_are_carried_through_without_covering_the_contracts(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "row,review,text,label\n9,good,x,1\n")
    rows = read(path, "csv", text_column="review")
    assert rows.to_dict("records") == [{"row": 2, "text": "good", "label": "1", "source_row": "9", "source_text": "x"}]


def test_text_pairs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text_a\ttext_b\tlabel\na\tb\t1\n")
    rows = read(path, "tsv", text_column="text_a", text_pair_column="text_b")
    assert rows[["text", "text_pair", "label"]].to_numpy().tolist() == [["a", "b", "1"]]


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
def test_utf8_with_a_byte_order_mark_and_crlf(tmp_path: Path, prefix: bytes) -> None:
    path = write(tmp_path / "a.tsv", prefix + "text\tlabel\r\n好\t1\r\n坏\t0\r\n".encode())
    assert read(path, "tsv")[["row", "text", "label"]].to_numpy().tolist() == [[2, "好", "1"], [3, "坏", "0"]]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_a_named_encoding(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\n房间太小\t0\n".encode(encoding))
    assert read(path, "tsv", encoding=encoding)["text"].tolist() == ["房间太小"]


def test_an_undecodable_byte_is_named_with_its_line_and_a_fitting_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\ngood\t1\n房间太小\t0\n".encode("gb18030"))
    message = fault(path, "tsv")
    assert "line 3: byte 0xb7 at offset 18" in message
    assert "gb18030, which reads this file" in message
    assert "is not punycode" in fault(path, "tsv", encoding="punycode")
    escaped = write(tmp_path / "b.tsv", "text\tlabel\n\\ud800\t1")
    assert "surrogates not allowed" in fault(escaped, "tsv", encoding="unicode_escape")
    assert "unknown encoding 'utf-9'" in fault(path, "tsv", encoding="utf-9")


def test_lines_with_another_number_of_fields_are_listed(tmp_path: Path) -> None:
    tsv = fault(write(tmp_path / "a.tsv", "text\tlabel\na\t1\nb\nc\t1\t2\n"), "tsv")
    assert "expected 2 field(s)" in tsv
    assert "line 3 has 1, line 4 has 3" in tsv
    csv_file = write(tmp_path / "b.csv", 'text,label\n"a\nb",1\nc,d,1\n')
    assert "line 4 has 3" in fault(csv_file, "csv")


def test_an_open_quote_is_named_with_the_line_it_opens_at(tmp_path: Path) -> None:
    message = fault(write(tmp_path / "a.csv", 'text,label\na,1\n"b,0\nc,1\n'), "csv")
    assert "line 3 (up to line 4)" in message
    assert "quoting: false" in message


def test_a_missing_column_lists_those_found_and_a_close_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "lable\ttext_a\n1\ta\n")
    expected = "no column 'label'; found 2 column(s): 'lable', 'text_a'; did you mean 'lable'?"
    assert expected in fault(path, "tsv", text_column="text_a")
    assert "did you mean 'text_a'?" in fault(path, "tsv")
    assert "set text_column to a position from 0 to 1" in fault(path, "tsv", header=False)
    assert "no column 5" in fault(path, "tsv", header=False, text_column=5)
    assert "are both column" in fault(path, "tsv", header=False, text_column=1, label_column=1)


def test_a_repeated_column_name_is_refused(tmp_path: Path) -> None:
    assert "'text' repeat" in fault(write(tmp_path / "a.tsv", "text\ttext\tlabel\na\tb\t1\n"), "tsv")


def test_missing_empty_and_headed_only_files(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", "text\tlabel\n")
    assert "did you mean 'train.tsv'?" in fault(tmp_path / "trian.tsv", "tsv")
    assert "holds no rows" in fault(tmp_path / "train.tsv", "tsv")
    for nothing in ("", "\n \n", "\ufeff\r\n", "\u3000\n"):
        assert "is empty" in fault(write(tmp_path / "empty.tsv", nothing), "tsv")
    assert "is a folder" in fault(tmp_path, "csv")


def test_blank_lines_hold_no_row_except_in_one_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\n\na\t1\n\n\nb\t0\n\n\n")
    assert read(path, "tsv")["row"].tolist() == [3, 6]
    for format in ("tsv", "csv"):
        path = write(tmp_path / "one.txt", "text\na\n\nb\n\n")
        rows = read(path, format, labelled=False)
        assert rows[["row", "text"]].to_numpy().tolist() == [[2, "a"], [3, ""], [4, "b"]]
        assert "label" not in rows


field = st.text(characters, min_size=1, max_size=12)


@few
@given(st.lists(st.tuples(field, field), min_size=1, max_size=8))
def test_any_text_written_as_csv_comes_back(tmp_path: Path, records: list[tuple[str, str]]) -> None:
    stream = io.StringIO(newline="")
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *records])
    rows = read(write(tmp_path / "a.csv", stream.getvalue()), "csv")
    assert list(zip(rows["text"], rows["label"], strict=True)) == records


unquoted = field.filter(lambda text: not set(text) & set("\t\n\r\ufeff"))


@few
@given(st.lists(st.tuples(unquoted, unquoted), min_size=1, max_size=8))
def test_any_text_written_as_tsv_comes_back(tmp_path: Path, records: list[tuple[str, str]]) -> None:
    content = "\n".join("\t".join(record) for record in [("text", "label"), *records])
    rows = read(write(tmp_path / "a.tsv", content), "tsv")
    assert list(zip(rows["text"], rows["label"], strict=True)) == records
    assert rows["row"].tolist() == list(range(2, len(records) + 2))


@few
@given(st.binary(max_size=60), st.sampled_from(["csv", "tsv", "jsonl", "conll", "msra", "parquet", "image_list"]))
def test_any_bytes_are_read_or_refused_by_a_named_error(tmp_path: Path, content: bytes, format: str) -> None:
    path = write(tmp_path / "a", content)
    for header in (True, False):
        try:
            read(path, format, header=header, text_column=0, label_column=1)
        except DataError as error:
            assert str(path) in str(error)


@pytest.mark.slow
def test_a_million_lines_load_within_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\n" + "a plain line of review text\t1\n" * 1_000_000)
    began = time.perf_counter()
    assert len(read(path, "tsv")) == 1_000_000
    assert time.perf_counter() - began < 20  # takes about 1.5 s alone; the machine is shared


# JSON lines and Parquet


@few
@given(st.lists(st.tuples(field, st.one_of(field, st.integers(), st.booleans())), min_size=1, max_size=8), st.booleans())
def test_any_text_written_as_json_lines_comes_back(tmp_path: Path, records: list[tuple[str, object]], ascii: bool) -> None:
    lines = [json.dumps({"text": text, "label": label, "more": [1]}, ensure_ascii=ascii) for text, label in records]
    rows = read(write(tmp_path / "a.jsonl", "\n".join(lines)), "jsonl")
    assert rows["text"].tolist() == [text for text, _ in records]
    assert rows["label"].tolist() == [label if isinstance(label, str) else json.dumps(label) for _, label in records]
    assert rows["more"].tolist() == [[1]] * len(records)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a"', "line 3: not valid JSON"),
        ('["a", 1]', "line 3: expected a JSON object, found list"),
        ('{"text": 5, "label": 1}', "line 3: 'text' is 5; expected text"),
        ('{"text": "a", "label": {"x": 1}}', "line 3: 'label' is"),
        ('{"text": "a", "label": NaN}', "line 3: not valid JSON"),
        ('{"text": "\\ud800", "label": 1}', "line 3: 'text' holds half a surrogate pair"),
        ("[" * 100_000, "line 3: not valid JSON"),
    ],
)
def test_a_faulty_json_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"text": "good", "label": 1}}\n\n{line}\n')
    assert said in fault(path, "jsonl")


@pytest.mark.parametrize("block", [1, 7, 1 << 22])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_objects_gives_the_rows_of_json_lines(
    tmp_path: Path, block: int, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubflow.data.readers.chunks.BLOCK_BYTES", block)
    records = [{"text": f'é"\\ {place} 𝄞', "label": place % 2, "more": {"a": [1, 2.5, None]}} for place in range(30)]
    lines = read(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records))), "jsonl")
    for ascii in (True, False):
        path = write(tmp_path / "a.json", json.dumps(records, indent=indent, ensure_ascii=ascii))
        assert read(path, "jsonl").equals(lines)
    late = [*records, {"text": "z", "label": 1, "late": "here"}]
    rows = read(write(tmp_path / "b.json", json.dumps(late)), "jsonl")
    assert rows["late"].tolist()[-1] == "here"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '[{"text": "a", "label": 1},\n 5, {"text": "a", "text": "b"}, {"text": 3, "label": 1}]',
            "record 2: expected a JSON object",
        ),
        ('[{"text": "a", "label": 1}, {"text": "a", "text": "b"}]', "record 2: not valid JSON (the name 'text' repeats)"),
        ('[{"text": "a", "label": 1}, {"text": "a", "label": NaN}]', "record 2: not valid JSON (NaN is not JSON)"),
        ('[{"text": "a", "label": 1}, {"text": 3, "label": 1}]', "record 2: 'text' is 3; expected text"),
        ('[{"text": "a", "label": 1},\n {"text":', "line 2: not valid JSON"),
        ('[{"text": "a", "label": 1},\n {"text": "b', "line 2: not valid JSON (Unterminated string"),
        ('[{"text": "a", "label": 1}\n', "line 2: expected , between records, or ] at the end, found the end of the file"),
        ('[{"text": "a", "label": 1}\n {"text": "b"}]', "line 2: expected , between records, or ] at the end, found '{'"),
        ('[{"text": "a", "label": 1}]\n[{"text": "b", "label": 1}]', "line 2: text after the end of the array"),
        ("[]", "holds no rows"),
        (
            '{\n  "text": "a",\n  "label": 1\n}',
            "line 1: an object over several lines; expected one JSON object a line, or one array",
        ),
        ("[1, 2]", "line 1: expected a JSON object, found list"),
    ],
)
def test_a_faulty_array_is_named_by_line_or_record(tmp_path: Path, content: str, said: str) -> None:
    assert said in fault(write(tmp_path / "a.json", content), "jsonl")


def test_a_faulty_record_of_an_array_is_told_apart_and_reading_goes_on(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        b'[{"text": "a", "label": 1}, 5, {"text": "\xff"}, {"text": "b", "label": [1]}, {"text": "c", "label": 0}]',
    )
    spec = DatasetSpec(format="jsonl", train=str(path))
    (chunk,) = iter_rows(spec, path, TRAIN)
    assert chunk.rows["row"].tolist() == [1, 5]
    assert dict(zip(chunk.malformed["row"], chunk.malformed["check"], strict=True)) == {2: "json", 3: "encoding", 4: "type"}


def test_a_json_record_without_text_is_left_to_the_contract_and_without_the_column_is_refused(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n{"label": 0}\n'), "jsonl")
    assert rows["text"].isna().tolist() == [False, True]
    assert "no column 'text'; found 2 column(s)" in fault(write(tmp_path / "b.jsonl", '{"texts": "a", "label": 1}\n'), "jsonl")


def test_token_lists_of_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"tokens": ["a", "b"], "labels": ["O", 3]}\n')
    rows = read(path, "jsonl", task="sequence_labelling")
    assert rows["tokens"].tolist() == [["a", "b"]]
    assert rows["labels"].tolist() == [["O", "3"]]
    other = write(tmp_path / "b.jsonl", '{"words": ["a"], "tags": "O"}\n')
    message = fault(other, "jsonl", task="sequence_labelling", tokens_column="words", label_column="tags")
    assert "line 1: 'tags' is \"O\"; expected a list" in message


def test_parquet_labels_of_any_plain_type_become_their_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for labels in ([1, 0], ["1", "0"], pd.Categorical(["1", "0"]), np.array([1, 0], dtype="int8")):
        pd.DataFrame({"text": ["a", "b"], "label": labels, "n": [1, 2]}, index=[5, 6]).to_parquet(path)
        rows = read(path, "parquet")
        assert rows[["row", "text", "label"]].to_numpy().tolist() == [[1, "a", "1"], [2, "b", "0"]]
        assert rows["n"].tolist() == [1, 2]
    pd.DataFrame({"text": [1, 2], "label": ["a", "b"]}).to_parquet(path)
    assert "column 'text' is of type int64; expected text" in fault(path, "parquet")
    assert "cannot be read as Parquet" in fault(write(tmp_path / "b.parquet", "text\tlabel\n"), "parquet")


def test_token_lists_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"tokens": [["a", "b"], ["c"]], "label": [[0, 1], [2]]}).to_parquet(path)
    rows = read(path, "parquet", task="sequence_labelling")
    assert rows["tokens"].tolist() == [["a", "b"], ["c"]]
    assert rows["labels"].tolist() == [["0", "1"], ["2"]]
    pd.DataFrame({"tokens": ["a b"], "label": [["O"]]}).to_parquet(path)
    assert "expected lists of text" in fault(path, "parquet", task="sequence_labelling")


# Token files


def test_a_name_that_repeats_in_a_json_line_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": "0"}\n{"text": "a", "text": "b", "label": "1"}\n')
    assert "line 2: not valid JSON (the name 'text' repeats)" in fault(path, "jsonl")


def test_conll_sentences_skip_document_starts_and_keep_the_line_of_their_first_token(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\r\n. . O O\n\n\n \t\nOn\tIN\tB-PP\tO\n")
    rows = read(path, "conll")
    assert rows["row"].tolist() == [3, 8]
    assert rows["tokens"].tolist() == [["EU", "."], ["On"]]
    assert rows["labels"].tolist() == [["B-ORG", "O"], ["O"]]
    assert read(path, "conll", label_column=1)["labels"].tolist() == [["NNP", "."], ["IN"]]


def test_conll_tokens_may_be_unusual_white_space(tmp_path: Path) -> None:
    rows = read(write(tmp_path / "a.txt", "a O\n\u3000 O\n\x85 O\n"), "conll")
    assert rows["tokens"].tolist() == [["a", "\u3000", "\x85"]]


def test_faulty_conll_lines_and_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a B-X\nb\n\nc d O\n")
    assert "expected 2 column(s) in every line, as in line 1; line 2 has 1, line 4 has 3" in fault(path, "conll")
    first = write(tmp_path / "first.txt", "a b O\n\nin O\n\nc O\nd O\n\n")
    assert "expected 2 column(s) in every line, as in line 3; line 1 has 3" in fault(first, "conll")
    good = write(tmp_path / "b.txt", "a X O\n")
    assert "a position from 1 to 2" in fault(good, "conll", label_column=3)
    assert "a position from 1 to 2" in fault(good, "conll", label_column="tag")
    assert "holds no sentences" in fault(write(tmp_path / "c.txt", "-DOCSTART- O\n\n"), "conll")
    assert list(read(write(tmp_path / "d.txt", "a\nb\n"), "conll", labelled=False)) == ["row", "tokens"]


@pytest.mark.parametrize("header", ["", "text_a\tlabel\n"])
def test_msra_lines_with_and_without_a_header(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "a.tsv", f"{header}中\x02国\tB-LOC\x02I-LOC\n好\tO\n")
    rows = read(path, "msra")
    assert rows["tokens"].tolist() == [["中", "国"], ["好"]]
    assert rows["labels"].tolist() == [["B-LOC", "I-LOC"], ["O"]]
    assert rows["row"].tolist() == ([2, 3] if header else [1, 2])


def test_a_faulty_msra_line_is_named(tmp_path: Path) -> None:
    assert "line 2 has 1" in fault(write(tmp_path / "a.tsv", "a\tO\nb O\n"), "msra")


# Images


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), shade).save(path, format="PNG")
    return path


def test_an_image_folder_is_sorted_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("cat/b.png", "cat/a.png", "cat/.c.png", "dog/deep/a b.png", ".git/x.png", "cat/Thumbs.db", "README"):
        picture(tmp_path / name)
    rows = read(tmp_path, "image_folder")
    assert rows["path"].tolist() == [str(tmp_path / name) for name in ("cat/a.png", "cat/b.png", "dog/deep/a b.png")]
    assert rows["label"].tolist() == ["cat", "cat", "dog"]
    assert rows["row"].tolist() == [1, 2, 3]
    assert rows["sha256"].str.len().eq(64).all()
    (tmp_path / "empty").mkdir()
    assert "class folder(s) without images: 'empty'" in fault(tmp_path, "image_folder")


def test_an_image_folder_without_classes_is_refused_but_can_be_predicted(tmp_path: Path) -> None:
    file = picture(tmp_path / "images" / "a.png")
    assert "holds no class folders" in fault(tmp_path / "images", "image_folder")
    rows = read(tmp_path / "images", "image_folder", labelled=False)
    assert rows["path"].tolist() == [str(file)]
    assert "label" not in rows
    assert "no such folder" in fault(tmp_path / "imagse", "image_folder")
    assert "no such file or folder" in fault(tmp_path / "gone.jpg", "image_folder")
    assert "is a file" in fault(file, "image_folder")


def test_paths_of_an_image_list_may_hold_spaces_and_lie_beside_the_list(tmp_path: Path) -> None:
    picture(tmp_path / "some cats" / "a 1.png")
    picture(tmp_path / "b.png", 9)
    path = write(tmp_path / "train.txt", "some cats/a 1.png cat\n\nb.png\tdog\r\n")
    rows = read(path, "image_list")
    assert rows["path"].tolist() == [str(tmp_path / "some cats" / "a 1.png"), str(tmp_path / "b.png")]
    assert rows["label"].tolist() == ["cat", "dog"]
    assert rows["row"].tolist() == [1, 3]
    unlabelled = read(write(tmp_path / "predict.txt", "some cats/a 1.png\nb.png\n"), "image_list", labelled=False)
    assert unlabelled["path"].tolist() == rows["path"].tolist()


def test_integers_of_an_image_list_number_the_label_list(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    labels = write(tmp_path / "label_list.txt", "big cat\ndog\n")
    path = write(tmp_path / "train.txt", "a.png 1\na.png 0\na.png 2\na.png dog\n")
    assert read(path, "image_list", label_list=str(labels))["label"].tolist() == ["dog", "big cat", "2", "dog"]
    assert read(path, "image_list")["label"].tolist() == ["1", "0", "2", "dog"]
    numbers = write(tmp_path / "numbers.txt", "2\n1\n0\n")
    assert read(path, "image_list", label_list=str(numbers))["label"].tolist() == ["1", "0", "2", "dog"]


def test_missing_images_are_listed_with_their_rows(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    path = write(tmp_path / "train.txt", "a.png 1\nb.png 1\n" + "c.png 0\n" * 50)
    message = fault(path, "image_list")
    assert "expected image files in" in message
    assert "path and label split at the last blank" in message
    assert f"row 2 ({tmp_path / 'b.png'}: No such file or directory)" in message
    assert "(41 more)" in message


@pytest.mark.parametrize("line", ["../a.png 1", "/etc/passwd 1", "a.png", "sub/../../a.png 1"])
def test_a_list_line_without_label_or_out_of_the_folder_is_refused(tmp_path: Path, line: str) -> None:
    picture(tmp_path / "a.png")
    assert "line 1 (" in fault(write(tmp_path / "lists" / "train.txt", line), "image_list")


def test_digits_are_png_bytes_of_the_classes_asked_for() -> None:
    rows = read_rows(DatasetSpec.model_validate({"format": "digits", "digits": (3, 7)}), None, TRAIN)
    assert set(rows["label"]) == {"3", "7"}
    assert rows["row"].is_unique
    assert rows["path"].iloc[0] == f"digits/{rows['row'].iloc[0] - 1}"
    image = Image.open(io.BytesIO(rows["image"].iloc[0]))
    assert (image.size, image.mode, image.format) == ((8, 8), "L", "PNG")
    assert np.asarray(image).max() == 239  # the brightest of this image is 15 of 16


# Label lists and real data


def test_a_label_list_keeps_its_order_and_repeats_are_named(tmp_path: Path) -> None:
    assert read_label_list(write(tmp_path / "a.txt", "\ufeffdog\r\ncat\n\n")) == ["dog", "cat"]
    with pytest.raises(DataError, match="line 3: label 'dog' repeats line 1"):
        read_label_list(write(tmp_path / "b.txt", "dog\ncat\ndog\n"))
    with pytest.raises(DataError, match="is empty"):
        read_label_list(write(tmp_path / "c.txt", "\n"))


def test_sst2_has_its_rows(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("sst2")
    paths = [folder / f"{name}.tsv" for name in ("train", "dev", "test")]
    sizes = [len(read(path, "tsv", header=False, text_column=0, label_column=1)) for path in paths]
    assert sizes == [6920, 872, 1821]


def test_chnsenticorp_has_its_rows_quotes_and_all(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("chnsenticorp")
    frames = {name: read(folder / f"{name}.tsv", "tsv", text_column="text_a") for name in ("train", "dev", "test")}
    assert {name: len(rows) for name, rows in frames.items()} == {"train": 9600, "dev": 1200, "test": 1200}
    lines = (folder / "train.tsv").read_text(encoding="utf-8").split("\n")
    texts = [lines[row - 1].split("\t")[1] for row in frames["train"]["row"]]
    assert frames["train"]["text"].tolist() == texts
    assert any('"' in text for text in texts)


@pytest.mark.slow
def test_conll2003_has_its_sentences(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("conll2003_en")
    frames = [read(folder / f"{name}.txt", "conll") for name in ("train", "valid", "test")]
    assert [len(rows) for rows in frames] == [14041, 3250, 3453]
    assert frames[0]["tokens"].iloc[0] == ["EU", "rejects", "German", "call", "to", "boycott", "British", "lamb", "."]
    assert frames[0]["row"].iloc[0] == 3
    assert sum(map(len, frames[2]["tokens"])) == 46435


def test_flowers_has_its_images(shared_data: Callable[[str], Path]) -> None:
    rows = read(shared_data("flowers"), "image_folder")
    expected = {"dandelion": 1052, "tulip": 984, "rose": 784, "daisy": 764, "sunflower": 733}
    assert rows["label"].value_counts().to_dict() == expected


@pytest.mark.parametrize(
    "metadata",
    [
        b'{"info":{"features":' + b"[" * 100_000,
        b'{"info":{"features":{"label":' + b"[" * 20_000 + b"]" * 20_000 + b"}}}",
        b'{"info":{"features":{"label":' + b'{"feature":' * 5_000 + b"1" + b"}" * 5_000 + b"}}}",
        b"\xff\xfe",
        b"0" * 10_000,
    ],
)
def test_metadata_of_a_parquet_file_that_is_not_of_datasets_is_left_alone(tmp_path: Path, metadata: bytes) -> None:
    table = arrow.table({"text": ["a", "b"], "label": [0, 1]}).replace_schema_metadata({b"huggingface": metadata})
    parquet.write_table(table, tmp_path / "rows.parquet")
    rows = read_rows(DatasetSpec(format="parquet", train="x"), tmp_path / "rows.parquet", "train")
    assert rows["label"].tolist() == ["0", "1"]
