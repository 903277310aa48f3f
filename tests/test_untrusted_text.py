"""Text of strangers (file names, labels, columns, reasons) on terminals, in logs and on Prefect's pages: never obeyed."""

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import get_client
from rich.table import Table
from runs import Run
from typer.testing import CliRunner

from hubflow.cli.app import print_json
from hubflow.cli.main import app
from hubflow.console import Terminal
from hubflow.deployment.pointer import override
from hubflow.errors import DataError, HubflowError
from hubflow.orchestration.artifacts import markdown
from hubflow.orchestration.tasks import stage
from hubflow.schemas.settings import DatasetSpec
from hubflow.stages.load_dataset import load_dataset
from hubflow.text import markdown_block, markdown_text, printable

TITLE = "\x1b]0;owned\x07"
LINK = "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\"
HOSTILE = [
    TITLE,
    LINK,
    "\x1b[2J",
    "\x9b31m",
    "\x9d0;x\x9c",
    "a\rb",
    "\x08\x08",
    "\x7f",
    "\u202egnp.exe",
    "\u2066x",
    "\x00",
    "\x85",
    "\u2028",
]
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
IMAGE = "![x](http://evil/pixel.png)"


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_obeys_is_shown(text: str) -> None:
    assert not OBEYED.search(printable(text))
    assert "\\x" in printable(text) or "\\u" in printable(text)
    assert printable(printable(text)) == printable(text)
    assert str(HubflowError(f"{text}: no such file")) == f"{printable(text)}: no such file"


