"""A real SGLang server, asked over HTTP; its kernels, which a CPU does not have, are a stand-in that nothing calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from tools.servers.launch import Server, start

from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.engines.http.engine import ServerEngine
from preftilt.engines.models import demo_folder
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.engines.tokenizer import open_tokenizer
from preftilt.errors import BadInput
from preftilt.testing.contract import EngineLaws
from preftilt.types import Sampling, Step, Stream, Tokens


@pytest.fixture
def scaling_server(logs: Path) -> Iterator[Server]:
    """A server as people start it: without the flag that makes log-probs of drawing raw."""
    server = start("sglang", demo_folder(), logs / "sglang-scaling.log")
    yield server
    server.stop()


class TestSglangServer(EngineLaws):
    @pytest.fixture
    def engine(self, sglang_over_http: Engine) -> Engine:
        return sglang_over_http


def test_the_probe_finds_what_the_server_can_do(sglang_over_http: ServerEngine):
    facts = {fact.question: fact.answer for fact in sglang_over_http.info.facts}
    assert facts["server"].startswith("SGLang 0.5.23")
    assert facts["which token a score is of"] == "the given one"
    assert facts["log-probs of drawing"].startswith("raw")
    assert facts["prompt from the cache when scoring"].startswith("yes")
    assert facts["seeds"] == "not kept"
    assert sglang_over_http.capabilities.sampler_logprobs
    assert 2500 < sglang_over_http.capabilities.max_context < 2560


async def test_the_vocabulary_s_last_token_is_scored_like_any_other(
    sglang_over_http: Engine, reference: Engine, prompts: tuple[Tokens, Tokens]
):
    """SGLang calls it 0 in its answer."""
    last = open_tokenizer("demo", EngineOptions()).vocabulary.size - 1
    asked = [ScoreRequest(prompt=prompts[0], completion=(10, last, 11))]
    [row], [want] = await sglang_over_http.score(asked), await reference.score(asked)
    assert np.abs(row - want).max() < 1e-3


async def test_scaled_log_probs_are_noticed_and_responses_scored_instead(
    scaling_server: Server, reference: Engine, prompts: tuple[Tokens, Tokens]
):
    url = f"sglang+{scaling_server.url}"
    options = EngineOptions(tokenizer="demo")
    engine = open_engine(url, options)
    assert isinstance(engine, ServerEngine)
    try:
        facts = {fact.question: fact.answer for fact in engine.info.facts}
        assert facts["log-probs of drawing"] == "scaled by temperature"
        assert not engine.capabilities.sampler_logprobs
        assert "SGLANG_RETURN_ORIGINAL_LOGPROB=1" in engine.info.plan[1]
        [[drawn]] = await engine.sample([_request(prompts[0], 1, temperature=0.5)])
        requests = [ScoreRequest(prompt=prompts[0], completion=drawn.tokens)]
        [score], [want] = await engine.score(requests), await reference.score(requests)
        np.testing.assert_allclose(score, want, rtol=0, atol=1e-3)
        assert np.abs(drawn.logprobs - want).max() > 0.01
    finally:
        engine.close()
    with pytest.raises(BadInput, match="--sampler-logprobs on"):
        open_engine(url, EngineOptions(tokenizer="demo", sampler_logprobs="on"))


async def test_scoring_takes_the_prompt_from_the_cache(
    sglang_over_http: ServerEngine, sglang_server: Server
):
    """Asked of the server itself: all but the prompt's last token are cached once a response was scored."""
    prompt = tuple((37 * i + 11) % 2000 + 8 for i in range(200))
    requests = [ScoreRequest(prompt=prompt, completion=(9, 10, 11))]
    await sglang_over_http.score(requests)
    body = {
        "input_ids": [*prompt, 12, 13],
        "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
        "return_logprob": True,
        "logprob_start_len": len(prompt) - 1,
    }
    answer = await asyncio.to_thread(_post, f"{sglang_server.url}/generate", body)
    assert answer["meta_info"]["cached_tokens"] == len(prompt) - 1


async def test_steps_end_at_the_delimiter_over_http(
    sglang_over_http: Engine, prompts: tuple[Tokens, Tokens]
):
    for delimiter in (". ", "e"):
        request = _request(prompts[0], 4, step=Step(delimiter), max_tokens=24)
        [drawn] = await sglang_over_http.sample([request])
        for one in drawn:
            text = "".join(sglang_over_http.tokenizer.pieces(one.tokens))
            before = "".join(sglang_over_http.tokenizer.pieces(one.tokens[:-1]))
            assert (one.finish == "step") == (delimiter in text.lstrip() and one.finish != "eos")
            assert delimiter not in before.lstrip()


def _request(
    prompt: Tokens,
    slots: int,
    *,
    temperature: float = 1.0,
    step: Step | None = None,
    max_tokens: int = 12,
) -> SampleRequest:
    return SampleRequest(
        prompt=prompt,
        slots=tuple(range(slots)),
        stream=Stream(4),
        sampling=Sampling(temperature=temperature),
        max_tokens=max_tokens,
        step=step,
    )


def _post(url: str, body: object) -> dict:
    request = Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)
