"""The filter in a real Open WebUI, through its API and in a browser. It needs several GB, so that it runs only where
OPEN_WEBUI names its executable (``tools/open_webui.py`` says how to install it)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from tools.chromium import chromium
from tools.open_webui import VARIABLE, OpenWebUI, open_valves, running, say, set_valve

from tests.server.serving import Running, serving

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no executable"),
]

WISH = {"preference": "No games.", "strength": 4}
QUESTION = "How do I study maths?"
MESSAGES = [{"role": "user", "content": QUESTION}]


@dataclass(slots=True)
class Recorder:
    """An ASGI application, and the chat requests that it got."""

    app: Any
    requests: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = bytearray()

        async def listen() -> Any:
            message = await receive()
            body.extend(message.get("body", b""))
            if body and not message.get("more_body") and message["type"] == "http.request":
                self.requests.append(json.loads(body))
            return message

        await self.app(scope, listen, send)

    def chats(self) -> list[dict[str, Any]]:
        """Without the questions in the background."""
        return [request for request in self.requests if request["messages"] == MESSAGES]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(ignore_tools=True) as running_server:
        config = running_server.server.config
        config.loaded_app = Recorder(config.loaded_app)
        yield running_server


@pytest.fixture
def recorder(server: Running) -> Recorder:
    """Of the server, without what earlier tests sent."""
    recorder = server.server.config.loaded_app
    assert isinstance(recorder, Recorder)
    recorder.requests.clear()
    return recorder


@pytest.fixture(scope="module")
def webui(server: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWebUI]:
    with running(
        os.environ[VARIABLE], server.url, tmp_path_factory.mktemp("webui")
    ) as running_webui:
        yield running_webui


@pytest.fixture(scope="module")
def ann(webui: OpenWebUI) -> str:
    return webui.add_user("ann")


@pytest.fixture(scope="module")
def bob(webui: OpenWebUI) -> str:
    return webui.add_user("bob")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium())
        yield browser
        browser.close()


@pytest.fixture
def page(webui: OpenWebUI, browser: Browser, ann: str) -> Iterator[Page]:
    page = webui.open(browser, ann, patience=120_000)
    yield page
    page.close()


def answer(webui: OpenWebUI, user: str, **changes: Any) -> str:
    """A chat through its API."""
    body = {"model": "toy", "messages": MESSAGES, "seed": 5, "stream": False} | changes
    reply = webui.post("/api/chat/completions", user, body)
    return reply["choices"][0]["message"]["content"]


def answer_of(server: Running, request: dict[str, Any]) -> str:
    """The server's own to the same request."""
    with server.http as http:
        reply = http.post("/v1/chat/completions", json=request | {"stream": False})
    return reply.raise_for_status().json()["choices"][0]["message"]["content"]


def test_every_user_s_requests_have_their_preference_and_strength(
    webui: OpenWebUI, server: Running, ann: str, bob: str, recorder: Recorder
):
    webui.set_valves(ann, **WISH)
    webui.set_valves(bob, preference="Games!")
    answers = [answer(webui, ann), answer(webui, bob)]
    knobs = [request["preftilt"] for request in recorder.chats()]
    assert knobs == [
        {"preference": {"text": "No games.", "lambda": 4}, "progress": False},
        {"preference": {"text": "Games!"}, "progress": False},
    ]
    assert answers == [answer_of(server, request) for request in recorder.chats()]
    assert answers[0] != answers[1]


def test_a_request_is_as_it_was_without_a_preference_and_where_the_filter_is_off(
    webui: OpenWebUI, ann: str, recorder: Recorder
):
    webui.set_valves(ann)
    answers = [answer(webui, ann)]
    webui.set_valves(ann, **WISH)
    webui.post("/api/v1/functions/id/preftilt/toggle", webui.admin, {})
    answers.append(answer(webui, ann))
    webui.post("/api/v1/functions/id/preftilt/toggle", webui.admin, {})
    body = {"model": "toy", "messages": MESSAGES, "seed": 5, "stream": False}
    assert recorder.chats() == [body, body]
    assert answers[0] == answers[1] != answer(webui, ann)


def test_the_administrator_s_models_are_those_that_workspace_models_build_on(
    webui: OpenWebUI, ann: str, recorder: Recorder
):
    tutor = {"id": "tutor", "name": "Tutor", "base_model_id": "toy", "meta": {}, "params": {}}
    webui.post("/api/v1/models/create", webui.admin, tutor)
    webui.ask("GET", "/api/models", webui.admin)  # It looks for new ones when it is asked for them.
    webui.set_valves(ann, **WISH)
    for names in ("toy", "demo"):
        webui.set_admin_valves(models=names)
        answer(webui, ann, model="tutor")
    webui.set_admin_valves()
    assert ["preftilt" in request for request in recorder.chats()] == [True, False]


def test_a_chat_in_the_browser_streams_the_answer_and_tells_its_progress(
    webui: OpenWebUI, server: Running, page: Page, ann: str, recorder: Recorder
):
    webui.set_valves(ann)
    webui.set_admin_valves(search="best-of-n", n=3)
    open_valves(page)
    set_valve(page, "Preference", "No games.")
    set_valve(page, "Strength", "4")
    say(page, QUESTION)
    page.get_by_text("followed your preference, λ = 4").wait_for()
    webui.set_admin_valves()
    [request] = recorder.chats()
    assert request["stream"]
    assert request["preftilt"] == {
        "preference": {"text": "No games.", "lambda": 4},
        "progress": True,
        "search": {"name": "best-of-n", "n": 3},
    }
    page.get_by_text(answer_of(server, request).strip()).last.wait_for()
    told = [status["description"] for status in statuses(webui, ann)]
    assert told[0] == "following your preference, λ = 4"
    assert "tokens drawn" in told[1]
    assert told[-1] == "followed your preference, λ = 4"


def statuses(webui: OpenWebUI, user: str) -> list[dict[str, Any]]:
    """Of the last answer of a user's newest chat, as they are kept."""
    [newest, *_] = webui.ask("GET", "/api/v1/chats/", user).json()
    chat = webui.ask("GET", f"/api/v1/chats/{newest['id']}", user).json()["chat"]
    [*_, last] = chat["history"]["messages"].values()
    return last["statusHistory"]


def test_a_strength_that_is_no_number_is_told_in_the_chat(
    webui: OpenWebUI, page: Page, ann: str, recorder: Recorder
):
    webui.set_valves(ann, **WISH)
    open_valves(page)
    set_valve(page, "Strength", "much")
    say(page, QUESTION)
    refusal = page.get_by_text('the strength must be a number such as 2, not "much"')
    refusal.first.wait_for()
    assert recorder.chats() == []


def test_what_the_server_refuses_is_told_in_the_chat(webui: OpenWebUI, page: Page, ann: str):
    webui.set_valves(ann, **WISH)
    webui.set_admin_valves(search="nonsense")
    say(page, QUESTION)
    page.get_by_text('"preftilt.search.name" must be').first.wait_for()
    webui.set_admin_valves()
