"""A response that a server draws while we look: its tokens so far, what is new of it, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
from jaxtyping import Float

from preftilt.engines.http.dialect import DrawnChunk, DrawnTokens
from preftilt.engines.steps import step_ended
from preftilt.engines.streaming import Increment
from preftilt.engines.vocabulary import Vocabulary
from preftilt.errors import EngineError
from preftilt.types import Completion, Finish, Step, Tokens


@dataclass(slots=True)
class StopFinder:
    """Where a response ends: at an end token, at the end of a step, or where its ``budget`` does."""

    vocabulary: Vocabulary
    step: Step | None
    budget: int
    end: tuple[int, Finish] | None = None
    _length: int = 0
    _text: str = ""

    def find_stop(self, tokens: Sequence[int]) -> tuple[int, Finish] | None:
        """How many of the tokens belong to the response, and why it ends there; None if it does not end.

        ``tokens`` begin with those of the last call, which are not read again.
        """
        while self.end is None and self._length < len(tokens):
            self._length += 1
            if tokens[self._length - 1] in self.vocabulary.eos:
                self.end = self._length, "eos"
            elif self._ends_step(tokens):
                self.end = self._length, "stop"
            elif self._length == self.budget:
                self.end = self._length, "length"
        return self.end

    def restart(self) -> None:
        """The next tokens are others, from the first one on."""
        self.end, self._length, self._text = None, 0, ""

    def _ends_step(self, tokens: Sequence[int]) -> bool:
        if self.step is None:
            return False
        delimiter = self.step.delimiter
        self._text = self.vocabulary.extended_step_text(
            self._text, tokens[: self._length], delimiter
        )
        return step_ended(self._text, delimiter)


@dataclass(slots=True)
class StreamedResponse:
    """One response of a stream, which serves all of ``slots``.

    scored: its log-probs stand in for scores, so tokens without are not told before the end, when they are looked up.
    """

    slots: Sequence[int]
    stop_finder: StopFinder
    scored: bool
    complete: bool = False
    _tokens: list[int] = field(default_factory=list)
    _logprobs: list[float] = field(default_factory=list)
    _logprobs_missing: bool = False
    _spent: bool = False
    _sent: int = 0
    _new_from: int = 0

    @property
    def drawn(self) -> DrawnTokens:
        """All so far, as if it had come at once."""
        logprobs = None if self._logprobs_missing else np.array(self._logprobs)
        return DrawnTokens(tuple(self._tokens), logprobs, spent=self._spent)

    def add(self, part: DrawnChunk) -> None:
        """Add what came.

        Raises :class:`~preftilt.errors.EngineError` if something before it is missing.
        """
        if part.start > len(self._tokens):
            raise EngineError("the server left out a part of its stream; use another version of it")
        new = part.drawn
        pairs = zip(self._tokens[part.start :], new.tokens, strict=False)
        same = part.start + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if same < len(self._tokens):
            self.stop_finder.restart()
        self._new_from = min(self._new_from, same)
        self._tokens[part.start :] = new.tokens
        if new.logprobs is None:
            self._logprobs_missing |= bool(new.tokens)
        else:
            self._logprobs[part.start :] = new.logprobs.tolist()
        self._spent = new.spent
        self.stop_finder.find_stop(self._tokens)

    def new_increments(self) -> list[Increment]:
        """What has not been told, for every slot."""
        if self._logprobs_missing and self.scored:
            return []
        if self._new_from == self._sent == len(self._tokens):
            return []
        start = self._new_from
        tokens = self._tokens[start:]
        logprobs = (
            np.zeros(len(tokens)) if self._logprobs_missing else np.array(self._logprobs[start:])
        )
        return self._increments(tuple(tokens), logprobs, None)

    def final_increments(self, completion: Completion) -> list[Increment]:
        """The rest of what the response turns out to be."""
        self.complete = True
        start = self._new_from
        tokens, logprobs = completion.tokens[start:], completion.logprobs[start:]
        return self._increments(tokens, logprobs, completion.finish)

    def _increments(
        self, tokens: Tokens, logprobs: Float[np.ndarray, "T"], finish: Finish | None
    ) -> list[Increment]:
        start = self._new_from
        self._sent = self._new_from = start + len(tokens)
        return [
            Increment(slot=slot, start=start, tokens=tokens, logprobs=logprobs, finish=finish)
            for slot in self.slots
        ]
