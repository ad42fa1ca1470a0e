"""The requests of Open WebUI, which is too large a program to install for the tests (several GB).

They are those of its back end for a connection of the kind OpenAI (``backend/open_webui/routers/openai.py`` and
``utils/payload.py``): the list of models with the key and the headers about its user, a chat that streams, asks for
usage and offers tools, with the settings of its chat panel, and the questions in the background that name a chat and
tag it.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from preftilt.server.wire import Knob
from tests.server.serving import Running, ask, serving

USER = {
    "X-OpenWebUI-User-Name": "Ann%20Other",
    "X-OpenWebUI-User-Id": "7b1c",
    "X-OpenWebUI-User-Email": "ann@example.org",
    "X-OpenWebUI-User-Role": "user",
    "X-OpenWebUI-Chat-Id": "c0ffee",
}
CHAT: dict[str, Any] = {
    "model": "toy:bon-4-l5",
    "messages": [
        {"role": "system", "content": "No games."},
        {"role": "user", "content": "How do I study maths?"},
    ],
    "stream": True,
    "stream_options": {"include_usage": True},
    "tools": [{"type": "function", "function": {"name": "get_current_timestamp"}}],
}
PANEL = {"temperature": 0.8, "top_p": 0.9, "max_tokens": 20, "seed": 7, "stop": ["###"]}
PANEL |= {"frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}}
"""Settings of the chat panel, when they are set."""


@pytest.fixture(scope="module")
def behind() -> Any:
    """As docs/how-to/server.md tells to start it: with a key, and the system prompt as the preference."""
    firm = Knob.model_validate({"lambda": 5, "n": 8})
    site: dict[str, Any] = {"preference_from": "system", "ignore_tools": True}
    with serving(key="secret", presets={"firm": firm}, **site) as running:
        yield running


def post(server: Running, body: dict[str, Any]) -> Any:
    headers = {"Authorization": "Bearer secret", "Content-Type": "application/json", **USER}
    with server.http as http:
        return http.post("/v1/chat/completions", content=json.dumps(body), headers=headers)


def test_it_finds_the_models(behind: Running):
    with behind.http as http:
        found = http.get("/v1/models", headers={"Authorization": "Bearer secret", **USER}).json()
    assert [one["id"] for one in found["data"]] == ["toy", "toy:firm"]
    assert {one["object"] for one in found["data"]} == {"model"}


@pytest.mark.parametrize("panel", [{}, PANEL], ids=["as_it_comes", "all_settings"])
def test_a_chat_streams_text_and_usage_in_the_lines_that_it_reads(
    behind: Running, panel: dict[str, Any]
):
    reply = post(behind, CHAT | panel)
    assert reply.status_code == 200
    assert "text/event-stream" in reply.headers["content-type"]
    lines = [one for one in reply.text.splitlines() if one]
    assert lines[-1] == "data: [DONE]"
    chunks = [
        json.loads(one.removeprefix("data: "))
        for one in lines[:-1]
        if one.startswith("data: ")  # It passes over comments.
    ]
    text = "".join(
        one["choices"][0]["delta"].get("content", "") for one in chunks if one["choices"]
    )
    whole = post(behind, CHAT | panel | {"stream": False, "stream_options": None}).json()
    assert text == whole["choices"][0]["message"]["content"]
    assert text
    assert chunks[-1]["usage"]["preftilt"]["candidates"] == 4
    assert all(set(one["choices"][0]["delta"]) <= {"role", "content"} for one in chunks[:-1])


def test_its_preference_is_the_system_prompt(behind: Running):
    with serving() as plain:
        want = ask(plain, model="toy:bon-4-l5").json()["choices"][0]["message"]["content"]
    said = post(behind, CHAT | {"stream": False, "stream_options": None}).json()
    assert said["choices"][0]["message"]["content"] == want


@pytest.mark.parametrize("model", ["toy", "toy:firm", "toy:bon-4-l5"])
def test_titles_and_tags_are_answered_by_the_model_as_it_is(behind: Running, model: str):
    """Its questions in the background go to the same model without a system prompt."""
    title = {"role": "user", "content": "### Task:\nGenerate a concise title."}
    body = {"model": model, "messages": [title], "stream": False}
    said = post(behind, body | {"max_completion_tokens": 20}).json()
    assert said["choices"][0]["message"]["content"]
    assert said["usage"]["preftilt"]["candidates"] == 1


def test_a_wrong_key_is_told_in_a_form_that_it_shows(behind: Running):
    with behind.http as http:
        reply = http.get("/v1/models", headers={"Authorization": "Bearer other"})
    assert reply.status_code == 401
    assert "API key" in reply.json()["error"]["message"]
