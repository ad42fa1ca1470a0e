"""Honour or refuse: what the server does not do is an error in OpenAI's shape that names the field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from preftilt.errors import EngineError, EngineTimeout, PromptTooLong
from preftilt.messages import EMPTY_ONLY, WITHOUT_EFFECT
from preftilt.server.wire import ChatMessage
from tests.server.odd import Odd
from tests.server.serving import QUESTION, WISH, Running, ask, serving

REFUSED: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "a penalty": ({"presence_penalty": 0.5}, "presence_penalty", "only 0 is accepted"),
    "tools": ({"tools": [{"type": "function"}]}, "tools", "start the server with --ignore-tools"),
    "json": ({"response_format": {"type": "json_object"}}, "response_format.type", "text"),
    "alternatives": ({"logprobs": True, "top_logprobs": 3}, "top_logprobs", "only 0"),
    "an unknown field": ({"temprature": 1}, "temprature", 'did you mean "temperature"?'),
    "an unknown knob": ({"preftilt": WISH | {"lamda": 1}}, "preftilt.lamda", '"lambda"'),
    "two strengths": (
        {"preftilt": {"preference": {"text": "a", "lambda": 1, "strength": 2}}},
        "preftilt.preference",
        "are the same",
    ),
    "two seeds": ({"seed": 1, "preftilt": WISH | {"seed": 2}}, "preftilt.seed", "differ"),
    "two limits": ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "differ"),
    "a knob without a preference": (
        {"preftilt": {"lambda": 3}},
        "preftilt.preference",
        "no preference",
    ),
    "a suffix without a preference": (
        {"model": "toy:bon-4", "preftilt": None},
        "preftilt.preference",
        "no preference",
    ),
    "details without a preference": ({"preftilt": {"details": True}}, "preftilt.preference", "no"),
    "an idle setting": ({"preftilt": WISH | {"search": "greedy", "n": 3}}, None, "does not apply"),
    "a number of candidates twice": (
        {"preftilt": WISH | {"n": 2, "search": {"name": "best-of-n", "n": 3}}},
        "preftilt",
        '"n" and "search.n" are the same; give one',
    ),
    "too many choices": ({"n": 5}, "n", "4 answers at most"),
    "too many candidates": ({"preftilt": WISH | {"n": 10**9}}, "preftilt.search", "64"),
    "a tool's turn": (
        {"messages": [{"role": "tool", "content": "x"}]},
        "messages.0.role",
        "must be",
    ),
    "no user's turn": ({"messages": [{"role": "assistant", "content": "x"}]}, None, "user turn"),
    "half a surrogate pair": (
        {"preftilt": {"preference": "a\ud800"}},
        None,
        "preftilt.preference is not valid Unicode",
    ),
    "too much": ({"max_tokens": 100_000}, "messages", "context"),
    "joint log-probs": (
        {"logprobs": True, "preftilt": {"preferences": ["a", "b"]}},
        "logprobs",
        "not scored under that prompt",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_refuses(name: str, server: Running) -> None:
    changes, param, words = REFUSED[name]
    body = {"model": "toy", "messages": QUESTION, "preftilt": WISH} | changes
    text = json.dumps({name: value for name, value in body.items() if value is not None})
    with server.http as http:
        said = http.post("/v1/chat/completions", content=text, headers=JSON)
    assert said.status_code == 400, said.text
    error = said.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert words in error["message"]


JSON = {"content-type": "application/json"}
NEUTRAL: dict[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0.0,
    "logit_bias": {},
    "user": "u\r\nX: y",
    "metadata": {"a": "b"},
    "store": False,
    "service_tier": "auto",
    "tools": [],
    "tool_choice": "none",
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "modalities": ["text"],
    "stream": False,
    "stream_options": {"include_usage": True},
    "top_logprobs": None,
    "stop": None,
    "n": 1,
}


def test_what_changes_nothing_is_accepted(server: Running) -> None:
    with server.http as http:
        body = {"model": "toy", "messages": QUESTION, "preftilt": WISH}
        plain = http.post("/v1/chat/completions", json=body).json()
        said = http.post("/v1/chat/completions", json=body | NEUTRAL).json()
    assert said["choices"] == plain["choices"]


SENT: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind.", "name": "app"},
    {"role": "developer", "content": [{"type": "text", "text": "Be brief.", "cache_control": {}}]},
    {"role": "user", "content": "Hello.", "name": "Eve"},
    {"role": "assistant", "content": None, "refusal": None, "tool_calls": None, "annotations": []},
    *QUESTION,
]
READ = [
    {"role": "system", "content": "Be kind.\n\nBe brief."},
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": ""},
    *QUESTION,
]


def test_messages_are_taken_as_clients_send_them(server: Running) -> None:
    sent, read = ask(server, messages=SENT), ask(server, messages=READ)
    assert sent.status_code == 200, sent.text
    assert sent.json()["choices"] == read.json()["choices"]


def test_fields_of_a_message_are_the_same_in_files_and_on_the_server() -> None:
    known = {"role", "content", *WITHOUT_EFFECT, *EMPTY_ONLY}
    assert ChatMessage.model_fields.keys() == known


def test_only_the_assistant_may_say_nothing(server: Running) -> None:
    said = ask(server, messages=[{"role": "user", "content": None}])
    assert said.status_code == 400
    assert "only the assistant's turns may have none" in said.json()["error"]["message"]


def test_tools_that_may_not_be_called_change_nothing(server: Running) -> None:
    plain = ask(server).json()
    offered = ask(server, tools=[{"type": "function"}], tool_choice="none").json()
    assert offered["choices"] == plain["choices"]


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", JSON, 400),
        (b"[]", JSON, 400),
        (b'{"model": NaN}', JSON, 400),
        (b'{"model": "toy", "model": "toy"}', JSON, 400),
        (b'{"n": 99999999999999999999999}', JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b'{"messages":' * 40 + b"1" + b"}" * 40, JSON, 400),
        (b"\xff", JSON, 400),
        (b" " * (1 << 20) + b"{}", JSON, 413),
        (b"{}", {"content-type": "text/plain"}, 415),
    ],
)
def test_a_malformed_body_is_an_error_and_the_server_lives(
    content: bytes, headers: dict[str, str], status: int, server: Running
) -> None:
    with server.http as http:
        said = http.post("/v1/chat/completions", content=content, headers=headers)
        assert said.status_code == status
        assert said.json()["error"]["message"]
        assert http.get("/health").status_code == 200


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(server: Running) -> None:
    with server.http as http:
        pieces = (b" " * 65_536 for _ in range(17))
        said = http.post("/v1/chat/completions", content=pieces, headers=JSON)
    assert said.status_code == 413


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (EngineError("the engine is down"), 502, "engine_failed"),
        (TimeoutError(), 504, "engine_timeout"),
        (EngineTimeout("the engine takes too long"), 504, "engine_timeout"),
        (PromptTooLong("too long"), 400, "context_length_exceeded"),
        (RuntimeError("a secret place"), 500, None),
    ],
)
def test_a_failing_engine_has_its_status(failure: Exception, status: int, code: str | None) -> None:
    with serving(Odd(failure=failure)) as server:
        said = ask(server)
    assert said.status_code == status
    assert said.json()["error"]["code"] == code
    assert "secret" not in said.text


def test_an_engine_that_hangs_is_a_timeout_and_its_work_is_stopped() -> None:
    engine = Odd(pause=60)
    with serving(engine, timeout_s=0.2) as server:
        said = ask(server)
    assert said.status_code == 504
    assert engine.cancelled == 1


def test_unknown_paths_and_methods_are_errors_in_the_same_shape(server: Running) -> None:
    with server.http as http:
        assert http.get("/v1/nothing").json()["error"]["message"] == "Not Found"
        wrong = http.get("/v1/chat/completions")
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert wrong.json()["error"]["type"] == "invalid_request_error"