@pytest.mark.parametrize("text", ["a fine film\n\tof 3 €", "שלום \u200fعالم", "日本語", "\U0001f600", "a\u200db"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_tables_lines_and_bars_obey_nothing(text: str) -> None:
    stream = io.StringIO()
    terminal = Terminal(file=stream, force_terminal=True, color_system="truecolor", width=200, markup=False, emoji=False)
    table = Table("name")
    table.add_row(f"{text}[link=http://evil]x[/link]:smile:")
    terminal.print(table)
    terminal.print(f"{text}[bold]x[/bold]", style="bold red", soft_wrap=True)
    shown = stream.getvalue()
    styles = re.compile(r"\x1b\[[0-9;]*m")  # the terminal's own
    assert styles.search(shown)
    assert not OBEYED.search(styles.sub("", shown))
    assert "[link=http://evil]x[/link]:smile:" in shown.replace("\n", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_json_has_the_same_value_without_what_is_obeyed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": text, text: "é"})
    line = capsys.readouterr().out
    assert json.loads(line) == {"name": text, text: "é"}
    assert not OBEYED.search(line)
    assert "é" in line


@pytest.mark.parametrize("as_json", [False, True])
def test_a_check_of_a_file_with_such_a_name_obeys_nothing(as_json: bool, tmp_path: Path) -> None:
    name = f"{TITLE}\x9b31m\u202egnp.tsv"
    (tmp_path / name).write_text(f"text\tlabel\na\t{LINK}\n")
    for train in (name, f"no-{name}"):
        values = {
            "task": "text_classification",
            "data": {"format": "tsv", "train": str(tmp_path / train)},
            "module": {"name": name},
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        result = CliRunner().invoke(app, ["check", str(tmp_path / "run.yaml"), *(["--json"] if as_json else [])])
        assert result.exit_code == 2
        assert "owned" in result.output
        assert not OBEYED.search(result.output)


def test_predictions_of_such_rows_obey_nothing(text_run: Run, tmp_path: Path) -> None:
    data = tmp_path / f"{TITLE}rows.csv"
    data.write_text(f'text,label,"{LINK}"\na fine film,{LINK},x\na dull film,0,y\n', encoding="utf-8")
    result = CliRunner().invoke(app, ["predict", str(text_run.export_folder), str(data)])
    assert result.exit_code == 0, result.output
    assert "owned" in result.output and "not in the export's label map" in result.output
    assert not OBEYED.search(result.output)


def test_what_is_deployed_and_why_is_shown(text_run: Run) -> None:
    override(text_run.export, "escapes", text_run.settings.store, f"{LINK}[link=http://evil]why[/link]", by=TITLE)
    for more in ([], ["escapes"], ["--json"]):
        result = CliRunner().invoke(app, ["deployed", *more, "--store", text_run.settings.store])
        assert result.exit_code == 0, result.output
        assert not OBEYED.search(result.output)
        assert "[link=http" in result.output.replace("\n", "") or more == ["escapes"]


def test_warnings_and_tracebacks_of_the_command_obey_nothing(tmp_path: Path) -> None:
    program = f"""
import logging, sys
from hubflow.cli import main as cli
@cli.app.command()
def fail():
    logging.getLogger("hubflow.x").warning("%s", {TITLE!r})
    raise RuntimeError({LINK!r})
sys.argv = ["hubflow", "fail"]
cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 1
    assert "RuntimeError: \\x1b]8;;http" in ended.stderr and "owned" in ended.stderr
    assert not OBEYED.search(ended.stdout + ended.stderr)


# Prefect


@pytest.mark.parametrize(
    "text", [IMAGE, "[x](http://evil)", "http://evil/x", "<img src=http://evil>", "`code`\n```\n# title", "a|b", "<!--", "&lt;"]
)
def test_markdown_shows_text_alone(text: str) -> None:
    shown = markdown_text(text)
    assert "\n" not in shown
    for live in ("![", "](", "<", "://", "```"):
        assert live not in shown
    block = markdown_block(text)
    fence = block.splitlines()[0].removesuffix("text")
    assert [line for line in block.splitlines()[1:-1] if line.startswith(fence)] == []
    assert block.splitlines()[-1] == fence


def test_a_data_report_of_such_names_holds_no_link_and_no_image() -> None:
    report: dict[str, Any] = {
        "splits": {
            "train": {"source": IMAGE, "read": 1, "accepted": 0, "rejected": 1, "checks": {IMAGE: 1}, "quarantine": IMAGE}
        },
        "findings": [{"policy": "warn", "check": "x", "message": f"{TITLE}{IMAGE}", "examples": [IMAGE]}],
        "error": f"{TITLE}\n{IMAGE}",
    }
    page = markdown(report)
    shown = [line for line in page.splitlines() if not line.startswith("    ")]  # an indented block is shown as it is
    assert not OBEYED.search(page)
    assert not [line for line in shown if "![" in line or "](" in line or "://" in line]


def test_artifacts_and_logs_of_a_run_hold_nothing_that_is_obeyed(
    prefect_server: str, text_run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def hostile(name: str) -> str:
        """A stage that warns, and gives what it was given."""
        logging.getLogger("hubflow.stages.hostile").warning("%s", name)
        return name

    def failing(name: str) -> str:
        """A stage that fails."""
        raise DataError(f"{name}\n```\n{IMAGE}")

    names = [stage(str)(one) for one in (hostile, failing)]
    rows = tmp_path / f"{TITLE}{IMAGE.replace('/', '_')}.tsv"
    rows.write_text("text\tlabel\n" + "a fine film\tgood\na dull film\tbad\n" * 9 + " \tbad\n", encoding="utf-8")

    @flow(name="hostile")
    def run() -> None:
        names[0](f"{TITLE}{IMAGE}")
        spec = DatasetSpec.model_validate({"format": "tsv", "train": str(rows), "max_invalid_fraction": 0.5})
        load_dataset(spec, "text_classification", str(tmp_path / "store"))
        with pytest.raises(DataError):
            names[1](f"{TITLE}{IMAGE}")

    run()
    assert [record for record in caplog.records if "owned" in record.getMessage()]
    assert not [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("prefect") and OBEYED.search(record.getMessage())
    ]
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/artifacts/filter", json={"sort": "CREATED_DESC", "limit": 20}).json()
    of_run = [one for one in found if (one["key"] or "").startswith("hostile")]
    assert {"hostile-failing-failed", "hostile-hostile", "hostile-data-rows"} <= {one["key"] for one in of_run}
    for one in of_run:
        for text in (one["description"] or "", one["data"]):
            assert not OBEYED.search(text)
            lines = text.splitlines()
            if one["key"] == "hostile-failing-failed" and text == one["data"]:
                assert lines[0] == "````text" and lines[-1] == "````"
            else:
                assert "![x]" not in text.replace("\\\\", "\\") and "](http" not in text
