"""Checks that two engines serve the same model: same prompts, same end tokens, same log-probs of a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Capabilities, Engine, ScoreRequest
from preftilt.engines.scored_by import ANY_MOMENT, SAMPLES
from preftilt.errors import NoChatTemplate
from preftilt.messages import Message
from preftilt.moment import rendered_at
from preftilt.types import Tokens

SCORED = 8
"""Tokens whose log-probs are compared."""

SAME_MODEL = 0.1
"""Mean difference (nats a token) up to which log-probs are of the same weights: 16-bit engines differ by rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What identifies an engine's model.

    prompts: a few texts rendered by its tokenizer and template. logprobs: [T] nats of the first tokens of one of them
    after another.
    """

    name: str
    model: str
    capabilities: Capabilities
    prompts: tuple[Tokens, ...]
    logprobs: Float[np.ndarray, "T"]

    def difference(self, other: ModelIdentity) -> str | None:
        """Why ``other`` is not the same model, in half a sentence; None if it is."""
        ours, theirs = self.capabilities, other.capabilities
        if other.model != self.model:
            return f"it serves {other.model}, not {self.model}"
        if (ours.eos, ours.turn_end) != (theirs.eos, theirs.turn_end):
            return "its responses end with other tokens"
        if self.prompts != other.prompts:
            return "it has another tokenizer or chat template"
        gap = float(np.abs(self.logprobs - other.logprobs).mean())
        if gap > SAME_MODEL:
            return f"log-probs of the same text differ by {gap:.2g} nats a token, so its weights are others"
        return None


async def identify(engine: Engine) -> ModelIdentity:
    """The identity of an engine; scores a few tokens. Raises what the engine raises."""
    prompts = _prompts(engine)
    completion = prompts[-1][:SCORED]
    [logprobs] = await engine.score([ScoreRequest(prompt=prompts[0], completion=completion)])
    return ModelIdentity(
        name=engine.name,
        model=engine.model,
        capabilities=engine.capabilities,
        prompts=prompts,
        logprobs=logprobs,
    )


def _prompts(engine: Engine) -> tuple[Tokens, ...]:
    with rendered_at(ANY_MOMENT):  # Rendered dates must be the same for all.
        try:
            return tuple(engine.tokenizer.render([Message("user", text)]) for text in SAMPLES)
        except NoChatTemplate:
            return tuple(engine.tokenizer.encode(text) for text in SAMPLES)
