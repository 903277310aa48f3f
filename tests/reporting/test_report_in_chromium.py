"""report.html as a person sees it: in Chromium, on a desk and on a telephone, in light and in dark, with hostile rows too."""

from pathlib import Path

import pytest
from browser import chromium, everywhere, opened, share_of_paper
from runs import WORDS, Run, report, run_stages, text_settings
from small_modules import make_tiny_bert

from hubflow.evaluation.folder import read_details
from hubflow.schemas.settings import FineTuneSettings

pytestmark = [pytest.mark.slow, pytest.mark.browser]

HOSTILE = ("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "w" * 3000, "\u202eשלום fine", "</p></li><a href=x>")
SHOPS = ("<script>alert(2)</script>", "x" * 300, "\u202eשלום", "</table><a href=x>")
LOW_CONTRAST = (Path(__file__).parents[1] / "helpers" / "low_contrast.js").read_text(encoding="utf-8")
CLIPPED = """() => [...document.querySelectorAll('.results, .slices table, .scores')].filter((table) =>
    table.parentElement.clientWidth && table.parentElement.scrollWidth > table.parentElement.clientWidth + 1).map(
    (table) => table.innerText)"""
BROKEN = """() => [...document.querySelectorAll('.results tbody th')].flatMap((cell) => {  // lines that end within a word
    const range = document.createRange(), tops = [];
    const text = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    for (let node = text.nextNode(); node; node = text.nextNode()) {
        range.selectNodeContents(node);
        tops.push(new Set([...range.getClientRects()].map((box) => box.top)).size);
    }
    return tops.some((lines) => lines > 1) ? [cell.innerText] : [];
})"""
SHOWN_TEXT = "(pixels) => [...document.querySelectorAll(pixels)].map((one) => one.innerText)"


def report_of(run: Run) -> Path:
    return report(run.settings, run.evaluation, run.encoded, run.export, run.settings.store)


@pytest.fixture(scope="module")
def tokens_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every stage run on a few sentences; one is hostile."""
    folder = tmp_path_factory.mktemp("sentences")
    lines = {
        "a": "O",
        "fine": "B-GOOD",
        "film": "I-GOOD",
        "<script>": "B-BAD",
        "dull": "B-BAD",
        "w" * 500: "O",
        "שלום": "B-GOOD",
    }
    for split, times in (("train", 12), ("dev", 6), ("test", 8)):
        names = list(lines)
        rows = [
            "\n".join(f"{word} {lines[word]}" for word in (names[n % 7 :] + names[: n % 7])[: 3 + n % 5]) for n in range(times)
        ]
        (folder / f"{split}.txt").write_text("\n\n".join(rows) + "\n", encoding="utf-8")
    settings = {
        "task": "sequence_labelling",
        "module": {"name": str(make_tiny_bert(folder / "bert", WORDS)), "max_seq_len": 32},
        "data": {"format": "conll", **{split: str(folder / f"{split}.txt") for split in ("train", "dev", "test")}},
        "train": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
        "store": str(folder / "store"),
        "device": "cpu",
    }
    return run_stages(FineTuneSettings.model_validate(settings))


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every stage run on texts and labels that would be markup, or break the page."""
    folder = tmp_path_factory.mktemp("hostile")
    values = text_settings(folder, make_tiny_bert(folder / "bert", WORDS))
    labels = ("<b>good</b>", "bad&" + "d" * 200)
    for split in ("train", "dev", "test"):
        rows = [f"{text}\t{labels[(n + m) % 2]}\t{SHOPS[m % 4]}" for n in range(4) for m, text in enumerate(HOSTILE)]
        Path(values["data"][split]).write_text("\n".join(["text\tlabel\tshop</th>", *rows]) + "\n", encoding="utf-8")
    values["evaluate"] = {"slices": {"columns": ["shop</th>"]}}
    return run_stages(FineTuneSettings.model_validate(values))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("digits_run", marks=pytest.mark.soak),
        "text_run",
        pytest.param("tokens_run", marks=pytest.mark.soak),
        "hostile_run",
    ],
)
def test_the_page_is_whole_on_a_desk_and_on_a_telephone_in_light_and_in_dark(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Run = request.getfixturevalue(name)
    report = report_of(run)
    key = f"{run.evaluation.metrics['test'][run.checkpoint.best_metric]:.4f}"
    with chromium() as browser:
        for look in everywhere(browser, report.as_uri()):
            assert look.requests == [report.as_uri()] + [
                one for one in look.requests if one.startswith("data:image/png;base64,")
            ]
            assert look.complaints == []
            assert look.overflow == 0
            assert look.page.evaluate(CLIPPED) == []
            assert look.page.evaluate(BROKEN) == []
            assert look.page.evaluate("document.scripts.length") == 0
            assert key in look.page.locator(".figures").inner_text()
            assert look.page.locator(".figures").bounding_box()["y"] < 300  # seen without scrolling
            assert " to " in look.page.locator(".figures .interval").first.inner_text()
            calibration = look.page.locator("section .calibration")
            assert "ECE" in calibration.inner_text()
            assert calibration.locator("circle").count() > 0
            slices = look.page.locator("section .slices > div")
            assert slices.count() > 0
            assert all(one.bounding_box()["x"] + one.bounding_box()["width"] <= look.width for one in slices.all())
            for chart in look.page.locator("main > .charts svg.axes, section .calibration svg.axes").all():
                box = chart.bounding_box()
                assert box["width"] >= 280 and box["x"] >= 0 and box["x"] + box["width"] <= look.width
            brightness, share = share_of_paper(look.screenshot(tmp_path, name))
            assert (brightness > 0.95) if look.scheme == "light" else (brightness < 0.15)
            assert 0.3 < share < 0.995  # neither empty nor covered


def test_every_text_of_the_page_can_be_read_in_both_schemes(text_run: Run) -> None:
    report = report_of(text_run)
    with chromium() as browser:
        for scheme in ("light", "dark"):
            with opened(browser, report.as_uri(), 1280, scheme) as look:
                assert look.page.evaluate(LOW_CONTRAST) == []


def test_hostile_texts_and_labels_are_shown_as_they_are(hostile_run: Run) -> None:
    with chromium() as browser, opened(browser, report_of(hostile_run).as_uri(), 390, "light") as look:
        look.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
        shown = [text.removesuffix("…") for text in look.page.evaluate(SHOWN_TEXT, ".mistakes .content")]
        assert shown
        assert all(any(text and hostile.startswith(text.strip()) for hostile in HOSTILE) for text in shown)
        assert look.page.locator("main script, main a[href=x], main img[src=x], main b b").count() == 0
        assert look.page.locator(".label", has_text="<b>good</b>").first.is_visible()
        slices = look.page.evaluate(SHOWN_TEXT, "section .slices > div:first-child tbody .label")
        assert slices[0] == "the whole split"
        assert sorted(one.removesuffix("…") for one in slices[1:]) == sorted(shop[:40] for shop in SHOPS)
        assert look.page.locator("section .slices h4").first.inner_text() == "By shop</th>"
        hebrew = look.page.locator(".mistakes .content", has_text="שלום")
        assert hebrew.count() == 0 or hebrew.first.evaluate("(one) => getComputedStyle(one).direction") == "rtl"
        assert look.complaints == []


def test_wrong_words_of_a_sentence_are_marked_with_both_labels(tokens_run: Run) -> None:
    with chromium() as browser, opened(browser, report_of(tokens_run).as_uri(), 1280, "light") as look:
        marks = look.page.evaluate(SHOWN_TEXT, "section .mistakes mark.wrong")
        assert marks
        assert all(" → " in mark for mark in marks)


def test_entities_are_scored_by_type_in_both_ways_and_by_tag(tokens_run: Run) -> None:
    found = read_details(tokens_run.store, tokens_run.evaluation)["test"]
    assert found.strict is not None and found.per_tag is not None
    with chromium() as browser, opened(browser, report_of(tokens_run).as_uri(), 390, "light") as look:
        tables = look.page.evaluate(SHOWN_TEXT, "section table.scores")
        titles = look.page.evaluate(SHOWN_TEXT, "section .beside > div > h3")
        assert f"By type of entity, strictly by {found.scheme}" in titles
        assert "By tag, worst first" in titles
        assert "Left out" in titles
    for table, scores in zip(tables, (found.per_class, found.strict.per_class, found.per_tag), strict=True):
        lines = [line.split() for line in table.split("\n")]
        shown = {line[0]: line[1:] for line in lines if line and line[0] in scores}
        assert shown.keys() == scores.keys()
        for name, score in scores.items():
            numbers = [f"{one:.3f}" for one in (score.f1, score.precision, score.recall)]
            assert shown[name] == [*numbers, str(score.support), str(score.predicted)]


def test_images_are_shown_beside_their_labels(digits_run: Run) -> None:
    with chromium() as browser, opened(browser, report_of(digits_run).as_uri(), 390, "dark") as look:
        sizes = look.page.evaluate(
            "[...document.querySelectorAll('section .mistakes > li img')].map((one) => one.naturalWidth)"
        )
        assert sizes
        assert min(sizes) > 50
