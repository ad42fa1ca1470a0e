"""A real vLLM server taken for any server with OpenAI's API: only what the probe of ``openai+http`` finds is used."""

from __future__ import annotations

import pytest

from preftilt.engines.base import Engine
from preftilt.engines.http.engine import ServerEngine
from preftilt.testing.contract import EngineLaws


class TestPlainOpenaiServer(EngineLaws):
    @pytest.fixture
    def engine(self, openai_over_http: Engine) -> Engine:
        return openai_over_http


def test_the_probe_finds_what_the_server_can_do(openai_over_http: ServerEngine):
    assert openai_over_http.name.startswith("openai+http://")
    facts = {fact.question: fact.answer for fact in openai_over_http.info.facts}
    assert facts["model"] == "demo"
    assert facts["which token a score is of"] == "the given one"
    assert facts["log-probs of drawing"].startswith("raw")
    assert "token ids in, token ids out, n responses a question" in openai_over_http.info.plan[0]
    assert openai_over_http.capabilities.sampler_logprobs
    assert openai_over_http.capabilities.max_context == 2559
