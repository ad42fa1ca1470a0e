"""The picture of the page in ``docs/images/page.png``: ``python -m tools.page_picture`` draws it anew.

It needs Chromium (``CHROMIUM`` names one) and Playwright, which is in ``requirements/dev.txt``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tools.chromium import chromium

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "page.png"
SIZE = {"width": 1280, "height": 1430}


def main() -> None:
    """Serve the bundled model, draw the page's own example, and keep what is seen."""
    path = chromium()
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        context = browser.new_context(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(url)
        draw(page)
        page.screenshot(path=PICTURE)
        browser.close()
    print(PICTURE)


@contextmanager
def served() -> Iterator[str]:
    """The address of a server on the bundled model, stopped in the end."""
    preftilt = Path(sys.executable).with_name("preftilt")
    command = [preftilt, "serve", "--model", "demo", "--port", "0"]
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


def draw(page: Page) -> None:
    """One click, and wait for all answers."""
    page.click("#draw")
    expect(page.locator("#status")).to_contain_text("Done", timeout=120_000)
    expect(page.locator("#alone")).not_to_be_empty(timeout=120_000)


if __name__ == "__main__":
    main()
