"""Servers that are asked by chat: they sample, and a second engine must score.

Some servers have chat completions alone; others (Ollama) apply their chat template to prompts at ``/v1/completions``,
too, so that rendered prompts would get two. Such a server takes messages, not tokens: those that the prompt remembers
(:class:`~preftilt.messages.Prompt`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import (
    Capabilities,
    Engine,
    EngineInfo,
    Fact,
    ServerRefused,
)
from preftilt.engines.http.connection import Connection, Declined, shortened
from preftilt.engines.http.dialect import COMPLETIONS, DrawnChunk, DrawnTokens, DrawRequest
from preftilt.engines.http.engine import ServerEngine
from preftilt.engines.http.open_server import HONOURED, chosen_model, close_nothing, connected
from preftilt.engines.http.responses import (
    ChatChoice,
    ChatChunk,
    ChatCompletions,
    ChatDelta,
    Completions,
    ReplyMessage,
)
from preftilt.engines.http.server_quirks import ModelAlias, RefusedFields
from preftilt.engines.options import EngineOptions, refuse_others
from preftilt.engines.scored_by import ScoredBy, open_scorer
from preftilt.engines.vocabulary import Vocabulary
from preftilt.engines.waiting import LoopThread, merged, together
from preftilt.errors import BadInput
from preftilt.messages import Message, Prompt
from preftilt.prompt import ChatTokenizer, before_end
from preftilt.types import Finish, Tokens

CHAT = "/v1/chat/completions"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDialect:
    """The dialect of chat completions; fields that the server refuses are left out.

    Answers come as text and are tokenised once, with the scorer's ``tokenizer``. eos: ids that end a response;
    turn_end: the one of them that ends an answer. many: one request returns n answers.
    """

    connection: Connection
    model: str
    tokenizer: ChatTokenizer
    eos: frozenset[int]
    turn_end: int
    many: bool = False
    refusals: RefusedFields = field(default_factory=RefusedFields)
    alias: ModelAlias = field(default_factory=ModelAlias)

    async def draw(self, request: DrawRequest) -> list[DrawnTokens]:
        parts = await together(self.ask(body) for body in self._payloads(request))
        return [self._parse(choice, request.max_tokens) for part in parts for choice in part]

    async def stream(self, request: DrawRequest) -> AsyncGenerator[DrawnChunk, None]:
        streams = [
            self._stream(body, first, request.max_tokens)
            for first, body in enumerate(self._payloads(request))
        ]
        async with aclosing(merged(streams)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def score(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> list[Float[np.ndarray, "T"]]:
        raise BadInput(f"{self.connection.url} only chats; name a second engine (--scorer)")

    async def ask(self, body: dict[str, Any]) -> list[ChatChoice]:
        """The choices in order."""
        payload = {"model": self.model} | body
        answer = await self.refusals.post(self.connection, CHAT, payload, ChatCompletions)
        self.alias.check(answer.model, self.model, self.connection.url)
        return sorted(answer.choices, key=lambda choice: choice.index)

    async def _stream(
        self, body: dict[str, Any], first: int, budget: int
    ) -> AsyncGenerator[DrawnChunk, None]:
        """After every event the response so far; ``first`` is added to its index."""
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
                    ended = bool(new.finish_reason)
                    # More text may change the last token.
                    drawn = self._parse(choice, budget if ended else budget - 1)
                    yield DrawnChunk(choice.index, 0, drawn, ended)

    def _payloads(self, request: DrawRequest) -> list[dict[str, Any]]:
        """One request body for all answers, or one for each."""
        if request.stop is not None:
            raise BadInput(
                f"{self.connection.url} only chats, so no search can go on from a step (dvts); use best-of-n"
            )
        if request.sampling.top_k:
            raise BadInput(
                "top_k is not part of OpenAI's API; leave it at 0 (--top-k), or use --top-p"
            )
        body = {
            "messages": [
                {"role": message.role, "content": _content(message)}
                for message in conversation(request.context)
            ],
            "max_tokens": request.max_tokens,
            "temperature": request.sampling.temperature,
            "top_p": request.sampling.top_p,
        }
        if self.many and request.n > 1:
            return [body | {"n": request.n, "seed": request.seed}]
        return [body | {"seed": request.seed + i} for i in range(request.n)]

    def _parse(self, choice: ChatChoice, budget: int) -> DrawnTokens:
        """The answer in the scorer's tokens, cut to the token budget."""
        content = choice.message.content or ""
        if not content.strip():
            return DrawnTokens((), None, absent=why_no_text(choice))
        text = before_end(content, self.tokenizer, self.eos)
        words = self.tokenizer.encode_response(text)
        tokens = tuple(takewhile(lambda token: token not in self.eos, words))
        finish = FINISHES.get(choice.finish_reason or "", "unknown")
        if finish == "eos" or text != content or len(tokens) < len(words):
            tokens = (*tokens, self.turn_end)
        return DrawnTokens(tokens[:budget], None, finish=finish)


def conversation(prompt: Tokens) -> tuple[Message, ...]:
    """The messages behind a prompt; raises :class:`~preftilt.errors.BadInput` for mere tokens."""
    if isinstance(prompt, Prompt) and prompt.messages:
        return prompt.messages
    raise BadInput(
        "a server that only chats can answer conversations, not token prompts from elsewhere, nor raw ones; use"
        " /v1/chat/completions, or a server with /v1/completions"
    )


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


NO_COMPLETIONS = frozenset({404, 405, 501})

