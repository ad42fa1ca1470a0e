"""A real Open WebUI with our filter in it, and the picture of it in ``docs/images``.

``OPEN_WEBUI=…/bin/open-webui python -m tools.open_webui`` draws the picture anew, on SmolLM2; the tests in
``tests/clients/test_open_webui_itself.py`` run where that variable is set. It is several GB, so nothing installs it:

    python3.11 -m venv webui && webui/bin/pip install open-webui==0.12.4

It keeps its data in a temporary folder and asks nobody else for anything.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tools.chromium import chromium
from tools.page_picture import PATIENCE, PICTURES, save, served
from tools.servers.launch import free_port, launch

VARIABLE = "OPEN_WEBUI"
FILTER = Path(__file__).parents[1] / "integrations" / "open_webui_filter.py"
VALVES = "/api/v1/functions/id/preftilt/valves"

ADMIN = {"email": "admin@example.org", "password": "not-a-secret"}
ENVIRONMENT = {
    "WEBUI_SECRET_KEY": "not-a-secret",
    "WEBUI_ADMIN_EMAIL": ADMIN["email"],
    "WEBUI_ADMIN_PASSWORD": ADMIN["password"],
    "BYPASS_MODEL_ACCESS_CONTROL": "true",  # Users see all models without being given them.
    "OPENAI_API_KEY": "none",
    "ENABLE_OLLAMA_API": "false",
    # It has no models of its own, and looks for none, nor for a newer version of itself.
    "OFFLINE_MODE": "true",
    "HF_HUB_OFFLINE": "1",
    "RAG_EMBEDDING_ENGINE": "openai",
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    "ANONYMIZED_TELEMETRY": "false",
    "DO_NOT_TRACK": "true",
}

QUESTION = "How should I spend a free Sunday? Answer in two sentences."
PREFERENCE = "I love being outdoors. I have no money to spend."
STRENGTH = "2"


@dataclass(frozen=True, slots=True)
class OpenWebUI:
    """A real one that runs; ``admin`` is its administrator's token."""

    url: str
    admin: str

    def ask(self, method: str, path: str, token: str, body: Any = None) -> httpx2.Response:
        """A request to its API."""
        with httpx2.Client(base_url=self.url, timeout=120, trust_env=False) as http:
            return http.request(
                method, path, json=body, headers={"Authorization": f"Bearer {token}"}
            )

    def post(self, path: str, token: str, body: Any) -> Any:
        """What it answers, which must not be an error."""
        return self.ask("POST", path, token, body).raise_for_status().json()

    def install(self) -> None:
        """The filter as a Function, switched on for all models."""
        function = {"id": "preftilt", "name": "preftilt", "meta": {"description": "preftilt"}}
        content = FILTER.read_text("utf-8")
        self.post("/api/v1/functions/create", self.admin, function | {"content": content})
        self.post("/api/v1/functions/id/preftilt/toggle", self.admin, {})
        self.post("/api/v1/functions/id/preftilt/toggle/global", self.admin, {})

    def add_user(self, name: str) -> str:
        """A user's token."""
        user = {"name": name, "email": f"{name}@example.org", "password": "not-a-secret"}
        return self.post("/api/v1/auths/add", self.admin, user | {"role": "user"})["token"]

    def set_valves(self, token: str, **valves: Any) -> None:
        """A user's settings of the filter; those that are not named are the defaults."""
        self.post(f"{VALVES}/user/update", token, valves)

    def set_admin_valves(self, **valves: Any) -> None:
        """The administrator's."""
        self.post(f"{VALVES}/update", self.admin, valves)

    def open(self, browser: Browser, token: str, patience: int = PATIENCE) -> Page:
        """A new chat as the user sees it. patience: milliseconds for everything that is waited for."""
        page = browser.new_page(viewport={"width": 1280, "height": 720}, color_scheme="light")
        page.set_default_timeout(patience)
        page.add_init_script(f"localStorage.token = '{token}'")
        page.goto(self.url)
        page.locator("#chat-input").wait_for()
        return page


@contextmanager
def running(executable: str, server: str, folder: Path) -> Iterator[OpenWebUI]:
    """An Open WebUI in front of the server at an address, with the filter, stopped in the end."""
    port = free_port()
    command = [executable, "serve", "--host", "127.0.0.1", "--port", str(port)]
    data = folder / "data"
    data.mkdir()
    places = {"DATA_DIR": str(data), "OPENAI_API_BASE_URL": f"{server}/v1"}
    web = launch("Open WebUI", command, port, folder / "log", ENVIRONMENT | places)
    try:
        with httpx2.Client(base_url=web.url, timeout=120, trust_env=False) as http:
            signed = http.post("/api/v1/auths/signin", json=ADMIN).raise_for_status().json()
        webui = OpenWebUI(web.url, signed["token"])
        webui.install()
        yield webui
    finally:
        web.stop()


def open_valves(page: Page) -> None:
    """*Controls → Valves → Functions → preftilt*."""
    page.click("[aria-label='Controls']")
    page.get_by_text("Valves", exact=True).first.click()
    page.locator("select", has_text="Functions").first.select_option(label="Functions")
    page.locator("select", has_text="Select a function").select_option(label="preftilt")
    page.get_by_text("Strength", exact=True).wait_for()


def set_valve(page: Page, name: str, value: str) -> None:
    """Type a user's setting, as one that is not the default."""
    field = page.get_by_placeholder(name, exact=True)
    if not field.count():
        row = page.get_by_text(name, exact=True).locator("xpath=..")
        row.get_by_role("button", name="Default").click()
    field.fill(value)
    with page.expect_response(lambda response: "/valves/user/update" in response.url):
        field.press("Tab")


def say(page: Page, words: str) -> None:
    """Send a message."""
    page.click("#chat-input")
    page.keyboard.insert_text(words)
    page.keyboard.press("Enter")


def main() -> None:
    """Serve the model, ask it in Open WebUI, and keep what is seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--out", type=Path, default=PICTURES)
    flags = parser.parse_args()
    executable = os.environ.get(VARIABLE)
    if executable is None:
        sys.exit(f"{VARIABLE} must name the executable of Open WebUI")
    path = chromium()
    with (
        tempfile.TemporaryDirectory() as folder,
        served(flags.model, "--ignore-tools", "--seed", "1") as server,
        running(executable, server, Path(folder)) as webui,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=path)
        page = webui.open(browser, webui.add_user("ann"))
        open_valves(page)
        set_valve(page, "Preference", PREFERENCE)
        set_valve(page, "Strength", STRENGTH)
        say(page, QUESTION)
        page.get_by_text("followed your preference").wait_for()
        expect(page.get_by_text("Valves updated")).to_have_count(0, timeout=PATIENCE)
        save(page, flags.out / "open-webui.png")
        browser.close()


if __name__ == "__main__":
    main()
