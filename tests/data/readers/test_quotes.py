"""Quotes and delimiters: what they hide is found, and they can be set."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hubflow.data.readers.reading import read_rows
from hubflow.errors import ContractError, DataError, HubflowError, SettingsError
from hubflow.schemas.parsing import parse_settings
from hubflow.schemas.settings import DatasetSpec, PredictSettings
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.store import Store

ROWS = "".join(f"{place},good {place},pos\n{place},bad {place},neg\n" for place in range(10))


def findings(folder: Path, path: Path, **spec: Any) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Count and examples of the findings about quotes."""
    settings = DatasetSpec.model_validate({"format": "csv", "train": str(path), "dev_fraction": 0, **spec})
    reference = load_dataset.fn(settings, "text_classification", str(folder / "store"))
    report = Store(folder / "store").open(reference).facts["data_report"]
    found = {one["check"]: (one["count"], tuple(one["examples"])) for one in report["findings"]}
    return {check: what for check, what in found.items() if check.endswith("quotes")}


def written(folder: Path, content: str, name: str = "a.csv") -> Path:
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def rows(folder: Path, content: str, format: str = "csv", **spec: Any) -> list[list[str]]:
    path = written(folder, content)
    settings = DatasetSpec.model_validate({"format": format, "train": str(path), **spec})
    return read_rows(settings, path, "train")[["text", "label"]].to_numpy().tolist()


def fault(folder: Path, content: str, format: str = "csv", **spec: Any) -> str:
    with pytest.raises(DataError) as caught:
        rows(folder, content, format, **spec)
    return str(caught.value)


def test_an_open_quote_that_closes_rows_later_is_found_with_its_lines(
    shared_case: Callable[[str], Path], tmp_path: Path
) -> None:
    path = shared_case("open-quote") / "train.csv"
    assert findings(tmp_path, path) == {"open_quotes": (3, ("lines 12 to 15",))}
    with pytest.raises(ContractError, match=r"open_quotes: .*train\.csv: 1 quoted field.* \(first: lines 12 to 15\)"):
        findings(tmp_path, path, checks={"open_quotes": "fail"})
    assert findings(tmp_path, path, checks={"open_quotes": "ignore"}) == {}


@pytest.mark.parametrize(
    ("swallowed", "lines"),
    [
        ('5,"great movie,pos\n6,so so,neg\n7,dull",neg\n', "lines 22 to 24"),
        ('5,"great movie,pos\n7,dull",neg\n', "lines 22 to 23"),
        ('5,so so,pos\r\n6,"great,pos\r\n7,dull",neg\r\n', "lines 23 to 24"),
    ],
)
def test_rows_swallowed_by_a_quote_are_found_in_files_of_more_columns(swallowed: str, lines: str, tmp_path: Path) -> None:
    path = written(tmp_path, "id,text,label\n" + ROWS + swallowed + "9,end,pos\n")
    assert findings(tmp_path, path)["open_quotes"][1] == (lines,)


def test_rows_swallowed_by_a_quote_are_found_where_the_label_comes_first(tmp_path: Path) -> None:
    few = "".join(f"pos,good {place}\nneg,bad {place}\n" for place in range(4))
    path = written(tmp_path, "label,text\n" + few + 'pos,"great\nneg,so so\npos,dull"\n')
    assert findings(tmp_path, path) == {"open_quotes": (2, ("lines 10 to 12",))}


def test_texts_of_several_lines_are_no_open_quotes(tmp_path: Path) -> None:
    texts = "".join(f'"Dear sir, {place}\nbye",pos\n"a\nb, {place}\n",neg\n"x {place}\n\ny",neg\n' for place in range(9))
    assert findings(tmp_path, written(tmp_path, "text,label\n" + texts)) == {}
    one_column = '"a\nb"\n"c\nd"\n'
    path = written(tmp_path, "text\n" + one_column)
    assert len(read_rows(DatasetSpec(format="csv", train=str(path)), path, "test", labelled=False)) == 2


def test_a_quote_that_swallows_rows_into_another_number_of_fields_is_named_with_its_lines(tmp_path: Path) -> None:
    assert "lines 3 to 6, one record, have 3" in fault(tmp_path, 'text,label\na,1\n"b\nc,0\nd,1\ne",1,2\n')


