"""Servers with chat completions alone: they sample, and a second engine must score.

Such a server takes messages, not tokens: the conversation of a prompt is looked up (``remembering.py``).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from preftilt.engines.base import Capabilities, SampleRequest
from preftilt.engines.checks import RequestChecker
from preftilt.engines.facts import Fact
from preftilt.engines.guides import GuideRequest
from preftilt.engines.http.connection import Connection, shortened
from preftilt.engines.http.engine import ServerEngineInfo, check_model_served, seed_of
from preftilt.engines.http.remembering import RememberingTokenizer
from preftilt.engines.http.responses import (
    ChatChoice,
    ChatChunk,
    ChatCompletions,
    ChatDelta,
    ReplyMessage,
)
from preftilt.engines.http.server_quirks import ModelAlias, RefusedFields, StreamSupport
from preftilt.engines.loop import LoopThread, together
from preftilt.engines.streaming import Increment, merged, whole_responses
from preftilt.errors import BadInput, EngineError
from preftilt.messages import Message
from preftilt.prompt import before_end
from preftilt.types import Completion, Finish

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """The chat-completions endpoint of a model; fields that the server refuses are left out."""

    connection: Connection
    model: str
    refusals: RefusedFields = field(default_factory=RefusedFields)
    alias: ModelAlias = field(default_factory=ModelAlias)

    async def ask(self, body: dict[str, Any]) -> list[ChatChoice]:
        """The choices in order."""
        payload = {"model": self.model} | body
        answer = await self.refusals.post(self.connection, CHAT, payload, ChatCompletions)
        self.alias.check(answer.model, self.model, self.connection.url)
        return sorted(answer.choices, key=lambda choice: choice.index)

    async def stream(
        self, body: dict[str, Any], first: int
    ) -> AsyncGenerator[tuple[ChatChoice, bool], None]:
        """After every event the choice so far, and whether it has ended.

        ``first`` is added to its index.
        """
        payload = self.refusals.without({"model": self.model} | body | {"stream": True})
        choices: dict[int, ChatChoice] = {}
        async with aclosing(self.connection.events(CHAT, payload, ChatChunk)) as events:
            async for event in events:
                self.alias.check(event.model, self.model, self.connection.url)
                for new in event.choices:
                    choice = choices.setdefault(
                        new.index, ChatChoice(index=first + new.index, message=ReplyMessage())
                    )
                    _join(choice, new)
                    yield choice, bool(new.finish_reason)


def _join(choice: ChatChoice, new: ChatDelta) -> None:
    message, more = choice.message, new.delta or new.message or ReplyMessage()
    for name in ("content", "refusal", "reasoning_content", "reasoning"):
        if (text := getattr(more, name)) is not None:
            setattr(message, name, (getattr(message, name) or "") + text)
    message.tool_calls = more.tool_calls or message.tool_calls
    choice.finish_reason = new.finish_reason or choice.finish_reason


FINISHES: dict[str, Finish] = {
    "stop": "eos",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}
"""Our finish reasons, by those of chat servers."""


class ChatSampler:
    """Samples from a chat server; the sampler of a :class:`~preftilt.engines.scored_by.ScoredBy`.

    Answers come as text and are tokenised once, with the scorer's tokenizer. many: one request returns n answers.
    """

    def __init__(
        self,
        info: ServerEngineInfo,
        loop: LoopThread,
        endpoint: ChatEndpoint,
        tokenizer: RememberingTokenizer,
        capabilities: Capabilities,
        *,
        many: bool,
    ) -> None:
        self.info = info
        self._loop = loop
        self._endpoint = endpoint
        self._tokenizer = tokenizer
        self._capabilities = capabilities
        self._many = many
        self._streaming = StreamSupport()

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def model(self) -> str:
        return self.info.model

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def tokenizer(self) -> RememberingTokenizer:
        return self._tokenizer

    @property
    def versions(self) -> dict[str, str]:
        return dict(self.info.versions)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The results of the probe."""
        return self.info.facts

    @property
    def plan(self) -> tuple[str, ...]:
        """How it draws and scores."""
        return self.info.plan

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """See :class:`~preftilt.engines.base.Engine`; a partial response cannot be continued."""
        self._check_requests(requests)
        return await self._loop.wait(lambda: together(self._draw(request) for request in requests))

    def stream(self, request: SampleRequest | GuideRequest) -> AsyncGenerator[Increment, None]:
        """See :class:`~preftilt.engines.streaming.Streams`: tokens of the text so far, which may be retokenised."""
        assert isinstance(request, SampleRequest)
        self._check_requests([request])

        async def at_once() -> list[Increment]:
            return whole_responses(request, await self._draw(request))

        return self._loop.stream(
            lambda: self._streaming.stream_or_whole(
                lambda: self._stream_responses(request), at_once
            )
        )

    def _check_requests(self, requests: Sequence[SampleRequest]) -> None:
        checker = RequestChecker(
            model=self.name,
            max_context=self._capabilities.max_context,
            vocabulary=1 << 31,  # The scorer checks its vocabulary; token ids are not sent.
            images=True,  # The scorer's tokenizer has refused images if it takes none.
        )
        for request in requests:
            checker.check_sample(request)
            if request.prefix or request.step:
                raise BadInput(
                    f"{self.name} only chats, so no search can go on from a step (dvts); use best-of-n"
                )
            if request.sampling.top_k:
                raise BadInput(
                    "top_k is not part of OpenAI's API; leave it at 0 (--top-k), or use --top-p"
                )
            self._tokenizer.conversation(request.prompt)

    async def ping(self) -> None:
        """See :class:`~preftilt.engines.base.Pingable`: the server's list of models."""
        await self._loop.wait(
            lambda: check_model_served(self._endpoint.connection, self.name, self.model)
        )

    def close(self) -> None:
        self._loop.close(self._endpoint.connection.close)

    async def _draw(self, request: SampleRequest) -> list[Completion]:
        budget = self._budget(request)
        if not budget or not request.slots:
            return [Completion((), np.empty(0), "length")] * len(request.slots)
        parts = await together(self._endpoint.ask(body) for body in self._payloads(request))
        choices = [choice for part in parts for choice in part]
        if len(choices) != len(request.slots):
            raise EngineError(
                f"{self.name} sent {len(choices)} answers where {len(request.slots)} were asked"
            )
        return [self._completion(choice, budget) for choice in choices]

    async def _stream_responses(self, request: SampleRequest) -> AsyncGenerator[Increment, None]:
        budget = self._budget(request)
        if not budget or not request.slots:
            nothing = [Completion((), np.empty(0), "length")] * len(request.slots)
            for increment in whole_responses(request, nothing):
                yield increment
            return
        streams = [
            self._endpoint.stream(body, first) for first, body in enumerate(self._payloads(request))
        ]
        left = {*request.slots}
        async with aclosing(merged(streams)) as answers:
            async for choice, ended in answers:
                if not 0 <= choice.index < len(request.slots):
                    raise EngineError(
                        f"{self.name} sent more answers than the {len(request.slots)} asked for"
                    )
                slot = request.slots[choice.index]
                if ended:
                    left.discard(slot)
                    [last] = whole_responses(
                        replace(request, slots=(slot,)), [self._completion(choice, budget)]
                    )
                    yield last
                elif (choice.message.content or "").strip():
                    tokens = self._completion(choice, budget).tokens
                    yield Increment(
                        slot=slot, start=0, tokens=tokens, logprobs=np.zeros(len(tokens))
                    )
        if left:
            raise EngineError(
                f"{self.name} broke off in the middle of an answer: its stream ended before all answers had"
            )

    def _budget(self, request: SampleRequest) -> int:
        return min(request.max_tokens, self._capabilities.max_context - len(request.prompt))

    def _payloads(self, request: SampleRequest) -> list[dict[str, Any]]:
        """One request body for all answers, or one for each."""
        sampling, n = request.sampling, len(request.slots)
        messages = self._tokenizer.conversation(request.prompt)
        body = {
            "messages": [
                {"role": message.role, "content": _content(message)} for message in messages
            ],
            "max_tokens": self._budget(request),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        seed = seed_of(request)
        if self._many and n > 1:
            return [body | {"n": n, "seed": seed}]
        return [body | {"seed": seed + i} for i in range(n)]

    def _completion(self, choice: ChatChoice, budget: int) -> Completion:
        """The answer in the scorer's tokens, cut to the token budget."""
        capabilities = self._capabilities
        content = choice.message.content or ""
        if not content.strip():
            return Completion((), np.empty(0), "length", absent=why_no_text(choice))
        text = before_end(content, self._tokenizer, capabilities.eos)
        tokens = self._tokenizer.encode_response(text)
        first_end = next(
            (i for i, token in enumerate(tokens) if token in capabilities.eos), len(tokens)
        )
        finish = FINISHES.get(choice.finish_reason or "", "unknown")
        ended = finish == "eos" or first_end < len(tokens) or text != content
        tokens = (*tokens[:first_end], capabilities.turn_end) if ended else tokens
        if len(tokens) > budget:
            tokens, ended, finish = tokens[:budget], False, "length"
        # These log-probs are not used: another engine scores.
        return Completion(tokens, np.zeros(len(tokens)), "eos" if ended else finish)


def why_no_text(choice: ChatChoice) -> str:
    """Why an answer has no text, as far as the server says."""
    message, finish = choice.message, choice.finish_reason
    if message.refusal:
        return f"it refused: {shortened(message.refusal)}"
    if finish == "content_filter":
        return "its content filter stopped it"
    if message.tool_calls:
        return "it called a tool"
    if message.reasoning_content or message.reasoning:
        return (
            f"it sent its reasoning alone, finish reason {finish}; allow more tokens (max_tokens)"
        )
    return f"finish reason {finish}"


def _content(message: Message) -> str | list[dict[str, Any]]:
    """A message's content for OpenAI's API: a list of parts if there are images."""
    if not message.images:
        return message.content
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": part.data_url()}}
        for part in message.parts()
    ]
