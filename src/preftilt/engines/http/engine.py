"""A server as an engine: the contract of ``engines/base.py`` over a dialect.

Common to all servers: request checks, seeds, where responses end, and checks that the server still serves the model
that it was opened with.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import (
    DrawingRequest,
    Engine,
    EngineInfo,
    Increment,
    SampleRequest,
    ScoreRequest,
    whole_responses,
)
from preftilt.engines.checks import RequestChecker
from preftilt.engines.http.connection import Connection, Later, Unreachable
from preftilt.engines.http.dialect import Dialect, DrawnTokens, DrawRequest
from preftilt.engines.http.response_stream import StopFinder, StreamedResponse
from preftilt.engines.http.responses import ModelList
from preftilt.engines.http.server_quirks import StreamSupport
from preftilt.engines.vocabulary import Vocabulary
from preftilt.engines.waiting import LoopThread, SharedWork, together
from preftilt.errors import EngineError
from preftilt.streams import position_key, stream_key
from preftilt.types import Completion, Step, Tokens

SEEDS = (1 << 31) - 1
"""Seeds are kept to 31 bits: every server takes those."""

MAX_BATCH = 64
"""Completions scored by one request at most."""

RECHECK_SECONDS = 30.0
"""Interval of checks that the server still serves the same model."""

SAME_MODEL = 0.1
"""Mean difference (nats) of a text's log-probs up to which the model is the same: 16-bit servers differ by rounding."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A text and its log-probs when the engine was opened."""

    context: Tokens
    completion: Tokens
    logprobs: Float[np.ndarray, "T"]


