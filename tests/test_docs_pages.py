"""The docs are true: every setting that a page names is one, every made page is whole, and the code of short pages runs."""

import ast
import contextlib
import functools
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
import yaml
from pydantic import BaseModel

from hubflow.cli.main import app
from hubflow.orchestration.events import EVENTS
from hubflow.schemas.deployment import NightlySettings
from hubflow.schemas.library import LibrarySettings
from hubflow.schemas.parsing import parse_settings
from hubflow.schemas.settings import FineTuneSettings, PredictSettings
from hubflow.schemas.sweep import SweepSettings
from hubflow.testing import FilledStore, assert_promoted

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?[^\n]*\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SECTIONS = "approval|module|data|head|train|evaluate|export|report|gate|slot|concurrency|pruner|limits|trust|start_from"
OTHERS = (
    ".weight",
    ".data_view",
    ".evaluate",
    ".evaluate_export",
    ".py",
    ".json",
    ".html",
    ".parquet",
    ".yaml",
    ".key",
    ".pub",
    ".zip",
)
"""Endings of names that look like settings: variables, stages and files."""
MODELS: tuple[type[BaseModel], ...] = (NightlySettings, PredictSettings, SweepSettings, LibrarySettings)


def made_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated_pages", DOCS / "generated_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MADE = made_pages()
SETTINGS = {name for model in MODELS for name, _ in MADE.settings_of(model)}


def blocks(page: str, language: str) -> list[tuple[str, str]]:
    """Title and text of each block of a language."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [(title, code) for found, title, code in FENCE.findall(text) if found == language]


def names_of(values: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of a mapping's leaves."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from names_of(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def is_setting(name: str) -> bool:
    """Whether a dotted name is a setting, or lies in one whose names are free: arguments of an optimizer, labels, rows."""
    within = [name.rpartition(".")[0], *[name] * (name in SETTINGS)]
    free = {"train.optimizer", "train.schedule", "train.class_weights", "gate.max_latency_ms", "space"}
    return name in SETTINGS or any(one in free or one.startswith("space.") for one in within)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_setting_that_a_page_names_is_one(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    named = re.findall(rf"`((?:{SECTIONS})\.[a-z0-9_.]+)(?:: [^`]*)?`", prose)
    assert [one for one in named if not (is_setting(one) or one.endswith(OTHERS))] == []
    prefixed = re.findall(rf"--set '?((?:{SECTIONS})\.[a-z0-9_.]+)=", page.read_text(encoding="utf-8"))
    assert [one for one in prefixed if not is_setting(one)] == []


@pytest.mark.parametrize("page", [*PAGES, PROJECT / "README.md"], ids=lambda page: page.stem)
def test_every_yaml_of_settings_has_names_that_are_settings(page: Path) -> None:
    for language, title, text in FENCE.findall(page.read_text(encoding="utf-8")):
        values = yaml.safe_load(text) if language == "yaml" and title not in ("prefect.yaml", "job.yaml") else None
        if not isinstance(values, dict) or page.stem in ("production", "postgresql", "work-pools", "other-pipelines"):
            continue
        assert [one for one in names_of(values) if not is_setting(one)] == []
        if {"task", "module", "data"} <= set(values):
            model = NightlySettings if "gate" in values else FineTuneSettings
            parse_settings(model, values, page.name)


@pytest.mark.parametrize("page", [*PAGES, PROJECT / "README.md", PROJECT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_every_object_and_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"`(hubflow(?:\.\w+)+)`", text))
    for language, _, code in FENCE.findall(text):
        nodes = ast.walk(ast.parse(code)) if language == "python" else ()
        imports = [one for one in nodes if isinstance(one, ast.ImportFrom) and str(one.module).startswith("hubflow")]
        named |= {f"{one.module}.{name.name}" for one in imports for name in one.names}
    assert [one for one in sorted(named) if not (_is_there(one) or one.endswith(".NAME") or one in EVENTS)] == []
    files = re.findall(r"[` ]((?:src/hubflow|schemas|stages|flows|tests|examples|benchmarks|deploy)/[\w/-]+\.\w+)[` ]", text)
    written = {title for _, title, _ in FENCE.findall(text)}  # by the reader
    assert [one for one in files if not (one in written or (PROJECT / one).exists())] == []


def _is_there(name: str) -> bool:
    """Whether a dotted name is a module or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        with contextlib.suppress(ImportError, AttributeError):
            return functools.reduce(getattr, parts[length:], importlib.import_module(".".join(parts[:length]))) is not None
    return False


def test_the_nightly_settings_of_the_tutorial_are_those_of_the_example() -> None:
    text = next(text for _, text in blocks("tutorials/nightly.md", "yaml"))
    assert yaml.safe_load(text) == yaml.safe_load((PROJECT / "examples" / "nightly.yaml").read_text(encoding="utf-8"))


def test_the_reference_has_every_setting_and_every_command() -> None:
    pages = MADE.pages()
    for name, (model, _, _) in MADE.MODELS.items():
        own = {one for one, _ in MADE.settings_of(model) if not one.startswith("base.")}
        inherited = {one for one, _ in MADE.settings_of(FineTuneSettings)} if name == "nightly" else set()
        listed = set(re.findall(r"^\| `([\w.]+)` \|", pages[f"reference/settings/{name}.md"], re.MULTILINE))
        assert own - inherited - listed == set()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {f"## hubflow {name}" for name in commands} <= set(pages["reference/command-line.md"].splitlines())


