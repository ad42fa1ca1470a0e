"""What a probe finds out, the plan it makes of it, and how ``preftilt verify`` tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest

from preftilt.cli import main
from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.errors import BadInput
from preftilt.testing.contract import EngineLaws
from preftilt.testing.laws import (
    default_prompts,
    empty_completions_score_empty,
    finish_reasons_are_true,
    one_logprob_per_token,
)
from preftilt.types import Sampling, Stream, Tokens
from tests.engine.models import byte_tokenizer
from tests.engine_http.conftest import Opened, Running, stand_in_engine
from tests.engine_http.stand_in import Lie

Said = tuple[int, str, str]
Cli = Callable[..., Said]


@pytest.fixture
def cli(server: Running, tokenizer_folder: str, capfd: pytest.CaptureFixture[str]) -> Cli:
    """``preftilt verify --quick`` on the stand-in: exit code, output, errors."""

    def run(kind: str, *more: str) -> Said:
        spec = f"{kind}+{server.url}"
        with pytest.raises(SystemExit) as end:
            main(["verify", spec, "--quick", "--tokenizer", tokenizer_folder, *more])
        out, err = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, out, err

    return run


def test_a_vllm_server_is_used_to_the_full(opened: Opened):
    engine = opened("vllm")
    assert _fact(engine, "token ids in and out") == "yes"
    assert _fact(engine, "n responses in one question") == "yes"
    assert _fact(engine, "max_tokens = 0") == "yes"
    assert _fact(engine, "log-probs of drawing").startswith("raw")
    assert _fact(engine, "prompt from the cache when scoring").startswith("yes")
    assert _fact(engine, "context") == "256 tokens"
    assert engine.capabilities.sampler_logprobs
    assert not engine.capabilities.keyed_streams
    assert engine.versions == {"vllm": "0.0.stand-in", "scoring": "shared prefix"}
    assert any("the prompt once" in line for line in engine.info.plan)


@pytest.mark.parametrize(
    ("manners", "question", "answer"),
    [
        ({"shares_prefixes": False}, "prompt from the cache when scoring", "not offered (404)"),
        ({"tells_cached": False}, "prompt from the cache when scoring", "not told what was cached"),
        ({"lie": "scaled"}, "log-probs of drawing", "scaled by temperature"),
    ],
)
def test_what_a_vllm_server_cannot_do_is_found_out(
    manners: dict[str, Any], question: str, answer: str, server: Running, opened: Opened
):
    for key, value in manners.items():
        setattr(server.manners, key, value)
    assert _fact(opened("vllm"), question) == answer


def test_scaled_log_probs_of_drawing_never_stand_in_for_scores(server: Running, opened: Opened):
    server.manners.lie = "scaled"
    assert not opened("vllm").capabilities.sampler_logprobs
    with pytest.raises(BadInput, match="does not report raw log-probs"):
        opened("vllm", sampler_logprobs="on")
    server.manners.lie = "none"
    assert not opened("vllm", sampler_logprobs="off").capabilities.sampler_logprobs


@pytest.mark.parametrize("kind", ["vllm", "openai"])
@pytest.mark.parametrize("weights", [0, 2])
def test_a_confident_model_does_not_hide_that_log_probs_are_scaled(
    weights: int, kind: str, server: Running, opened: Opened
):
    """Tokens of probability 0.97 have nearly the same log-prob at any temperature below 1."""
    server.manners.weights, server.manners.sharpness, server.manners.lie = weights, 6.0, "scaled"
    engine = opened(kind)
    assert _fact(engine, "log-probs of drawing") == "scaled by temperature"
    assert not engine.capabilities.sampler_logprobs
    with pytest.raises(BadInput, match="--sampler-logprobs on"):
        opened(kind, sampler_logprobs="on")
    server.manners.lie = "none"
    assert opened(kind).capabilities.sampler_logprobs


@pytest.mark.parametrize("lie", ["none", "scaled"])
def test_log_probs_that_nobody_can_tell_from_scaled_ones_are_not_used(
    lie: Lie, server: Running, opened: Opened
):
    """A model that is certain everywhere gives the same ones at every temperature."""
    server.manners.sharpness, server.manners.lie = 60.0, lie
    engine = opened()
    assert _fact(engine, "log-probs of drawing") == "cannot be told from scaled ones"
    assert not engine.capabilities.sampler_logprobs


async def test_a_log_prob_that_is_left_out_at_the_end_is_scored(server: Running, opened: Opened):
    """Whether the probe meets an end is luck, so what it finds may not depend on it."""
    server.manners.leaves_out_ends = True
    engine = opened("openai")
    assert engine.capabilities.sampler_logprobs
    prompt = engine.tokenizer.encode("Name a way to relax.")
    asked = SampleRequest(
        prompt=prompt,
        slots=tuple(range(8)),
        stream=Stream(1),
        sampling=Sampling(temperature=0.5),
        max_tokens=32,
    )
    [drawn] = await engine.sample([asked])
    ended = [answer for answer in drawn if answer.finish == "eos"]
    assert ended
    scores = await engine.score(
        [ScoreRequest(prompt=prompt, completion=answer.tokens) for answer in ended]
    )
    for answer, score in zip(ended, scores, strict=True):
        np.testing.assert_allclose(answer.logprobs, score, rtol=0, atol=1e-9)


def test_a_server_that_ignores_top_k_is_not_believed_because_its_model_is_confident(
    server: Running, opened: Opened
):
    server.manners.honours_top_k, server.manners.sharpness = False, 9.0
    assert _fact(opened("openai"), "top_k") == "no"
    server.manners.honours_top_k, server.manners.sharpness = True, 0.0
    assert _fact(opened("openai"), "top_k") == "yes"


@pytest.mark.parametrize(
    ("manners", "found"),
    [
        ({}, ("yes", "yes", "yes", "echo")),
        ({"returns_ids": False}, ("yes", "no", "yes", "echo")),
        ({"reads_without_drawing": False}, ("yes", "yes", "yes", "echo and one token")),
        ({"takes_ids": False, "takes_unknown_fields": False}, ("no", "no", "yes", "echo")),
        ({"many": False}, ("yes", "yes", "no", "echo")),
    ],
)
def test_an_openai_server_is_used_as_far_as_it_goes(
    manners: dict[str, Any], found: tuple[str, ...], server: Running, opened: Opened
):
    for key, value in manners.items():
        setattr(server.manners, key, value)
    engine = opened("openai")
    questions = ("token ids in", "token ids out", "n responses in one question")
    assert tuple(_fact(engine, one) for one in (*questions, "log-probs of given text")) == found


def test_a_tokenizer_that_is_not_the_servers_is_found_out(server: Running, opened: Opened):
    server.manners.takes_ids = False
    server.manners.adds_tokens = 1
    with pytest.raises(BadInput, match=r"another tokenizer.*adds tokens of its own"):
        opened("openai")


def test_a_server_without_a_word_of_its_tokenizer_needs_one(
    server: Running, opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # No hub is asked.
    with pytest.raises(BadInput, match=r'tokenizer of "toy" cannot be found.*--tokenizer'):
        opened("vllm", tokenizer=None)


def test_the_users_context_counts_if_it_is_shorter(opened: Opened):
    assert opened("vllm", max_context=100).capabilities.max_context == 100
    assert opened("vllm", max_context=1000).capabilities.max_context == 256


def test_options_that_the_server_decided_about_are_refused(opened: Opened):
    with pytest.raises(BadInput, match=r"--dtype, --max-rows do not apply to vllm\+http.*decided"):
        opened("vllm", dtype="float16", max_rows=3)


def test_the_command_prints_facts_plan_and_abilities(cli: Cli):
    code, out, _ = cli("vllm")
    assert code == 0
    for words in ("token ids in and out", "raw, within", "score: POST", "| max_context | 256 |"):
        assert words in out


def test_the_command_prints_json(cli: Cli, server: Running):
    code, out, _ = cli("openai", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["engine"] == f"openai+{server.url}"
    assert {"question": "token ids in", "answer": "yes"}.items() <= found["facts"][2].items()
    assert found["capabilities"]["max_context"] == 256
    assert found["refused"] is None


def test_the_command_shows_what_it_found_before_it_refuses(cli: Cli, server: Running):
    server.manners.echoes = False
    code, out, err = cli("openai")
    assert code == 2
    assert "log-probs of given text" in out
    assert "--scorer" in err
    code, out, err = cli("openai", "--json")
    assert (code, json.loads(out)["refused"] in err) == (2, True)


def test_a_server_that_is_not_there_is_exit_code_1(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["verify", "vllm+http://127.0.0.1:9"])
    assert end.value.code == 1
    assert "cannot be reached" in capfd.readouterr().err


class TestDrawnThereAndScoredHere(EngineLaws):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, tokenizer_folder: str, scorer_folder: str) -> Iterator[Engine]:
        options = {"tokenizer": tokenizer_folder, "scorer": scorer_folder}
        with stand_in_engine("openai", {"echoes": False}, **options) as engine:
            assert not engine.capabilities.sampler_logprobs
            assert "scored by transformers:" in engine.name
            yield engine

    async def test_the_given_token_is_scored(
        self, engine: Engine, prompts: Sequence[Tokens], tolerance: float
    ) -> None:
        pytest.skip("what one model finds likeliest another one need not")


class TestScorer:
    """Servers that can only sample, together with an engine that scores."""

    def test_a_server_without_echo_needs_one(self, server: Running, opened: Opened):
        server.manners.echoes = False
        with pytest.raises(BadInput, match=r"draw but not score.*--scorer"):
            opened("openai")

    async def test_one_stands_in_for_scores_that_cannot_be_used(
        self, server: Running, opened: Opened, scorer_folder: str
    ):
        server.manners.lie = "rank 1"
        for kind in ("vllm", "openai"):
            engine = opened(kind, scorer=scorer_folder)
            await finish_reasons_are_true(engine, default_prompts(engine), 1e-4)

    def test_one_with_another_tokenizer_is_refused(self, server: Running, opened: Opened):
        server.manners.echoes = False
        with pytest.raises(BadInput, match="another tokenizer"):
            opened("openai", scorer="demo")

    def test_one_with_another_chat_template_is_refused(
        self, server: Running, opened: Opened, scorer_folder: str, tmp_path: Path
    ):
        server.manners.echoes = False
        template = "{% for m in messages %}<{{ m['content'] }}>{% endfor %}"
        byte_tokenizer(template=template).save_pretrained(tmp_path)
        with pytest.raises(BadInput, match="another chat template"):
            opened("openai", tokenizer=str(tmp_path), scorer=scorer_folder)

    async def test_a_chat_server_draws_what_the_scorer_scores(
        self, server: Running, opened: Opened, scorer_folder: str
    ):
        server.manners.completions, server.manners.chats = False, True
        engine = opened("openai", tokenizer=None, scorer=scorer_folder)
        assert engine.info.plan[1] == f"score: transformers:{scorer_folder}"
        for law in (one_logprob_per_token, empty_completions_score_empty):
            await law(engine, default_prompts(engine), 1e-4)
        body = server.seen.asked("/v1/chat/completions")[-1]
        assert body["messages"] == [{"role": "user", "content": "Name a way to relax."}]

    async def test_a_chat_server_answers_conversations_only(
        self, server: Running, opened: Opened, scorer_folder: str
    ):
        server.manners.completions, server.manners.chats = False, True
        engine = opened("openai", tokenizer=None, scorer=scorer_folder)
        with pytest.raises(BadInput, match="not token prompts from elsewhere"):
            await finish_reasons_are_true(engine, [(1, 2, 3)], 1e-4)

    def test_a_chat_server_without_a_scorer_is_refused(self, server: Running, opened: Opened):
        server.manners.completions, server.manners.chats = False, True
        with pytest.raises(BadInput, match=r"only chats.*--scorer"):
            opened("openai")


def _fact(engine: Engine, question: str) -> str:
    [answer] = [fact.answer for fact in engine.info.facts if fact.question == question]
    return answer
