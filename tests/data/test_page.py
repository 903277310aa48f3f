"""The data report on a page and as artifacts: everything is there, hostile text is text, and parts may be missing."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hubflow.data.profile import Profiler, against_last, write_profile
from hubflow.data.report import data_view, write_data_page
from hubflow.orchestration.artifacts import MARKDOWN_KEY, TABLE_KEY, markdown, publish_data_report
from hubflow.schemas.data_checks import DriftSettings
from hubflow.store.store import Store

HOSTILE = "<script>alert(1)</script> [x](javascript:alert(1)) | <img src=x onerror=alert(1)>"


def profile(seed: int, words: int) -> dict[str, Any]:
    random, profiler = np.random.default_rng(seed), Profiler("text")
    for split, rows in (("train", 2000), ("dev", 300)):
        texts = [" ".join(["film"] * length) for length in random.poisson(words, rows) + 1]
        labels = random.choice(["<b>good</b>", "bad"], rows, p=[1 - words / 100, words / 100])
        profiler.add(split, pd.DataFrame({"text": pd.Series(texts, dtype="str"), "label": pd.Series(labels, dtype="str")}))  # type: ignore[arg-type]
    return profiler.profile()


def full_report(store: Path, error: str | None = None) -> dict[str, Any]:
    write_profile(Store(store), "s", "0123abcd", "1", profile(0, 12))
    tonight = profile(1, 40)
    findings, drift = against_last(Store(store), "s", "2", tonight, DriftSettings())
    rejected = {"row": 7, "checks": ["text: has_text", "label: known_label"], "text": HOSTILE, "label": None}
    train = {
        "source": "reviews/train.csv",
        "read": 2003,
        "accepted": 2000,
        "rejected": 3,
        "malformed": 1,
        "checks": {"text: has_text": 2, "line: fields": 1},
        "first_rejected": [rejected],
        "quarantine": "quarantine/0123abcd/train.parquet",
        "coerced": {"label": 12},
        "skipped": {"comment": 5},
    }
    told = {
        "check": "conflicting_labels",
        "policy": "fail",
        "splits": ["train"],
        "count": 2,
        "message": f"two labels: {HOSTILE}",
    }
    dumped = [finding.model_dump(mode="json") for finding in findings]
    report = {
        "max_invalid_fraction": 0.01,
        "splits": {"train": train},
        "findings": [*dumped, {**told, "examples": [f"row 3 {HOSTILE}"]}],
        "facts": {},
        "error": error,
        "profile": tonight,
        "drift": drift,
    }
    read: dict[str, Any] = json.loads(json.dumps(report, allow_nan=False))
    return read


def test_the_page_stands_alone_and_shows_every_part(tmp_path: Path) -> None:
    path = write_data_page(tmp_path / "run", full_report(tmp_path / "store", "train.csv: 3 row(s) break the contract"))
    page = path.read_text(encoding="utf-8")
    assert re.findall(r"https?://|<script|<link|<iframe|@import|url\(|href=", page) == []
    for shown in (
        "train.csv: 3 row(s) break the contract",
        "reviews/train.csv",
        "2003",
        "label 12",
        "comment 5",
        "At most 1.00%",
        "text: has_text",
        "quarantine/0123abcd/train.parquet",
        "train: text, words",
        "Compared with the data set 0123abcd",
        "drift.psi",
        "population stability index",
        "made from train",
    ):
        assert shown in page
    assert page.index(">fail<") < page.index(">warn<")
    assert page.count('class="before"') > 20
    assert "NaN" not in page


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    report = full_report(tmp_path / "store", HOSTILE)
    page = write_data_page(tmp_path, report).read_text(encoding="utf-8")
    for tag in ("<script", "<img src=x", "<b>good"):
        assert tag not in page
    assert page.count("&lt;script&gt;alert(1)") >= 4
    text = markdown(report)
    assert "comment 5" in text
    outside_code = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    assert not re.search(r"(?<!\\)[<\[]", outside_code)
    assert "&lt;script&gt;alert\\(1\\)" in text


@pytest.mark.parametrize("report", [{}, {"rows": {"train": 3}}, {"splits": {}, "findings": [], "facts": {}, "error": None}])
def test_parts_may_be_missing(report: dict[str, Any], tmp_path: Path) -> None:
    assert data_view(report)["findings"] == []
    assert "no profile to compare" in write_data_page(tmp_path, report).read_text(encoding="utf-8")
    assert "None." in markdown(report)


def test_many_labels_are_shown_in_part_and_said_to_be_more() -> None:
    counts = {f"label{number}": number for number in range(100)}
    view = data_view({"profile": {"splits": {"train": {"rows": 9, "labels": counts, "histograms": {}, "characters": {}}}}})
    assert [line["label"] for line in view["labels"]][:2] == ["label99", "label98"]
    assert (len(view["labels"]), view["more_labels"]) == (30, "… and 70 more labels.")


def test_the_report_is_published_as_a_table_and_markdown_and_outside_a_run_not_at_all(
    prefect_server: str, tmp_path: Path
) -> None:
    from prefect import flow
    from prefect.artifacts import Artifact

    report = full_report(tmp_path / "store")
    before = Artifact.get(MARKDOWN_KEY)  # of a task without a flow, which another test may have run
    publish_data_report(report)
    assert Artifact.get(MARKDOWN_KEY) == before
    assert Artifact.get(f"publish-data-{MARKDOWN_KEY}") is None
    flow(publish_data_report, name="publish-data", validate_parameters=False)(report)
    table, page = (Artifact.get(f"publish-data-{key}") for key in (TABLE_KEY, MARKDOWN_KEY))
    (line,) = [one for one in json.loads(str(table.data)) if one["split"] == "train"]  # type: ignore[union-attr]
    assert line["quarantined"] == "3"
    assert line["converted"] == "label 12"
    assert page.data == markdown(report)  # type: ignore[union-attr]
