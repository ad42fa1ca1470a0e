"""A streamed response: its tokens so far, new increments, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Increment
from preftilt.engines.http.dialect import DrawnChunk, DrawnTokens
from preftilt.engines.vocabulary import Vocabulary, step_ended
from preftilt.errors import EngineError
from preftilt.types import Completion, Finish, Step, Tokens


@dataclass(slots=True)
class StopFinder:
    """Finds where a response ends: at an end token, at the end of a search step, or at its token ``budget``."""

    vocabulary: Vocabulary
    step: Step | None
    budget: int
    end: tuple[int, Finish] | None = None
    _length: int = 0
    _text: str = ""

    def find_stop(self, tokens: Sequence[int]) -> tuple[int, Finish] | None:
        """The response's length in tokens and its finish reason; None if it has not ended.

        ``tokens`` begin with those of the last call, which are not checked again.
        """
        while self.end is None and self._length < len(tokens):
            self._length += 1
            if tokens[self._length - 1] in self.vocabulary.eos:
                self.end = self._length, "eos"
            elif self._ends_step(tokens):
                self.end = self._length, "step"
            elif self._length == self.budget:
                self.end = self._length, "length"
        return self.end

    def restart(self) -> None:
        """Start over: earlier tokens have changed."""
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
    """One response of a stream, for all of ``slots``.

    scored: its log-probs are used as scores, so tokens without log-probs are held back until the end, when they are
    scored.
    """

    slots: Sequence[int]
    stop_finder: StopFinder
    scored: bool
    complete: bool = False
    _tokens: list[int] = field(default_factory=list)
    _logprobs: list[float] = field(default_factory=list)
    _logprobs_missing: bool = False
    _finish: Finish | None = None
    _absent: str = ""
    _sent: int = 0
    _new_from: int = 0

    @property
    def drawn(self) -> DrawnTokens:
        """The response so far."""
        logprobs = None if self._logprobs_missing else np.array(self._logprobs)
        return DrawnTokens(tuple(self._tokens), logprobs, self._finish, self._absent)

    def add(self, part: DrawnChunk) -> None:
        """Add a chunk.

        Raises :class:`~preftilt.errors.EngineError` if tokens before it are missing.
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
        self._finish, self._absent = new.finish, new.absent
        self.stop_finder.find_stop(self._tokens)

    def new_increments(self) -> list[Increment]:
        """Increments of the tokens that were not sent yet, one per slot."""
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
        """The last increments, one per slot, of the finished response."""
        self.complete = True
        start = self._new_from
        tokens, logprobs = completion.tokens[start:], completion.logprobs[start:]
        return self._increments(tokens, logprobs, completion.finish, completion.absent)

    def _increments(
        self,
        tokens: Tokens,
        logprobs: Float[np.ndarray, "T"],
        finish: Finish | None,
        absent: str = "",
    ) -> list[Increment]:
        start = self._new_from
        self._sent = self._new_from = start + len(tokens)
        return [
            Increment(
                slot=slot,
                start=start,
                tokens=tokens,
                logprobs=logprobs,
                finish=finish,
                absent=absent,
            )
            for slot in self.slots
        ]
