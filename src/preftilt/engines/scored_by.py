"""Two engines as one: the first samples, the second scores. For servers that can only sample."""

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
from preftilt.engines.wrapper import EngineWrapper
from preftilt.errors import BadInput, NoChatTemplate
from preftilt.messages import Message
from preftilt.moment import rendered_at
from preftilt.prompt import ChatTokenizer
from preftilt.types import Completion, Tokens

SAMPLES = (
    "What shall we do on a rainy day, and why?",
    "1. First item\n2. Second item: 3,141.59 €\n\n\tdef f(x):\n        return x**2",
    "Größe, naïveté, 你好, здравствуй, 🎲",
)
"""Texts on which tokenizers that are not the same usually differ."""


ANY_MOMENT = datetime(2000, 1, 1)
"""The date that templates see while they are compared."""


class Sampler(Protocol):
    """The interface of the first engine; every :class:`~preftilt.engines.base.Engine` can."""

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
    """Samples with ``sampler`` and scores with ``scorer``; made by :func:`scored_by`.

    All log-probs are the scorer's, so the model that scores is another one than the model that wrote the response, as
    in best-of-n with a separate judge.
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
        """The abilities of both; log-probs of sampling are another model's and never used as scores."""
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
        """The facts of the sampler's probe."""
        return self.sampler.facts if isinstance(self.sampler, Probed) else ()

    @property
    def plan(self) -> tuple[str, ...]:
        """How it draws and scores."""
        drawing = self.sampler.plan[:1] if isinstance(self.sampler, Probed) else ()
        return (*drawing, f"score: {self.scorer.name}")

    @property
    def replica_statuses(self) -> tuple[ReplicaStatus, ...]:
        """The status of the sampler's replicas, if there are several."""
        return self.sampler.replica_statuses if isinstance(self.sampler, Replicated) else ()

    async def ping(self) -> None:
        """See :class:`~preftilt.engines.base.Pingable`: pings the sampler."""
        if isinstance(self.sampler, Pingable):
            await self.sampler.ping()

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """By the sampler."""
        return await self.sampler.sample(requests)

    def stream(self, request: SampleRequest | GuideRequest) -> AsyncGenerator[Increment, None]:
        """See :class:`~preftilt.engines.streaming.Streams`: by the sampler."""
        return streamed(self.sampler, request)

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """By the scorer."""
        return await self.scorer.score(requests)

    def progress(self, request: SampleRequest | ScoreRequest) -> int:
        """See :class:`~preftilt.engines.base.ReportsProgress`: by the engine that runs the request."""
        engine = self.sampler if isinstance(request, SampleRequest) else self.scorer
        return engine.progress(request) if isinstance(engine, ReportsProgress) else 0

    def close(self) -> None:
        """Close both."""
        self.sampler.close()
        self.scorer.close()


@dataclass(slots=True)
class SharedScorer(EngineWrapper):
    """A scorer that several samplers share; closing it does nothing, since its opener closes it.

    prompt_tokenizer: the one that all of them render prompts with.
    """

    prompt_tokenizer: ChatTokenizer

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self.prompt_tokenizer

    def close(self) -> None:
        """Does nothing: the scorer's opener closes it."""


def open_scorer(name: str, options: EngineOptions) -> Engine:
    """Open the engine that scores, with the chat options among ``options``."""
    from preftilt.engines.open import open_engine  # Circular at import time.

    chat_options = {name: getattr(options, name) for name in CHAT_OPTIONS}
    return open_engine(name, EngineOptions(**chat_options))


def scored_by(sampler: Sampler, scorer: Engine) -> ScoredBy:
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
    if _rendered_samples(sampler_tokenizer) != _rendered_samples(scorer_tokenizer):
        raise BadInput(
            f"{scorer.name} has another chat template than {sampler.name}; give both the same one (--chat-template)"
        )
    return ScoredBy(sampler, scorer)


def _rendered_samples(tokenizer: ChatTokenizer) -> list[Tokens] | None:
    """A few texts rendered by the chat template; None if there is none."""
    try:
        with rendered_at(ANY_MOMENT):
            return [tokenizer.render([Message("user", text)]) for text in SAMPLES]
    except NoChatTemplate:
        return None