@pytest.mark.parametrize(
    ("format", "content", "found"),
    [
        ("tsv", "text\tlabel\n" + '"a b"\t1\n"c d"\t0\n', (2, ("every field of 'text'",))),
        ("tsv", "text\tlabel\n" + '"a b"\t"1"\n""\t"0"\n"c"\t"0"\n', (6, ("every field of 'label'", "every field of 'text'"))),
        ("tsv", "text\tlabel\n" + 'a b\t1\n"he said ""hi"""\t0\n', (1, ("1 field(s) of 'text'",))),
        ("csv", "text, label\n" + ' "a b", 1\n "c d", 0\n', (2, ("every field of 'text'",))),
    ],
)
def test_fields_that_keep_their_quotes_are_found(format: str, content: str, found: tuple[Any, ...], tmp_path: Path) -> None:
    report = findings(tmp_path, written(tmp_path, content), format=format, max_invalid_fraction=0.5)
    assert report == {"kept_quotes": found}


def test_a_quotation_in_a_text_is_no_quoted_column(tmp_path: Path) -> None:
    content = 'text\tlabel\n"so it goes"\t1\n"open\t0\nplain "words"\t0\n'
    assert findings(tmp_path, written(tmp_path, content), format="tsv") == {}


def test_delimiter_quote_and_escape_are_settings(tmp_path: Path) -> None:
    assert rows(tmp_path, "text;label\ngood, fine;1\n", delimiter=";") == [["good, fine", "1"]]
    assert rows(tmp_path, 'text|label\n"good | fine"|1\n', delimiter="|") == [["good | fine", "1"]]
    assert rows(tmp_path, 'text|label\na "b|1\n', "tsv", delimiter="|") == [['a "b', "1"]]
    assert rows(tmp_path, "text,label\n'it, is',1\n", quote="'") == [["it, is", "1"]]
    assert rows(tmp_path, 'text,label\n"he said \\"hi\\", ok",1\n', escape="\\") == [['he said "hi", ok', "1"]]
    assert rows(tmp_path, 'text\tlabel\nhe said\\\tok "\t1\n', "tsv", escape="\\") == [['he said\tok "', "1"]]
    assert rows(tmp_path, '"text"\t"label"\n"a\tb"\t"1"\n', "tsv", quote='"') == [["a\tb", "1"]]
    assert rows(tmp_path, "text\tlabel\na, b\t1\n", delimiter="\\t") == [["a, b", "1"]]


@pytest.mark.parametrize("model", [DatasetSpec, PredictSettings])
@pytest.mark.parametrize(
    "wrong",
    [{"delimiter": "||"}, {"delimiter": ""}, {"quote": "\n"}, {"delimiter": ";", "quote": ";"}, {"quote": '"', "escape": '"'}],
)
def test_a_character_in_two_roles_or_none_is_refused(model: Any, wrong: dict[str, str]) -> None:
    given = {"format": "csv", "train": "a"} if model is DatasetSpec else {"export": "e", "data": "d"}
    with pytest.raises(SettingsError):
        parse_settings(model, {**given, **wrong})


@pytest.mark.parametrize(
    ("content", "format", "spec", "hint"),
    [
        ("text;label\ngood, fine;1\nbad;0\n", "csv", {}, 'set `delimiter: ";"`'),
        (
            "text\tlabel\ngood, fine\t1\nbad\t0\n",
            "csv",
            {},
            'a tab separates the fields of the first lines: set `delimiter: "\\t"`',
        ),
        ("text,label\ngood,1\nbad,0\n", "tsv", {}, 'set `delimiter: ","`'),
        ("good|1\nbad|0\n", "csv", {"header": False, "text_column": 0, "label_column": 1}, 'set `delimiter: "|"`'),
        ('"text"\t"label"\n"a"\t"1"\n', "tsv", {}, "set `quoting: true`"),
        ('{"text": "a", "label": 1}\n', "csv", {}, "set `format: jsonl`"),
        ("a;1\nb, c;0\n", "csv", {"header": False, "text_column": 0, "label_column": 0}, 'set `delimiter: ";"`'),
    ],
)
def test_a_file_that_is_plainly_separated_by_something_else_gets_a_hint(
    content: str, format: str, spec: dict[str, Any], hint: str, tmp_path: Path
) -> None:
    with pytest.raises(HubflowError) as caught:
        rows(tmp_path, content, format, **spec)
    assert hint in str(caught.value)
