"""Pages in headless Chromium: opened at the widths and in the colours of a desk and of a telephone, and looked at."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (1280, 390)
SCHEMES = ("light", "dark")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@dataclass
class Look:
    """A page that is open, and what it asked for and complained of."""

    page: Any
    width: int
    scheme: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def screenshot(self, folder: Path, name: str) -> Path:
        """Take a picture of the whole page."""
        path = folder / f"{name}-{self.width}-{self.scheme}.png"
        self.page.screenshot(path=path, full_page=True)
        return path

    @property
    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def find_browser() -> str | None:
    """Where Chromium is, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def browser_path() -> str:
    """Where Chromium is; skips, or fails where it is required, when there is none."""
    found = find_browser()
    if found is None:
        remedy = "no chromium on the PATH: apt-get install chromium"
        if os.environ.get("HUBFLOW_TEST_BROWSER") == "required":
            pytest.fail(remedy)
        pytest.skip(remedy)
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of its own; it must be closed before anything else runs an event loop in this thread."""
    from playwright.sync_api import sync_playwright

    path = browser_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, address: str, width: int, scheme: str) -> Iterator[Look]:
    """A page at a width, in light or dark colours."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    look = Look(page, width, scheme)
    page.on("request", lambda request: look.requests.append(request.url))
    page.on("console", lambda message: look.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: look.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (look.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    try:
        page.goto(address)
        yield look
    finally:
        page.close()


def everywhere(browser: Any, address: str) -> Iterator[Look]:
    """The page at every width in every colour scheme, one after the other."""
    for width in WIDTHS:
        for scheme in SCHEMES:
            with opened(browser, address, width, scheme) as look:
                yield look


def share_of_paper(picture: Path) -> tuple[float, float]:
    """Of a screenshot, the brightness of its most frequent colour, 0 to 1, and the share of pixels that have it."""
    from PIL import Image

    with Image.open(picture) as image:
        grey = image.convert("L")
    counts = grey.histogram()
    return max(range(256), key=counts.__getitem__) / 255, max(counts) / sum(counts)
