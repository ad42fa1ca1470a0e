"""The real page behind a real server over the toy engine, and a headless Chromium to look at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from tools.chromium import NoChromium
from tools.chromium import chromium as find_chromium

from preftilt.server.app import PAGE
from tests.server.serving import Running, serving


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    with serving(page=PAGE) as running:
        yield running


@dataclass(slots=True)
class Visit:
    """A browser's page with what it asked for and complained of; ``page`` is Playwright's."""

    page: Any
    requests: list[Any] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def draw(self) -> None:
        """Press the button, and wait for all answers."""
        from playwright.sync_api import expect

        self.page.click("#draw")
        expect(self.page.locator("#status")).to_contain_text("Done", timeout=15_000)
        expect(self.page.locator("#guided")).not_to_be_empty()
        expect(self.page.locator("#alone")).not_to_be_empty()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, or whichever CHROMIUM names, or Playwright's own if it has been installed."""
    from playwright.sync_api import sync_playwright

    try:
        path = find_chromium()
    except NoChromium as failure:
        pytest.fail(str(failure))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, server: Running) -> Iterator[Visit]:
    """The page, opened. In the end it must have asked nobody else for anything, and complained of nothing."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(15_000)
    found = Visit(context.new_page())
    found.page.on("request", lambda one: found.requests.append(one))
    found.page.on("console", lambda said: found.complaints.append(f"{said.type}: {said.text}"))
    found.page.on("pageerror", lambda failure: found.complaints.append(str(failure)))
    found.page.goto(server.url)
    found.page.wait_for_load_state("networkidle")
    yield found
    context.close()
    assert [one.url for one in found.requests if not one.url.startswith("http://127.0.0.1:")] == []
    assert found.complaints == []
