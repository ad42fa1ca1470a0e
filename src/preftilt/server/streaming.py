"""A reply as server-sent events: progress while the search goes on, text as soon as it is settled, never silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Receive, Scope, Send

from preftilt import reward as rewards
from preftilt.prompt import REASONING_TAGS, answer_text
from preftilt.records.lines import json_line
from preftilt.result import number
from preftilt.run import Progress
from preftilt.server import replies
from preftilt.server.body import error_reply
from preftilt.server.failures import ClientGone, as_api_error
from preftilt.server.replies import ResponseMeta
from preftilt.server.request_engine import NewTokens, RequestEngine
from preftilt.server.resolve import Job
from preftilt.server.work import Answer, CheckedJob, JobCallbacks, before_stop
from preftilt.types import Candidate, Finish, Tokens

KEEP_ALIVE_SECONDS = 1.5
PROGRESS_SECONDS = 0.2
TEXT_SECONDS = 0.05
"""How often text that has come is looked at while more of it comes: all of it is decoded then."""

Write = Callable[[bytes], None]


def event(value: object) -> bytes:
    """One event."""
    return b"data: " + json_line(value) + b"\n\n"


@dataclass(slots=True)
class ChunkWriter:
    """Writes the chunks of a streamed response while a job runs. Its engine is set before the work begins.

    sampled: tokens that the engine has told of. reported: those that the driver has, by which engines that can say
    are ahead of it while they draw.
    """

    meta: ResponseMeta
    checked: CheckedJob
    write: Write
    engine: RequestEngine | None = None
    sampled: int = 0
    reported: int = 0
    scored: int = 0
    phase: str = "waiting"
    _pool: dict[int, Candidate] = field(default_factory=dict)
    _told: float = 0.0
    _committed: float = 0.0
    _sent: str = ""

    @property
    def job(self) -> Job:
        """What is asked for."""
        return self.checked.job

    @property
    def callbacks(self) -> JobCallbacks:
        """What the work reports to."""
        return JobCallbacks(self.drawn, self.phased)

    def begin(self) -> None:
        """The first chunk names the role, and that the stream works."""
        if self.meta.kind == "chat":
            for index in range(self.job.choices):
                self._chunk(index, text="", more={"role": "assistant"})
        self._progress()

    def drawn(self, news: NewTokens) -> None:
        """New tokens, perhaps a whole candidate."""
        self.phase = "sampling"
        self.sampled += news.tokens
        if time.monotonic() - self._committed >= TEXT_SECONDS:
            self._commit()
        if news.ended is not None and not self.job.plain and self.job.progress:
            tokens = self.job.prefix + news.ended.tokens
            self._progress([self._candidate(news.slot, tokens, news.ended.finish)])
        elif time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._progress()

    def phased(self, progress: Progress) -> None:
        """The driver ended a phase, or the engine is within one."""
        self.phase, self.scored = progress.phase, progress.scored
        self.reported = max(self.reported, progress.sampled)
        self._commit()
        if progress.candidates:
            self._progress(self._scored(progress.candidates))
        elif time.monotonic() - self._told >= PROGRESS_SECONDS:
            self._progress()

    def finish(self, answer: Answer) -> None:
        """The rest of the text, how it ended, and what it cost."""
        assert self.engine is not None
        kind = self.meta.kind
        for index, choice in enumerate(answer.choices):
            logprobs = None
            if self.job.logprobs:
                logprobs = replies.token_logprobs(kind, choice, self.engine.tokenizer)
            rest = choice.text[len(self._sent) :] if index == 0 else choice.text
            self._chunk(index, text=rest, logprobs=logprobs)
            self._chunk(index, finish=choice.finish)
        last = replies.chunk(self.meta, [])
        last |= replies.details_of(answer, self.job.details, self.job.pieces)
        if self.job.include_usage:
            last["usage"] = replies.usage(answer)
        if len(last) > len(replies.chunk(self.meta, [])):
            self.write(event(last))
        self.write(b"data: [DONE]\n\n")

    def _commit(self) -> None:
        """Send what the search has settled; nothing while log-probs must go with the text, or several texts are due."""
        self._committed = time.monotonic()
        if self.engine is None or self.job.choices > 1 or self.job.logprobs:
            return
        text = self._answer(self.engine.settled)
        held_back = max((len(stop) for stop in self.job.stops), default=1) - 1
        text = before_stop(text, self.job.stops).rstrip("\N{REPLACEMENT CHARACTER}")
        text = text[: len(text) - held_back]
        if len(text) > len(self._sent) and text.startswith(self._sent):
            new, self._sent = text[len(self._sent) :], text
            self._chunk(0, text=new)

    def _scored(self, arrived: Sequence[Candidate]) -> list[dict[str, Any]]:
        """Candidates with their scores; all so far where a score depends on the pool, which has just grown."""
        query, reward = self.checked.query, self.job.settings.reward
        self._pool |= {candidate.slot: candidate for candidate in arrived}
        told = [*self._pool.values()] if reward.reduction == "centred" else arrived
        return [
            self._candidate(candidate.slot, candidate.tokens, candidate.finish)
            | {
                "question_logprob": number(line.question_logprob),
                "preference_gain": number(line.preference_gain),
                "score": number(line.at(query.lam)),
            }
            for candidate, line in zip(told, rewards.lines_of(told, query, reward), strict=True)
        ]

    def _candidate(self, slot: int, tokens: Tokens, finish: Finish) -> dict[str, Any]:
        text = before_stop(self._answer(tokens), self.job.stops)
        return {"slot": slot, "text": text, "finish": finish, "tokens": len(tokens)}

    def _answer(self, tokens: Tokens) -> str:
        """The text behind what was thought; nothing of a text that may still turn out to begin with thoughts."""
        assert self.engine is not None
        tokenizer = self.engine.tokenizer
        if self.job.prompts:
            return tokenizer.decode(tokens)
        text = answer_text(tokenizer, tokens)
        return "" if REASONING_TAGS[0].startswith(text.lstrip()) else text

    def _progress(self, candidates: list[dict[str, Any]] | None = None) -> None:
        self._told = time.monotonic()
        if not self.job.progress:
            return
        sampled = max(self.sampled, self.reported)
        said: dict[str, Any] = {"phase": self.phase, "sampled": sampled, "scored": self.scored}
        if candidates:
            said["candidates"] = candidates
        self._chunk(0, more={"preftilt": said})

    def _chunk(self, index: int, **fields: Any) -> None:
        choice = replies.delta(self.meta.kind, index, **fields)
        self.write(event(replies.chunk(self.meta, [choice])))


async def until_gone(receive: Receive) -> None:
    """Returns when the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass(slots=True)
