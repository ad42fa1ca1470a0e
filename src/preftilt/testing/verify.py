"""Verifying an engine: its laws one by one, how exact its log-probs are, and what a token costs plain and guided.

It is what ``preftilt verify`` prints. Nothing here is assumed of the kind of engine; what it does not claim
(:class:`~preftilt.engines.base.Capabilities`) is not checked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from preftilt.engines.base import Engine, GuidedView, GuideRequest, SampleRequest, ScoreRequest
from preftilt.errors import PreftiltError, first_line
from preftilt.testing.laws import LAWS, Law, default_prompts, unclaimed
from preftilt.types import Sampling, Stream, Tokens

LAM = 3.0
"""λ of the guided draws."""

DRAWS = 4
LENGTH = 12
COST_TOKENS = 32
REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCheck:
    """One thing that was checked: what must hold, whether it does, and what was measured.

    holds is None where it was only measured.
    """

    name: str
    holds: bool | None
    measured: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCost:
    """Milliseconds a token, the best of three: drawn alone, drawn guided by two views, and scored; None: cannot."""

    plain: float
    guided: float | None
    scored: float


async def check_engine(engine: Engine, tolerance: float) -> list[EngineCheck]:
    """Every law, and the gaps of log-probs; log-probs ``tolerance`` (nats) apart are equal."""
    prompts = default_prompts(engine)
    checks = [await _law(law, engine, prompts, tolerance) for law in LAWS]
    drawn = await _drawn(engine, prompts)
    checks.append(await _drawn_and_scored(engine, prompts, drawn))
    checks.append(await _two_views_alike(engine, prompts, drawn, tolerance))
    if engine.capabilities.guides:
        checks += await _guided(engine, prompts, tolerance)
    return checks


async def measure_cost(engine: Engine) -> TokenCost:
    """What a token costs, one answer at a time."""
    prompts = default_prompts(engine)
    request = replace(_plain(prompts[0], (0,)), max_tokens=COST_TOKENS)
    [[completion]] = await engine.sample([request])
    score = ScoreRequest(prompt=prompts[1], completion=completion.tokens)

    async def plain() -> int:
        [[drawn]] = await engine.sample([request])
        return len(drawn.tokens)

    async def scored() -> int:
        [row] = await engine.score([score])
        return len(row)

    guided = None
    if engine.capabilities.guides:

        async def guide() -> int:
            [[drawn]] = await engine.guide([_tilted(prompts, COST_TOKENS)])
            return len(drawn.tokens)

        guided = await _milliseconds(guide)
    return TokenCost(
        plain=await _milliseconds(plain), guided=guided, scored=await _milliseconds(scored)
    )


async def _milliseconds(work: Callable[[], Awaitable[int]]) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        tokens = await work()
        best = min(best, (time.perf_counter() - began) / max(tokens, 1))
    return 1e3 * best


async def _law(
    law: Law, engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> EngineCheck:
    name = getattr(law, "__name__", "law").replace("_", " ")
    try:
        if unclaimed(engine, law) is None:
            await law(engine, prompts, tolerance)
    except PreftiltError as failure:
        return EngineCheck(name=name, holds=False, measured=first_line(failure))
    return EngineCheck(name=name, holds=True, measured="")


def _plain(prompt: Tokens, slots: tuple[int, ...], **changes: Any) -> SampleRequest:
    greedy = Sampling(temperature=0.0)
    request = SampleRequest(
        prompt=prompt, slots=slots, stream=Stream(7, "verify"), sampling=greedy, max_tokens=LENGTH
    )
    return replace(request, **changes)


def _guide(views: tuple[GuidedView, ...], max_tokens: int = LENGTH) -> GuideRequest:
    return GuideRequest(
        views=views,
        slots=(0,),
        stream=Stream(7, "verify"),
        sampling=Sampling(temperature=0.0),
        max_tokens=max_tokens,
    )


def _tilted(prompts: Sequence[Tokens], max_tokens: int = LENGTH) -> GuideRequest:
    """Guided by both prompts at λ."""
    return _guide((GuidedView(prompts[0], 1 - LAM), GuidedView(prompts[1], LAM)), max_tokens)


async def _drawn(engine: Engine, prompts: Sequence[Tokens]) -> list[tuple[Tokens, np.ndarray]]:
    request = _plain(prompts[0], tuple(range(DRAWS)), sampling=Sampling())
    [completions] = await engine.sample([request])
    return [(completion.tokens, completion.logprobs) for completion in completions]


async def _scores(engine: Engine, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[np.ndarray]:
    return await engine.score([ScoreRequest(prompt=p, completion=c) for p, c in pairs])


def _gap(rows: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The largest difference of two log-probs of a token, in nats."""
    return max(
        float(np.abs(row - other).max(initial=0.0)) for row, other in zip(rows, others, strict=True)
    )


