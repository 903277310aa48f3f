"""report.html: self-contained, with every metric, and hostile text shown as text."""

import datetime
import html
import json
import re
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
from runs import WORDS, Run, report, run_stages, text_settings
from small_modules import make_tiny_bert

from hubflow.errors import StoreError
from hubflow.evaluation.folder import read_details
from hubflow.schemas.deployment import GateSettings
from hubflow.schemas.settings import BootstrapSettings, EvaluateSettings, FineTuneSettings, SliceSettings
from hubflow.stages.evaluate import evaluate
from hubflow.stages.gate import gate
from hubflow.store.store import Store

pytestmark = pytest.mark.slow

HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "w" * 3000,
    "\u202eשלום fine",
    "</td></table><a href=x>",
)


def page_of(run: Run) -> str:
    path = report(run.settings, run.evaluation, run.encoded, run.export, run.settings.store)
    assert Path(path, "..", "run.json").resolve().is_file() or Path(path).with_name("run.json").is_file()
    return Path(path).read_text(encoding="utf-8")


@pytest.mark.parametrize("run_name", ["digits_run", "text_run"])
def test_the_page_stands_alone_and_holds_every_metric(run_name: str, request: Any) -> None:
    run = request.getfixturevalue(run_name)
    page = page_of(run)
    assert re.findall(r"https?://|<script|<link|<iframe|@import|url\(", page) == []
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)"', page))
    anchors = set(re.findall(r'href="([^"]*)"', page))
    assert all(anchor.startswith("#") and f'id="{anchor[1:]}"' in page for anchor in anchors)
    for values in run.evaluation.metrics.values():
        for name, value in values.items():
            assert name in page
            assert f"{value:.4f}" in page
    assert "Worst mistakes" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page


@pytest.mark.parametrize("run_name", ["digits_run", "text_run"])
def test_what_evaluate_kept_of_a_split_is_shown_as_it_kept_it(run_name: str, request: Any) -> None:
    run: Run = request.getfixturevalue(run_name)
    page = page_of(run)
    details = read_details(run.store, run.evaluation)
    shown = [int(row) for row in re.findall(r"row (\d+) · loss", page)]
    assert shown == [mistake.row for split in ("test", "dev") for mistake in details[split].worst]
    assert "· <bdi>probability</bdi>" not in page  # a name of ours is no further column
    for one in details.values():
        assert one.calibration is not None
        assert f"Calibration: ECE {one.calibration.ece:.4f}" in page
        assert one.intervals
        for interval in one.intervals.values():
            assert f"{interval.low:.4f} to {interval.high:.4f}" in page
        for label, score in one.per_class.items():
            assert re.search(f'text">{label}</span></th><td class="n">{score.f1:.3f}</td>.*>{score.recall:.3f}</td>', page)
        for kind, mean in one.averages.items():
            assert f'<th>{kind}</th><td class="n">{mean["f1"]:.3f}</td>' in page
        assert all(f'<li class="text">{html.escape(note)}</li>' in page for note in one.notes)
        for found in one.slices:
            accuracy = f'<td class="n">{found.rows}</td><td class="n[^"]*">(?:▼ )?{found.metrics["accuracy"]:.3f}<(?:/td|small)'
            assert re.search(f"{re.escape(html.escape(found.value))}</span></th>{accuracy}", page)
    first = details["test"].intervals[run.checkpoint.best_metric]
    assert f'<dd class="interval">{first.low:.4f} to {first.high:.4f} (95%)</dd>' in page


def test_what_was_not_asked_for_has_no_section(digits_run: Run, tmp_path: Path) -> None:
    store = str(shutil.copytree(digits_run.settings.store, tmp_path / "store"))
    unsliced = SliceSettings(length=False, labels=False)
    bare = EvaluateSettings(bootstrap=BootstrapSettings(resamples=0), worst_mistakes=0, slices=unsliced, top_k=(2,))
    evaluation = evaluate.fn(digits_run.checkpoint, digits_run.encoded, bare, store, "cpu")
    references = (digits_run.encoded, digits_run.export, store)
    page = report(digits_run.settings, evaluation, *references).read_text(encoding="utf-8")
    assert "among the most probable" not in page_of(digits_run)  # of three labels every k is too large
    for one in read_details(Store(store), evaluation).values():
        assert f'first 2</th><td class="n">{one.top_k[2]:.4f}</td></tr>' in page
    assert 'class="interval"' not in page
    assert "confidence interval" not in page
    assert "Worst mistakes" not in page
    assert "Slices" not in page
    assert "Left out" not in page


