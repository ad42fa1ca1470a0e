"""A real vLLM server, asked over HTTP."""

from __future__ import annotations

import pytest

from preftilt.engines.base import Engine
from preftilt.engines.http.engine import ServerEngine
from preftilt.testing.contract import EngineLaws


class TestVllmServer(EngineLaws):
    @pytest.fixture
    def engine(self, vllm_over_http: Engine) -> Engine:
        return vllm_over_http


def test_the_probe_finds_what_the_server_can_do(vllm_over_http: ServerEngine):
    facts = {fact.question: fact.answer for fact in vllm_over_http.info.facts}
    assert facts["server"].startswith("vLLM 0.32.0")
    assert facts["model"] == "demo"
    assert facts["token ids in and out"] == "yes"
    assert facts["n responses in one question"] == "yes"
    assert facts["max_tokens = 0"] == "yes"
    assert facts["which token a score is of"] == "the given one"
    assert facts["log-probs of drawing"].startswith("raw")
    assert facts["prompt from the cache when scoring"].startswith("yes")
    assert vllm_over_http.capabilities.sampler_logprobs
    assert vllm_over_http.capabilities.max_context == 2559