def test_the_reference_of_the_library_has_its_defaults() -> None:
    page = MADE.settings_page("library")
    assert "| `limits.max_image_pixels` | Pixels of an image (width × height) | `100_000_000` | integer ≥ 1 |" in page
    assert "| none | list of text |" in page


def test_the_head_of_the_page_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for number in range(8):
        Image.new("L", (8, 8), 30 * number).save(f"{number}.png")
    (code,) = [text for _, text in blocks("how-to/heads.md", "python")]
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - of our own page
    assert names["head"].num_classes == 2


def test_the_contract_of_the_page_refuses_six_stars(tmp_path: Path) -> None:
    import pandas as pd
    import pandera.pandas as pa

    names: dict[str, Any] = {"__name__": "my_contracts"}
    code, _ = [text for _, text in blocks("how-to/own-contract.md", "python")]
    exec(code, names)  # noqa: S102 - of our own page
    sound = pd.DataFrame({"row": [1], "text": ["a fine film"], "label": ["good"], "stars": ["5"]})
    assert names["Reviews"].validate(sound, lazy=True)["stars"].tolist() == [5]
    with pytest.raises(pa.errors.SchemaErrors):
        names["Reviews"].validate(sound.assign(stars=6), lazy=True)


def test_the_polars_contract_of_the_page_refuses_six_stars(monkeypatch: pytest.MonkeyPatch) -> None:
    import datetime

    import polars
    from pandera.errors import SchemaErrors

    module = ModuleType("my_polars_contracts")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    _, code = [text for _, text in blocks("how-to/own-contract.md", "python")]
    exec(code, module.__dict__)  # noqa: S102 - of our own page
    sound = polars.DataFrame({"stars": [5], "bought": [datetime.date(2024, 2, 29)]})
    assert module.Reviews.validate(sound, lazy=True).equals(sound)
    with pytest.raises(SchemaErrors):
        module.Reviews.validate(sound.with_columns(stars=polars.lit(6, dtype=polars.Int64)), lazy=True)


@pytest.mark.slow
@pytest.mark.soak
def test_the_tests_of_the_page_about_testing_pass(tmp_path: Path) -> None:
    for title, text in blocks("how-to/testing.md", "python"):
        (tmp_path / title).write_text(text, encoding="utf-8")
    scripts = [script for _, script in blocks("how-to/testing.md", "bash") if script.startswith("python ")]
    assert scripts
    for script in scripts:
        command = [sys.executable, *script.split()[1:], "-p", "no:cacheprovider", f"--rootdir={tmp_path}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_flow_of_the_page_promotes_through_the_gate(
    prefect_server: str, filled_store: FilledStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = [text for title, text in blocks("how-to/gate-in-your-flow.md", "python") if title == "release_flow.py"]
    (tmp_path / "release_flow.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    release = importlib.import_module("release_flow")
    verdict = release.release(filled_store.export, filled_store.dataset, "films", filled_store.path)
    assert verdict.verdict == "promoted"
    assert_promoted(filled_store.path, "films", filled_store.export)


def test_the_nightly_of_the_page_promotes_and_then_has_nothing_to_do(
    prefect_server: str, filled_store: FilledStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = [text for title, text in blocks("how-to/gate-in-your-flow.md", "python") if title == "own_nightly.py"]
    (tmp_path / "own_nightly.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    own_nightly = importlib.import_module("own_nightly").own_nightly
    tonight = (filled_store.dataset, filled_store.tiny.spec, filled_store.tiny.train, "films", filled_store.path)
    assert [own_nightly(*tonight) for _ in range(2)] == ["promoted", "skipped"]
    assert len(list(Path(filled_store.path, "runs").glob("*-films/report.html"))) == 1


def test_the_python_of_the_references_runs(prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (settings,) = [text for title, text in blocks("tutorials/first-fine-tune.md", "yaml") if title == "digits.yaml"]
    Path("digits.yaml").write_text(settings, encoding="utf-8")
    names: dict[str, Any] = {}
    for page in ("reference/api/flows.md", "reference/evaluation.md", "reference/store.md"):
        (code,) = [text for _, text in blocks(page, "python")]
        exec(code.replace('"positive"', '"5"'), names)  # noqa: S102 - of our own page
        names["reference"] = names["result"].evaluation
    assert names["details"].rows > 0
    assert (names["folder"] / "details.json").exists()


def test_the_callback_of_the_page_is_one() -> None:
    from hubflow.training.callbacks import require_callbacks

    names: dict[str, Any] = {"__name__": "my_callbacks"}
    (code,) = [text for _, text in blocks("how-to/train.md", "python")]
    exec(code, names)  # noqa: S102 - of our own page
    callback = names["Highest"]()
    require_callbacks([callback])
    callback.load_state_dict({"loss": 2.0})
    assert callback.state_dict() == {"loss": 2.0}