def test_the_next_run_says_what_has_changed_since_the_last(text_run: Run, tmp_path: Path) -> None:
    store = shutil.copytree(text_run.settings.store, tmp_path / "store")
    shutil.rmtree(store / "runs", ignore_errors=True)
    named = text_run.settings.model_copy(update={"store": str(store), "name": "night-run"})
    other = named.model_copy(update={"name": "other-night-run"})
    warmer = named.model_copy(update={"train": named.train.model_copy(update={"learning_rate": 2e-3})})
    references = (text_run.evaluation, text_run.encoded, text_run.export, str(store))
    report(other, *references)
    first, second = (report(one, *references) for one in (named, warmer))
    assert "This is the first run of this name in the store." in first.read_text(encoding="utf-8")
    page = second.read_text(encoding="utf-8")
    assert "The data is the same." in page
    assert re.search(r"train\.learning_rate</th><td[^>]*>0\.001</td><td[^>]*>0\.002</td>", page)
    assert "as in the last run" in page
    summary = json.loads(second.with_name("run.json").read_text(encoding="utf-8"))
    assert summary["split_sha256"].keys() == text_run.dataset.rows.keys()
    second.with_name("run.json").write_text("{", encoding="utf-8")
    assert "cannot be read" in report(named, *references).read_text(encoding="utf-8")


def test_a_second_try_takes_the_place_of_the_first_and_is_compared_with_the_run_before_both(
    text_run: Run, tmp_path: Path
) -> None:
    store = shutil.copytree(text_run.settings.store, tmp_path / "store")
    shutil.rmtree(store / "runs", ignore_errors=True)
    before = text_run.settings.model_copy(update={"store": str(store), "name": "night-run"})
    tonight = before.model_copy(update={"train": before.train.model_copy(update={"learning_rate": 2e-3})})
    references = (text_run.evaluation, text_run.encoded, text_run.export, str(store))
    report(before, *references)
    began = datetime.datetime.now(datetime.UTC)
    tries = [report(tonight, *references, began=began) for _ in range(2)]
    assert tries[0] == tries[1]
    assert len(list((store / "runs").iterdir())) == 2
    assert re.search(r"train\.learning_rate</th><td[^>]*>0\.001</td><td[^>]*>0\.002</td>", tries[1].read_text(encoding="utf-8"))


def test_a_report_is_whole_or_not_there(text_run: Run, tmp_path: Path) -> None:
    store = shutil.copytree(text_run.settings.store, tmp_path / "store")
    shutil.rmtree(store / "runs", ignore_errors=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the disk takes a part of the page
    try:
        with pytest.raises(StoreError, match=r"/runs/.* could not be written .*File too large"):
            report(text_run.settings, text_run.evaluation, text_run.encoded, text_run.export, str(store))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((store / "runs").iterdir()) == []


def test_what_the_gate_decided_comes_first(digits_run: Run, tmp_path: Path) -> None:
    store = str(shutil.copytree(digits_run.settings.store, tmp_path / "store"))
    settings = GateSettings(min_value=0.999)
    verdict = gate.fn(digits_run.export, digits_run.dataset, settings, digits_run.settings.evaluate, "digits", store)
    references = (digits_run.evaluation, digits_run.encoded, digits_run.export, store)
    page = report(digits_run.settings, *references, verdict).read_text(encoding="utf-8")
    assert page.index('<p class="verdict rejected"><b>Rejected</b>') < page.index('<dl class="figures">')
    assert html.escape(verdict.reason) in page
    assert "What the gate found" in page
    assert 'min_value</th><td class="bad">failed' in page
    assert "What the gate found" not in report(digits_run.settings, *references).read_text(encoding="utf-8")


@pytest.mark.slow
def test_hostile_text_and_labels_are_shown_as_text(tmp_path: Path) -> None:
    values = text_settings(tmp_path, make_tiny_bert(tmp_path / "bert", WORDS))
    labels = ("<b>good</b>", "bad&")
    for split in ("train", "dev", "test"):
        rows = [f"{text}\t{labels[(n + m) % 2]}\t<i>{m}" for n in range(4) for m, text in enumerate(HOSTILE)]
        Path(values["data"][split]).write_text("\n".join(["text\tlabel\t<i>shop", *rows]) + "\n", encoding="utf-8")
    values["evaluate"] = {"slices": {"columns": ["<i>shop"]}}
    run = run_stages(FineTuneSettings.model_validate(values))
    page = page_of(run)
    for tag in ("<script", "<img src=x", "<a href=x", "<b>good", "<i>"):
        assert tag not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page or "&lt;script&gt;alert(1)" in page
    assert "By &lt;i&gt;shop</h4>" in page
    assert "&lt;i&gt;4</span></th>" in page
    assert "w" * 401 not in page
    assert "unicode-bidi: plaintext" in page
