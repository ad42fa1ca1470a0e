"""Guided decoding: choosing every token from several views of the response, or with a reward model's help.

One rule is a weighted sum of log-probs over views, renormalised: log π_guided(v) = Σ_k w_k log π(v | view k) − log Z.
With the weights 1 − λ and λ this is per-token REAR (arXiv 2606.30339, eq. 9), which is classifier-free guidance for
language models (Sanchez et al., 2023) and context-aware decoding (Shi et al., 2023) with scale λ, Linear Alignment (Gao
et al., 2024) with ratio λ − 1, and Amulet (Zhang et al., 2025) with κ = λ − 1. Weights need not add up to 1: a reward
model that is a language model is one more view.

Amulet (ICLR 2025, arXiv 2502.19148) stands here in closed form: every of its T iterations at a token is affine in
log-prob vectors with scalar coefficients, and normalising only adds a constant, so that log π_T = log π_pref +
κ_T (log π_pref − log π_base) + const, with κ from a scalar recursion: O(V) a token where the loop
(``preftilt.testing.amulet``) takes O(T · V) time and memory.

ARGS (Khanov et al., ICLR 2024) is written from the formula of the paper: score(v) = log π(v | context) + w · r(prompt,
response + v) over the top k of π; the best score, or a draw from softmax(score / T).

Everything here is numpy and knows no engine: the reference that engines are tested against, which have filters of their
own that do not sort a wide vocabulary.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from preftilt.errors import EngineError
from preftilt.streams import draw, log_exponentials_of, position_key
from preftilt.types import Completion, Finish, Mask, RewardGuide, Sampling, Tokens

__all__ = [
    "adapted",
    "combine",
    "divergence",
    "filtered",
    "kappa",
    "masked",
    "pick",
    "plausible",
    "view_weights",
]


def kappa(iterations: int, *, alpha: float, anchor: float, eta: float) -> float:
    """κ_T after ``iterations`` T; λ of the guided decoder is 1 + κ_T.

    ``anchor`` is the paper's λ, the weight of staying near the distribution with the preference. With ``alpha`` <
    ``anchor`` κ tends to (α/λ) / (1 − α/λ); otherwise it has no limit and grows with T.
    """
    k = sums = 0.0
    for t in range(1, iterations + 1):
        sums += alpha * (1 + k)
        k = (sums / t + k / (eta * t)) / (anchor + 1 / (eta * t))
    return k


def filtered(logprobs: Float[np.ndarray, "V"], sampling: Sampling) -> Float[np.ndarray, "V"]:
    """Tempered log-probs with what top-k and then top-p leave out at −inf; the reference for every engine.

    Top-p keeps the smallest set of most likely tokens whose tempered probability reaches ``top_p``.
    """
    scaled = logprobs / sampling.temperature
    scaled = scaled - np.logaddexp.reduce(scaled)
    order = np.argsort(-scaled, kind="stable")
    keep = np.ones(scaled.size, dtype=bool)
    if sampling.top_k:
        keep[order[sampling.top_k :]] = False
    if sampling.top_p < 1:
        kept = np.where(keep[order], np.exp(scaled[order]), 0.0)
        before = np.cumsum(kept) - kept
        keep[order[before >= sampling.top_p * kept.sum()]] = False
    return np.where(keep, scaled, -np.inf)


def plausible(logprobs: Float[np.ndarray, "V"], mask: Mask) -> Bool[np.ndarray, "V"]:
    """The tokens inside the mask's nucleus of ``logprobs`` (nats, need not be normalised)."""
    nucleus = Sampling(temperature=mask.temperature, top_p=mask.top_p)
    return np.isfinite(filtered(logprobs, nucleus))


def pick(logprobs: Float[np.ndarray, "V"], sampling: Sampling, key: int) -> int:
    """The token drawn from ``logprobs`` with the key of its stream and position; temperature 0 is greedy."""
    if sampling.temperature == 0:
        return int(np.argmax(logprobs))
    return draw(filtered(logprobs, sampling), key)


ONE_BIT = float(np.log(2.0))


def combine(logprobs: Float[np.ndarray, "K V"], weights: Sequence[float]) -> Float[np.ndarray, "V"]:
    """log π_guided (nats, normalised) from every view's log-probs; any constant a view adds to its own falls out.

    A token that some view holds impossible is impossible, whatever the sign of its weight. Computed as
    (Σ w) · first + Σ_k w_k (view_k − first), so identical views give their own distribution back, exactly.

    Raises :class:`~preftilt.errors.EngineError` if no token is possible under every view.
    """
    impossible = np.isneginf(logprobs).any(axis=0)
    if impossible.all():
        raise EngineError(
            "no token is possible under every view; the views' models differ too much"
        )
    first, *others = np.where(impossible, 0.0, logprobs)
    total = sum(weights) * first
    for weight, view in zip(weights[1:], others, strict=True):
        total += weight * (view - first)
    guided = np.where(impossible, -np.inf, total)
    return guided - np.logaddexp.reduce(guided)


