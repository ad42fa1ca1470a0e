"""Two engines as one: the first draws, the second scores. For servers that can only sample."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import (
    Capabilities,
    Engine,
    Pingable,
    ReportsProgress,
    SampleRequest,
    ScoreRequest,
)
from preftilt.engines.facts import Fact, Probed, ReplicaStatus, Replicated
from preftilt.engines.guides import GuideRequest
from preftilt.engines.options import CHAT_OPTIONS, EngineOptions
from preftilt.engines.streaming import Increment, streamed
from preftilt.errors import BadInput, NoChatTemplate
from preftilt.messages import Message
from preftilt.prompt import ChatTokenizer, rendered_at
from preftilt.types import Completion, Tokens

SAMPLES = (
    "What shall we do on a rainy day, and why?",
    "1. First item\n2. Second item: 3,141.59 €\n\n\tdef f(x):\n        return x**2",
    "Größe, naïveté, 你好, здравствуй, 🎲",
)
"""Texts on which tokenizers that are not the same usually differ."""


ANY_MOMENT = datetime(2000, 1, 1)
"""What templates with a date see while they are compared."""


class Sampler(Protocol):
    """What the first engine must be able to do; every :class:`~preftilt.engines.base.Engine` can."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def tokenizer(self) -> ChatTokenizer: ...

    @property
    def versions(self) -> dict[str, str]: ...

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ScoredBy:
    """Draws with ``sampler`` and scores with ``scorer``; made by :func:`scored_by`.

    Scores are the scorer's: the question's log-prob is then that of another model than the one that wrote the response,
    which is what best-of-n with a judge of one's own means.
    """

    sampler: Sampler
    scorer: Engine

    @property
    def name(self) -> str:
        """Both engines' names."""
        return f"{self.sampler.name} scored by {self.scorer.name}"

    @property
    def model(self) -> str:
        """The sampler's model."""
        return self.sampler.model

    @property
    def capabilities(self) -> Capabilities:
        """What both can do; log-probs of drawing are another model's and never stand in for scores."""
        drawing, scoring = self.sampler.capabilities, self.scorer.capabilities
        return replace(
            scoring,
            max_context=min(drawing.max_context, scoring.max_context),
            sampler_logprobs=False,
            keyed_streams=drawing.keyed_streams,
            guides=False,
            proposes=False,
            images=drawing.images and scoring.images,
        )

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The sampler's; the scorer's gives the same ids."""
        return self.sampler.tokenizer

    @property
    def versions(self) -> dict[str, str]:
        """The sampler's, and the scorer's with ``scorer`` before their names."""
        scoring = {f"scorer {name}": value for name, value in self.scorer.versions.items()}
        return {**self.sampler.versions, **scoring, "scorer": self.scorer.name}

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What the sampler's probe found out."""
        return self.sampler.facts if isinstance(self.sampler, Probed) else ()

    @property
    def plan(self) -> tuple[str, ...]:
        """How it draws and scores."""
        drawing = self.sampler.plan[:1] if isinstance(self.sampler, Probed) else ()
        return (*drawing, f"score: {self.scorer.name}")

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        """How the replicas do, where several draw."""
        return self.sampler.replica_statuses if isinstance(self.sampler, Replicated) else ()

    async def ping(self) -> None:
        """See :class:`~preftilt.engines.base.Pingable`: whether the sampler is still there."""
        if isinstance(self.sampler, Pingable):
            await self.sampler.ping()

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """By the sampler."""
        return await self.sampler.sample(requests)

    def stream(self, request: SampleRequest | GuideRequest) -> AsyncGenerator[Increment, None]:
        """See :class:`~preftilt.engines.streaming.Streams`: as the sampler can."""
        return streamed(self.sampler, request)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """By the scorer."""
        return await self.scorer.score(requests)

    def progress(self, request: SampleRequest | ScoreRequest) -> int:
        """See :class:`~preftilt.engines.base.ReportsProgress`: as far as the one of the two that is at it can say."""
        at_it = self.sampler if isinstance(request, SampleRequest) else self.scorer
        return at_it.progress(request) if isinstance(at_it, ReportsProgress) else 0

    def close(self) -> None:
        """Close both."""
        self.sampler.close()
        self.scorer.close()


@dataclass(frozen=True, slots=True)
class SharedScorer:
    """A scorer that several samplers share: whoever opened it closes it, once.

    tokenizer: the one that all of them make prompts with.
    """

    engine: Engine
    tokenizer: ChatTokenizer

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def model(self) -> str:
        return self.engine.model

    @property
    def capabilities(self) -> Capabilities:
        return self.engine.capabilities

    @property
    def versions(self) -> dict[str, str]:
        return self.engine.versions

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        return await self.engine.sample(requests)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        return await self.engine.score(requests)

    def close(self) -> None:
        """It is not ours to close."""


def open_scorer(name: str, options: EngineOptions) -> Engine:
    """Open the engine that scores, with those of ``options`` that are about prompts."""
    from preftilt.engines.open import open_engine  # It opens us.

    about_prompts = {name: getattr(options, name) for name in CHAT_OPTIONS}
    return open_engine(name, EngineOptions(**about_prompts))


def scored_by(sampler: Sampler, scorer: Engine) -> ScoredBy:
    """Join two engines.

    Raises :class:`~preftilt.errors.BadInput` if they do not speak the same token ids.
    """
    ours, theirs = sampler.tokenizer, scorer.tokenizer
    same = sampler.capabilities.eos == scorer.capabilities.eos
    same = same and all(ours.encode(text) == theirs.encode(text) for text in SAMPLES)
    if not same:
        raise BadInput(
            f"{scorer.name} has another tokenizer than {sampler.name}, so it cannot score what that one draws; name a"
            " scorer of the same family"
        )
    if _prompts(ours) != _prompts(theirs):
        raise BadInput(
            f"{scorer.name} has another chat template than {sampler.name}; give both the same one (--chat-template)"
        )
    return ScoredBy(sampler, scorer)


def _prompts(tokenizer: ChatTokenizer) -> list[Tokens] | None:
    """What the chat template makes of a few texts; None if it cannot be used."""
    try:
        with rendered_at(ANY_MOMENT):
            return [tokenizer.render([Message("user", text)]) for text in SAMPLES]
    except NoChatTemplate:
        return None
