"""The page about larger pipelines shows code of the examples, and every example has its test."""

import re
import textwrap
from pathlib import Path

import pytest
from example_programs import EXAMPLES, PIPELINES

PAGE = EXAMPLES.parent / "docs" / "how-to" / "other-pipelines.md"
BLOCKS = re.findall(
    r'^```(?:python|yaml) title="([^"]+)"\n(.*?)^```$', PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize(("file", "block"), BLOCKS, ids=[f"{file}, {block.splitlines()[0]}" for file, block in BLOCKS])
def test_a_block_of_the_page_is_code_of_the_example(file: str, block: str) -> None:
    lines, shown = (_lines(text) for text in ((PIPELINES / file).read_text(encoding="utf-8"), block))
    parts = ["\n".join(lines[start : start + len(shown)]) for start in range(len(lines))]
    assert "\n".join(shown) in map(textwrap.dedent, parts)


def _lines(text: str) -> list[str]:
    """Lines that hold something: how many blank ones stand between functions depends on the indentation."""
    return [line for line in text.splitlines() if line.strip()]


def test_the_page_shows_every_example() -> None:
    assert {file for file, _ in BLOCKS} == {path.name for path in PIPELINES.iterdir() if path.is_file()}


def test_every_example_is_run_by_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [path.name for path in PIPELINES.glob("*.*") if path.stem not in tests] == []
