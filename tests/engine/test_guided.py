"""Guided decoding on the transformers engine: against transformers itself, and plain forwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from preftilt.engines.base import GuidedView, GuideRequest, ProposeRequest
from preftilt.engines.transformers import TransformersEngine, open_model, sampler
from preftilt.engines.transformers.sampler import GuidanceRule, guided
from preftilt.errors import BadInput, PromptTooLong
from preftilt.guided import adapted, combine, divergence, kappa, masked, pick
from preftilt.reward import Reward, scores
from preftilt.run import Run
from preftilt.search import CFG
from preftilt.streams import position_key, stream_key
from preftilt.types import GuidedCompletion, Mask, Query, Sampling, Step, Stream, Tokens, View
from tests.engine.asking import draw, prompt
from tests.engine.conftest import Opened, Oracle
from tests.engine.models import END_ID, VOCABULARY

pytestmark = pytest.mark.model

GREEDY = Sampling(temperature=0)
QUESTION, FULL = prompt(11, 1), prompt(23, 2)


def ask(
    weights: Sequence[float] = (-2.0, 3.0),
    prompts: Sequence[Tokens] = (QUESTION, FULL),
    slots: int = 1,
    max_tokens: int = 10,
    **more: Any,
) -> GuideRequest:
    views = tuple(GuidedView(p, w) for p, w in zip(prompts, weights, strict=True))
    settings: dict[str, Any] = {"stream": Stream(3), "sampling": Sampling()} | more
    return GuideRequest(views=views, slots=tuple(range(slots)), max_tokens=max_tokens, **settings)


async def guide(engine: TransformersEngine, request: GuideRequest) -> list[GuidedCompletion]:
    [drawn] = await engine.guide([request])
    return drawn


Table = Callable[[str, Tokens], np.ndarray]


@pytest.fixture(scope="module")
def table(saved) -> Table:
    """Log-probs [V] of the token after a context, by one plain forward."""
    models: dict[str, Any] = {}

    def logprobs(architecture: str, context: Tokens) -> np.ndarray:
        if architecture not in models:
            models[architecture] = transformers.AutoModelForCausalLM.from_pretrained(
                saved(architecture)
            ).eval()
        with torch.inference_mode():
            logits = models[architecture](torch.tensor([context])).logits[0, -1, :VOCABULARY]
        return torch.log_softmax(logits.double(), -1).numpy()

    return logprobs


def by_hand(table: Table, architecture: str, request: GuideRequest, slot: int = 0) -> Tokens:
    """The tokens of a request, from plain forwards of every whole context and the rule in numpy."""
    key, tokens = stream_key(request.stream, slot), ()
    fixed = tuple(view.weight for view in request.views)
    while len(tokens) < request.max_tokens and tokens[-1:] != (END_ID,):
        sofar = request.prefix + tokens
        raw = np.stack([table(architecture, view.prompt + sofar) for view in request.views])
        weights = adapted(raw, fixed) if request.strength_by == "divergence" else fixed
        left = masked(combine(raw, weights), raw[request.preferred], request.mask)
        tokens += (pick(left, request.sampling, position_key(key, len(sofar))),)
    return tokens


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("lam", [1.0, 3.0, 7.5])
async def test_greedy_guidance_is_transformers_classifier_free_guidance(
    architecture: str, lam: float, opened: Opened, saved
):
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(saved(architecture)).eval()
    expected = model.generate(
        torch.tensor([FULL]),
        attention_mask=torch.ones(1, len(FULL), dtype=torch.long),
        guidance_scale=lam,
        negative_prompt_ids=torch.tensor([QUESTION]),
        do_sample=False,
        max_new_tokens=10,
        pad_token_id=END_ID,
    )[0, len(FULL) :].tolist()
    request = ask((1 - lam, lam), sampling=GREEDY)
    [drawn] = await guide(opened(architecture), request)
    assert list(drawn.tokens) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": Sampling()},
        {"sampling": Sampling(temperature=0.7, top_p=0.8, top_k=9)},
        {"sampling": Sampling(), "mask": Mask(top_p=0.8, temperature=0.7), "preferred": 1},
        {"sampling": GREEDY, "mask": Mask(top_p=0.5), "preferred": 1},
        {"sampling": Sampling(), "mask": Mask(top_p=0.5, of="result")},
        {"sampling": Sampling(), "prefix": prompt(5, 9)},
        {"sampling": Sampling(), "weights": (1.0, 0.7, -0.4), "third": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("attention", ["auto", "expanded"])
async def test_tokens_equal_plain_forwards_and_the_rule_in_numpy(
    changes: dict, attention: str, opened: Opened, table: Table
):
    more = dict(changes)
    prompts = (QUESTION, FULL, prompt(40, 3)) if more.pop("third", False) else (QUESTION, FULL)
    request = ask(more.pop("weights", (-2.0, 3.0)), prompts, slots=3, **more)
    drawn = await guide(opened("qwen2", attention=attention), request)
    assert [one.tokens for one in drawn] == [by_hand(table, "qwen2", request, i) for i in range(3)]


async def test_logprobs_are_raw_and_of_every_view(opened: Opened, oracle: Oracle):
    request = ask(slots=4, sampling=Sampling(temperature=0.5, top_k=5))
    for one in await guide(opened("llama"), request):
        expected = [oracle("llama", view.prompt, one.tokens) for view in request.views]
        np.testing.assert_allclose(one.logprobs, expected, rtol=0, atol=1e-4)


async def test_a_crowd_equals_one_by_one(opened: Opened):
    """Requests of one, two and three views, plain ones among them, in batches that never fit whole."""
    requests = [
        ask((-2.0, 3.0), slots=3),
        ask((1.0,), (FULL,), slots=2, max_tokens=7),
        ask((1.0, 0.5, 0.5), (QUESTION, FULL, prompt(40, 3)), slots=2, stream=Stream(9)),
        ask((-4.0, 5.0), (QUESTION, prompt(60, 4)), prefix=prompt(6, 5), max_tokens=5),
    ]
    engine, alone = opened(max_rows=5, prefill_tokens=16), opened()
    together, plain = await asyncio.gather(engine.guide(requests), draw(engine, FULL, 3))
    for request, drawn in zip(requests, together, strict=True):
        expected = await guide(alone, request)
        assert [one.tokens for one in drawn] == [one.tokens for one in expected]
    assert [one.tokens for one in plain] == [one.tokens for one in await draw(alone, FULL, 3)]


async def test_one_view_of_weight_one_is_plain_sampling(opened: Opened):
    engine = opened()
    plain = await draw(engine, FULL, 3)
    guided_alone = await guide(engine, ask((1.0,), (FULL,), slots=3, max_tokens=12))
    assert [one.tokens for one in plain] == [one.tokens for one in guided_alone]


async def test_pieces_and_one_call_draw_the_same(opened: Opened):
    engine = opened()
    [whole] = await guide(engine, ask(max_tokens=12))
    tokens: Tokens = ()
    while len(tokens) < len(whole.tokens):
        [piece] = await guide(engine, ask(max_tokens=3, prefix=tokens, keep=True))
        tokens += piece.tokens
    assert tokens == whole.tokens


async def test_a_step_ends_a_guided_response_too(opened: Opened):
    newline = Sampling(top_k=VOCABULARY)
    drawn = await guide(
        opened("qwen2"), ask(slots=8, max_tokens=60, sampling=newline, step=Step("a"))
    )
    assert {one.finish for one in drawn} & {"step"}


async def test_both_views_share_a_forward_and_are_counted(opened: Opened):
    """Two chunks of prompt fit one forward; then one forward a token, of a row a view and slot."""
    engine = opened()
    drawn = await guide(engine, ask(slots=4, max_tokens=6, sampling=Sampling(top_k=40)))
    steps = max(len(one.tokens) for one in drawn) - 1
    assert engine.stats.prompt_tokens == len(QUESTION) + len(FULL)
    assert engine.stats.forwards == 1 + steps
    assert engine.stats.response_tokens == 2 * sum(len(one.tokens) - 1 for one in drawn)
    assert engine.stats.drawn == sum(len(one.tokens) for one in drawn)


async def test_a_long_context_is_held_once_for_all_rows(opened: Opened, monkeypatch):
    """Counted, not measured: buffers hold the response's tokens only, and the prompt is prefilled in chunks."""
    from preftilt.engines.transformers import decode

    widest = 0
    plain_reserve = decode.TailBuffers.reserve

    def reserve(self: decode.TailBuffers, rows: int, width: int) -> None:
        nonlocal widest
        plain_reserve(self, rows, width)
        widest = max(widest, self.rows * self.width)

    monkeypatch.setattr(decode.TailBuffers, "reserve", reserve)
    engine = opened("llama", prefill_tokens=32)
    prompts = (prompt(150, 1), prompt(200, 2))
    await guide(engine, ask(prompts=prompts, slots=8, max_tokens=5))
    assert widest <= 2 * 8 * decode.GROWTH_STEP * 1.5
    assert engine.stats.prompt_tokens == 350
    assert engine.stats.forwards <= 350 // 32 + 2 + 5


