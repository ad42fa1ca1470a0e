"""llama.cpp beside the embedded engine on the same model: tokens, prompts, log-probs, winners."""

import numpy as np
import pytest

import preftilt as pt
from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.messages import Message
from preftilt.types import Sampling, Stream, Tokens
from tests.llamacpp.conftest import Opens

pytestmark = pytest.mark.servers

TEXTS = (
    "What are some enjoyable ways to study maths?",
    "  two spaces,\n\n\tand  a tab .  ",
    "naïve façade — ½ of Привет, 你好 🙂!",
    "it's 1234567 o'clock; don't<|end|><|user|>",
    "",
)
QUESTION = [Message("user", "How can I make my evenings more fun?")]
PREFERENCE = [Message("system", "I dislike anything that is loud or crowded."), *QUESTION]


@pytest.mark.parametrize("text", TEXTS)
def test_text_becomes_the_same_tokens_and_the_same_text_again(
    text: str, llamacpp: Engine, reference: Engine
):
    tokens = llamacpp.tokenizer.encode(text)
    assert tokens == reference.tokenizer.encode(text)
    assert llamacpp.tokenizer.decode(tokens) == reference.tokenizer.decode(tokens)
    assert llamacpp.tokenizer.pieces(tokens) == reference.tokenizer.pieces(tokens)


@pytest.mark.parametrize("messages", [QUESTION, PREFERENCE])
def test_a_conversation_becomes_the_same_prompt(
    messages: list[Message], llamacpp: Engine, reference: Engine
):
    assert llamacpp.tokenizer.render(messages) == reference.tokenizer.render(messages)


def test_responses_end_with_the_same_tokens(llamacpp: Engine, reference: Engine):
    assert llamacpp.capabilities.eos == reference.capabilities.eos
    assert llamacpp.capabilities.turn_end == reference.capabilities.turn_end


async def _drawn(engine: Engine, count: int) -> list[Tokens]:
    request = SampleRequest(
        prompt=engine.tokenizer.render(PREFERENCE),
        slots=tuple(range(count)),
        stream=Stream(3),
        sampling=Sampling(),
        max_tokens=48,
    )
    [drawn] = await engine.sample([request])
    return [one.tokens for one in drawn]


@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 1e-3), ("f16", 1e-2), ("q8_0", 0.5)])
async def test_log_probs_are_those_of_the_embedded_engine(
    kind: str, tolerance: float, opens: Opens, reference: Engine
):
    """Within 1e-3 nats in float32; coarser weights are another model, near by."""
    ours, completions = opens(kind), await _drawn(reference, 8)
    for messages in (QUESTION, PREFERENCE):
        prompt = reference.tokenizer.render(messages)
        requests = [ScoreRequest(prompt=prompt, completion=one) for one in completions]
        pairs = zip(await ours.score(requests), await reference.score(requests), strict=True)
        for found, wanted in pairs:
            np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


async def test_the_same_seed_draws_the_same_tokens(llamacpp: Engine, reference: Engine):
    """Keyed streams: only a tie to five digits could tell the two engines apart."""
    assert await _drawn(llamacpp, 8) == await _drawn(reference, 8)


async def test_the_same_8_candidates_have_the_same_winner(llamacpp: Engine, reference: Engine):
    texts = [reference.tokenizer.decode(one) for one in await _drawn(reference, 8)]
    preference = pt.Preference(PREFERENCE[0].content)
    settings = pt.Settings(lam=4.0)
    ours, wanted = [
        await pt.Realigner(engine, settings).score(QUESTION, [preference], texts)
        for engine in (llamacpp, reference)
    ]
    assert ours.text == wanted.text
    assert [one.text for one in ours.candidates] == [one.text for one in wanted.candidates]
    assert len(set(texts)) > 1


async def test_best_of_8_draws_and_chooses_alike(llamacpp: Engine, reference: Engine):
    settings = pt.Settings(lam=4.0, search=pt.BestOfN(n=8), max_tokens=48)
    preference = pt.Preference(PREFERENCE[0].content)
    ours, wanted = [
        await pt.Realigner(engine, settings).realign(QUESTION, [preference])
        for engine in (llamacpp, reference)
    ]
    assert ours.text == wanted.text
    assert ours.engine.startswith("llamacpp:")


@pytest.mark.parametrize("greedy", [True, False])
async def test_guided_answers_are_the_embedded_engines(
    greedy: bool, llamacpp: Engine, reference: Engine
):
    """Token for token: both prompts stand in one batch of llama.cpp, and their log-probs are added up."""
    search = pt.CFG(n=1 if greedy else 3, greedy=greedy)
    settings = pt.Settings(lam=3.0, search=search, max_tokens=48, seed=2)
    preference = pt.Preference(PREFERENCE[0].content)
    ours, wanted = [
        await pt.Realigner(engine, settings).realign(QUESTION, [preference])
        for engine in (llamacpp, reference)
    ]
    for candidate, other in zip(ours.candidates, wanted.candidates, strict=True):
        assert candidate.tokens == other.tokens
        for view, logprobs in other.logprobs.items():
            np.testing.assert_allclose(candidate.logprobs[view], logprobs, rtol=0, atol=1e-3)


async def test_what_follows_a_wish_when_nothing_is_said_is_guided(llamacpp: Engine):
    answer = await pt.Realigner(llamacpp, pt.Settings(max_tokens=8)).realign(
        QUESTION, [pt.Preference(PREFERENCE[0].content)]
    )
    assert answer.settings["search"]["name"] == "cfg"
