"""Files from outside are opened in one place, which refuses what is no regular file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OPENING = "src/hubflow/files.py"
METHODS = {"read_text", "read_bytes"}
FUNCTIONS = {"open", "io.open", "zipfile.ZipFile", "np.fromfile", "np.memmap", "Image.open", "Tokenizer.from_file"}
STREAMS = {"stream", "pickled"}
"""What is read is open already, or is the name of what is held open."""


def sources() -> list[Path]:
    return sorted(path for folder in ("src", "schemas", "stages", "flows") for path in (ROOT / folder).rglob("*.py"))


def openings(path: Path) -> Iterator[str]:
    """Calls that open a file to read it, which is not one of the system's own; `Store.read_bytes` is given a path."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name, shown = ast.unparse(node.func), f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        is_of_system = "Path('/proc/" in name
        is_text = isinstance(node.func, ast.Attribute) and node.func.attr in METHODS and not node.args
        is_method = isinstance(node.func, ast.Attribute) and node.func.attr == "open" and "'rb'" in ast.unparse(node)
        is_function = name in FUNCTIONS and not any(isinstance(one, ast.Name) and one.id in STREAMS for one in node.args)
        if (is_text or is_method or is_function) and not is_of_system:
            yield shown


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_opened_in_one_place(path: Path) -> None:
    if path != ROOT / OPENING:
        assert [*openings(path)] == []


def test_what_opens_a_file_is_found(tmp_path: Path) -> None:
    """The test above can fail."""
    path = ROOT / "tests" / "test_reading_files.py"
    assert any("path.read_text" in found for found in openings(path))
