"""What every engine refuses before anything is computed; one rule and one wording for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.guides import ProposeRequest
from preftilt.errors import BadInput, PromptTooLong
from preftilt.types import Tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """What a model can read.

    model: its name, for messages. max_context: tokens of prompt and response together. vocabulary: one past its
    highest token id.
    """

    model: str
    max_context: int
    vocabulary: int

    def check_sample(self, request: SampleRequest) -> None:
        """Refuse what cannot be drawn; there must be room for one token at least.

        Raises :class:`~preftilt.errors.PromptTooLong` and :class:`~preftilt.errors.BadInput`.
        """
        self._check(request.prompt, request.prefix, "prompt and one token of a response", spare=1)
        sampling = request.sampling
        if request.max_tokens < 0:
            raise BadInput(f"max_tokens is {request.max_tokens}; give 0 or more")
        if not (0 <= sampling.temperature < float("inf")):
            raise BadInput(
                f"temperature is {sampling.temperature}; give a finite number, 0 or more"
            )
        if not 0 < sampling.top_p <= 1:
            raise BadInput(f"top_p is {sampling.top_p}; give a number above 0 and at most 1")
        if sampling.top_k < 0:
            raise BadInput(f"top_k is {sampling.top_k}; give 0 (off) or more")

    def check_score(self, request: ScoreRequest) -> None:
        """Refuse what cannot be scored; errors as in :meth:`check_sample`."""
        self._check(request.prompt, request.prefix + request.completion, "prompt and response")

    def check_propose(self, request: ProposeRequest) -> None:
        """Refuse what cannot be continued; errors as in :meth:`check_sample`."""
        self._check(request.prompt, request.prefix, "prompt and one token of a response", spare=1)
        if request.count < 1:
            raise BadInput(f"count is {request.count}; ask for one token or more")

    def _check(self, prompt: Tokens, response: Tokens, what: str, *, spare: int = 0) -> None:
        if not prompt:
            raise BadInput("the prompt has no tokens; the model needs at least one to begin from")
        needed, room = len(prompt) + len(response) + spare, self.max_context
        if needed > room:
            raise PromptTooLong(
                f"{what} need {needed} tokens, {needed - room} more than the {room} that {self.model} can read;"
                " shorten the prompt or use a model with a longer context"
            )
        limit = self.vocabulary
        if (
            min(prompt) < 0
            or max(prompt) >= limit
            or (response and not 0 <= min(response) <= max(response) < limit)
        ):
            bad = next(token for token in prompt + response if not 0 <= token < limit)
            raise BadInput(
                f"token {bad} is not in the vocabulary of {self.model} (0 to {limit - 1})"
            )
