"""Servers that only chat: they can draw answers, and a second engine must score them.

Such a server takes messages, not tokens: the conversation behind a prompt is looked up (``remembering.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from preftilt.engines.base import Capabilities, Engine, SampleRequest
from preftilt.engines.checks import Readable
from preftilt.engines.facts import Fact, ServerRefused
from preftilt.engines.http.answers import ChatChoice, ChatCompletions, Completions
from preftilt.engines.http.connection import Connection, Declined
from preftilt.engines.http.engine import About, insist_on_model, seed_of
from preftilt.engines.http.opening import HONOURED, chosen_model, connected, nothing
from preftilt.engines.http.remembering import RememberingTokenizer
from preftilt.engines.loop import Loop, together
from preftilt.engines.options import EngineOptions, refuse_others
from preftilt.engines.scored_by import ScoredBy, open_scorer
from preftilt.errors import BadInput, EngineError
from preftilt.messages import Message
from preftilt.prompt import before_end
from preftilt.types import Completion, Finish

CHAT = "/v1/chat/completions"
CHATS = Fact("/v1/completions", "no", "it only chats: a second engine must score")

NO_COMPLETIONS = frozenset({404, 405, 501})

FINISHES: dict[str, Finish] = {
    "stop": "eos",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}
"""What chat servers' reasons to end an answer are to us."""