async def _drawn_and_scored(
    engine: Engine, prompts: Sequence[Tokens], drawn: Sequence[tuple[Tokens, np.ndarray]]
) -> EngineCheck:
    scores = await _scores(engine, [(prompts[0], tokens) for tokens, _ in drawn])
    gap = _gap(scores, [logprobs for _, logprobs in drawn])
    used = engine.capabilities.sampler_logprobs
    return EngineCheck(
        name="log-probs of drawing beside those of scoring",
        holds=None,
        measured=f"differ by at most {gap:.2g} nats a token; "
        + ("used in their place" if used else "not used: what is drawn is scored again"),
    )


async def _two_views_alike(
    engine: Engine,
    prompts: Sequence[Tokens],
    drawn: Sequence[tuple[Tokens, np.ndarray]],
    tolerance: float,
) -> EngineCheck:
    """Without a preference the two views are one prompt, and the gain of every token is 0."""
    pairs = [(prompts[0], tokens) for tokens, _ in drawn]
    rows = await _scores(engine, [*pairs, *pairs[::-1]])
    gap = _gap(rows[: len(pairs)], rows[len(pairs) :][::-1])
    return EngineCheck(
        name="two views of one prompt agree",
        holds=gap <= tolerance,
        measured=f"the preference gain of nothing is at most {gap:.2g} nats a token",
    )


async def _guided(engine: Engine, prompts: Sequence[Tokens], tolerance: float) -> list[EngineCheck]:
    first, second = prompts[:2]
    requests = [
        _guide((GuidedView(first, 0.0), GuidedView(second, 1.0))),
        _guide((GuidedView(second, 1 - LAM), GuidedView(second, LAM))),
        _tilted(prompts),
    ]
    plain = (await engine.sample([_plain(second, (0,))]))[0][0].tokens
    as_it_is, of_one_prompt, tilted = [
        (await engine.guide([request]))[0][0] for request in requests
    ]
    crowd = [_plain(prompt, (0, 1)) for prompt in prompts]
    together, _ = await asyncio.gather(
        engine.guide([*requests, *requests[::-1]]), engine.sample(crowd)
    )
    in_company = [together[2][0].tokens, together[3][0].tokens]
    scores = await _scores(engine, [(prompt, tilted.tokens) for prompt in (first, second)])
    gap = _gap(scores, list(tilted.logprobs))
    same = [
        ("guided at λ = 1 is the model as it is", as_it_is.tokens == plain),
        (
            f"guided by one prompt twice at λ = {LAM:g} is the model as it is",
            of_one_prompt.tokens == plain,
        ),
        ("guided draws are the same alone and among others", in_company == [tilted.tokens] * 2),
    ]
    checks = [
        EngineCheck(name=name, holds=holds, measured="token for token" if holds else "other tokens")
        for name, holds in same
    ]
    checks.append(
        EngineCheck(
            name="log-probs of guided tokens beside those of scoring",
            holds=gap <= tolerance,
            measured=f"differ by at most {gap:.2g} nats a token",
        )
    )
    return checks
