"""The laws that every engine must obey, as executable checks.

Each law is a coroutine that takes an engine, two different prompts and a tolerance in nats, and raises
:class:`~preftilt.errors.EngineError` if the engine breaks it. Abilities that an engine does not claim
(``Capabilities``) are not checked. :class:`preftilt.testing.contract.EngineLaws` makes a test of each law;
:func:`check_laws` runs them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import (
    Engine,
    GuidedView,
    GuideRequest,
    Mixture,
    NormaliseRequest,
    Partial,
    ProposeRequest,
    SampleRequest,
    ScoreRequest,
)
from preftilt.errors import BadInput, EngineError, NoChatTemplate, PromptTooLong
from preftilt.messages import Message
from preftilt.types import Completion, Reader, Sampling, Stream, Tokens

TOLERANCE = 1e-4
"""Log-probs this close (nats) are equal; float32 engines keep to it, others need a wider one."""

Law = Callable[[Engine, Sequence[Tokens], float], Awaitable[None]]


async def check_laws(
    engine: Engine, prompts: Sequence[Tokens] | None = None, tolerance: float = TOLERANCE
) -> None:
    """Check every law in turn, except those about what the engine does not claim; the first broken one raises."""
    for law in LAWS:
        if unclaimed(engine, law) is None:
            await law(engine, prompts or default_prompts(engine), tolerance)


def unclaimed(engine: Engine, law: Law) -> str | None:
    """The ability that the law is about, where the engine's capabilities do not claim it."""
    ability = NEEDS.get(law)
    return None if ability is None or getattr(engine.capabilities, ability) else ability


def default_prompts(engine: Engine) -> list[Tokens]:
    """Two prompts that any chat model can render, or that any tokenizer can encode."""
    texts = ("Name a way to relax.", "What shall we do on a rainy day, and why?")
    try:
        return [engine.tokenizer.render([Message("user", text)]) for text in texts]
    except NoChatTemplate:
        return [engine.tokenizer.encode(text) for text in texts]