async def test_the_context_ends_where_the_longest_view_fills_it(opened: Opened):
    engine = opened()
    room = engine.capabilities.max_context
    request = ask(prompts=(QUESTION, prompt(room - 3, 4)), max_tokens=50)
    [drawn] = await guide(engine, request)
    assert len(drawn.tokens) <= 3
    with pytest.raises(PromptTooLong, match="shorten the prompt"):
        await guide(engine, ask(prompts=(QUESTION, prompt(room, 4))))


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ask((), ()), "at least one view"),
        (ask((float("nan"), 1.0)), "weight is nan"),
        (ask(preferred=2), "there are 2 views"),
        (ask((2.0, 3.0), strength_by="divergence"), "two views first"),
    ],
)
async def test_requests_that_make_no_sense_are_refused(
    request_: GuideRequest, words: str, opened: Opened
):
    with pytest.raises(BadInput, match=words):
        await opened().guide([request_])


async def test_nothing_is_drawn_where_no_token_may_be(opened: Opened):
    [one] = await guide(opened(), ask(max_tokens=0))
    assert (one.tokens, one.logprobs.shape, one.finish) == ((), (2, 0), "length")


async def test_cancelling_leaves_the_engine_usable(opened: Opened):
    engine = opened()
    task = asyncio.create_task(guide(engine, ask(slots=4, max_tokens=200)))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await guide(engine, ask(slots=2))) == 2


