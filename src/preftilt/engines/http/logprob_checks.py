"""Checks of a server's log-probs, the same for every dialect: scores of the right tokens, raw sampler log-probs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Fact
from preftilt.engines.http.connection import Declined
from preftilt.engines.http.dialect import Dialect, DrawRequest, ProbeContext, probe_tokens
from preftilt.engines.tokenizer import ModelTokenizer
from preftilt.errors import BadInput
from preftilt.types import Sampling, Tokens

EXACT = 1e-3
"""Largest gap (nats) at which two scores of a float32 model are the same."""

ROUNDED_RMS = 0.004
"""Root-mean-square gap up to which log-probs of sampling are used as scores in 16-bit models; as in the embedded
engine."""

ROUNDED = 0.1
"""Mean gap up to which two scores differ by rounding; a wrong token, scale or position changes them far more."""

QUESTION = "Name a way to relax."
SCORED_TOKENS, RESPONSE_TOKENS, COMPARED_TOKENS = 12, 12, 20
"""Number of different tokens that are scored, of tokens per response, and of tokens that are compared."""

OPEN_ENDED = (
    "They said that the",
    "My three favourite words are",
    "Here is a list:",
    "In a small town there was a",
    QUESTION,
    "1",
)
"""Texts with many continuations, so that drawn tokens differ in probability."""

FROM_CACHE = "prompt from the cache when scoring"
"""The question of the fact whether a server scores responses without computing their prompt again."""

HIGH_TEMPERATURE = Sampling(temperature=2.0)
"""A temperature other than 1, high so that unlikely tokens are drawn; the maximum of OpenAI's API."""

FIRST_TOKENS = 16
"""Number of first tokens that are drawn after one text."""

SPREAD = 6.0
"""Sum of squares (nats²) of the scores about their text's mean that is enough to measure their scale: with errors as
large as :data:`ROUNDED`, slopes of 1 and of 1/2 are then twelve standard errors apart."""


async def check_drawing(probe: ProbeContext, dialect: Dialect) -> None:
    """Check that a server that takes and returns token ids draws n responses to one prompt.

    Raises :class:`~preftilt.errors.BadInput` if it does not.
    """
    context = probe_tokens(probe.tokenizer)
    draw = DrawRequest(context=context, n=3, max_tokens=6, sampling=Sampling(), seed=5)
    drawn = await dialect.draw(draw)
    probe.note(Fact("token ids in and out", "yes", "responses are never tokenised again"))
    if len(drawn) != 3:
        raise BadInput(f"{probe.connection.url} sends {len(drawn)} responses for n = 3")
    probe.note(Fact("n responses in one question", "yes", "prompts are sent once"))


def shared_prefix_agrees(
    probe: ProbeContext,
    shared: Sequence[Float[np.ndarray, "T"] | None],
    plain: Sequence[Float[np.ndarray, "T"]],
) -> bool:
    """Whether scores with the prompt from the server's cache are those without it; None where there are none."""
    gaps = np.concatenate(
        [np.abs(row - other) for row, other in zip(shared, plain, strict=True) if row is not None]
    )
    if gaps.max() > EXACT and gaps.mean() > ROUNDED:
        probe.note(Fact(FROM_CACHE, f"off by {gaps.max():.2g} nats", "not used"))
        return False
    probe.note(Fact(FROM_CACHE, f"yes, within {gaps.max():.1g} nats", "many responses score fast"))
    return True


async def check_scores(probe: ProbeContext, dialect: Dialect) -> None:
    """Check that scores are the given tokens' log-probs: not the likeliest token's, not the previous token's.

    Raises :class:`~preftilt.errors.BadInput` for a server whose scores cannot be used.
    """
    context = probe.tokenizer.chat.encode(QUESTION)
    tokens = list(dict.fromkeys(probe_tokens(probe.tokenizer)))[:SCORED_TOKENS]
    # A server that takes only text can score only tokens that retokenise to themselves.
    completions = [
        (token,) for token in tokens if _survives_as_text(probe.tokenizer, (*context, token))
    ]
    rows = np.concatenate(await dialect.score(context, completions))
    if np.ptp(rows) == 0:
        probe.note(Fact("which token a score is of", "always the same one"))
        raise BadInput(
            f"{probe.connection.url} gives every token the same log-prob: it reports the likeliest token's or the one"
            f" before (echo shifted by one); {OTHER_WAYS}"
        )
    if float(np.exp(rows).sum()) > 1 + EXACT:
        probe.note(Fact("which token a score is of", "not the given one"))
        raise BadInput(
            f"{probe.connection.url} gives {len(completions)} tokens probabilities that add up to more than 1: its"
            f" log-probs are not those of the given tokens; {OTHER_WAYS}"
        )
    probe.note(Fact("which token a score is of", "the given one", "scores can be used"))


OTHER_WAYS = (
    "use another server, open the model in this process (llamacpp:FILE, vllm:ID), or name a second engine that scores"
    " (--scorer)"
)