class EventStream:
    """An ASGI response that runs ``work`` and sends what it writes; a comment whenever nothing else was said.

    ``work`` is cancelled when the client goes. Its failure before the first event is the response; a later one is the
    last event. ``gone`` is called when the client left early, ``failed`` with what went wrong.
    """

    work: Callable[[Write], Awaitable[None]]
    gone: Callable[[], None]
    failed: Callable[[Exception], None]
    headers: dict[str, str] = field(default_factory=dict)
    _queue: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.ensure_future(self.work(self._queue.put_nowait))
        leaving = asyncio.ensure_future(until_gone(receive))
        for future in (task, leaving):
            future.add_done_callback(lambda _: self._queue.put_nowait(None))
        try:
            await self._send(scope, receive, send, task, leaving)
        except ClientGone:
            self.gone()
        finally:
            task.cancel()
            leaving.cancel()
            await asyncio.gather(task, leaving, return_exceptions=True)

    async def _send(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        task: asyncio.Future[None],
        leaving: asyncio.Future[None],
    ) -> None:
        first = await self._queue.get()
        failure = task.exception() if first is None and task.done() else None
        if isinstance(failure, Exception):
            self.failed(failure)
            await error_reply(as_api_error(failure))(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": _head(self.headers)})
        item: bytes | None = first
        while item is not None:
            await send({"type": "http.response.body", "body": item, "more_body": True})
            item = await self._next()
        if not task.done():
            assert leaving.done()
            raise ClientGone
        failure = task.exception()
        if isinstance(failure, Exception):
            self.failed(failure)
            last = event(as_api_error(failure).body)
            await send({"type": "http.response.body", "body": last, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _next(self) -> bytes | None:
        try:
            return await asyncio.wait_for(self._queue.get(), KEEP_ALIVE_SECONDS)
        except TimeoutError:
            return b": working\n\n"


def _head(more: dict[str, str]) -> list[tuple[bytes, bytes]]:
    fields = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
    fields |= {"x-accel-buffering": "no", **more}
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
