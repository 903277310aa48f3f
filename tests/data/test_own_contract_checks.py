"""Checks of a user's own contract: those that only warn reach the report, those that raise are shown as the user's own."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hubflow.schemas.rows import RowsError
from hubflow.schemas.settings import DatasetSpec
from hubflow.stages.load_dataset import load_dataset
from hubflow.store.store import Store

SOURCE = """
import pandera.pandas as pa
from pandera.typing import Series
from hubflow.schemas.rows import TextRows, TokenRows

class Warned(TextRows):
    stars: Series[int] = pa.Field(ge=1, le=5, coerce=True, raise_warning=True)

    @pa.check("text", raise_warning=True)
    def is_short(cls, values):
        return values.str.len() < 12

    @pa.dataframe_check(raise_warning=True)
    def agrees(cls, rows):
        return (rows["label"] == "good") == (rows["stars"] >= 3)

    @pa.check("text")
    def has_no_digits(cls, values):
        return ~values.str.contains("[0-9]")

class Raising(TextRows):
    @pa.check("text")
    def broken(cls, values):
        return values.no_such_method()

class RaisingByElement(TextRows):
    @pa.check("text", element_wise=True)
    def broken(cls, value):
        return {}[value]

class RaisingOnRows(TextRows):
    @pa.dataframe_check
    def broken(cls, rows):
        return rows["absent"] > 1

class RaisingWarner(TextRows):
    @pa.check("text", raise_warning=True)
    def broken(cls, values):
        return values.no_such_method()

class RaisingParser(TextRows):
    @pa.parser("text")
    def broken(cls, values):
        return values.no_such_method()

class Typed(TextRows):
    stars: Series[int] = pa.Field(coerce=True)

    @pa.check("stars")
    def is_small(cls, values):
        return values < 9
"""
ROWS = [
    ("good film", "good", 5),
    ("bad film", "bad", 4),
    ("a very good film", "good", 3),
    ("dull", "bad", 9),
    ("film 7", "bad", 1),
]
Loader = Callable[..., Any]


@pytest.fixture(autouse=True)
def contracts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_contracts.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_contracts", None)


@pytest.fixture
def load(tmp_path: Path) -> Loader:
    def load(contract: str, rows: list[tuple[Any, ...]] = ROWS, **more: Any) -> Any:
        pd.DataFrame(rows, columns=["text", "label", "stars"]).to_csv(tmp_path / "rows.csv", index=False)
        given = {"format": "csv", "train": str(tmp_path / "rows.csv"), "dev_fraction": 0, "test_fraction": 0, **more}
        spec = DatasetSpec.model_validate({**given, "contract": f"own_contracts:{contract}"})
        return load_dataset.fn(spec, "text_classification", str(tmp_path / "store"))

    return load


def test_findings_of_checks_that_only_warn_reach_the_report(load: Loader, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = load("Warned", max_invalid_fraction=0.5)
    assert dataset.rows == {"train": 4}  # all but the row that fails the check that does not only warn
    for found in (Store(str(tmp_path / "store")).open(dataset).facts["data_report"], _told(tmp_path)):
        own = {one["check"]: one for one in found["findings"] if one["check"].startswith("contract: ")}
        counts = {name: (one["count"], one["policy"], tuple(one["examples"])) for name, one in own.items()}
        assert counts == {
            "contract: less_than_or_equal_to(5)": (1, "warn", ("row 5 (9)",)),
            "contract: is_short": (1, "warn", ("row 4 ('a very good film')",)),
            "contract: agrees": (2, "warn", tuple(own["contract: agrees"]["examples"])),
        }
        assert [one.split(" ")[1] for one in own["contract: agrees"]["examples"]] == ["3", "5"]
        assert "1 row(s) of train fail the check 'is_short' of text, which only warns" in own["contract: is_short"]["message"]


def _told(folder: Path) -> dict[str, Any]:
    (report,) = (folder / "store" / "data-reports").glob("*/report.json")
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("contract", "error"),
    [
        ("Raising", r"a check of the contract Raising raised an error.*\n  - broken: AttributeError.*no_such_method"),
        ("RaisingByElement", r"a check of the contract RaisingByElement raised an error.*\n  - broken: KeyError"),
        ("RaisingOnRows", r"a check of the contract RaisingOnRows raised an error.*\n  - broken: KeyError\(.absent"),
        ("RaisingWarner", r"a check of the contract RaisingWarner raised an error.*\n  - broken: AttributeError"),
        ("RaisingParser", r"the contract RaisingParser raised AttributeError: .*no_such_method"),
    ],
)
def test_what_a_contract_raises_is_shown_as_the_users_own(contract: str, error: str, load: Loader) -> None:
    with pytest.raises(RowsError, match=error) as caught:
        load(contract)
    line = next(line for line in str(caught.value).splitlines() if "own_contracts.py" in line)
    assert "own_contracts.py, line " in line
    assert "in broken: return " in line


def test_a_check_that_raises_for_a_wrong_type_is_not_blamed(load: Loader) -> None:
    rows = [("good film", "good", "5"), ("bad film", "bad", "many")]
    with pytest.raises(RowsError, match=r"1 row.*break the contract Typed") as caught:
        load("Typed", rows)
    assert "raised an error" not in str(caught.value)
