"""LiteLLM works unchanged, with the knob in ``extra_body``; it is asked everything at once, since it starts slowly."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients.asking import said_by_litellm
from tests.server.serving import QUESTION, WISH, Running, ask

pytestmark = pytest.mark.clients

SUFFIX = "bon-6-l2.5"
ARGUMENTS: dict[str, Any] = {
    "model": "openai/toy",
    "messages": QUESTION,
    "extra_body": {"preftilt": WISH},
}
REQUESTS: dict[str, dict[str, Any]] = {
    "whole": ARGUMENTS,
    "stream": ARGUMENTS | {"stream": True, "stream_options": {"include_usage": True}},
    "suffix": ARGUMENTS | {"model": f"openai/toy:{SUFFIX}"},
    "refused": ARGUMENTS | {"frequency_penalty": 0.5},
}


@pytest.fixture(scope="module")
def said(server: Running) -> dict[str, Any]:
    return dict(zip(REQUESTS, said_by_litellm(server.url, [*REQUESTS.values()]), strict=True))


def test_it_is_answered_with_the_knob_in_extra_body(said: dict[str, Any], server: Running):
    answer, want = said["whole"]["answer"], ask(server).json()
    assert answer["choices"][0]["message"]["content"] == want["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == want["choices"][0]["finish_reason"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert answer["usage"][name] == want["usage"][name]


def test_it_reads_a_stream(said: dict[str, Any], server: Running):
    chunks, want = said["stream"]["chunks"], ask(server).json()
    text = "".join(one["choices"][0]["delta"]["content"] or "" for one in chunks if one["choices"])
    assert text == want["choices"][0]["message"]["content"]
    [usage] = [one["usage"] for one in chunks if one.get("usage")]
    assert usage["completion_tokens"] == want["usage"]["completion_tokens"]


def test_it_takes_the_knob_in_the_model_s_name(said: dict[str, Any], server: Running):
    want = ask(server, model=f"toy:{SUFFIX}").json()["choices"][0]["message"]["content"]
    assert said["suffix"]["answer"]["choices"][0]["message"]["content"] == want


def test_it_raises_its_own_errors(said: dict[str, Any]):
    """A penalty that is not implemented is refused, not dropped."""
    failure = said["refused"]["failure"]
    assert (failure["name"], failure["status"]) == ("BadRequestError", 400)
    assert "frequency_penalty" in failure["message"]
