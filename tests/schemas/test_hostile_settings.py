"""Settings files that would stall a machine, or that no reader of YAML or JSON expects: each is an error of the settings."""

import json
import os
import time
from pathlib import Path

import pytest

from hubflow.errors import SettingsError
from hubflow.schemas.parsing import MAX_FAULTS, load_settings, read_settings, with_overrides
from hubflow.schemas.settings import FineTuneSettings

LEVELS = 12
LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, LEVELS)
)
MERGES = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}\n" for level in range(1, LEVELS)
)
LONG = "a0: &a0 " + "x" * 10_000 + "\nall: [" + ", ".join(["*a0"] * 200) + "]\n"
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{level}: &a{level} [*a{level - 1}]\n" for level in range(1, 500)) + "data: *a499\n"
HOSTILE = {
    "laughs": (LAUGHS, r"with its aliases more than 1,000,000 characters, limits\.max_settings_bytes"),
    "merged laughs": (MERGES, r"limits\.max_settings_bytes"),
    "a long text many times": (LONG, r"limits\.max_settings_bytes"),
    "a chain of aliases": (CHAIN, r"with its aliases nested in more than 64 levels, limits\.max_nesting"),
    "an alias of itself": ("a: &a [*a]\n", "an alias stands within what it names"),
    "an alias of itself in a mapping": ("a: &a {b: *a}\n", "an alias stands within what it names"),
    "deep lists": ("a: " + "[" * 5_000, r"nested in more than 64 levels, limits\.max_nesting"),
    "deep mappings": ("".join(f"{' ' * level}a:\n" for level in range(900)), r"limits\.max_nesting"),
    "deep lists in one line": ("- " * 3_000 + "a", r"limits\.max_nesting"),
    "deep pairs": ("a: [1, " + "{1, " * 500, r"limits\.max_nesting"),
    "a file of megabytes": ("a: 1\n" * 300_000, r"more than 1,000,000 bytes, limits\.max_settings_bytes"),
    "a long number": ("a: " + "9" * 5_000, "a number of 5,000 characters"),
    "a number of base 60": ("a: 1" + ":1" * 90_000, "a number of 180,001 characters"),
    "a float of base 60": ("a: 1" + ":1" * 90_000 + ".0", "a number of 180,003 characters"),
    "a float that overflows": ("a: 1" + ":1" * 400 + ".0", "not of its type"),
    "no date": ("a: 2026-99-99\n", "not of its type"),
    "a tag of a date": ("a: !!timestamp x\n", "not of its type"),
    "a tag of a number": ("a: !!int ''\n", "not of its type"),
    "a tag of a truth value": ("a: !!bool perhaps\n", "not of its type"),
    "a tag of Python": ("a: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
    "two documents": ("a: 1\n---\nb: 2\n", "expected a single document"),
    "a control character": ("a: \x07\n", "special characters are not allowed"),
}
JSON = {
    "deep lists": ('{"a": ' + "[" * 100_000, r"nested in more than 64 levels, limits\.max_nesting"),
    "deep objects": ('{"a":' * 500 + "1" + "}" * 500, r"limits\.max_nesting"),
    "a long number": ('{"a": ' + "9" * 5_000 + "}", "not valid JSON: Exceeds the limit"),
    "a file of megabytes": ('{"a": "' + "x" * 2_000_000 + '"}', r"limits\.max_settings_bytes"),
}


def fault_of(path: Path) -> str:
    begun = time.process_time()
    with pytest.raises(SettingsError) as caught:
        load_settings(FineTuneSettings, path)
    assert time.process_time() - begun < 10
    text = str(caught.value)
    assert path.name in text
    assert len(text) < 50_000
    return text


@pytest.mark.parametrize("name", HOSTILE)
def test_yaml_that_stalls_is_refused(tmp_path: Path, name: str) -> None:
    text, fault = HOSTILE[name]
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SettingsError, match=fault):
        read_settings(tmp_path / "run.yaml")
    fault_of(tmp_path / "run.yaml")


@pytest.mark.parametrize("name", JSON)
def test_json_that_stalls_is_refused(tmp_path: Path, name: str) -> None:
    text, fault = JSON[name]
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(SettingsError, match=fault):
        read_settings(tmp_path / "run.json")
    fault_of(tmp_path / "run.json")


def test_a_limit_is_a_setting_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run.yaml").write_text("a: &a [1, 2]\nb: [*a, *a, {c: [[[[[[[[1]]]]]]]]}]\n")
    assert read_settings(tmp_path / "run.yaml")["b"][0] == [1, 2]
    monkeypatch.setenv("HUBFLOW_LIMITS_MAX_NESTING", "8")
    with pytest.raises(SettingsError, match=r"more than 8 levels, limits\.max_nesting"):
        read_settings(tmp_path / "run.yaml")


def test_brackets_in_text_are_no_nesting(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"a": "[" * 300 + '"\\', "b": [["{" * 300]]}))
    assert read_settings(tmp_path / "run.json")["b"] == [["{" * 300]]


@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_what_has_no_end_is_no_settings_file(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in fault_of(tmp_path / name)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("a=" + "[" * 5_000, r"limits\.max_nesting"),
        ("a=2026-99-99", "not of its type"),
        ("a=" + "9" * 5_000, "a number of 5,000 characters"),
        ("a=&a [*a]", "an alias stands within what it names"),
        (".".join(["a"] * 5_000) + "=1", r"more than 64 groups within one another, limits\.max_nesting"),
    ],
)
def test_an_override_that_stalls_is_refused(entry: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault) as caught:
        with_overrides({}, [entry])
    assert len(str(caught.value)) < 3_000


def test_of_many_faults_the_first_are_shown(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({f"unknown_{number}": "x" * 1_000 for number in range(900)}))
    text = fault_of(tmp_path / "run.json")
    assert f"({904 - MAX_FAULTS} more)" in text or "more)" in text
    assert text.count("\n  - ") == MAX_FAULTS
