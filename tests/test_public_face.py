"""The public face: what each public package exports is there, documented, and imported no sooner than it is needed."""

import doctest
import importlib
import inspect
import re
import subprocess
import sys
import typing
import warnings
from collections.abc import Iterator
from typing import Any

import pandera.pandas as pa
import prefect
import pytest
from pydantic import BaseModel

from hubflow import lazy

PACKAGES = ("hubflow", "hubflow.blocks", "hubflow.flows", "hubflow.hub", "hubflow.schemas", "hubflow.stages", "hubflow.testing")
LAZY = ("hubflow", "hubflow.hub", "hubflow.schemas", "hubflow.testing")
EXAMPLES = (
    "hubflow.blocks",
    "hubflow.modules.module",
    "hubflow.schemas.deployment",
    "hubflow.schemas.labels",
    "hubflow.schemas.parsing",
    "hubflow.schemas.rows",
    "hubflow.schemas.settings",
    "hubflow.schemas.sweep",
    "hubflow.schemas.training",
)
"""Modules whose docstrings have examples."""
HEAVY = ("numpy", "optuna", "paddle", "pandas", "pandera", "prefect", "pyarrow", "pydantic", "rich.table", "sklearn", "yaml")
"""What takes long to import, and is not needed to show what there is."""
HEAVIEST = tuple(name for name in HEAVY if name not in ("pydantic", "yaml"))
"""What settings do not need either."""


def public(package: str) -> dict[str, Any]:
    """What a package exports, by its full name."""
    module = importlib.import_module(package)
    return {f"{package}.{name}": getattr(module, name) for name in module.__all__ if name != "__version__"}


def documented() -> dict[str, Any]:
    """Every public callable and property by name, each once; stages and flows as the functions that they are made of."""
    found: dict[str, Any] = {}
    for name, exported in (item for package in PACKAGES for item in public(package).items()):
        value = exported.fn if isinstance(exported, prefect.Task | prefect.Flow) else exported
        if inspect.isclass(value):
            if not issubclass(value, BaseModel | pa.DataFrameModel | BaseException):
                found[name] = value
            found |= {f"{name}.{part}": member for part, member in methods(value)}
        elif inspect.isfunction(value):
            found[name] = value
    once = {id(value): name for name, value in reversed(found.items())}
    return {name: found[name] for name in once.values()}


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class defines itself."""
    for name, member in vars(cls).items():
        if not name.startswith("_"):
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if inspect.isfunction(function) or isinstance(function, property):
                yield name, function


def models() -> set[type[Any]]:
    """Every Pydantic model of the public face, and those that they hold."""
    found: set[type[BaseModel]] = set()
    waiting = [value for value in public("hubflow.schemas").values() if inspect.isclass(value)]
    while waiting:
        value = waiting.pop()
        if inspect.isclass(value) and issubclass(value, BaseModel) and value not in found:
            found.add(value)
            waiting += [field.annotation for field in value.model_fields.values()]
        waiting += typing.get_args(value)
    return found


def section(docstring: str, title: str) -> str:
    """The text of a section of a docstring, Args for example."""
    match = re.search(rf"^{title}:\n((?:[ \t]+.*\n|\n)*)", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    return match[1] if match else ""


CONTRACTS = {
    name: value
    for name, value in public("hubflow.schemas").items()
    if inspect.isclass(value) and issubclass(value, pa.DataFrameModel)
}
DOCUMENTED = documented()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_names_of_a_package_are_there_in_order(package: str) -> None:
    names = importlib.import_module(package).__all__
    assert len(public(package)) >= len(names) - 1  # all but __version__
    assert [*names] == sorted(set(names))


@pytest.mark.parametrize("package", LAZY)
def test_a_lazy_package_has_its_names_and_no_others(package: str) -> None:
    module = importlib.import_module(package)
    found = [name for names in module._NAMES.values() for name in names]
    assert sorted(found) == module.__all__ == dir(module)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'missing'"):
        _ = module.missing


def test_stages_and_flows_go_by_their_own_names() -> None:
    assert all(isinstance(value, prefect.Task) for value in public("hubflow.stages").values())
    assert all(isinstance(value, prefect.Flow) for value in public("hubflow.flows").values())


@pytest.mark.parametrize("package", ["hubflow.flows", "hubflow.stages"])
def test_the_module_of_a_flow_or_stage_is_found_under_the_same_name_as_entrypoints_have_it(package: str) -> None:
    for name, value in public(package).items():
        assert getattr(importlib.import_module(name), name.rpartition(".")[2]) is value


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_docstring_names_every_parameter_and_what_is_returned(name: str) -> None:
    value = DOCUMENTED[name]
    docstring = value.__doc__ or ""
    assert docstring.strip(), "there is none"
    if isinstance(value, property):
        return
    told, signature = section(docstring, "Args") + section(docstring, "Attributes"), inspect.signature(value)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = [name for name, one in signature.parameters.items() if name not in ("self", "cls") and one.kind not in kinds]
    assert [one for one in parameters if not re.search(rf"^ +{one}: ", told, re.MULTILINE)] == []
    returned = None if inspect.isclass(value) else signature.return_annotation
    if parameters and returned not in (None, "None"):
        assert section(docstring, "Returns") or section(docstring, "Yields")


@pytest.mark.parametrize("model", sorted(models(), key=lambda model: model.__name__), ids=lambda model: model.__name__)  # type: ignore[attr-defined]
def test_every_field_of_settings_references_and_results_is_described(model: type[BaseModel]) -> None:
    assert (model.__doc__ or "").strip()
    assert [name for name, field in model.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_column_of_a_contract_is_described(name: str) -> None:
    assert (CONTRACTS[name].__doc__ or "").strip()
    assert [column for column, part in CONTRACTS[name].to_schema().columns.items() if not part.description] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_a_module_give_what_they_say(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import hubflow, hubflow.hub, hubflow.schemas", HEAVY),
        ("from hubflow.cli.main import app; app(['--help'])", HEAVY),
        ("from hubflow.cli.main import app; app(['fine-tune', '--help'])", HEAVIEST),
        ("from hubflow.cli.main import app; app(['--version'])", HEAVY),
        ("import hubflow; hubflow.NightlySettings, hubflow.SweepSettings, hubflow.load_settings", HEAVIEST),
    ],
)
def test_a_name_is_imported_no_sooner_than_it_is_needed(statement: str, absent: tuple[str, ...]) -> None:
    told = f"import atexit, sys\natexit.register(lambda: print(sorted({{*{absent}}} & {{*sys.modules}})))\n{statement}"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_name_that_goes_away_still_works_and_says_what_takes_its_place() -> None:
    old = lazy.Deprecation("json.old_loads", since="0.3", removed_in="0.4", instead="json.loads")
    find = lazy.lazy_names("json", {"json": ("loads",)}, {"old_loads": ("json:loads", old)})
    with pytest.warns(
        FutureWarning, match="^json.old_loads is deprecated since hubflow 0.3 and is removed in 0.4; use json.lo"
    ) as told:
        assert find("old_loads") is find("loads")
    assert [one.filename for one in told] == [__file__]


def test_a_warning_names_the_line_of_whoever_calls_the_function_that_goes_away() -> None:
    def old() -> None:
        lazy.Deprecation("old", since="0.3", removed_in="0.4", instead="new").warn()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        old()
    assert [(one.category, one.filename, one.lineno) for one in told] == [
        (FutureWarning, __file__, old.__code__.co_firstlineno + 5)
    ]
