"""Two engines as one: the first samples, the second scores. For servers that can only sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import (
    Engine,
    EngineInfo,
    EngineWrapper,
    ScoreRequest,
)
from preftilt.engines.options import CHAT_OPTIONS, EngineOptions
from preftilt.errors import BadInput, NoChatTemplate
from preftilt.messages import Message
from preftilt.prompt import ChatTokenizer, rendered_at
from preftilt.types import Tokens

SAMPLES = (
    "What shall we do on a rainy day, and why?",
    "1. First item\n2. Second item: 3,141.59 €\n\n\tdef f(x):\n        return x**2",
    "Größe, naïveté, 你好, здравствуй, 🎲",
)
"""Texts on which tokenizers that are not the same usually differ."""


ANY_MOMENT = datetime(2000, 1, 1)
"""The date that templates see while they are compared."""


@dataclass(eq=False, slots=True)
class ScoredBy(EngineWrapper):
    """Samples with ``inner`` and scores with ``scorer``; made by :func:`scored_by`.

    All log-probs are the scorer's, so the model that scores is another one than the model that wrote the response, as
    in best-of-n with a separate judge.
    """

    scorer: Engine

    @property
    def info(self) -> EngineInfo:
        """Of both; prompts are the sampler's, for which the scorer has the same ids."""
        sampler, scorer = self.inner.info, self.scorer.info
        drawing, scoring = sampler.capabilities, scorer.capabilities
        return replace(
            sampler,
            name=f"{sampler.name} scored by {scorer.name}",
            capabilities=replace(
                scoring,
                max_context=min(drawing.max_context, scoring.max_context),
                sampler_logprobs=False,
                keyed_streams=drawing.keyed_streams,
                guides=False,
                guided_logprobs=False,
                proposes=False,
                normalises=False,
                images=drawing.images and scoring.images,
            ),
            versions={
                **sampler.versions,
                **{f"scorer {name}": value for name, value in scorer.versions.items()},
                "scorer": scorer.name,
            },
            plan=(*sampler.plan[:1], f"score: {scorer.name}"),
        )

    guide, propose, normalise = Engine.guide, Engine.propose, Engine.normalise

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        return await self.scorer.score(requests)

    def progress(self, request: object) -> int:
        engine = self.scorer if isinstance(request, ScoreRequest) else self.inner
        return engine.progress(request)

    def close(self) -> None:
        """Close both."""
        self.inner.close()
        self.scorer.close()


@dataclass(eq=False, slots=True)
class SharedScorer(EngineWrapper):
    """A scorer that several samplers share."""

    def close(self) -> None:
        """Does nothing: the scorer's opener closes it."""


def open_scorer(name: str, options: EngineOptions) -> Engine:
    """Open the engine that scores, with the chat options among ``options``."""
    from preftilt.engines.open import open_engine  # Circular at import time.

    chat_options = {name: getattr(options, name) for name in CHAT_OPTIONS}
    return open_engine(name, EngineOptions(**chat_options))


def scored_by(sampler: Engine, scorer: Engine) -> ScoredBy:
    """Join two engines.

    Raises :class:`~preftilt.errors.BadInput` if they do not have the same token ids.
    """
    sampler_tokenizer, scorer_tokenizer = sampler.tokenizer, scorer.tokenizer
    same = sampler.capabilities.eos == scorer.capabilities.eos
    same = same and all(
        sampler_tokenizer.encode(text) == scorer_tokenizer.encode(text) for text in SAMPLES
    )
    if not same:
        raise BadInput(
            f"{scorer.name} has another tokenizer than {sampler.name}, so it cannot score what that one draws; name a"
            " scorer of the same family"
        )
    if rendered_samples(sampler_tokenizer) != rendered_samples(scorer_tokenizer):
        raise BadInput(
            f"{scorer.name} has another chat template than {sampler.name}; give both the same one (--chat-template)"
        )
    return ScoredBy(sampler, scorer)


def rendered_samples(tokenizer: ChatTokenizer) -> tuple[Tokens, ...]:
    """A few texts rendered by the chat template, at a date that is the same for all; bare if there is none."""
    with rendered_at(ANY_MOMENT):
        try:
            return tuple(tokenizer.render([Message("user", text)]) for text in SAMPLES)
        except NoChatTemplate:
            return tuple(tokenizer.encode(text) for text in SAMPLES)
