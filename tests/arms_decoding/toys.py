"""Reward models that can be written down, on the toy model: two of one objective each, one of both, a uniform one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preftilt.api import Realigner, Settings
from preftilt.arm.spec import Objective
from preftilt.guided import combine
from preftilt.messages import Message
from preftilt.result import Realigned
from preftilt.settings import ArmSettings
from preftilt.testing.toy import WORDS, NextLogprobs, ToyArm, ToyEngine, hashed_bigrams
from preftilt.types import Preference, Tokens

HELP, SAFE = Objective("help", "Helpful.", 0.5), Objective("safe", "Harmless.", 0.1)
BASE, HELPFUL, SAFER = (hashed_bigrams(seed) for seed in (5, 6, 7))
MESSAGES = [Message("user", "play maths")]
GAMES = Preference("win points")


def mixed(alpha: tuple[float, ...]) -> NextLogprobs:
    """Log-probs of the two reward models, weighted by α and renormalised."""

    def next_logprobs(context: Tokens) -> np.ndarray:
        return combine(np.stack([HELPFUL(context), SAFER(context)]), alpha)

    return next_logprobs


def uniform(_: Tokens) -> np.ndarray:
    """Every token alike."""
    return np.full(len(WORDS), -np.log(len(WORDS)))


ARMS = {
    "helpful": ToyArm((HELP,), lambda _: HELPFUL),
    "safer": ToyArm((SAFE,), lambda _: SAFER),
    "both": ToyArm((HELP, SAFE), mixed),
    "even": ToyArm((HELP,), lambda _: uniform),
}


def toy() -> ToyEngine:
    """The toy engine with all of them."""
    return ToyEngine(BASE, arms=ARMS)


def by(*names: str, alpha: str = "", weight: float = 1.0, **weights: float) -> ArmSettings:
    """These read along."""
    return ArmSettings(names=names, alpha=alpha, weight=weight, weights=tuple(weights.items()))


async def realign(
    settings: Settings, preferences: Sequence[Preference] = (), engine: ToyEngine | None = None
) -> Realigned:
    return await Realigner(engine or toy(), settings).realign(MESSAGES, preferences)
