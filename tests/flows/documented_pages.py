"""Runs a page of the docs in a folder of its own: files that it titles are written, commands that it shows are run."""

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(\w+)[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Step:
    """One fenced block that a reader acts on: a file to write, or commands to run."""

    text: str
    file: str | None = None
    kind: str = ""


def steps_of(page: Path) -> list[Step]:
    """The blocks of a page that a reader acts on, in order; those to install with are left out."""
    steps = []
    for language, more, text in FENCE.findall(page.read_text(encoding="utf-8")):
        title = TITLE.search(more)
        if title is not None:
            steps.append(Step(text, file=title[1]))
        elif language == "bash" and more != "install":
            steps.append(Step(text, kind=more))
    return steps