ONE_LETTER = 4
"""Upper bound on the tokens of a prompt of one character, a begin token included; a chat template adds more."""

QUESTION = {"messages": [{"role": "user", "content": "Name a way to relax."}]}


def why_chat(url: str, options: EngineOptions) -> Fact | None:
    """Why chat completions must be used: there are no others, or they apply a template; None otherwise."""

    async def ask() -> Fact | None:
        connection = await connected(url, options)
        try:
            card = await chosen_model(connection, options.served_model)
            body = {"model": card.id, "prompt": "1", "n": 1, "max_tokens": 1}
            body |= {"temperature": 1.0, "top_p": 1.0, "seed": 5}
            answer = await connection.post(COMPLETIONS, body, Completions)
        except Declined as failure:
            if failure.status not in NO_COMPLETIONS:
                raise
            return Fact(COMPLETIONS, "no", "it only chats: a second engine must score")
        finally:
            await connection.close()
        counted = answer.usage.prompt_tokens if answer.usage else None
        if counted is None or counted <= ONE_LETTER:
            return None
        return applies_template(f"{counted} tokens of one character")

    loop = LoopThread()
    try:
        return loop.run(ask)
    finally:
        loop.close(close_nothing)


def applies_template(counted: str) -> Fact:
    """The fact that a server applies its chat template to prompts, as its token count shows."""
    meaning = "it applies its chat template: it is asked by chat, a second engine scores with its own tokenizer"
    return Fact(COMPLETIONS, f"makes {counted}", meaning)


def open_chat_server(
    url: str, options: EngineOptions, why: Fact, scorer: Engine | None = None
) -> ScoredBy:
    """Open a server by chat completions, because of ``why``, together with the engine that scores.

    ``scorer``: that engine, if it is open; it stays open if this fails.
    """
    if options.scorer is None:
        can = "only chats" if why.answer == "no" else "applies its chat template to every prompt"
        raise ServerRefused(
            f"{url} {can}, so it can draw but not score; name a second engine that scores (--scorer SPEC; demo, a"
            " hub id, vllm+http://…)",
            (why,),
        )
    _check_options(url, options, why)
    with ExitStack() as opened:
        if scorer is None:
            scorer = open_scorer(options.scorer, options)
            opened.callback(scorer.close)
        if scorer.tokenizer.opens_thoughts:
            raise BadInput(
                f"{scorer.name} scores what comes after thoughts, and a server that is asked by chat sends none of"
                " them; turn thinking off, or take a scorer that does not think"
            )
        engine = ScoredBy(_open(url, options, scorer, why), scorer)
        opened.pop_all()
        return engine


def _check_options(url: str, options: EngineOptions, why: Fact) -> None:
    honoured = HONOURED - {"sampler_logprobs"}
    if why.answer == "no":
        honoured -= {"tokenizer"}
    label = f"openai+{urlsplit(url).scheme}"
    refuse_others(options, label, honoured, reason="the server only chats; the scorer's is used")


def _open(url: str, options: EngineOptions, scorer: Engine, why: Fact) -> ServerEngine:
    able = scorer.capabilities
    loop = LoopThread()
    facts = [why]
    connection: Connection | None = None
    try:
        connection = loop.run(lambda: connected(url, options))
        card = loop.run(lambda: chosen_model(connection, options.served_model))
        facts.append(Fact("model", card.id))
        dialect = ChatDialect(
            connection=connection,
            model=card.id,
            tokenizer=scorer.tokenizer,
            eos=able.eos,
            turn_end=able.turn_end,
        )
        dialect = loop.run(lambda: _probe_many(dialect, facts))
    except BaseException:
        loop.close(connection.close if connection is not None else close_nothing)
        raise
    limits = (card.max_model_len, options.max_context, able.max_context)
    context = min(limit for limit in limits if limit is not None)
    facts.append(Fact("context", f"{context:,} tokens"))
    many = "n answers a question" if dialect.many else "one question an answer"
    info = EngineInfo(
        name=f"openai+{connection.url}",
        model=card.id,
        capabilities=Capabilities(
            max_context=context,
            eos=able.eos,
            turn_end=able.turn_end,
            sampler_logprobs=False,
            keyed_streams=False,
            images=able.images,
        ),
        tokenizer=scorer.tokenizer,
        facts=tuple(facts),
        plan=(f"draw: POST {CHAT}, {many}", f"score: {scorer.name}"),
    )
    # The scorer checks its vocabulary; token ids are not sent.
    vocabulary = Vocabulary(1 << 31, (), able.eos, scorer.tokenizer)
    return ServerEngine(info, loop, connection, dialect, vocabulary, None)


async def _probe_many(dialect: ChatDialect, facts: list[Fact]) -> ChatDialect:
    """Whether one request returns n answers; also finds refused fields and the model's alias."""
    body = QUESTION | {"max_tokens": 16, "temperature": 1.0, "top_p": 1.0, "seed": 5}
    many = False
    try:
        await dialect.ask(body)
        choices = await dialect.ask(body | {"n": 3})
        texts = [choice.message.content for choice in choices if choice.message.content]
        # A reasoning model may not reach its answer within so few tokens.
        many = len(choices) == 3 and (not texts or len(set(texts)) > 1)
    except Declined as failure:
        if failure.status in (401, 403, 404):
            raise
    facts += [*dialect.alias.facts(dialect.model), *dialect.refusals.facts]
    meaning = "prompts are sent once" if many else "one question an answer"
    facts.append(Fact("n answers in one question", "yes" if many else "no", meaning))
    return replace(dialect, many=many)
