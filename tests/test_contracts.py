"""docs/reference/contracts.md is true: each contract exists and is listed, and each stage's docstring names its own."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pandera.pandas as pa
import pytest

import hubflow.schemas

TABLE = Path(__file__).parents[1] / "docs" / "reference" / "contracts.md"


def boundaries() -> list[tuple[str, list[str], str]]:
    """Boundary, contracts and stage of each line that names a stage."""
    lines = [line.strip("|").split("|") for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    named = [(cells[0].strip(), *(re.findall(r"`([\w.]+)`", cell) for cell in cells[1:])) for cells in lines]
    return [(cells[0], cells[1], cells[2][0]) for cells in named if cells[1] and cells[2]]  # type: ignore[misc]


def found(package: str, name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(f"{package}.{module}"), attribute)


def models() -> set[str]:
    """Every public contract of `hubflow.schemas`, as the table names it."""
    names = set()
    for module in pkgutil.iter_modules(hubflow.schemas.__path__):
        members = inspect.getmembers(importlib.import_module(f"hubflow.schemas.{module.name}"), inspect.isclass)
        own = [(name, one) for name, one in members if one.__module__ == f"hubflow.schemas.{module.name}" and name[0] != "_"]
        names |= {f"{module.name}.{name}" for name, one in own if issubclass(one, pa.DataFrameModel)}
    return names


def test_every_contract_is_in_the_table_and_every_one_in_the_table_exists() -> None:
    listed = {contract for _, contracts, _ in boundaries() for contract in contracts}
    assert listed == models()
    for contract in listed:
        assert issubclass(found("hubflow.schemas", contract), pa.DataFrameModel)  # type: ignore[arg-type]


@pytest.mark.parametrize("line", boundaries(), ids=lambda line: line[2])
def test_each_stage_names_its_contracts(line: tuple[str, list[str], str]) -> None:
    _, contracts, stage = line
    home = "hubflow" if stage.startswith("data.") else "hubflow.stages"
    text = inspect.getdoc(found(home, stage)) or ""
    assert [name for name in contracts if f"`{name.split('.')[1]}`" not in text] == []
