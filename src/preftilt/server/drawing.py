"""The engine as one request sees it: answers end at stop strings, a deadline is kept, and what is drawn is told.

Drawing goes on in pieces where somebody waits for news or time may run out. Engines promise that pieces and one call
give the same tokens (``preftilt.testing.laws``), so watching an answer does not change it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Capabilities, Engine, SampleRequest, ScoreRequest, Watchable
from preftilt.engines.guides import GuideRequest, Guides
from preftilt.prompt import ChatTokenizer
from preftilt.types import Completion, Guided, Step, Tokens

D = TypeVar("D", bound=Completion | Guided)
R = TypeVar("R", bound=SampleRequest | GuideRequest)

PIECE = 8
"""Tokens drawn between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """New tokens are there. ``ended`` is the whole answer, if it just ended, with its ``slot``."""

    tokens: int
    slot: int
    ended: Completion | Guided | None = None


@dataclass(slots=True)
class Parts:
    """What a request has been turned into: tokens of parts that are done, and the parts that the engine is at."""

    done: int = 0
    asked: dict[int, SampleRequest | GuideRequest] = field(default_factory=dict)


@dataclass(slots=True)
class Drawing:
    """``inner`` for one request.

    stops: an answer ends with the token that completes one of them (finish ``stop_string``).
    deadline: of ``time.monotonic``; afterwards answers that have not ended are cut off (finish ``length``).
    single: one answer is drawn and somebody watches, so it comes in pieces, each settled when it is there.
    lines: how many lines the search grows, each known by its first slot; 0 where lines do not last.
    settled: tokens that the final answer is bound to begin with: what all lines of the search have in common.
    spilled: tokens drawn behind a stop string. late: answers cut off by the deadline.
    """

    inner: Engine
    stops: tuple[str, ...] = ()
    deadline: float | None = None
    single: bool = False
    lines: int = 0
    tell: Callable[[Drawn], None] | None = None
    spilled: int = 0
    late: int = 0
    _lines: dict[int, Tokens] = field(default_factory=dict)
    _parts: dict[int, Parts] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def model(self) -> str:
        return self.inner.model

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self.inner.tokenizer

    @property
    def versions(self) -> dict[str, str]:
        return self.inner.versions

    @property
    def settled(self) -> Tokens:
        if not self.lines or len(self._lines) < self.lines:
            return ()
        first, *others = self._lines.values()
        alike = takewhile(lambda at: len(set(at)) == 1, zip(first, *others, strict=False))
        return tuple(at[0] for at in alike)

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """As the engine's."""
        return [await self._draw(request) for request in requests]

    async def guide(self, requests: Sequence[GuideRequest]) -> list[list[Guided]]:
        """As the engine's, where its capabilities say that it guides."""
        return [await self._draw(request) for request in requests]

    def so_far(self, request: object) -> int:
        """See :class:`~preftilt.engines.base.Watchable`: what the engine can say, and what pieces are done."""
        if not isinstance(self.inner, Watchable):
            return 0
        if isinstance(request, ScoreRequest):
            return self.inner.so_far(request)
        parts = self._parts.get(id(request), Parts())
        return parts.done + sum(map(self.inner.so_far, parts.asked.values()))

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        """The engine's."""
        return await self.inner.score(requests)

    def close(self) -> None:
        """Nothing: the engine is not this request's to close."""

    async def _draw(self, request: SampleRequest | GuideRequest) -> list[Any]:
        self._lines[request.slots[0]] = request.prefix
        parts = self._parts[id(request)] = Parts()
        try:
            if request.step is not None:
                return await self._draw_step(request, parts)
            watched = self.tell is not None and self.inner.capabilities.keyed_streams
            if self.deadline is None and not self.single and not watched:
                return await self._draw_whole(request, parts)
            return await side_by_side(
                [
                    self._draw_in_pieces(replace(request, slots=(slot,)), parts)
                    for slot in request.slots
                ]
            )
        finally:
            del self._parts[id(request)]

    async def _ask(self, request: SampleRequest | GuideRequest, parts: Parts) -> list[Any]:
        """Have a part of what the caller asked for drawn."""
        parts.asked[id(request)] = request
        try:
            if isinstance(request, SampleRequest):
                [drawn] = await self.inner.sample([request])
            else:
                assert isinstance(self.inner, Guides)
                [drawn] = await self.inner.guide([request])
        finally:
            del parts.asked[id(request)]
        parts.done += sum(len(one.tokens) for one in drawn)
        return drawn

    async def _draw_step(self, request: SampleRequest | GuideRequest, parts: Parts) -> list[Any]:
        """A step of a tree; once time is up, a token each, so that the tree ends here."""
        if self._is_late():
            self.late += len(request.slots)
            request = replace(request, step=None, max_tokens=1)
        return self._finish(request, await self._ask(request, parts))

    async def _draw_whole(self, request: SampleRequest | GuideRequest, parts: Parts) -> list[Any]:
        drawn = await self._ask(self._until_stop(request), parts)
        return [_ended(one) for one in self._finish(request, drawn)]

    async def _draw_in_pieces(self, request: SampleRequest | GuideRequest, parts: Parts) -> Any:
        [slot] = request.slots
        pieces = self.deadline is not None or self.single
        whole: Completion | Guided | None = None
        while True:
            tokens = whole.tokens if whole else ()
            room = request.max_tokens - len(tokens)
            size = min(PIECE, room) if pieces else room
            piece = replace(
                request,
                prefix=request.prefix + tokens,
                max_tokens=size,
                keep=request.keep or size < room,
            )
            [one] = await self._ask(self._until_stop(piece), parts)
            drawn: Completion | Guided = one
            whole = _joined(whole, drawn) if whole else drawn
            cut = _ended(self._cut(request.prefix, whole))
            if self.single:
                self._lines[slot] = request.prefix + cut.tokens
            if cut.finish != "length" or len(cut.tokens) >= request.max_tokens:
                break
            if self._is_late():
                self.late += 1
                break
            self._say(Drawn(len(drawn.tokens), slot))
        self._say(Drawn(len(drawn.tokens), slot, ended=cut))
        return cut

    def _finish(self, request: SampleRequest | GuideRequest, drawn: Sequence[D]) -> list[D]:
        cut = [self._cut(request.prefix, one) for one in drawn]
        for slot, one in zip(request.slots, cut, strict=True):
            self._say(Drawn(len(one.tokens), slot))
        return cut

    def _until_stop(self, request: R) -> R:
        """Where there is one stop string, the engine itself can end there: a step's end is drawn the same way."""
        if len(self.stops) != 1:
            return request
        return replace(request, step=Step(self.stops[0]))

    def _cut(self, prefix: Tokens, one: D) -> D:
        """``one`` up to the token that completes a stop string; that is its end."""
        if not self.stops:
            return one
        pieces = self.inner.tokenizer.pieces(prefix + one.tokens)
        text = "".join(pieces[: len(prefix)])
        start = max(0, len(text) - max(map(len, self.stops)) + 1)
        for length, piece in enumerate(pieces[len(prefix) :], start=1):
            text += piece
            if any(text.find(stop, start) >= 0 for stop in self.stops):
                self.spilled += len(one.tokens) - length
                kept = one.logprobs[..., :length]
                return replace(one, tokens=one.tokens[:length], logprobs=kept, finish="stop_string")
        return one

    def _is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _say(self, news: Drawn) -> None:
        if self.tell is not None:
            self.tell(news)


def _ended(one: D) -> D:
    """A whole answer that the engine stopped at a stop string has ended."""
    return replace(one, finish="stop_string") if one.finish == "stop" else one


def _joined(first: D, then: D) -> D:
    return replace(
        then,
        tokens=first.tokens + then.tokens,
        logprobs=np.concatenate([first.logprobs, then.logprobs], axis=-1),
    )


async def side_by_side(work: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Results in order; the first failure stops the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
