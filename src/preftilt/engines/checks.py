"""Request checks that all engines share, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preftilt.arm.spec import check_alpha
from preftilt.engines.base import (
    Capabilities,
    GuidedView,
    GuideRequest,
    KnownArm,
    NormaliseRequest,
    ProposeRequest,
    SampleRequest,
    ScoreRequest,
)
from preftilt.engines.vocabulary import without_images
from preftilt.errors import BadInput, EngineError, PromptTooLong
from preftilt.types import Completion, Reader, Sampling, Stream, Tokens


@dataclass(frozen=True, slots=True)
class RequestChecker:
    """Checks requests against what an engine can do.

    model: its name, for messages. vocabulary: one past its highest token id.
    """

    model: str
    capabilities: Capabilities
    vocabulary: int

    def check_sample(self, request: SampleRequest) -> None:
        """Refuse what cannot be sampled; there must be room for at least one token.

        Raises :class:`~preftilt.errors.PromptTooLong` and :class:`~preftilt.errors.BadInput`.
        """
        self._check(request.prompt, request.prefix, "prompt and one token of a response", spare=1)
        if request.max_tokens < 0:
            raise BadInput(f"max_tokens is {request.max_tokens}; give 0 or more")

    def check_score(self, request: ScoreRequest) -> None:
        """Refuse what cannot be scored; errors as in :meth:`check_sample`."""
        self._check(request.prompt, request.prefix + request.completion, "prompt and response")
        self.check_reader(request.reader)

    def check_reader(self, reader: Reader | None) -> None:
        """Refuse an unknown reader, or a preference vector that does not fit its objectives.

        Raises :class:`~preftilt.errors.BadInput`.
        """
        if reader is None:
            return
        arms = self.capabilities.arms
        arm = next((arm for arm in arms if arm.name == reader.arm), None)
        if arm is None:
            raise BadInput(
                f"{self.model} has no reward model {reader.arm!r} open{_arms(arms)}; open it with"
                " --arm NAME=FOLDER on a model in this process (--model with its hub id or path)"
            )
        check_alpha(reader.alpha, arm.objectives)

    def check_propose(self, request: ProposeRequest) -> None:
        """Refuse what cannot be continued; errors as in :meth:`check_sample`."""
        self._check(request.prompt, request.prefix, "prompt and one token of a response", spare=1)
        if request.count < 1:
            raise BadInput(f"count is {request.count}; ask for one token or more")

    def _check(self, prompt: Tokens, response: Tokens, what: str, *, spare: int = 0) -> None:
        if not prompt:
            raise BadInput("the prompt has no tokens; the model needs at least one to begin from")
        needed, room = len(prompt) + len(response) + spare, self.capabilities.max_context
        if needed > room:
            raise PromptTooLong(
                f"{what} need {needed} tokens, {needed - room} more than the {room} that {self.model} can read;"
                " shorten the prompt or use a model with a longer context"
            )
        limit = self.vocabulary
        words = (without_images(prompt) if self.capabilities.images else prompt) + response
        if words and not 0 <= min(words) <= max(words) < limit:
            bad = next(token for token in words if not 0 <= token < limit)
            raise BadInput(
                f"token {bad} is not in the vocabulary of {self.model} (0 to {limit - 1})"
            )


def check_guide(request: GuideRequest) -> None:
    """Refuse a request with invalid views or weights.

    Raises :class:`~preftilt.errors.BadInput`.
    """
    if not request.views:
        raise BadInput("guided decoding needs at least one view")
    for view in request.views:
        if not np.isfinite(view.weight):
            raise BadInput(f"a view's weight is {view.weight}; give a finite number")
    if not 0 <= request.preferred < len(request.views):
        raise BadInput(f"preferred is {request.preferred}; there are {len(request.views)} views")
    if request.strength_by == "divergence":
        first = [view.weight for view in request.views[:2]]
        if len(first) < 2 or not np.isclose(sum(first), 1.0):
            raise BadInput(
                "a strength by divergence needs two views first, of the weights 1 − λ and λ"
            )


def check_normalise(request: NormaliseRequest) -> None:
    """Refuse a request without views, with several completions, or with invalid mixtures.

    Raises :class:`~preftilt.errors.BadInput`.
    """
    if not request.reads or len({read.completion for read in request.reads}) > 1:
        raise BadInput("one completion is normalised at a time, read under at least one view")
    prompts = [read.prompt for read in request.reads]
    for mixture in request.mixtures:
        if len(mixture.weights) != len(prompts):
            raise BadInput(f"{len(mixture.weights)} weights are given for {len(prompts)} views")
        check_guide(
            GuideRequest(
                views=tuple(map(GuidedView, prompts, mixture.weights)),
                slots=(),
                stream=Stream(0),
                sampling=Sampling(),
                max_tokens=0,
                mask=mixture.mask,
                preferred=mixture.preferred,
            )
        )


def completions_with_text(completions: Sequence[Completion]) -> list[Completion]:
    """The completions that have a text; raises :class:`~preftilt.errors.EngineError`, with the reasons, if none has."""
    present = [completion for completion in completions if not completion.absent]
    if completions and not present:
        reasons = without_text([completion.absent for completion in completions])
        raise EngineError(f"{reasons}; ask otherwise, or use another server")
    return present


def without_text(reasons: Sequence[str]) -> str:
    """A message: how many answers have no text, and every reason once."""
    answers = "1 answer has" if len(reasons) == 1 else f"{len(reasons)} answers have"
    return f"{answers} no text ({'; '.join(dict.fromkeys(reasons))})"


def _arms(arms: tuple[KnownArm, ...]) -> str:
    return f" (it has {', '.join(arm.name for arm in arms)})" if arms else ""
