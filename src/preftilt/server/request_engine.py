"""A wrapper of the engine for one request: stop strings, the deadline, and callbacks for new tokens.

A request that streams or has a deadline is one engine call, too, whose tokens are streamed
(:mod:`preftilt.engines.base`), so that streaming does not change an answer. At the deadline the stream is closed,
which cancels the work behind it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, TypeVar

from preftilt.engines.base import (
    Capabilities,
    Engine,
    EngineWrapper,
    GuideRequest,
    Increment,
    Partial,
    SampleRequest,
    ScoreRequest,
)
from preftilt.errors import EngineError
from preftilt.types import Completion, GuidedCompletion, Step, Tokens

D = TypeVar("D", bound=Completion | GuidedCompletion)
R = TypeVar("R", bound=SampleRequest | GuideRequest)

LOOK = 8
"""A stop string is looked for every so many tokens."""

TOO_LATE = "the deadline passed before its first token"


@dataclass(frozen=True, slots=True)
class NewTokens:
    """How many new tokens a slot has; ``ended`` is its whole response, if it has just ended."""

    tokens: int
    slot: int
    ended: Completion | GuidedCompletion | None = None


@dataclass(slots=True)
class RequestProgress:
    """Tokens of a request that have arrived; ``at``: the engine's request, where the engine reports progress itself."""

    arrived: int = 0
    at: SampleRequest | GuideRequest | None = None


@dataclass(slots=True)
class OpenAnswer:
    """One slot's response while it is drawn. cut: the final response, once it has ended; looked: how many tokens were
    searched for a stop string."""

    partial: Partial = field(default_factory=Partial)
    looked: int = 0
    cut: Any = None


