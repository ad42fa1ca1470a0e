"""Python's clients work unchanged, each through its ordinary call; they are asked everything at once, since they start
slowly.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.asking import TALK, said_by
from tests.server.serving import QUESTION, WISH, Running, ask

pytestmark = pytest.mark.clients

CLIENTS = ("langchain", "llama_index", "litellm")
SUFFIX = "bon-6-l2.5"
KNOB = WISH | {"lambda": 3}
TEXT = "not"

CHAT: dict[str, Any] = {
    "model": "toy",
    "input": QUESTION,
    "knob": KNOB,
    "stream": False,
    "settings": {"temperature": 1.0, "seed": 5},
}
RAW = {name: value for name, value in CHAT.items() if name != "knob"} | {"input": TEXT}
REQUESTS: dict[str, dict[str, Any]] = {
    "chat": CHAT,
    "chat streamed": CHAT | {"stream": True},
    "suffix": CHAT | {"model": f"toy:{SUFFIX}", "knob": WISH},
    "talk": CHAT | {"input": TALK},
    "talk streamed": CHAT | {"input": TALK, "stream": True},
    "text": RAW,
    "text streamed": RAW | {"stream": True},
    "penalty": CHAT | {"settings": {"temperature": 1.0, "frequency_penalty": 0.5}},
    "penalty streamed": CHAT
    | {"stream": True, "settings": {"temperature": 1.0, "frequency_penalty": 0.5}},
    "text with a knob": CHAT | {"input": TEXT},
    "nobody": CHAT | {"model": "nobody"},
}


@pytest.fixture(scope="module", params=CLIENTS)
def said(request: pytest.FixtureRequest, server: Running) -> dict[str, Any]:
    replies = said_by(request.param, server.url, [*REQUESTS.values()])
    return dict(zip(REQUESTS, replies, strict=True))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("chat", {}),
        ("suffix", {"model": f"toy:{SUFFIX}", "preftilt": WISH}),
        ("talk", {"messages": TALK}),
    ],
)
def test_they_are_answered_with_the_knob_in_the_body_and_in_the_model_s_name(
    name: str, changes: dict[str, Any], said: dict[str, Any], server: Running
) -> None:
    want = ask(server, **{"seed": 5, "preftilt": KNOB} | changes).json()
    [choice] = want["choices"]
    assert choice["message"]["content"]
    assert said[name] == {
        "pieces": [choice["message"]["content"]],
        "usage": [want["usage"]["completion_tokens"]],
        "finish": [choice["finish_reason"]],
    }


@pytest.mark.parametrize("name", ["chat", "talk"])
def test_a_stream_brings_the_same_answer(name: str, said: dict[str, Any]) -> None:
    streamed = said[f"{name} streamed"]
    assert ["".join(streamed["pieces"])] == said[name]["pieces"]
    assert streamed["usage"] == said[name]["usage"]
    assert streamed["finish"] == said[name]["finish"]


def test_a_text_is_continued_whole_and_streamed(said: dict[str, Any], server: Running) -> None:
    with server.http as http:
        want = http.post("/v1/completions", json={"model": "toy", "prompt": TEXT, "seed": 5}).json()
    [choice] = want["choices"]
    assert choice["text"]
    assert said["text"]["pieces"] == [choice["text"]]
    assert "".join(said["text streamed"]["pieces"]) == choice["text"]


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("penalty", 400, "frequency_penalty"),
        ("penalty streamed", 400, "frequency_penalty"),
        ("text with a knob", 400, "use /v1/chat/completions"),
        ("nobody", 404, "nobody"),
    ],
)
def test_they_raise_their_own_errors_with_our_words(
    name: str, status: int, words: str, said: dict[str, Any]
) -> None:
    failure = said[name]["failure"]
    assert failure["status"] == status
    assert words in failure["message"]
