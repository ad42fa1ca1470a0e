"""Measuring whether a server's log-probs are what they must be; the same for every dialect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from preftilt.engines.facts import Fact
from preftilt.engines.http.dialect import Asking, Dialect, Draw, Drawn, probe_tokens
from preftilt.engines.tokenizer import ModelTokenizer
from preftilt.errors import BadInput
from preftilt.types import Sampling, Tokens

EXACT = 1e-3
"""Largest gap (nats) at which two readings of a float32 model are the same."""

ROUNDED_RMS = 0.004
"""Root-mean-square gap up to which log-probs of drawing stand in for scores in 16-bit models; see the embedded
engine's figure of the same name."""

ROUNDED = 0.1
"""Mean gap up to which two readings differ by rounding; a wrong token, scale or place moves them by far more."""

QUESTION = "Name a way to relax."
DIFFERENT, RESPONSE = 12, 12
"""How many different tokens are scored, and how many are drawn in a response."""


async def check_scores(asking: Asking, dialect: Dialect) -> None:
    """Insist that scores are the given tokens' log-probs: not the likeliest token's, not the token's before.

    Raises :class:`~preftilt.errors.BadInput` for a server whose scores cannot be used.
    """
    context = asking.tokenizer.chat.encode(QUESTION)
    tokens = list(dict.fromkeys(probe_tokens(asking.tokenizer)))[:DIFFERENT]
    # A server that takes text only can be asked about what survives being spelled out.
    given = [(one,) for one in tokens if _survives(asking.tokenizer, (*context, one))]
    rows = np.concatenate(await dialect.read(context, given))
    if np.ptp(rows) == 0:
        asking.note(Fact("which token a score is of", "always the same one"))
        raise BadInput(
            f"{asking.connection.url} gives every token the same log-prob: it reports the likeliest token's or the one"
            f" before (echo shifted by one); {OTHER_WAYS}"
        )
    if float(np.exp(rows).sum()) > 1 + EXACT:
        asking.note(Fact("which token a score is of", "not the given one"))
        raise BadInput(
            f"{asking.connection.url} gives {len(given)} tokens probabilities that add up to more than 1: its log-probs"
            f" are not those of the given tokens; {OTHER_WAYS}"
        )
    asking.note(Fact("which token a score is of", "the given one", "scores can be used"))


OTHER_WAYS = (
    "use another server, open the model in this process (llamacpp:FILE, vllm:ID), or name a second engine that scores"
    " (--scorer)"
)


async def check_sampler(asking: Asking, dialect: Dialect) -> bool:
    """Whether log-probs of drawing stand in for scores.

    Raises :class:`~preftilt.errors.BadInput` if they contradict the scores even at temperature 1: then one of the two
    is wrong, and nobody knows which.
    """
    asked = asking.options.sampler_logprobs
    context = asking.tokenizer.chat.encode(QUESTION)
    plain = await _gaps(dialect, context, 1.0)
    if plain is None:
        asking.note(Fact("log-probs of drawing", "none", "every response is scored"))
        return _insist_on(asked, possible=False, url=asking.connection.url)
    if plain.mean() > ROUNDED:
        asking.note(Fact("log-probs of drawing", f"{plain.mean():.2g} nats from the scores"))
        raise BadInput(
            f"{asking.connection.url} contradicts itself: log-probs of what it draws and scores of the same tokens"
            f" differ by {plain.mean():.2g} nats a token, shifted by one or of another model; {OTHER_WAYS}"
        )
    cool = await _gaps(dialect, context, 0.5)
    scaled = cool is not None and cool.mean() > ROUNDED
    gaps = plain if cool is None else np.concatenate([plain, cool])
    agree = bool(gaps.max() <= EXACT or np.sqrt(np.mean(gaps**2)) <= ROUNDED_RMS)
    if scaled:
        asking.note(
            Fact("log-probs of drawing", "scaled by temperature", "every response is scored")
        )
    else:
        meaning = "stand in for scores" if agree else "too rough; every response is scored"
        asking.note(
            Fact("log-probs of drawing", f"raw, within {gaps.max():.1g} nats of scores", meaning)
        )
    return _insist_on(asked, possible=not scaled, url=asking.connection.url) or (
        asked == "auto" and agree and not scaled
    )


def _survives(tokenizer: ModelTokenizer, tokens: Tokens) -> bool:
    return tokenizer.chat.encode(tokenizer.spell(tokens)) == tokens


def _insist_on(asked: str, *, possible: bool, url: str) -> bool:
    if asked == "on" and not possible:
        raise BadInput(
            f"{url} does not report raw log-probs of what it draws; leave out --sampler-logprobs on"
        )
    return asked == "on"


async def _gaps(
    dialect: Dialect, context: Tokens, temperature: float
) -> Float[np.ndarray, "T"] | None:
    """Absolute differences between log-probs of drawing and scores; None if the server gives none of the former."""
    request = Draw(
        context=context,
        n=2,
        max_tokens=RESPONSE,
        sampling=Sampling(temperature=temperature),
        seed=11,
    )
    drawn: Sequence[Drawn] = [one for one in await dialect.draw(request) if one.tokens]
    given = [one.logprobs for one in drawn if one.logprobs is not None]
    if not drawn or len(given) < len(drawn):
        return None
    rows = await dialect.read(context, [one.tokens for one in drawn])
    return np.abs(np.concatenate(given) - np.concatenate(rows))