@dataclass(eq=False, slots=True)
class RequestEngine(EngineWrapper):
    """``inner`` for one request.

    stops: stop strings; an answer ends with the token that completes one (finish ``stop_string``).
    deadline: on the clock of ``time.monotonic``; answers that have not ended then are cut off (finish ``length``).
    single: one answer is drawn and streamed, so each of its tokens is settled as soon as it is drawn.
    lines: subtrees that the search grows, each identified by its first slot; 0 for a search without any.
    settled: tokens that the final answer begins with in any case: the common prefix of all subtrees.
    spilled: tokens drawn after a stop string. late: answers cut off by the deadline.
    """

    stops: tuple[str, ...] = ()
    deadline: float | None = None
    single: bool = False
    lines: int = 0
    tell: Callable[[NewTokens], None] | None = None
    spilled: int = 0
    late: int = 0
    _lines: dict[int, Tokens] = field(default_factory=dict)
    _progress: dict[int, RequestProgress] = field(default_factory=dict)

    @property
    def settled(self) -> Tokens:
        if not self.lines or len(self._lines) < self.lines:
            return ()
        first, *others = self._lines.values()
        alike = takewhile(lambda at: len(set(at)) == 1, zip(first, *others, strict=False))
        return tuple(at[0] for at in alike)

    @property
    def capabilities(self) -> Capabilities:
        """Those of ``inner``, but tokens are proposed past stop strings and the deadline."""
        return replace(self.inner.capabilities, proposes=False)

    propose = Engine.propose

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """As the engine's."""
        return [await self._draw(request) for request in requests]

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[GuidedCompletion]]:
        """As the engine's, where its capabilities say that it guides."""
        return [await self._draw(request) for request in requests]

    def progress(self, request: object) -> int:
        """The engine's own count, or the tokens that arrived where it cannot say."""
        progress = self._progress.get(id(request), RequestProgress())
        at = request if isinstance(request, ScoreRequest) else progress.at
        return max(progress.arrived, 0 if at is None else self.inner.progress(at))

    def close(self) -> None:
        """Does nothing: the engine is shared with other requests."""

    async def _draw(self, request: SampleRequest | GuideRequest) -> list[Any]:
        self._lines[request.slots[0]] = request.prefix
        progress = self._progress[id(request)] = RequestProgress()
        try:
            if self._is_late():  # A token each, so that there is an answer, and a tree ends here.
                first = replace(request, step=None, max_tokens=1)
                drawn = await self._draw_whole(first, progress)
                self.late += sum(response.finish == "length" for response in drawn)
                return drawn
            told = self.tell is not None and request.step is None
            if self.deadline is None and not told:
                return await self._draw_whole(request, progress)
            return await self._draw_streamed(request, progress)
        finally:
            del self._progress[id(request)]

    async def _draw_whole(
        self, request: SampleRequest | GuideRequest, progress: RequestProgress
    ) -> list[Any]:
        progress.at = until_stop = self._until_stop(request)
        if isinstance(until_stop, SampleRequest):
            [drawn] = await self.inner.sample([until_stop])
        else:
            [drawn] = await self.inner.guide([until_stop])
        return self._finish(request, [_ended(request, response) for response in drawn])

    async def _draw_streamed(
        self, request: SampleRequest | GuideRequest, progress: RequestProgress
    ) -> list[Any]:
        """Stream all slots by one engine call until they have ended or, after a first token, the deadline passes."""
        answers = {slot: OpenAnswer() for slot in request.slots}
        late = False
        async with aclosing(self.inner.stream(self._until_stop(request))) as increments:
            while not late and any(answer.cut is None for answer in answers.values()):
                try:
                    increment = await self._next(increments, begun=progress.arrived > 0)
                except TimeoutError:
                    late = True
                else:
                    progress.arrived += self._take(request, increment, answers[increment.slot])
        for answer in answers.values():
            if answer.cut is None:
                cut = self._end(request, answer)
                self.late += cut.finish == "length"
        return [answer.cut for answer in answers.values()]

    async def _next(self, increments: AsyncGenerator[Increment, None], *, begun: bool) -> Increment:
        """The next increment; raises ``TimeoutError`` at the deadline if the stream has ``begun``."""
        left = None
        if begun and self.deadline is not None:
            left = self.deadline - time.monotonic()
        async with asyncio.timeout(left):
            increment = await anext(increments, None)
        if increment is None:
            raise EngineError(f"{self.name} ended its stream before all responses had ended")
        return increment

    def _take(
        self, request: SampleRequest | GuideRequest, increment: Increment, answer: OpenAnswer
    ) -> int:
        """Add an increment to its response; returns by how many tokens that grew."""
        if answer.cut is not None:
            self.spilled += len(increment.tokens)
            return 0
        partial, before = answer.partial, len(answer.partial.tokens)
        partial.take(increment)
        grown = len(partial.tokens) - before
        if partial.finish is not None or self._is_stopped(request, answer):
            self._end(request, answer)
        if self.single:
            tokens = answer.cut.tokens if answer.cut else tuple(partial.tokens)
            self._lines[increment.slot] = request.prefix + tokens
        self._say(
            NewTokens(grown, increment.slot, ended=answer.cut if request.step is None else None)
        )
        return grown

    def _is_stopped(self, request: SampleRequest | GuideRequest, answer: OpenAnswer) -> bool:
        """Whether there is a stop string among what came since the last look."""
        length = len(answer.partial.tokens)
        if not self.stops or length - answer.looked < LOOK:
            return False
        answer.looked = length
        return self._stop_at(request.prefix, tuple(answer.partial.tokens)) is not None

    def _end(self, request: SampleRequest | GuideRequest, answer: OpenAnswer) -> Any:
        if not answer.partial.tokens and answer.partial.finish is None:
            answer.partial.absent = TOO_LATE
        drawn = answer.partial.response(request, "length")
        answer.cut = self._cut(request.prefix, _ended(request, drawn))
        return answer.cut

    def _finish(self, request: SampleRequest | GuideRequest, drawn: Sequence[D]) -> list[D]:
        cut = [self._cut(request.prefix, response) for response in drawn]
        for slot, response in zip(request.slots, cut, strict=True):
            self._say(NewTokens(len(response.tokens), slot))
        return cut

    def _until_stop(self, request: R) -> R:
        """``request`` with a single stop string left to the engine, as the delimiter of a step."""
        if len(self.stops) != 1 or request.step is not None:
            return request
        return replace(request, step=Step(self.stops[0]))

    def _cut(self, prefix: Tokens, response: D) -> D:
        """``response`` up to the token that completes a stop string; that is its end."""
        length = self._stop_at(prefix, response.tokens)
        if length is None:
            return response
        self.spilled += len(response.tokens) - length
        kept = response.logprobs[..., :length]
        return replace(
            response, tokens=response.tokens[:length], logprobs=kept, finish="stop_string"
        )

    def _stop_at(self, prefix: Tokens, tokens: Tokens) -> int | None:
        """The number of tokens up to the one that completes a stop string; None if none does."""
        if not self.stops:
            return None
        pieces = self.inner.tokenizer.pieces(prefix + tokens)
        text = "".join(pieces[: len(prefix)])
        start = max(0, len(text) - max(map(len, self.stops)) + 1)
        for length, piece in enumerate(pieces[len(prefix) :], start=1):
            text += piece
            if any(text.find(stop, start) >= 0 for stop in self.stops):
                return length
        return None

    def _is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _say(self, news: NewTokens) -> None:
        if self.tell is not None:
            self.tell(news)


def _ended(request: SampleRequest | GuideRequest, response: D) -> D:
    """The finish of a whole answer that the engine ended at a stop string is ``stop_string``; a step goes on."""
    if request.step is None and response.finish == "step":
        return replace(response, finish="stop_string")
    return response
