"""report.html: self-contained, with every metric, and hostile text shown as text."""

import re
from pathlib import Path
from typing import Any

import pytest
from modules import make_tiny_bert
from runs import WORDS, Run, run_stages, text_settings

from hubflow.schemas.settings import FineTuneSettings
from hubflow.stages.report import write_report

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "w" * 3000,
    "\u202eשלום fine",
    "</td></table><a href=x>",
)


def page_of(run: Run) -> str:
    path = write_report(run.settings, run.evaluation, run.encoded, run.export, {"fine_tune": 1.5}, run.settings.store)
    assert Path(path, "..", "run.json").resolve().is_file() or Path(path).with_name("run.json").is_file()
    return Path(path).read_text(encoding="utf-8")


@pytest.mark.parametrize("run_name", ["digits_run", "text_run"])
def test_the_page_stands_alone_and_holds_every_metric(run_name: str, request: Any) -> None:
    run = request.getfixturevalue(run_name)
    page = page_of(run)
    assert re.findall(r"https?://|<script|<link|<iframe|@import|url\(", page) == []
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    assert re.findall(r"href=", page) == []
    for values in run.evaluation.metrics.values():
        for name, value in values.items():
            assert name in page
            assert f"{value:.4f}" in page
    assert "Worst mistakes" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


def test_hostile_text_and_labels_are_shown_as_text(tmp_path: Path) -> None:
    values = text_settings(tmp_path, make_tiny_bert(tmp_path / "bert", WORDS))
    labels = ("<b>good</b>", "bad&")
    for split in ("train", "dev", "test"):
        rows = [f"{text}\t{labels[(n + m) % 2]}" for n in range(4) for m, text in enumerate(HOSTILE)]
        Path(values["data"][split]).write_text("\n".join(["text\tlabel", *rows]) + "\n", encoding="utf-8")
    run = run_stages(FineTuneSettings.model_validate(values))
    page = page_of(run)
    for tag in ("<script", "<img src=x", "<a href", "<b>good"):
        assert tag not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page or "&lt;script&gt;alert(1)" in page
    assert "w" * 401 not in page
    assert "unicode-bidi: plaintext" in page