class ChatSampler:
    """Draws answers from a chat server; the first half of a :class:`~preftilt.engines.scored_by.ScoredBy`.

    Answers come as text and are tokenised once, with the scorer's tokenizer. many: n answers come from one question.
    """

    def __init__(
        self,
        about: About,
        loop: Loop,
        connection: Connection,
        tokenizer: RememberingTokenizer,
        capabilities: Capabilities,
        *,
        many: bool,
    ) -> None:
        self.about = about
        self._loop = loop
        self._connection = connection
        self._tokenizer = tokenizer
        self._capabilities = capabilities
        self._many = many

    @property
    def name(self) -> str:
        return self.about.name

    @property
    def model(self) -> str:
        return self.about.model

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def tokenizer(self) -> RememberingTokenizer:
        return self._tokenizer

    @property
    def versions(self) -> dict[str, str]:
        return dict(self.about.versions)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """What the probe found out."""
        return self.about.facts

    @property
    def plan(self) -> tuple[str, ...]:
        """How it draws and scores."""
        return self.about.plan

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        """See :class:`~preftilt.engines.base.Engine`; a response that exists in part cannot be continued."""
        readable = Readable(
            model=self.name,
            max_context=self._capabilities.max_context,
            vocabulary=1 << 31,  # The scorer knows its vocabulary; nothing of it is sent.
            images=True,  # The scorer's tokenizer has refused them if it sees none.
        )
        for request in requests:
            readable.check_sample(request)
            if request.prefix or request.step:
                raise BadInput(
                    f"{self.name} only chats, so no search can go on from a step (dvts); use best-of-n"
                )
            if request.sampling.top_k:
                raise BadInput(
                    "top_k is not part of OpenAI's API; leave it at 0 (--top-k), or use --top-p"
                )
            self._tokenizer.conversation(request.prompt)
        return await self._loop.wait(lambda: together(self._draw(one) for one in requests))

    async def answers(self) -> None:
        """See :class:`~preftilt.engines.base.Answering`: the server's list of models."""
        await self._loop.wait(lambda: insist_on_model(self._connection, self.name, self.model))

    def close(self) -> None:
        self._loop.close(self._connection.close)

    async def _draw(self, request: SampleRequest) -> list[Completion]:
        budget = min(request.max_tokens, self._capabilities.max_context - len(request.prompt))
        if not budget or not request.slots:
            return [Completion((), np.empty(0), "length")] * len(request.slots)
        sampling, n = request.sampling, len(request.slots)
        said = self._tokenizer.conversation(request.prompt)
        body = {
            "messages": [{"role": one.role, "content": _content(one)} for one in said],
            "max_tokens": budget,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        seed = seed_of(request)
        if self._many:
            choices = await ask_chat(self._connection, self.model, body | {"n": n, "seed": seed})
        else:
            parts = await together(
                ask_chat(self._connection, self.model, body | {"n": 1, "seed": seed + i})
                for i in range(n)
            )
            choices = [one for part in parts for one in part]
        if len(choices) != n:
            raise EngineError(f"{self.name} sent {len(choices)} answers where {n} were asked")
        return [self._completion(one, budget) for one in choices]

    def _completion(self, choice: ChatChoice, budget: int) -> Completion:
        """The answer in the scorer's tokens; cut where the budget in those is spent."""
        able = self._capabilities
        content = choice.message.content or ""
        text = before_end(content, self._tokenizer, able.eos)
        tokens = self._tokenizer.encode_response(text)
        first_end = next((i for i, one in enumerate(tokens) if one in able.eos), len(tokens))
        finish = FINISHES.get(choice.finish_reason or "", "unknown")
        ended = finish == "eos" or first_end < len(tokens) or text != content
        tokens = (*tokens[:first_end], able.turn_end) if ended else tokens
        if not tokens:
            raise EngineError(f"{self.name} sent an empty answer ({choice.finish_reason})")
        if len(tokens) > budget:
            tokens, ended, finish = tokens[:budget], False, "length"
        # Nobody uses these log-probs: another engine scores.
        return Completion(tokens, np.zeros(len(tokens)), "eos" if ended else finish)


def _content(message: Message) -> str | list[dict[str, Any]]:
    """A message's content as OpenAI's API takes it: parts where there are images."""
    if not message.images:
        return message.content
    return [
        {"type": "text", "text": one}
        if isinstance(one, str)
        else {"type": "image_url", "image_url": {"url": one.data_url()}}
        for one in message.parts()
    ]


async def ask_chat(connection: Connection, model: str, body: dict[str, Any]) -> list[ChatChoice]:
    """Answers in their order."""
    whole = {"model": model, "stream": False, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    answer = await connection.post(CHAT, whole | body, ChatCompletions)
    if answer.model != model:
        raise EngineError(
            f"{connection.url} answered with the model {answer.model} where {model} was asked; name the model as the"
            " server does (--served-model), or open it again"
        )
    return sorted(answer.choices, key=lambda one: one.index)


def is_chat_only(url: str, options: EngineOptions) -> bool:
    """Whether the server declines completions in a way that says it has none."""

    async def ask() -> bool:
        connection = await connected(url, options)
        try:
            card = await chosen_model(connection, options.served_model)
            body = {"model": card.id, "prompt": "1", "n": 1, "max_tokens": 1, "stream": False}
            body |= {"temperature": 1.0, "top_p": 1.0, "seed": 5}
            await connection.post("/v1/completions", body, Completions)
        except Declined as failure:
            if failure.status not in NO_COMPLETIONS:
                raise
            return True
        finally:
            await connection.close()
        return False

    loop = Loop()
    try:
        return loop.run(ask)
    finally:
        loop.close(nothing)


def open_chat_server(url: str, options: EngineOptions) -> ScoredBy:
    """Open a server that only chats, together with the engine that scores."""
    if options.scorer is None:
        raise ServerRefused(
            f"{url} only chats, so it can draw but not score; name a second engine that scores (--scorer SPEC; demo, a"
            " hub id, vllm+http://…)",
            (CHATS,),
        )
    _check_options(url, options)
    scorer = open_scorer(options.scorer, options)
    try:
        return open_chat_drawing(url, options, scorer)
    except BaseException:
        scorer.close()
        raise


def open_chat_drawing(url: str, options: EngineOptions, scorer: Engine) -> ScoredBy:
    """Open a server that only chats; what it answers is scored by ``scorer``, which stays open if this fails."""
    _check_options(url, options)
    return ScoredBy(_open(url, options, scorer), scorer)


def _check_options(url: str, options: EngineOptions) -> None:
    honoured = HONOURED - {"tokenizer", "sampler_logprobs"}
    label = f"openai+{urlsplit(url).scheme}"
    refuse_others(options, label, honoured, reason="the server only chats; the scorer's is used")


def _open(url: str, options: EngineOptions, scorer: Engine) -> ChatSampler:
    loop = Loop()
    facts = [CHATS]
    connection: Connection | None = None
    try:
        connection = loop.run(lambda: connected(url, options))
        card = loop.run(lambda: chosen_model(connection, options.served_model))
        facts.append(Fact("model", card.id))
        many = loop.run(lambda: _many(connection, card.id, facts))
    except BaseException:
        loop.close(connection.close if connection is not None else nothing)
        raise
    able = scorer.capabilities
    known = (card.max_model_len, options.max_context, able.max_context)
    context = min(one for one in known if one is not None)
    facts.append(Fact("context", f"{context:,} tokens"))
    plan = f"draw: POST {CHAT}, {'n answers a question' if many else 'one question an answer'}"
    about = About(
        name=f"openai+{connection.url}",
        model=card.id,
        facts=tuple(facts),
        plan=(plan, f"score: {scorer.name}"),
        versions={},
    )
    capabilities = Capabilities(
        max_context=context,
        eos=able.eos,
        turn_end=able.turn_end,
        sampler_logprobs=False,
        keyed_streams=False,
        images=able.images,
    )
    tokenizer = scorer.tokenizer
    if not isinstance(tokenizer, RememberingTokenizer):
        tokenizer = RememberingTokenizer(tokenizer)
    return ChatSampler(about, loop, connection, tokenizer, capabilities, many=many)


async def _many(connection: Connection, model: str, facts: list[Fact]) -> bool:
    body = {"messages": [{"role": "user", "content": "Name a way to relax."}], "n": 3}
    body |= {"max_tokens": 12, "temperature": 1.0, "top_p": 1.0, "seed": 5}
    try:
        answers = {one.message.content for one in await ask_chat(connection, model, body)}
    except Declined as failure:
        if failure.status in (401, 403, 404):
            raise
        answers = set()
    meaning = "prompts are sent once" if len(answers) > 1 else "one question an answer"
    answer = "yes" if len(answers) > 1 else "no"
    facts.append(Fact("n answers in one question", answer, meaning))
    return len(answers) > 1
