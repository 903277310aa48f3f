"""The model card: all that the manifest and the verification know, and hostile text shown as text."""

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from runs import Run

from hubflow.inference.export import markdown_text, seen_text, write_card
from hubflow.schemas.labels import LabelMap
from hubflow.store.manifest import verify_folder

HOSTILE = "<script>alert(1)</script> | **x** [a](http://b) ![i](http://c) `d` \u202egnp \n# e"


class Page(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", ["digits_run", "text_run"], ids=["images", "texts"])
def test_both_cards_hold_what_the_manifest_and_the_proof_know(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    facts = verify_folder(run.export_folder).facts
    verification = json.loads((run.export_folder / "verification.json").read_text())
    page = Page((run.export_folder / "card.html").read_text(encoding="utf-8")).text
    markdown = (run.export_folder / "card.md").read_text(encoding="utf-8")
    known = [
        *(f"{value:.4f}" for values in facts["metrics"].values() for value in values.values()),
        *(str(label) for label in LabelMap.load(run.export_folder / "label_map.json").labels),
        *facts["versions"].values(),
        facts["fingerprints"]["data"],
        facts["label_map_sha256"],
        facts["module"]["sha256"],
        f"{verification['latency_ms']['1']['median']:.3g}",
        f"{verification['metric']['exported']:.4f}",
        verification["cpu"],
        'Predictor.load("path/of/this/folder")',
        "special ones included" if name == "text_run" else "pixels",
    ]
    for card in (page, markdown.replace("\\", "")):
        assert [value for value in known if value not in card] == []
    for setting, value in (("batch_size", "16"), ("optimizer.name", '"adamw"')):
        assert f"{setting}{value}" in page
        assert f"| {setting} | {value} |" in markdown.replace("\\", "")


def test_the_page_asks_for_nothing_from_elsewhere(digits_run: Run) -> None:
    source = (digits_run.export_folder / "card.html").read_text(encoding="utf-8")
    page = Page(source)
    assert not {"script", "link", "img", "iframe", "a"} & set(page.tags)
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert "default-src 'none'" in source


def test_hostile_labels_and_names_are_shown_as_text(text_run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(text_run.export_folder, tmp_path / "export")
    facts = verify_folder(folder).facts
    LabelMap(labels=(HOSTILE, "good")).save(folder / "label_map.json")
    write_card(folder, {**facts, "module": {**facts["module"], "name": HOSTILE}})
    page = Page((folder / "card.html").read_text(encoding="utf-8"))
    assert not {"script", "img", "a"} & set(page.tags)
    assert page.text.count(seen_text(HOSTILE)) == 2 + page.text.count("Model card: ")
    markdown = (folder / "card.md").read_text(encoding="utf-8")
    assert "<script" not in markdown
    assert "\u202e" not in markdown
    line = next(line for line in markdown.splitlines() if line.startswith("| 0 |"))
    assert line == f"| 0 | {markdown_text(HOSTILE)} |"


def test_markdown_text_has_no_marks_of_its_own() -> None:
    assert markdown_text("a|b *c* <d> &e [f](g) `h`") == r"a\|b \*c\* &lt;d&gt; &amp;e \[f\]\(g\) \`h\`"
    assert markdown_text("a\n# b\x00") == r"a\\u000a\# b\\u0000"
    assert markdown_text("https://a www.b") == r"https\://a www\.b"


def test_many_labels_are_counted_and_not_all_listed(digits_run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(digits_run.export_folder, tmp_path / "export")
    LabelMap(labels=tuple(f"kind-{n}" for n in range(250))).save(folder / "label_map.json")
    write_card(folder, verify_folder(digits_run.export_folder).facts)
    for name in ("card.md", "card.html"):
        card = (folder / name).read_text(encoding="utf-8")
        assert "kind-199" in card
        assert "kind-200" not in card
        assert "50 more" in card
