"""Further columns keep type and value in a data set, its splits and quarantine, in evaluations, slices and groups."""

import datetime
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow as arrow
import pytest
from pandera.typing import Series
from pyarrow import parquet
from runs import WORDS, run_stages, text_settings
from small_modules import make_tiny_bert

from hubflow.data.duplicates import group_keys
from hubflow.data.quarantine import sort_out
from hubflow.errors import ContractError, EmptyError, HubflowError
from hubflow.evaluation.folder import read_details
from hubflow.schemas.references import DatasetRef
from hubflow.schemas.rows import TextRows, contract_of
from hubflow.schemas.settings import DatasetSpec, FineTuneSettings
from hubflow.stages.evaluate_export import evaluate_export
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.store import Store

BIG = 2**53 + 1
SIZE = 24
EXTRAS: dict[str, Any] = {
    "key": arrow.array([None if place % 5 == 0 else BIG + place for place in range(SIZE)]),
    "year": arrow.array([None if place % 4 == 0 else place % 2 + 1 for place in range(SIZE)], arrow.int32()),
    "unsigned": arrow.array([2**64 - 1 - place if place else None for place in range(SIZE)], arrow.uint64()),
    "truth": arrow.array([[True, None, False][place % 3] for place in range(SIZE)]),
    "price": arrow.array([Decimal("12345678901234567890.10")] * SIZE, arrow.decimal128(24, 2)),
    "day": arrow.array([datetime.date(9999, 12, 31)] * SIZE),
    "when": arrow.array(range(SIZE), arrow.timestamp("us", "Asia/Kolkata")),
    "list": arrow.array([[BIG, None], None] * (SIZE // 2)),
    "kind": arrow.array(["x", "y", None] * (SIZE // 3)).dictionary_encode(),
    "whole": arrow.array([1.0, None] * (SIZE // 2)),
    "nan": arrow.array([float("nan"), None] * (SIZE // 2)),
}


def table(size: int = SIZE) -> Any:
    words = [f"a {'fine' if place % 2 else 'dull'} film of no plot ." for place in range(size)]
    return arrow.table({"text": words, "label": [place % 2 for place in range(size)], **EXTRAS})


def rows_measured(evaluated: pd.DataFrame, labels: tuple[str, ...]) -> float:
    """A metric of a user's own that looks at a key with nulls."""
    assert str(evaluated["key"].dtype) == ("Int64" if evaluated["key"].isna().any() else "int64")
    return float(evaluated["key"].max() % 1000)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("columns")
    settings = text_settings(folder, make_tiny_bert(folder / "bert", WORDS))
    parquet.write_table(table(), folder / "rows.parquet")
    settings["data"] = {"format": "parquet", "train": str(folder / "rows.parquet"), "test": str(folder / "rows.parquet")}
    settings["evaluate"] = {
        "slices": {"columns": ["year", "truth", "whole", "key", "kind", "price"], "max_values": 9},
    }
    return run_stages(FineTuneSettings.model_validate(settings))


def same(found: Any, given: Any) -> None:
    for name in EXTRAS:
        assert str(found.column(name).to_pylist()) == str(given.column(name).to_pylist())
        assert found.schema.field(name).type == given.schema.field(name).type or name == "list"


@pytest.mark.slow
def test_every_split_and_evaluation_has_the_columns_as_they_were(run: Any) -> None:
    folder = run.store.open(run.dataset).folder
    same(parquet.read_table(folder / "test.parquet"), table())
    train = parquet.read_table(folder / "train.parquet")
    same(train, table().take(train.column("row").to_numpy() - 1))
    same(parquet.read_table(run.store.open(run.evaluation).folder / "test.parquet"), table())
    measured = run.settings.evaluate.model_copy(update={"metrics": (f"{__name__}:rows_measured",)})
    found = evaluate_export.fn(run.export, run.dataset, measured, run.settings.store)
    same(parquet.read_table(run.store.open(found).folder / "test.parquet"), table())
    assert found.metrics[f"{__name__}:rows_measured"] == (BIG + SIZE - 1) % 1000


@pytest.mark.slow
def test_slices_are_called_what_the_values_are(run: Any) -> None:
    details = read_details(run.store, run.evaluation)["test"]
    names = {
        column: {one.value for one in details.slices if one.column == column} for column in ("year", "truth", "whole", "kind")
    }
    assert names["year"] == {"1", "2", "(missing)"}
    assert names["truth"] == {"True", "False", "(missing)"}
    assert names["whole"] == {"1", "(missing)"}
    assert names["kind"] == {"x", "y", "(missing)"}
    assert [one.rows for one in details.slices if one.column == "price"] == [SIZE]
    keys = [one.rows for one in details.slices if one.column == "key"]
    assert sum(keys) == SIZE


def load(folder: Path, source: object, **spec: Any) -> DatasetRef:
    settings = DatasetSpec.model_validate({"format": "parquet", "dev_fraction": 0, "train": str(source), **spec})
    return load_dataset.fn(settings, "text_classification", str(folder / "store"))


def train_of(folder: Path, reference: DatasetRef) -> Any:
    return parquet.read_table(Store(folder / "store").open(reference).folder / "train.parquet")


@pytest.mark.parametrize("column", ["key", "year", "unsigned", "when", "kind", "day", "whole"])
def test_rows_of_a_group_stay_together(column: str, tmp_path: Path) -> None:
    size = 400
    kinds = {"key": BIG, "year": 0, "unsigned": 2**63, "when": 0, "kind": 0, "day": 0, "whole": 0}
    values = [None if place % 7 == 0 else kinds[column] + place % 40 for place in range(size)]
    typed = {
        "kind": lambda: arrow.array([None if one is None else str(one) for one in values]).dictionary_encode(),
        "whole": lambda: arrow.array(values, arrow.float64()),
    }.get(column, lambda: arrow.array(values, EXTRAS[column].type))()
    labels = [str(place // 2 % 2) for place in range(size)]
    parquet.write_table(
        arrow.table({"text": [f"t{n}" for n in range(size)], "label": labels, "g": typed}), tmp_path / "a.parquet"
    )
    reference = load(tmp_path, tmp_path / "a.parquet", group_column="g", dev_fraction=0.3)
    folder = Store(tmp_path / "store").open(reference).folder
    groups = {split: set(parquet.read_table(folder / f"{split}.parquet").column("g").to_pylist()) for split in ("train", "dev")}
    assert groups["train"] & groups["dev"] <= {None}
    assert len(groups["train"] | groups["dev"]) == 41


def test_a_group_is_the_same_as_number_and_as_text_whatever_is_beside_it() -> None:
    given: list[Any] = [
        pd.Series(["1", "2"]),
        pd.Series([1, 2]),
        pd.Series([1.0, 2.0, 2.5]),
        pd.array([1, 2, None], "Int64"),
        pd.Series([1, 2], dtype="int8[pyarrow]"),
        pd.Series([1, "2"], dtype=object),
        pd.Categorical(["1", "2"]),
    ]
    keys = [group_keys(pd.Series(values))[0][:2].tolist() for values in given]
    assert all(one == keys[0] for one in keys)
    _, known = group_keys(pd.Series([None, np.nan, "", "x"], dtype=object))
    assert known.tolist() == [False, False, False, True]


def test_quarantined_rows_show_the_values_that_they_had(tmp_path: Path) -> None:
    rows = {"text": ["a", " ", "c", ""], "label": [0, 1, 1, 0], "key": [1, BIG, None, None], "price": [Decimal("1.10")] * 4}
    parquet.write_table(arrow.table(rows), tmp_path / "a.parquet")
    reference = load(tmp_path, tmp_path / "a.parquet", max_invalid_fraction=0.6)
    assert train_of(tmp_path, reference).column("key").to_pylist() == [1, None]
    (path,) = (tmp_path / "store" / "quarantine").glob("*/train.parquet")
    aside = parquet.read_table(path)
    assert aside.column("key").to_pylist() == [str(BIG), None]
    assert aside.column("price").to_pylist() == ["1.10", "1.10"]


class Dated(TextRows):
    """Texts with a year and a price."""

    year: Series[pd.Int64Dtype] = pa.Field(nullable=True)
    price: Series[float] = pa.Field(nullable=True)


def test_a_contract_names_types_without_regard_to_the_nulls_of_a_chunk(tmp_path: Path) -> None:
    assert contract_of("text", Dated) is Dated
    for years, prices in (([1, 2], [1, 2]), ([1, None], [1.5, float("nan")]), ([None, None], [None, 2.5])):
        columns = {"year": arrow.array(years, arrow.int64()), "price": arrow.array(prices)}
        parquet.write_table(arrow.table({"text": ["a", "b"], "label": [0, 1], **columns}), tmp_path / "a.parquet")
        settings = DatasetSpec(format="parquet", train=str(tmp_path / "a.parquet"), dev_fraction=0)
        load_dataset.fn(settings, "text_classification", str(tmp_path / "store"), contract=Dated)


class Floats(TextRows):
    """Texts with a key that is made a float."""

    key: Series[float] = pa.Field(coerce=True)


def test_a_contract_that_would_change_a_key_sets_its_row_aside() -> None:
    rows = pd.DataFrame({"row": [1, 2], "text": ["a", "b"], "label": ["x", "y"], "key": [BIG, 7]})
    accepted, rejected = sort_out(rows, Floats)
    assert accepted["row"].tolist() == [2]
    assert rejected["checks"].tolist() == [["key: coerced_value"]]


# Several files as one source


def write(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def test_a_glob_of_files_is_one_source_and_an_empty_file_is_noted(tmp_path: Path) -> None:
    write(tmp_path / "part-0.csv", ["text,label,id", "good film,1,1", "bad plot,0,2"])
    write(tmp_path / "part-1.csv", ["text,label,id"])
    (tmp_path / "part-2.csv").write_bytes(b"")
    write(tmp_path / "part-3.csv", ["id,label,text", "3,1,good joy"])
    reference = load(tmp_path, tmp_path / "part-*.csv", format="csv")
    found = train_of(tmp_path, reference)
    assert found.column("text").to_pylist() == ["good film", "bad plot", "good joy"]
    assert found.column("row").to_pylist() == [2, 3, 2]
    assert [Path(path).name for path in found.column("file").to_pylist()] == ["part-0.csv", "part-0.csv", "part-3.csv"]
    report = json.loads(next((tmp_path / "store" / "data-reports").glob("*/report.json")).read_text())
    assert report["splits"]["train"]["skipped"] == {"empty files": 2}
    assert load(tmp_path, tmp_path / "part-*.csv", format="csv") == reference
    write(tmp_path / "part-1.csv", ["text,label,id", "fine film,1,9"])
    assert load(tmp_path, tmp_path / "part-*.csv", format="csv").rows == {"train": 4}


def test_faults_in_a_glob_name_the_file(tmp_path: Path) -> None:
    write(tmp_path / "part-0.csv", ["text,label", "good film,1", "bad plot,0"])
    write(tmp_path / "part-1.csv", ["text,label", "good film,1,3", " ,0"])
    with pytest.raises(ContractError) as caught:
        load(tmp_path, tmp_path / "part-*.csv", format="csv")
    assert "row 3 of part-1.csv" in str(caught.value)
    assert "part-1.csv: line 2 has 3" in str(caught.value)


def test_all_files_of_a_glob_empty_or_none_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.csv", ["text,label"])
    with pytest.raises(EmptyError, match=r"holds no rows in any of its 2 file\(s\)"):
        load(tmp_path, tmp_path / "*.csv", format="csv")
    with pytest.raises(HubflowError, match="matches no file"):
        load(tmp_path, tmp_path / "*.tsv", format="tsv")


def test_types_that_do_not_fit_between_files_of_a_glob_name_file_and_column(tmp_path: Path) -> None:
    for name, ids in (("a", [1, 2]), ("b", ["x", "y"])):
        parquet.write_table(arrow.table({"text": ["s", "t"], "label": [0, 1], "id": ids}), tmp_path / f"{name}.parquet")
    with pytest.raises(
        ContractError, match=r"b\.parquet: column 'id' is of type .*string; in .*a\.parquet it is of type int64"
    ):
        load(tmp_path, tmp_path / "*.parquet")


def test_integers_with_nulls_in_one_part_alone(shared_case: Callable[[str], Path], tmp_path: Path) -> None:
    for place in (0, 1):
        part = parquet.read_table(shared_case("integers-with-nulls") / f"part-{place}.parquet")
        labels = arrow.array([str(n % 2) for n in range(place, place + len(part))])
        parquet.write_table(part.append_column("label", labels), tmp_path / f"part-{place}.parquet")
    found = train_of(tmp_path, load(tmp_path, tmp_path / "part-*.parquet"))
    assert found.column("id").to_pylist() == [BIG, None, 7]
    assert found.schema.field("id").type == arrow.int64()
