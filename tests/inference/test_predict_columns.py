"""predict: further columns keep type and value from any file to any output; what cannot be kept is refused first."""

import csv
import datetime
import io
import json
import math
import re
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as arrow
import pyarrow.csv as arrow_csv
import pyarrow.json as arrow_json
import pytest
from pyarrow import parquet
from runs import Run

from hubflow.errors import ContractError, EmptyError, HubflowError
from hubflow.inference.batch import shard as part
from hubflow.schemas.settings import PredictResult, PredictSettings
from hubflow.stages.predict import predict

pytestmark = pytest.mark.slow

BIG = 2**53 + 1
NULL = None


def run(exported: Run, data: object, output: Path, **more: Any) -> PredictResult:
    return predict.fn(PredictSettings(export=str(exported.export_folder), data=str(data), output=str(output), **more))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def cells_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def texts(size: int) -> list[str]:
    return [f"a fine film {place}" for place in range(size)]


@pytest.fixture
def unpredicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that predicts a part fails."""
    monkeypatch.setattr(part, "finished", lambda *_: pytest.fail("a part was predicted"))


ZONE = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
COLUMNS: dict[str, tuple[Any, list[Any], list[str]]] = {
    # name: values, as JSON lines have them, as the fields of CSV
    "int64": (arrow.array([BIG, NULL, -(2**63)]), [BIG, NULL, -(2**63)], [str(BIG), "", str(-(2**63))]),
    "int32": (arrow.array([7, NULL, -1], arrow.int32()), [7, NULL, -1], ["7", "", "-1"]),
    "uint64": (arrow.array([2**64 - 1, NULL, 0], arrow.uint64()), [2**64 - 1, NULL, 0], [str(2**64 - 1), "", "0"]),
    "float": (arrow.array([1e-12, NULL, math.inf]), [1e-12, NULL, "Infinity"], ["1e-12", "", "inf"]),
    "nan": (arrow.array([math.nan, NULL, -math.inf]), ["NaN", NULL, "-Infinity"], ["nan", "", "-inf"]),
    "third": (arrow.array([1 / 3, 5e-324, 1.0]), [1 / 3, 5e-324, 1.0], [repr(1 / 3), "5e-324", "1.0"]),
    "float32": (arrow.array([0.1, NULL, 2.0], arrow.float32()), [0.1, NULL, 2.0], ["0.1", "", "2.0"]),
    "truth": (arrow.array([True, NULL, False]), [True, NULL, False], ["true", "", "false"]),
    "decimal": (
        arrow.array([Decimal("12345678901234567890.12"), NULL, Decimal("0.10")], arrow.decimal128(25, 2)),
        ["12345678901234567890.12", NULL, "0.10"],
        ["12345678901234567890.12", "", "0.10"],
    ),
    "day": (arrow.array([datetime.date(9999, 12, 31), NULL, datetime.date(1, 1, 1)]), ["9999-12-31", NULL, "0001-01-01"], []),
    "time": (
        arrow.array([253402300799999999, NULL, 0], arrow.timestamp("us")),
        ["9999-12-31T23:59:59.999999", NULL, "1970-01-01T00:00:00"],
        [],
    ),
    "zoned": (
        arrow.array([0, NULL, 1], arrow.timestamp("ms", "+05:30")),
        ["1970-01-01T05:30:00+05:30", NULL, "1970-01-01T05:30:00.001+05:30"],
        [],
    ),
    "berlin": (arrow.array([0, NULL, 10**9], arrow.timestamp("ns", "Europe/Berlin")), [], []),
    "span": (
        arrow.array([90_061_000_001, NULL, -1], arrow.duration("us")),
        ["P1DT1H1M1.000001S", NULL, "-P0DT0H0M0.000001S"],
        [],
    ),
    "clock": (arrow.array([1, NULL, 0], arrow.time64("us")), ["00:00:00.000001", NULL, "00:00:00"], []),
    "bytes": (arrow.array([b"\xff\x00", NULL, b""]), ["/wA=", NULL, ""], ["/wA=", "", '""']),
    "uuid": (arrow.array([uuid.UUID(int=5).bytes, NULL, uuid.UUID(int=6).bytes], arrow.uuid()), [], []),
    "list": (arrow.array([[1, NULL], NULL, []]), [[1, NULL], NULL, []], ['"[1, null]"', "", "[]"]),
    "pair": (arrow.array([[1, 2], NULL, [3, 4]], arrow.list_(arrow.int16(), 2)), [[1, 2], NULL, [3, 4]], []),
    "struct": (arrow.array([{"a": 2**62 + 1, "b": ["ü"]}, NULL, {"a": NULL, "b": NULL}]), [], []),
    "map": (
        arrow.array([[("k", 1)], NULL, []], arrow.map_(arrow.string(), arrow.int64())),
        [[["k", 1]], NULL, []],
        ['"[[""k"", 1]]"', "", "[]"],
    ),
    "kind": (arrow.array(["x", NULL, "y"]).dictionary_encode(), ["x", NULL, "y"], ["x", "", "y"]),
    "json": (arrow.array(['{"a":\n1}', NULL, "[1.50]"], arrow.json_()), [{"a": 1}, NULL, [1.5]], []),
    "nothing": (arrow.nulls(3), [NULL] * 3, [""] * 3),
    "text_": (arrow.array(["", NULL, "007"]), ["", NULL, "007"], ['""', "", "007"]),
    'a "name", odd': (arrow.array(["NA", "1e5", "true"]), ["NA", "1e5", "true"], []),
}


@pytest.fixture(scope="module")
def everything(text_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("everything")
    table = arrow.table({"text": texts(3), **{name: values for name, (values, _, _) in COLUMNS.items()}})
    parquet.write_table(table, folder / "rows.parquet")
    for ending in ("parquet", "csv", "jsonl"):
        run(text_run, folder / "rows.parquet", folder / f"out.{ending}", rows_per_shard=2)
    return folder


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_any_type_comes_back_in_every_format(name: str, everything: Path) -> None:
    given, as_json, as_csv = COLUMNS[name]
    found = parquet.read_table(everything / "out.parquet").column(name)
    assert found.type == (given.type if not arrow.types.is_string(given.type) else arrow.large_string()) or as_plain(found.type)
    assert str(found.to_pylist()) == str(given.to_pylist())
    lines = [line[name] for line in lines_of(everything / "out.jsonl")]
    assert lines == (as_json or [as_it_reads(value) for value in given.to_pylist()])
    assert list(map(type, lines)) == list(map(type, as_json or lines))
    cells = [line[name] for line in cells_of(everything / "out.csv")]
    expected = as_csv or ["" if value is NULL else value if isinstance(value, str) else json.dumps(value) for value in lines]
    if name == "json":
        assert [cell and json.loads(cell) for cell in cells] == [{"a": 1}, "", [1.5]]
        return
    if name == "struct":
        assert [cell and json.loads(cell) for cell in cells] == [value or "" for value in lines]
        return
    assert cells == [cell and next(csv.reader([cell]))[0] if as_csv else cell for cell in expected]


def as_plain(kind: Any) -> bool:
    """Parquet names the items of lists its own way."""
    return bool(arrow.types.is_nested(kind) or arrow.types.is_dictionary(kind))


def as_it_reads(value: Any) -> Any:
    return (
        value
        if value is NULL or isinstance(value, dict | list)
        else value.isoformat()
        if hasattr(value, "isoformat")
        else str(value)
    )


def test_an_empty_field_of_csv_is_no_value_and_a_quoted_one_an_empty_text(everything: Path) -> None:
    options = arrow_csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""])
    read = arrow_csv.read_csv(everything / "out.csv", convert_options=options)
    assert read.column("int64").to_pylist() == [BIG, NULL, -(2**63)]
    assert read.column("kind").to_pylist() == ["x", NULL, "y"]
    assert (everything / "out.csv").read_text().count('""') >= 1


def test_floats_read_back_as_the_same_floats(text_run: Run, tmp_path: Path) -> None:
    import numpy as np

    values = np.random.default_rng(0).integers(0, 2**64, 400, np.uint64).view(np.float64)
    values = values[np.isfinite(values)]
    parquet.write_table(arrow.table({"text": texts(len(values)), "x": values}), tmp_path / "rows.parquet")
    for ending in ("csv", "jsonl"):
        run(text_run, tmp_path / "rows.parquet", tmp_path / f"out.{ending}")
    assert [float(line["x"]) for line in cells_of(tmp_path / "out.csv")] == values.tolist()
    assert [line["x"] for line in lines_of(tmp_path / "out.jsonl")] == values.tolist()
    exact = parquet.read_table(run_to(text_run, tmp_path / "rows.parquet", tmp_path / "out.parquet"))
    for name in ("probability", "probability_0"):
        as_given = exact.column(name).to_pylist()
        kind = np.float32 if exact.schema.field(name).type == arrow.float32() else np.float64
        for found in (cells_of(tmp_path / "out.csv"), lines_of(tmp_path / "out.jsonl")):
            assert [float(kind(line[name])) for line in found] == as_given


def run_to(exported: Run, data: Path, output: Path) -> Path:
    run(exported, data, output)
    return output


ODD = [
    "a\rb",
    "a\nb",
    "a\r\nb",
    'say "x"',
    "c,d",
    "u\u2028v",
    "u\u2029v",
    "x\x85y",
    "v\x0bw",
    "n\x00l",
    " both ",
    "\t",
    "é",
    "=1+1",
    "\ufeff",
]


def test_odd_characters_make_no_row_and_no_field_for_any_reader(text_run: Run, tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"text": [f"film {odd}" for odd in ODD], "odd": ODD}), tmp_path / "rows.parquet")
    for ending in ("csv", "jsonl"):
        run(text_run, tmp_path / "rows.parquet", tmp_path / f"out.{ending}", rows_per_shard=4)
    path = tmp_path / "out.csv"
    assert [line["odd"] for line in cells_of(path)] == ODD
    for engine in ("c", "python", "pyarrow"):
        read = pd.read_csv(path, engine=engine, keep_default_na=False)  # type: ignore[call-overload]
        assert read["odd"].tolist() == ODD
    several = arrow_csv.ParseOptions(newlines_in_values=True)
    assert arrow_csv.read_csv(path, parse_options=several).column("odd").to_pylist() == ODD
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["odd"] for line in lines.splitlines()] == ODD
    assert pd.read_json(io.StringIO(lines), lines=True)["odd"].tolist() == ODD
    assert arrow_json.read_json(tmp_path / "out.jsonl").column("odd").to_pylist() == ODD


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_integers_with_nulls_come_back_as_they_were(
    ending: str, text_run: Run, shared_case: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, output = shared_case("integers-with-nulls"), tmp_path / f"out.{ending}"
    run(text_run, folder / "rows.parquet", output)
    assert values_of(output, "id") == [BIG, NULL, 4873214862074861313]
    run(text_run, folder / "part-*.parquet", output)
    assert values_of(output, "id") == [BIG, NULL, 7]


def values_of(path: Path, name: str) -> list[Any]:
    """A column of whole numbers."""
    if path.suffix == ".parquet":
        assert arrow.types.is_integer(parquet.read_schema(path).field(name).type)
        return parquet.read_table(path).column(name).to_pylist()  # type: ignore[no-any-return]
    if path.suffix == ".jsonl":
        return [line[name] for line in lines_of(path)]
    return [int(line[name]) if line[name] else NULL for line in cells_of(path)]


PARTS: list[tuple[Any, Any, Any, list[Any]]] = [
    (arrow.array([1], arrow.int32()), arrow.array([2**40]), arrow.int64(), [1, 2**40]),
    (arrow.array([BIG]), arrow.array([7.0, NULL, math.nan]), arrow.int64(), [BIG, 7, NULL, NULL]),  # as pandas writes nulls
    (arrow.array([1]), arrow.array([2.5]), arrow.float64(), [1.0, 2.5]),
    (arrow.array([5], arrow.uint64()), arrow.array([-5]), arrow.int64(), [5, -5]),
    (arrow.array([2**64 - 1], arrow.uint64()), arrow.array([-5]), arrow.decimal128(20, 0), [Decimal(2**64 - 1), Decimal(-5)]),
    (
        arrow.array([Decimal("1.10")], arrow.decimal128(5, 2)),
        arrow.array([Decimal("1.234")], arrow.decimal128(7, 3)),
        arrow.decimal128(7, 3),
        [Decimal("1.100"), Decimal("1.234")],
    ),
    (arrow.array(["a"]), arrow.array(["b", NULL]).dictionary_encode(), arrow.large_string(), ["a", "b", NULL]),
    (arrow.array([[1]]), arrow.array([[]], arrow.list_(arrow.null())), arrow.large_list(arrow.int64()), [[1], []]),
    (arrow.nulls(2), arrow.array([True]), arrow.bool_(), [NULL, NULL, True]),
    (
        arrow.array([253402300799], arrow.timestamp("s", "UTC")),  # year 9999, which no count of nanoseconds reaches
        arrow.array([1000], arrow.timestamp("ns", "+00:00")),
        arrow.timestamp("us", "UTC"),
        list(arrow.array([253402300799000000, 1], arrow.timestamp("us", "UTC")).to_pylist()),
    ),
]


@pytest.mark.parametrize(("first", "second", "kind", "values"), PARTS)
def test_parts_of_other_widths_are_in_one_type(
    first: Any, second: Any, kind: Any, values: list[Any], text_run: Run, tmp_path: Path
) -> None:
    for name, column in (("a", first), ("b", second)):
        parquet.write_table(arrow.table({"text": texts(len(column)), "x": column}), tmp_path / f"{name}.parquet")
    run(text_run, tmp_path / "[ab].parquet", tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet").column("x")
    assert str(found.type).replace("element", "item") == str(kind)
    assert found.to_pylist() == values


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (arrow.array(["a"]), arrow.array([1])),
        (arrow.array([BIG]), arrow.array([2.5])),  # no float is BIG
        (arrow.array([True]), arrow.array([1])),
        (arrow.array([0], arrow.timestamp("s", "UTC")), arrow.array([0], arrow.timestamp("s"))),
        (arrow.array([0], arrow.date32()), arrow.array([0], arrow.timestamp("s"))),
        (arrow.array([1]), arrow.array([[1]])),
    ],
)
@pytest.mark.usefixtures("unpredicted")
def test_parts_of_types_that_do_not_fit_are_refused_first(first: Any, second: Any, text_run: Run, tmp_path: Path) -> None:
    for name, column in (("a", first), ("b", second)):
        parquet.write_table(arrow.table({"text": texts(1), "x": column}), tmp_path / f"{name}.parquet")
    with pytest.raises(ContractError, match=r"b\.parquet: column 'x' is of type .*; in .*a\.parquet it is of type"):
        run(text_run, tmp_path / "[ab].parquet", tmp_path / "out.parquet")


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.usefixtures("unpredicted")
def test_what_a_format_cannot_hold_is_refused_first(ending: str, text_run: Run, tmp_path: Path) -> None:
    when = arrow.array([0], arrow.timestamp("s", "Mars/Olympus"))
    parquet.write_table(arrow.table({"text": texts(1), "when": when}), tmp_path / "rows.parquet")
    with pytest.raises(HubflowError, match=r"rows\.parquet: column 'when' is of type timestamp\[.*Mars/Olympus\], which"):
        run(text_run, tmp_path / "rows.parquet", tmp_path / f"out.{ending}")


RECORDS: list[dict[str, Any]] = [
    {"id": 1, "big": BIG, "unsigned": 2**64 - 1, "truth": True, "code": "007", "list": [1, 2], "struct": {"a": {"b": "ü"}}},
    {"id": None, "big": 2, "truth": None, "code": None, "list": [], "struct": None},
    {"id": 3, "big": None, "unsigned": 0, "truth": False, "code": "", "list": None, "struct": {"a": None}},
]


def test_json_lines_keep_their_types(text_run: Run, tmp_path: Path) -> None:
    rows = [{"text": text, **record} for text, record in zip(texts(3), RECORDS, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(text_run, tmp_path / "rows.jsonl", tmp_path / "out.jsonl")
    names = list(RECORDS[0])
    found = [{name: line[name] for name in names} for line in lines_of(tmp_path / "out.jsonl")]
    assert found == [{name: record.get(name) for name in names} for record in RECORDS]
    run(text_run, tmp_path / "rows.jsonl", tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert [str(table.schema.field(name).type) for name in names[:5]] == ["int64", "int64", "uint64", "bool", "large_string"]
    assert table.column("list").to_pylist() == [[1, 2], [], None]


MIXED = [
    "1",
    '"1"',
    "1.0",
    '"x"',
    "12345678901234567890.12",
    "123456789012345678901234567890",
    "true",
    '{"b": 1, "a": [2.50]}',
    "1e400",
    "null",
]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_values_of_json_lines_without_a_common_type_are_kept_as_json(size: int, text_run: Run, tmp_path: Path) -> None:
    """However the file is cut into parts."""
    lines = [f'{{"text": "film {place}", "x": {value}}}' for place, value in enumerate(MIXED)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    run(text_run, tmp_path / "rows.jsonl", tmp_path / "out.jsonl", rows_per_shard=size)
    found = [
        line.partition('"x": ')[2].partition(', "predicted"')[0] for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ]
    assert [json.loads(value, parse_float=Decimal) for value in found] == [
        json.loads(value, parse_float=Decimal) for value in MIXED
    ]
    assert [type(json.loads(value)) for value in found] == [type(json.loads(value)) for value in MIXED]
    run(text_run, tmp_path / "rows.jsonl", tmp_path / "out.csv", rows_per_shard=size)
    plain = ["1", "1", "1.0", "x", *MIXED[4:7], '{"b": 1, "a": [2.5]}', "1E+400", ""]
    assert [line["x"] for line in cells_of(tmp_path / "out.csv")] == plain


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_fields_of_csv_are_text_as_it_is_written(ending: str, text_run: Run, tmp_path: Path) -> None:
    fields = ["007", str(BIG), "", "1.10", "TRUE", "2024-01-01T00:00:00+05:30", "1e5", "NA", " x"]
    (tmp_path / "rows.csv").write_text("text,x\n" + "".join(f"film,{field}\n" for field in fields))
    run(text_run, tmp_path / "rows.csv", tmp_path / f"out.{ending}", rows_per_shard=2)
    if ending == "parquet":
        assert parquet.read_table(tmp_path / "out.parquet").column("x").to_pylist() == fields
    else:
        found = (cells_of if ending == "csv" else lines_of)(tmp_path / f"out.{ending}")
        assert [line["x"] for line in found] == fields


TEXTS = ["a fine film", "a dull film"]
LAYOUTS: dict[str, Any] = {
    "string_view": arrow.array(TEXTS, arrow.string_view()),
    "large_string": arrow.array(TEXTS, arrow.large_string()),
    "dictionary": arrow.array(TEXTS).dictionary_encode(),
    "binary": arrow.array(TEXTS, arrow.binary()),
    "binary_view": arrow.array(TEXTS, arrow.binary_view()),
    "fixed_size_binary": arrow.array(TEXTS, arrow.binary(11)),
    "json": arrow.array(TEXTS, arrow.json_()),
    "dictionary of large": arrow.array(TEXTS, arrow.large_string()).dictionary_encode(),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_text_of_any_arrow_type_is_text(name: str, text_run: Run, tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"text": TEXTS}), tmp_path / "plain.parquet")
    parquet.write_table(arrow.table({"text": LAYOUTS[name], "label": LAYOUTS[name]}), tmp_path / "rows.parquet")
    for data in ("plain", "rows"):
        run(text_run, tmp_path / f"{data}.parquet", tmp_path / f"{data}.out.parquet")
    plain, found = (parquet.read_table(tmp_path / f"{data}.out.parquet") for data in ("plain", "rows"))
    assert found.column("text").to_pylist() == TEXTS
    assert found.column("probability") == plain.column("probability")


@pytest.mark.parametrize("name", ["string_view", "binary_view", "list_view"])
def test_views_pass_through_as_further_columns(name: str, text_run: Run, tmp_path: Path) -> None:
    column = LAYOUTS.get(name, arrow.array([["x"], NULL], arrow.list_view(arrow.string_view())))
    parquet.write_table(arrow.table({"text": TEXTS, "x": column}), tmp_path / "rows.parquet")
    run(text_run, tmp_path / "rows.parquet", tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet").column("x").to_pylist() == column.to_pylist()


def test_bytes_that_are_no_text_are_set_aside(text_run: Run, tmp_path: Path) -> None:
    parquet.write_table(arrow.table({"text": arrow.array([b"a film", b"\xff"])}), tmp_path / "rows.parquet")
    result = run(text_run, tmp_path / "rows.parquet", tmp_path / "out.parquet")
    assert (result.rows, result.invalid_rows) == (1, 1)


def test_an_empty_part_is_noted_and_the_others_are_predicted(
    text_run: Run, shared_case: Callable[[str], Path], tmp_path: Path
) -> None:
    result = run(text_run, shared_case("empty-part") / "part-*.csv", tmp_path / "out.csv")
    assert result.rows == 2
    assert [line["id"] for line in cells_of(tmp_path / "out.csv")] == ["1", "2"]
    (note,) = result.notes
    assert note.startswith("1 file(s) hold no rows: ") and note.endswith("part-1.csv")


EMPTY: dict[str, Callable[[Path], Any]] = {
    "zero bytes.csv": lambda path: path.write_bytes(b""),
    "blank.csv": lambda path: path.write_bytes(b"\n \r\n"),
    "mark alone.csv": lambda path: path.write_bytes(b"\xef\xbb\xbf"),
    "header alone.csv": lambda path: path.write_bytes(b"text,x"),
    "header alone.tsv": lambda path: path.write_bytes(b"text\tx\n"),
    "zero bytes.jsonl": lambda path: path.write_bytes(b""),
    "blank.jsonl": lambda path: path.write_bytes(b"\n\n"),
    "zero bytes.parquet": lambda path: path.write_bytes(b""),
    "no rows.parquet": lambda path: parquet.write_table(arrow.table({"text": arrow.array([], arrow.string())}), path),
}


@pytest.mark.parametrize("name", EMPTY)
def test_one_empty_file_of_many_is_noted_and_all_empty_are_refused(name: str, text_run: Run, tmp_path: Path) -> None:
    EMPTY[name](tmp_path / name)
    (tmp_path / "rows.csv").write_text("text\na film\n")
    result = run(text_run, tmp_path / "*.*", tmp_path / "out" / "out.parquet")
    assert result.rows == 1
    assert name in result.notes[0]
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(EmptyError, match="hold no rows"):
        run(text_run, tmp_path / "*.*", tmp_path / "out" / "out.parquet")
    with pytest.raises(EmptyError):
        run(text_run, tmp_path / name, tmp_path / "out" / "out.parquet")


def test_predictions_of_a_linked_file_land_beside_the_link(text_run: Run, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "work").mkdir()
    target, link = tmp_path / "store" / "rows-2024.csv", tmp_path / "work" / "rows.csv"
    target.write_text("text\na film\n")
    link.symlink_to(target)
    result = predict.fn(PredictSettings(export=str(text_run.export_folder), data=str(link)))
    assert Path(result.output) == tmp_path / "work" / "rows.csv.predictions.parquet"
    assert [path.name for path in target.parent.iterdir()] == ["rows-2024.csv"]
    (tmp_path / "linked").symlink_to(tmp_path / "work")
    result = predict.fn(PredictSettings(export=str(text_run.export_folder), data=str(tmp_path / "linked" / "rows.csv")))
    assert Path(result.output) == tmp_path / "linked" / "rows.csv.predictions.parquet"


DOCS = (Path(__file__).parents[2] / "docs" / "how-to" / "data-formats.md").read_text(encoding="utf-8")


def blocks_of(section: str) -> list[str]:
    text = DOCS.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_samples_of_the_data_formats_page_run(text_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (sample,) = blocks_of("Parquet")
    exec(sample, {})  # noqa: S102
    result = run(text_run, "reviews.parquet", tmp_path / "labelled.csv")
    assert result.rows == 2 and result.metrics
    (reading,) = blocks_of("Predictions")
    found = eval(reading, {"pandas": pd})  # noqa: S307
    assert found["customer"].tolist() == [BIG, pd.NA]
    assert found["text"].tolist() == ["a fine film", "a dull plot"]


def test_no_value_stays_none_where_a_column_becomes_json(text_run: Run, tmp_path: Path) -> None:
    rows: list[list[dict[str, Any]]] = [
        [{"text": "a", "odd": 1.5}, {"text": "b", "odd": None}, {"text": "c"}],
        [{"text": "d", "odd": "word"}],
    ]
    for number, lines in enumerate(rows):
        (tmp_path / f"part-{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    for ending in ("parquet", "csv", "jsonl"):
        run(text_run, tmp_path / "part-*.jsonl", tmp_path / f"out.{ending}")
    assert parquet.read_table(tmp_path / "out.parquet").column("odd").to_pylist() == ["1.5", NULL, NULL, '"word"']
    assert [cells["odd"] for cells in cells_of(tmp_path / "out.csv")] == ["1.5", "", "", "word"]
    assert [line["odd"] for line in lines_of(tmp_path / "out.jsonl")] == [1.5, NULL, NULL, "word"]