async def one_logprob_per_token(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """A score is one finite number ≤ 0 for every token."""
    drawn = await _draw(engine, prompts[0], slots=3)
    scores = await _score(engine, [(prompts[1], completion.tokens) for completion in drawn])
    for completion, score in zip(drawn, scores, strict=True):
        _require(score.dtype == np.float64, f"scores are {score.dtype}, not float64")
        _require(
            score.shape == (len(completion.tokens),),
            f"{len(completion.tokens)} tokens got scores of shape {score.shape}",
        )
        _require(
            bool(np.isfinite(score).all() and (score <= tolerance).all()),
            f"not all finite and ≤ 0: {score}",
        )


async def scores_add_up_over_a_split(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """score(p, a + b) = score(p, a) followed by score(p, b | a), with the prefix named apart or in the prompt."""
    [completion] = await _draw(engine, prompts[0], slots=1)
    [whole] = await _score(engine, [(prompts[0], completion.tokens)])
    for cut in sorted(
        {1, len(completion.tokens) // 2, len(completion.tokens) - 1} - {0, len(completion.tokens)}
    ):
        a, b = completion.tokens[:cut], completion.tokens[cut:]
        [first] = await _score(engine, [(prompts[0], a)])
        [named] = await engine.score([ScoreRequest(prompt=prompts[0], prefix=a, completion=b)])
        [joined] = await _score(engine, [(prompts[0] + a, b)])
        _close(np.concatenate([first, named]), whole, tolerance, f"cut at {cut}, prefix apart")
        _close(
            np.concatenate([first, joined]), whole, tolerance, f"cut at {cut}, prefix in the prompt"
        )


async def scoring_is_batch_invariant(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """A score does not depend on the batch, its order, or ``keep``."""
    drawn = await _draw(engine, prompts[0], slots=4)
    pairs = [
        (prompts[i % 2], completion.tokens[: 1 + len(completion.tokens) * (i + 1) // 4])
        for i, completion in enumerate(drawn)
    ]
    alone = [(await _score(engine, [pair]))[0] for pair in pairs]
    together = await _score(engine, pairs)
    backwards = (await _score(engine, pairs[::-1]))[::-1]
    requests = [ScoreRequest(prompt=p, completion=c, keep=True) for p, c in pairs]
    kept = await engine.score(requests)
    for i, score in enumerate(alone):
        _close(together[i], score, tolerance, "in a batch")
        _close(backwards[i], score, tolerance, "in a batch in reverse order")
        _close(kept[i], score, tolerance, "with keep")


async def the_given_token_is_scored(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """A score is the given token's log-prob, not the likeliest one's; probabilities of tokens sum to at most 1."""
    [best] = await _draw(
        engine, prompts[0], slots=1, sampling=Sampling(temperature=0.0), max_tokens=1
    )
    others = {
        completion.tokens[0]
        for completion in await _draw(engine, prompts[0], slots=16, max_tokens=1)
    }
    tokens = [best.tokens[0], *sorted(others - {best.tokens[0]})]
    scores = np.concatenate(await _score(engine, [(prompts[0], (token,)) for token in tokens]))
    _require(
        bool((scores <= scores[0] + tolerance).all()),
        f"greedy token {tokens[0]} is not the likeliest: {scores}",
    )
    _require(
        float(np.exp(scores).sum()) <= 1 + tolerance,
        f"probabilities of {tokens} add up to more than 1",
    )


async def sampler_logprobs_equal_scores(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """``sample`` reports unfiltered log-probs at temperature 1, whatever the sampling settings."""
    for sampling in (
        Sampling(),
        Sampling(temperature=0.6, top_k=20, top_p=0.9),
        Sampling(temperature=0.0),
    ):
        drawn = await _draw(engine, prompts[0], slots=2, sampling=sampling)
        scores = await _score(engine, [(prompts[0], completion.tokens) for completion in drawn])
        for completion, score in zip(drawn, scores, strict=True):
            _close(completion.logprobs, score, tolerance, f"drawn with {sampling}")


async def sampling_is_batch_invariant(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """The same request draws the same tokens, alone or in any batch; two slots draw the first two responses of four."""
    alone = await _draw(engine, prompts[0], slots=4)
    fewer = await _draw(engine, prompts[0], slots=2)
    crowd = [_request(prompts[1], slots=3, item="other"), _request(prompts[0], slots=4)]
    crowded = (await engine.sample(crowd))[1]
    _same(fewer, alone[:2], "two slots and the first two of four")
    _same(crowded, alone, "alone and beside another request")


async def chunked_sampling_equals_one_call(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """Continuing a prefix with the same stream draws what one long call draws, with ``keep`` or without."""
    [whole] = await _draw(engine, prompts[0], slots=1, max_tokens=10)
    for keep in (False, True):
        tokens: Tokens = ()
        finish = "length"
        while len(tokens) < 10 and finish == "length":
            piece = _request(
                prompts[0], slots=1, max_tokens=min(3, 10 - len(tokens)), prefix=tokens, keep=keep
            )
            [[chunk]] = await engine.sample([piece])
            tokens, finish = tokens + chunk.tokens, chunk.finish
        _require(
            tokens == whole.tokens,
            f"three at a time {tokens}, at once {whole.tokens} (keep={keep})",
        )


async def streaming_equals_sampling(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """Joined increments are what a call returns; closing a stream early leaves the engine usable."""
    request = _request(prompts[0], slots=3)
    streamed = await _stream(engine, request)
    for response in streamed:
        _require(len(response.tokens) == len(response.logprobs), "tokens and log-probs differ")
        ended = bool(response.tokens) and response.tokens[-1] in engine.capabilities.eos
        _require(
            ended or len(response.tokens) == request.max_tokens,
            f"a stream ended after {len(response.tokens)} of {request.max_tokens} tokens",
        )
    if engine.capabilities.keyed_streams:
        [called] = await engine.sample([request])
        _same(streamed, called, "a stream and a call")
    if engine.capabilities.sampler_logprobs:
        scores = await _score(engine, [(prompts[0], response.tokens) for response in streamed])
        for response, score in zip(streamed, scores, strict=True):
            _close(response.logprobs, score, tolerance, "streamed")
    abandoned = engine.stream(request)
    await anext(abandoned)
    await abandoned.aclose()
    restreamed = await _stream(engine, request)
    if engine.capabilities.keyed_streams:
        _same(restreamed, streamed, "a stream and one after a stream that was left")


async def _stream(engine: Engine, request: SampleRequest) -> list[Completion]:
    partials = {slot: Partial() for slot in request.slots}
    async with aclosing(engine.stream(request)) as increments:
        async for increment in increments:
            partial = partials[increment.slot]
            _require(partial.finish is None, "a response goes on after its end")
            _require(increment.start <= len(partial.tokens), "a stream left out tokens")
            partial.take(increment)
    _require(
        all(partial.finish for partial in partials.values()), "a stream ended before its responses"
    )
    return [partial.response(request, "length") for partial in partials.values()]


async def logprobs_can_be_left_out(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """Tokens are the same whether log-probs are requested or not, and every token has an entry."""
    request = _request(prompts[0], slots=3)
    [without_logprobs] = await engine.sample([replace(request, logprobs=False)])
    _require(
        all(len(completion.tokens) == len(completion.logprobs) for completion in without_logprobs),
        "tokens and log-probs differ in number where log-probs were not asked for",
    )
    if engine.capabilities.keyed_streams:
        [with_logprobs] = await engine.sample([request])
        _require(
            [completion.tokens for completion in without_logprobs]
            == [completion.tokens for completion in with_logprobs],
            "other tokens where log-probs were not asked for",
        )


async def finish_reasons_are_true(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """``eos``: the last token ends the response, and no earlier one does; ``length``: the token budget is used up."""
    for completion in await _draw(engine, prompts[0], slots=4, max_tokens=6):
        ends = [token in engine.capabilities.eos for token in completion.tokens]
        _require(
            len(completion.tokens) == len(completion.logprobs),
            "tokens and log-probs differ in number",
        )
        _require(not any(ends[:-1]), f"a response goes on after its end: {completion}")
        _require(
            ends[-1] == (completion.finish == "eos"),
            f"finish {completion.finish} does not fit {completion.tokens}",
        )
        _require(
            completion.finish == "eos" or len(completion.tokens) == 6,
            f"finish {completion.finish} after {len(completion.tokens)} of 6",
        )


async def empty_completions_score_empty(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """An empty completion scores as an empty array, alone and among others."""
    [empty] = await _score(engine, [(prompts[0], ())])
    _require(empty.shape == (0,), f"an empty completion got {empty}")
    first, between, _ = await _score(
        engine, [(prompts[0], prompts[0][-1:]), (prompts[0], ()), (prompts[1], prompts[0][-1:])]
    )
    _require(
        first.shape == (1,) and between.shape == (0,),
        "an empty completion disturbed its neighbours",
    )


async def overlong_prompts_are_refused(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """A prompt longer than the context raises :class:`PromptTooLong` from ``sample`` and ``score``."""
    repeats = engine.capabilities.max_context // len(prompts[0]) + 1
    long = prompts[0] * repeats
    for name, call in (
        ("sample", engine.sample([_request(long, slots=1)])),
        ("score", engine.score([ScoreRequest(prompt=long, completion=prompts[0][-1:])])),
    ):
        try:
            await call
        except PromptTooLong:
            continue
        raise EngineError(f"law broken: {name} accepted a prompt of {len(long)} tokens")


async def cancelling_leaves_the_engine_usable(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """After a cancelled call the next one gives what it gave before."""
    before = await _score(engine, [(prompts[0], prompts[1][:3])])
    room = engine.capabilities.max_context - len(prompts[0])
    task = asyncio.ensure_future(
        engine.sample([_request(prompts[0], slots=4, max_tokens=min(room, 256))])
    )
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    after = await _score(engine, [(prompts[0], prompts[1][:3])])
    _close(after[0], before[0], tolerance, "after a cancelled call")
    await _draw(engine, prompts[1], slots=1)


async def adapters_do_not_leak(engine: Engine, prompts: Sequence[Tokens], tolerance: float) -> None:
    """Scores under base and reward models do not change when batched together; unknown readers are refused."""
    arms = engine.capabilities.arms
    even = [Reader(arm.name, (1 / len(arm.objectives),) * len(arm.objectives)) for arm in arms]
    base = ScoreRequest(prompt=prompts[0], completion=prompts[1][:3])
    requests = [base, *(replace(base, reader=reader) for reader in even)]
    together = await engine.score(requests)
    for request, score in zip(requests, together, strict=True):
        [alone] = await engine.score([request])
        _close(score, alone, tolerance, f"read by {request.reader} beside others")
    try:
        await engine.score([replace(base, reader=Reader("\N{WHITE CHESS KING}", (1.0,)))])
    except BadInput:
        return
    raise EngineError("law broken: a reward model that is not open was taken for one")


async def what_is_not_claimed_is_refused(
    engine: Engine, prompts: Sequence[Tokens], tolerance: float
) -> None:
    """A call that the capabilities leave out raises :class:`~preftilt.errors.BadInput`."""
    able, drawing = engine.capabilities, _request(prompts[0], slots=1)
    guide = GuideRequest(
        views=(GuidedView(prompts[0], 1.0),),
        slots=(0,),
        stream=drawing.stream,
        sampling=drawing.sampling,
        max_tokens=1,
    )
    read = ScoreRequest(prompt=prompts[0], completion=prompts[1][:1])
    normalise = NormaliseRequest(reads=(read,), mixtures=(Mixture((1.0,)),))
    calls: dict[str, tuple[bool, Callable[[], Awaitable[object]]]] = {
        "guide": (able.guides, lambda: engine.guide([guide])),
        "propose": (
            able.proposes,
            lambda: engine.propose([ProposeRequest(prompt=prompts[0], count=1)]),
        ),
        "normalise": (able.normalises, lambda: engine.normalise([normalise])),
    }
    for name, (claimed, call) in calls.items():
        if claimed:
            continue
        try:
            await call()
        except BadInput:
            continue
        raise EngineError(f"law broken: {name} answered, and the capabilities do not claim it")


LAWS: tuple[Law, ...] = (
    one_logprob_per_token,
    scores_add_up_over_a_split,
    scoring_is_batch_invariant,
    the_given_token_is_scored,
    sampler_logprobs_equal_scores,
    sampling_is_batch_invariant,
    chunked_sampling_equals_one_call,
    streaming_equals_sampling,
    logprobs_can_be_left_out,
    finish_reasons_are_true,
    empty_completions_score_empty,
    overlong_prompts_are_refused,
    cancelling_leaves_the_engine_usable,
    adapters_do_not_leak,
    what_is_not_claimed_is_refused,
)

NEEDS: dict[Law, str] = {
    sampler_logprobs_equal_scores: "sampler_logprobs",
    sampling_is_batch_invariant: "keyed_streams",
    chunked_sampling_equals_one_call: "keyed_streams",
}
"""Laws about an ability that an engine may leave out: the field of its capabilities."""


def _request(
    prompt: Tokens,
    *,
    slots: int,
    max_tokens: int = 12,
    sampling: Sampling | None = None,
    prefix: Tokens = (),
    keep: bool = False,
    item: str = "law",
) -> SampleRequest:
    return SampleRequest(
        prompt=prompt,
        prefix=prefix,
        slots=tuple(range(slots)),
        stream=Stream(7, item),
        sampling=sampling or Sampling(),
        max_tokens=max_tokens,
        keep=keep,
    )


async def _draw(
    engine: Engine,
    prompt: Tokens,
    *,
    slots: int,
    max_tokens: int = 12,
    sampling: Sampling | None = None,
) -> list[Completion]:
    request = _request(prompt, slots=slots, max_tokens=max_tokens, sampling=sampling)
    [drawn] = await engine.sample([request])
    _require(len(drawn) == slots, f"{slots} slots got {len(drawn)} completions")
    return drawn


async def _score(
    engine: Engine, pairs: Sequence[tuple[Tokens, Tokens]]
) -> list[Float[np.ndarray, "T"]]:
    return await engine.score([ScoreRequest(prompt=p, completion=c) for p, c in pairs])


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise EngineError(f"law broken: {otherwise}")


def _close(
    got: Float[np.ndarray, "T"], want: Float[np.ndarray, "T"], tolerance: float, when: str
) -> None:
    _require(got.shape == want.shape, f"{when}: shapes {got.shape} and {want.shape}")
    gap = float(np.abs(got - want).max(initial=0.0))
    _require(
        gap <= tolerance, f"{when}: log-probs differ by {gap:.2g} nats, more than {tolerance:.2g}"
    )


def _same(got: Sequence[Completion], want: Sequence[Completion], what: str) -> None:
    for a, b in zip(got, want, strict=True):
        _require(
            a.tokens == b.tokens and a.finish == b.finish,
            f"{what} differ: {a.tokens} and {b.tokens}",
        )