async def check_sampler(probe: ProbeContext, dialect: Dialect) -> bool:
    """Whether log-probs of sampling can be used as scores.

    They can if they are raw: at another temperature, drawn tokens still have their log-probs at temperature 1. If raw
    and scaled log-probs cannot be distinguished, they are not used.

    Raises :class:`~preftilt.errors.BadInput` if they differ from the scores even at temperature 1: then one of the two
    is wrong.
    """
    switch = probe.options.sampler_logprobs
    gaps_at_1 = await _sampler_gaps(probe.tokenizer, dialect)
    if not gaps_at_1.size:
        probe.note(Fact("log-probs of drawing", "none", "every response is scored"))
        return _trust_if_requested(switch, possible=False, url=probe.connection.url)
    if gaps_at_1.mean() > ROUNDED:
        probe.note(Fact("log-probs of drawing", f"{gaps_at_1.mean():.2g} nats from the scores"))
        raise BadInput(
            f"{probe.connection.url} contradicts itself: log-probs of what it draws and scores of the same tokens"
            f" differ by {gaps_at_1.mean():.2g} nats a token, shifted by one or of another model; {OTHER_WAYS}"
        )
    relation = await _measure_scale(probe.tokenizer, dialect)
    exact = bool(gaps_at_1.max() <= EXACT or np.sqrt(np.mean(gaps_at_1**2)) <= ROUNDED_RMS)
    raw = relation is not None and relation.raw
    if relation is None:
        answer = "cannot be told from scaled ones"
    elif raw:
        answer = f"raw, within {gaps_at_1.max():.1g} nats of scores"
    else:
        answer = "scaled by temperature" if relation.scaled else "changed by sampling settings"
    meaning = "stand in for scores" if raw and exact else "every response is scored"
    if raw and not exact:
        meaning = f"too rough; {meaning}"
    probe.note(Fact("log-probs of drawing", answer, meaning))
    trusted = _trust_if_requested(switch, possible=raw, url=probe.connection.url)
    return trusted or (switch == "auto" and exact and raw)


@dataclass(frozen=True, slots=True)
class SamplerScale:
    """The regression of log-probs of sampling at :data:`HIGH_TEMPERATURE` on the scores of the same tokens.

    slope: between tokens drawn after the same text, for which the normalising constant cancels. gap: mean difference
    from the scores, in nats.
    """

    slope: float
    gap: float

    @property
    def raw(self) -> bool:
        """Whether they are the scores: slope 1, no gap."""
        return abs(self.slope - 1) < _HALFWAY and self.gap <= ROUNDED

    @property
    def scaled(self) -> bool:
        """Whether they are scaled by the temperature."""
        return abs(self.slope - 1 / HIGH_TEMPERATURE.temperature) < _HALFWAY


_HALFWAY = (1 - 1 / HIGH_TEMPERATURE.temperature) / 2


def _survives_as_text(tokenizer: ModelTokenizer, tokens: Tokens) -> bool:
    return tokenizer.chat.encode(tokenizer.spell(tokens)) == tokens


def _trust_if_requested(switch: str, *, possible: bool, url: str) -> bool:
    if switch == "on" and not possible:
        raise BadInput(
            f"{url} does not report raw log-probs of what it draws, as far as can be told; leave out --sampler-logprobs"
            " on"
        )
    return switch == "on"


async def _measure_scale(tokenizer: ModelTokenizer, dialect: Dialect) -> SamplerScale | None:
    """Draw first tokens after one text after the other until their scores vary enough to measure the slope.

    None if they never do (a model that is always certain has the same log-probs at any temperature), or if the server
    refuses that temperature.
    """
    gaps, sampled, scores = (np.empty(0) for _ in range(3))
    for context in _probe_contexts(tokenizer):
        draw = DrawRequest(
            context=context, n=FIRST_TOKENS, max_tokens=1, sampling=HIGH_TEMPERATURE, seed=11
        )
        try:
            rows = await _sampler_and_scores(dialect, draw)
        except Declined:
            return None
        if rows is None:
            continue
        drawing, scoring = rows
        gaps = np.append(gaps, np.abs(drawing - scoring))
        sampled = np.append(sampled, drawing - drawing.mean())
        scores = np.append(scores, scoring - scoring.mean())
        spread = float(scores @ scores)
        if spread >= SPREAD:
            return SamplerScale(slope=float(scores @ sampled) / spread, gap=float(gaps.mean()))
    return None


async def _sampler_gaps(tokenizer: ModelTokenizer, dialect: Dialect) -> Float[np.ndarray, "T"]:
    """Absolute differences between log-probs of sampling at temperature 1 and scores; empty if there are none."""
    gaps = np.empty(0)
    for context in _probe_contexts(tokenizer):
        draw = DrawRequest(
            context=context, n=2, max_tokens=RESPONSE_TOKENS, sampling=Sampling(), seed=11
        )
        if (rows := await _sampler_and_scores(dialect, draw)) is not None:
            gaps = np.append(gaps, np.abs(rows[0] - rows[1]))
        if gaps.size >= COMPARED_TOKENS:
            break
    return gaps


def _probe_contexts(tokenizer: ModelTokenizer) -> Iterator[Tokens]:
    contexts = (tokenizer.chat.encode(text) for text in OPEN_ENDED)
    return (context for context in contexts if _survives_as_text(tokenizer, context))


async def _sampler_and_scores(
    dialect: Dialect, draw: DrawRequest
) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "T"]] | None:
    """Log-probs of sampling, and scores, of all different responses; None if the server sends none of the former.

    A server may leave them out of responses that ended, with those of the end token.
    """
    drawn = {row.tokens: row.logprobs for row in await dialect.draw(draw) if row.tokens}
    sampled = {tokens: logprobs for tokens, logprobs in drawn.items() if logprobs is not None}
    if not sampled:
        return None
    scores = await dialect.score(draw.context, [*sampled])
    return np.concatenate([*sampled.values()]), np.concatenate(scores)