class ServerEngine(Engine):
    """Samples and scores on a server; safe to call from many tasks, threads and event loops at once.

    Open it with :func:`~preftilt.engines.open.open_engine`. Draws are seeded: the same request draws the same tokens as
    far as the server honours seeds. canary: None where only the model's name is checked.
    """

    def __init__(
        self,
        info: EngineInfo,
        loop: LoopThread,
        connection: Connection,
        dialect: Dialect,
        vocabulary: Vocabulary,
        canary: Canary | None,
    ) -> None:
        self._info = info
        self._loop = loop
        self._connection = connection
        self._dialect = dialect
        self._vocabulary = vocabulary
        self._canary = canary
        self._streaming = StreamSupport()
        self._pending_check: SharedWork[None] | None = None
        self._checked = time.monotonic()
        self._checker = RequestChecker(info.name, info.capabilities, vocabulary.size)
        self._finalizer = weakref.finalize(self, LoopThread.close, loop, connection.close)

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        for request in requests:
            self._checker.check_sample(request)
        return await self._loop.wait(lambda: self._sample(requests))

    def stream(self, request: DrawingRequest) -> AsyncGenerator[Increment, None]:
        """See :class:`~preftilt.engines.base.Engine`; from a server that refuses to stream, responses come whole."""
        assert isinstance(request, SampleRequest)
        self._checker.check_sample(request)
        return self._loop.stream(lambda: self._stream(request))

    async def score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        for request in requests:
            self._checker.check_score(request)
        return await self._loop.wait(lambda: self._score(requests))

    async def ping(self) -> None:
        """Ask for the server's list of models."""
        await self._loop.wait(lambda: check_model_served(self._connection, self.name, self.model))

    def close(self) -> None:
        self._finalizer()

    async def _sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        await self._check_same_model()
        return await together(self._draw(request) for request in requests)

    async def _stream(self, request: SampleRequest) -> AsyncGenerator[Increment, None]:
        await self._check_same_model()

        async def at_once() -> list[Increment]:
            return whole_responses(request, await self._draw(request))

        async with aclosing(
            self._streaming.stream_or_whole(lambda: self._stream_response(request), at_once)
        ) as increments:
            async for increment in increments:
                yield increment

    async def _stream_response(self, request: SampleRequest) -> AsyncGenerator[Increment, None]:
        """Stream the server's responses; they end as in :meth:`_finish`."""
        draw = self._draw_request(request)
        if draw is None:
            for increment in whole_responses(request, request.without_tokens()):
                yield increment
            return
        scored = draw.logprobs and self.capabilities.sampler_logprobs
        # A greedy response is shared by all slots.
        slots_of_responses = [(slot,) for slot in request.slots] if draw.n > 1 else [request.slots]
        responses = [
            StreamedResponse(
                slots, StopFinder(self._vocabulary, request.step, draw.max_tokens), scored
            )
            for slots in slots_of_responses
        ]
        async with aclosing(self._dialect.stream(draw)) as parts:
            async for part in parts:
                if not 0 <= part.index < draw.n:
                    raise EngineError(
                        f"{self.name} sent more responses than the {draw.n} asked for"
                    )
                response = responses[part.index]
                length = part.start + len(part.drawn.tokens)
                self._check_tokens(part.drawn.tokens, draw, length)
                if response.complete:
                    continue
                response.add(part)
                if part.ended or response.stop_finder.end:
                    completion = await self._finish(draw, response.drawn, request.step)
                    increments = response.final_increments(completion)
                else:
                    increments = response.new_increments()
                for increment in increments:
                    yield increment
        if not all(response.complete for response in responses):
            raise EngineError(
                f"{self.name} broke off in the middle of an answer: its stream ended before all {draw.n} responses had;"
                " look at the server's log"
            )

    def _draw_request(self, request: SampleRequest) -> DrawRequest | None:
        """The request to the dialect, None if there is nothing to draw."""
        # A prompt alone remembers its conversation, which a chat server needs.
        context = request.prompt + request.prefix if request.prefix else request.prompt
        budget = min(request.max_tokens, self.capabilities.max_context - len(context))
        if not budget or not request.slots:
            return None
        return DrawRequest(
            context=context,
            # Greedy responses are all the same, and servers refuse n > 1 for them.
            n=len(request.slots) if request.sampling.temperature else 1,
            max_tokens=budget,
            sampling=request.sampling,
            seed=seed_of(request),
            stop=request.step.delimiter if request.step else None,
            logprobs=request.logprobs,
        )

    async def _draw(self, request: SampleRequest) -> list[Completion]:
        draw = self._draw_request(request)
        if draw is None:
            return request.without_tokens()
        drawn = await self._draw_responses(draw)
        if draw.n < len(request.slots):
            drawn = drawn * len(request.slots)
        return await together(self._finish(draw, response, request.step) for response in drawn)

    async def _draw_responses(self, draw: DrawRequest) -> list[DrawnTokens]:
        drawn = await self._dialect.draw(draw)
        if len(drawn) != draw.n:
            raise EngineError(f"{self.name} sent {len(drawn)} responses where {draw.n} were asked")
        for response in drawn:
            self._check_tokens(response.tokens, draw)
        return drawn

    def _check_tokens(self, tokens: Tokens, draw: DrawRequest, length: int | None = None) -> None:
        """Raise :class:`~preftilt.errors.EngineError` for invalid tokens, or too many (``length`` in all)."""
        length = len(tokens) if length is None else length
        if length > draw.max_tokens:
            raise EngineError(
                f"{self.name} drew {length} tokens where {draw.max_tokens} were allowed"
            )
        limit = self._vocabulary.size
        if any(not 0 <= token < limit for token in tokens):
            raise EngineError(
                f"{self.name} drew tokens outside the vocabulary of {limit}; is --tokenizer the server's?"
            )

    async def _finish(self, draw: DrawRequest, first: DrawnTokens, step: Step | None) -> Completion:
        """Cut a response where it ends; a search step that the server ended too early is continued."""
        tokens, parts = first.tokens, [first]
        stop_finder = StopFinder(self._vocabulary, step, draw.max_tokens)
        while (end := stop_finder.find_stop(tokens)) is None:
            if first.finish or first.absent:
                end = len(tokens), first.finish or "length"
                break
            if step is None or not parts[-1].tokens:
                raise EngineError(
                    f"{self.name} ended a response after {len(tokens)} of {draw.max_tokens} tokens without an end"
                    " token; does it stop at strings of its own?"
                )
            [more] = await self._draw_responses(
                replace(
                    draw,
                    context=draw.context + tokens,
                    n=1,
                    max_tokens=draw.max_tokens - len(tokens),
                )
            )
            tokens, parts = tokens + more.tokens, [*parts, more]
        length, finish = end
        logprobs = await self._logprobs(draw, parts, tokens[:length])
        return Completion(tokens[:length], logprobs, finish, first.absent)

    async def _logprobs(
        self, draw: DrawRequest, parts: Sequence[DrawnTokens], tokens: Tokens
    ) -> Float[np.ndarray, "T"]:
        """Log-probs of sampling; where the server left some out (often of an end token) and they are needed, scores.

        Zeros where they were not requested, or are not used (``sampler_logprobs``).
        """
        rows = [part.logprobs for part in parts if part.logprobs is not None]
        if len(rows) == len(parts):
            return np.concatenate(rows)[: len(tokens)]
        if not (tokens and draw.logprobs and self.capabilities.sampler_logprobs):
            return np.zeros(len(tokens))
        [row] = await self._dialect.score(draw.context, [tokens])
        return row

    async def _score(self, requests: Sequence[ScoreRequest]) -> list[Float[np.ndarray, "T"]]:
        await self._check_same_model()
        groups: dict[Tokens, list[int]] = {}
        for i, request in enumerate(requests):
            if request.completion:
                groups.setdefault(request.prompt + request.prefix, []).append(i)
        parts = [
            (context, members[start : start + MAX_BATCH])
            for context, members in groups.items()
            for start in range(0, len(members), MAX_BATCH)
        ]
        read = await together(
            self._dialect.score(context, [requests[i].completion for i in members])
            for context, members in parts
        )
        rows_by_index = {
            i: row
            for (_, members), rows in zip(parts, read, strict=True)
            for i, row in zip(members, rows, strict=True)
        }
        return [rows_by_index.get(i, np.empty(0)) for i in range(len(requests))]

    async def _check_same_model(self) -> None:
        """Detect a server that changed its model; concurrent callers share one check."""
        if time.monotonic() - self._checked < RECHECK_SECONDS:
            return
        if self._pending_check is None or not self._pending_check.open:
            self._pending_check = SharedWork(self._check_server())
        await self._pending_check.wait()

    async def _check_server(self) -> None:
        await check_model_served(self._connection, self.name, self.model)
        await self._check_same_weights()
        self._checked = time.monotonic()

    async def _check_same_weights(self) -> None:
        if self._canary is None:
            return
        [row] = await self._dialect.score(self._canary.context, [self._canary.completion])
        gap = float(np.abs(row - self._canary.logprobs).mean())
        if gap > SAME_MODEL:
            raise EngineError(
                f"{self.name} has other weights behind the name {self.model} than when it was opened: log-probs of the"
                f" same text differ by {gap:.2g} nats a token; open it again"
            )


async def check_model_served(connection: Connection, name: str, model: str) -> None:
    """Raise :class:`~preftilt.errors.EngineError` if the server is gone, or lists ``model`` no longer.

    It is asked once, for a few seconds. A server that is too busy to answer passes.
    """
    try:
        cards = (await connection.check("/v1/models", ModelList)).data
    except Unreachable:
        raise
    except Later:
        return
    if model not in [card.id for card in cards]:
        raise EngineError(
            f"{name} no longer serves {model}; open it again, what was scored before and after does not belong together"
        )


def seed_of(request: SampleRequest) -> int:
    """The seed of the request's first slot and position."""
    return position_key(stream_key(request.stream, request.slots[0]), len(request.prefix)) & SEEDS