@pytest.mark.parametrize("is_cpu", [True, False])
def test_the_rule_in_torch_is_the_rule_in_numpy(is_cpu: bool, monkeypatch: pytest.MonkeyPatch):
    """On a GPU what a view rules out is always looked for: whether there is anything would have to be waited for."""
    monkeypatch.setattr(sampler, "on_cpu", lambda device: is_cpu)
    logits = 3 * torch.randn(4, 3, 500, generator=torch.Generator().manual_seed(1))
    logits[:, 1, 7] = -torch.inf
    k = kappa(60, alpha=2, anchor=2, eta=10)
    for weights in [(-k, 1 + k, 0.5), (1.0, 0.25, 3.0), (2.0, -1.0, -1.0)]:
        ours = torch.log_softmax(
            guided(logits.unbind(1), GuidanceRule(weights)).double(), -1
        ).numpy()
        for row, raw in zip(ours, logits.double().numpy(), strict=True):
            np.testing.assert_allclose(row, combine(raw, weights), rtol=0, atol=2e-4)


def test_the_strength_by_divergence_in_torch_is_the_one_in_numpy():
    logits = 3 * torch.randn(4, 3, 500, generator=torch.Generator().manual_seed(1))
    logits[:, 1] = 0.7 * logits[:, 1] + 0.3 * logits[:, 0]
    logits[:, 0, 7] = logits[:, 1, 9] = logits[:, :, 11] = -torch.inf
    rows = torch.log_softmax(logits.double(), -1).numpy()
    ours = sampler.divergence(logits[:, 1], logits[:, 0])
    theirs = [divergence(raw[1], raw[0]) for raw in rows]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    assert 0.05 < min(theirs) < max(theirs) < 0.95
    for weights in [(-4.0, 5.0), (3.0, -2.0, 0.5), (1.0, 0.0)]:
        views = logits[:, : len(weights)].unbind(1)
        mixed = guided(views, GuidanceRule(weights, strength_by="divergence"))
        mixed = torch.log_softmax(mixed.double(), -1).numpy()
        for row, raw in zip(mixed, rows[:, : len(weights)], strict=True):
            expected = combine(raw, adapted(raw, weights))
            np.testing.assert_allclose(row, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("weights", [(-4.0, 5.0), (1.0, 0.0), (0.0, 1.0)])
async def test_tokens_whose_strength_goes_by_divergence_are_those_of_the_rule(
    weights: tuple[float, float], opened: Opened, table: Table
):
    request = ask(weights, strength_by="divergence", max_tokens=6)
    [drawn] = await guide(opened("qwen2"), request)
    assert drawn.tokens == by_hand(table, "qwen2", request)


@pytest.mark.parametrize("lam", [0.0, 20.0, -5.0])
def test_identical_views_are_their_own_result_to_the_last_bit(lam: float):
    logits = torch.randn(1, 1, 500, generator=torch.Generator().manual_seed(1))
    both = guided([logits[0], logits[0]], GuidanceRule((1 - lam, lam)))
    assert torch.equal(both[0], logits[0, 0])


@pytest.mark.parametrize("attention", ["auto", "expanded"])
async def test_a_proposal_is_the_head_of_the_distribution(
    attention: str, opened: Opened, table: Table
):
    engine = opened("qwen2", attention=attention)
    for length in (0, 1, 2, 3):
        prefix = prompt(3, 8)[:length]
        request = ProposeRequest(prompt=FULL, prefix=prefix, count=4)
        [proposal] = await engine.propose([request])
        expected = table("qwen2", FULL + prefix)
        best = np.argsort(-expected)[:4]
        assert proposal.tokens == tuple(best.tolist())
        np.testing.assert_allclose(proposal.logprobs, expected[best], rtol=0, atol=1e-4)
    assert engine.stats.prompt_tokens + engine.stats.response_tokens == len(FULL) + 3
    assert engine.stats.forwards == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_picking_among_guided_responses_costs_no_forward(
    dtype: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
):
    """In 16 bits, too, where drawing and scoring differ: here by more than is let pass, whatever they do."""
    monkeypatch.setattr(open_model, "ROUNDED_RMS", -1.0)
    engine = opened(dtype=dtype)
    assert engine.capabilities.sampler_logprobs == (dtype == "float32")
    direct = await guide(engine, ask(slots=4, max_tokens=8))
    forwards = engine.stats.forwards
    engine.forget()
    engine.stats.reset()
    run = _run(engine)
    outcome = await run.search(CFG(n=4))
    assert engine.stats.forwards == forwards
    assert run.usage.scored == {}
    assert run.usage.guided == {"question": run.usage.sampled, "full": run.usage.sampled}
    by_slot = sorted(outcome.ranked, key=lambda candidate: candidate.slot)
    assert [candidate.tokens for candidate in by_slot] == [each.tokens for each in direct]
    values = scores(outcome.ranked, run.query, run.reward)
    whole = [value for value, each in zip(values, outcome.ranked, strict=True) if each.finished]
    assert whole == sorted(whole, reverse=True)


async def test_logprobs_of_drawing_that_must_not_be_used_are_not(opened: Opened):
    run = _run(opened(sampler_logprobs="off"))
    await run.search(CFG(n=2))
    assert set(run.usage.scored) == {"question", "full"}


def _run(engine: TransformersEngine) -> Run:
    views = (View("question", QUESTION, -2.0), View("full", FULL, 3.0))
    return Run(
        engine=engine,
        query=Query(prompt=FULL, views=views, lam=3.0, ratios=(1.0,)),
        sampling=Sampling(),
        reward=Reward(),
        stream=Stream(3),
        max_tokens=8,
    )
