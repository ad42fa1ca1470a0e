"""ARGS (Khanov et al., ICLR 2024): tokens chosen among the likeliest by log-prob + weight · reward.

Written from the formula of the paper: score(v) = log π(v | context) + w · r(prompt, response + v) over the top k of π;
the best score, or a draw from softmax(score / T).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preftilt.errors import EngineError
from preftilt.guided.filters import filtered
from preftilt.streams import log_exponentials_of, position_key
from preftilt.types import Completion, Finish, RewardGuide, Sampling, Tokens

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