def masked(
    guided: Float[np.ndarray, "V"], preferred: Float[np.ndarray, "V"], mask: Mask | None
) -> Float[np.ndarray, "V"]:
    """``guided`` with implausible tokens at −inf; ``preferred`` is what a mask of the preference looks at."""
    if mask is None:
        return guided
    inside = plausible(guided if mask.of == "result" else preferred, mask)
    return np.where(inside, guided, -np.inf)


def view_weights(
    ratios: Sequence[float], lam: float, strength: float | None = None
) -> tuple[float, ...]:
    """The weights of a query's views, the question's first: 1 − Σ λ_i, λ_1, …, λ_k.

    ``ratios`` and ``lam`` are those of a :class:`~preftilt.types.Query`. With a ``strength`` the strongest preference
    is given that, and the others their share; what is turned away from still is, and with ``lam`` 0 none counts.
    """
    strongest = lam if strength is None else strength * float(np.sign(lam))
    lams = [strongest * ratio for ratio in ratios]
    return (1.0 - sum(lams), *lams)


def divergence(p: Float[np.ndarray, "V"], q: Float[np.ndarray, "V"]) -> float:
    """The Jensen–Shannon divergence of two distributions, given as log-probs (nats, normalised): bits, 0 to 1."""
    middle = np.logaddexp(p, q) - ONE_BIT
    bits = 0.0
    for view in (p, q):
        possible = np.isfinite(view)
        nats = np.exp(view[possible]) @ (view[possible] - middle[possible])
        bits += float(nats) / (2 * ONE_BIT)
    return min(max(bits, 0.0), 1.0)


def adapted(logprobs: Float[np.ndarray, "K V"], weights: Sequence[float]) -> tuple[float, ...]:
    """The weights of a token whose λ goes by how much the first two views differ: 1 − λ_t, λ_t, and the others.

    λ_t = 1 + (λ − 1) · JSD(p ‖ q) with the divergence in bits: the model as it is where the views agree, the whole λ
    where they have nothing in common. That is adaptive context-aware decoding (AdaCAD, Wang et al., 2024, arXiv
    2409.07394), whose strength is ours at λ = 2.
    """
    lam = 1.0 + (weights[1] - 1.0) * divergence(logprobs[1], logprobs[0])
    return (1.0 - lam, lam, *weights[2:])


Shortlist = tuple[Tokens, Float[np.ndarray, "k"]]
"""The likeliest next tokens with their log-probs (nats, temperature 1, unfiltered)."""

Propose = Callable[[Tokens], Awaitable[Shortlist]]
"""A response so far → what may follow it."""

TrajectoryReward = Callable[[Sequence[Tokens]], Awaitable[Sequence[float | None]]]
"""Whole or partial responses → one reward each; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardGuidedDraw:
    """One response to draw: ``key`` is that of its random stream, ``eos`` are the ids that end it, ``room`` is how many
    new tokens it may have."""

    guide: RewardGuide
    sampling: Sampling
    prefix: Tokens
    key: int
    eos: frozenset[int]
    room: int


async def draw_by_reward(
    draw: RewardGuidedDraw, propose: Propose, reward: TrajectoryReward
) -> Completion:
    """Draw one continuation of ``draw.prefix``, token by token; its log-probs are the model's own.

    Raises :class:`~preftilt.errors.EngineError` if a reward is not a number, or no candidate has one.
    """
    tokens: list[int] = []
    logprobs: list[float] = []
    finish: Finish = "length"
    while len(tokens) < draw.room:
        so_far = (*draw.prefix, *tokens)
        shortlist, likely = await propose(so_far)
        rewards = await reward([(*so_far, token) for token in shortlist])
        scores = likely + draw.guide.weight * _checked(rewards)
        chosen = _choose(scores, shortlist, draw.sampling, position_key(draw.key, len(so_far)))
        tokens.append(shortlist[chosen])
        logprobs.append(float(likely[chosen]))
        if tokens[-1] in draw.eos:
            finish = "eos"
            break
    return Completion(tuple(tokens), np.array(logprobs), finish)


def _checked(rewards: Sequence[float | None]) -> Float[np.ndarray, "k"]:
    """The rewards, −inf where there is none: such a token is not chosen."""
    values = np.array(
        [-np.inf if reward is None else reward for reward in rewards], dtype=np.float64
    )
    if np.isnan(values).any() or np.isposinf(values).any():
        raise EngineError("the reward model returned NaN or infinity; it must return numbers")
    if np.isneginf(values).all():
        raise EngineError(
            "the reward model has no score for any next token: the response may be too long for it; lower max_tokens"
        )
    return values


def _choose(scores: Float[np.ndarray, "k"], shortlist: Tokens, sampling: Sampling, key: int) -> int:
    """The index of the token that is drawn; noise belongs to tokens, not to their places in the shortlist."""
    if sampling.temperature == 0:
        return int(np.argmax(scores))
    noise = log_exponentials_of(key, np.array(shortlist))
    return int(np.argmax(filtered(scores, sampling) - noise))
