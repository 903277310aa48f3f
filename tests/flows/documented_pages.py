"""Runs a page of the docs in a folder of its own: files that it titles are written, commands that it shows are run."""

import re
from dataclasses import dataclass
from pathlib import Path

from prefect_processes import World

FENCE = re.compile(r"^```(\w+)[ ]?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]+)"')
RUN = re.compile(r"prefect deployment run '?([\w-]+/[\w-]+)")
EXIT_CODES = {"fails": 2, "run-fails": 1}
"""By the word after `bash`: the exit code of hubflow's errors, and that of Prefect where a run that it watches fails."""


@dataclass(frozen=True)
class Step:
    """One fenced block that a reader acts on: a file to write, or commands to run."""

    text: str
    file: str | None = None
    kind: str = ""


def steps_of(page: Path, heading: str | None = None) -> list[Step]:
    """The blocks of a page, or of one of its sections, that a reader acts on, in order; those to install with are left out."""
    steps, whole = [], page.read_text(encoding="utf-8")
    if heading is not None:
        assert f"\n## {heading}\n" in whole, f"{page.name} has no heading {heading!r}"
        whole = whole.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for language, more, text in FENCE.findall(whole):
        title = TITLE.search(more)
        if title is not None:
            steps.append(Step(text, file=title[1]))
        elif language == "bash" and more != "install":
            steps.append(Step(text, kind=more))
    return steps


def follow(steps: list[Step], here: World) -> str:
    """Do what a page says; gives what its commands printed. What one block sets in the shell, the next ones see."""
    printed, variables = "", here.home / "variables.sh"
    variables.touch()
    for step in steps:
        if step.file is not None:
            path = here.project / step.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(step.text, encoding="utf-8")
        elif step.kind == "keep-running":
            here.keep_running(step.text)
            if "server start" in step.text:
                here.wait_for("server", here.is_up)
            if "worker start" in step.text:  # it makes its pool first; a page says to wait for this word
                here.wait_for("worker", lambda: "started!" in here.log())
        else:
            if (started := RUN.match(step.text)) is not None:  # what serves it may not have made it yet
                here.wait_for(started[1], lambda name=started[1]: here.has_deployment(name))
            names = " ".join(re.findall(r"^(\w+)=", step.text, re.MULTILINE))
            keep = f"\ndeclare -p {names} >> {variables}" if names else ""
            printed += here.run(f"source {variables}\n{_expected(step)}{keep}")
    return printed


def _expected(step: Step) -> str:
    """The commands of a block; where it is to fail, the exit code is looked at."""
    code = EXIT_CODES.get(step.kind)
    return step.text if code is None else f"code=0; {step.text.strip()} || code=$?; test $code = {code}"
