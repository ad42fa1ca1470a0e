"""The dialect of OpenAI's completions API, as far as a server implements it.

Prompts are sent as token ids, or as text if ids are refused; responses are ids, or text that is tokenised once. Scores
come from ``echo``: the prompt's own log-probs. The probe (``openai.py``) finds out what works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from preftilt.engines.http.connection import Connection
from preftilt.engines.http.dialect import (
    DrawnChunk,
    DrawnTokens,
    DrawRequest,
    checked_logprobs,
    completion_logprobs,
)
from preftilt.engines.http.responses import CompletionChoice, Completions
from preftilt.engines.http.server_quirks import ModelAlias, RefusedFields
from preftilt.engines.loop import together
from preftilt.engines.streaming import merged
from preftilt.engines.tokenizer import ModelTokenizer
from preftilt.errors import BadInput, EngineError
from preftilt.prompt import before_end
from preftilt.types import Tokens

COMPLETIONS = "/v1/completions"

NEUTRAL: dict[str, Any] = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Sent in every request, because servers have defaults of their own."""

IDS_OUT: dict[str, Any] = {"return_token_ids": True, "return_tokens_as_token_ids": True}
"""Fields that make servers return token ids; strict ones refuse them."""

AS_ID = "token_id:"

ScoringMode = Literal["echo", "echo and one token", "prompt_logprobs"]
SCORING_MODES: dict[ScoringMode, dict[str, Any]] = {
    "echo": {"echo": True, "logprobs": 1, "max_tokens": 0},
    "echo and one token": {"echo": True, "logprobs": 1, "max_tokens": 1},
    "prompt_logprobs": {"echo": False, "prompt_logprobs": 0, "max_tokens": 1},
}
"""Ways to get a prompt's log-probs, in the order in which they are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAiDialect:
    """The dialect of such a server, by the results of its probe.

    ids_in: prompts are sent as token ids, else as text. ids_out: responses are ids, else text. many: one request
    returns ``n`` responses. top_k: it is honoured, though it is not OpenAI's. scoring_mode: None if it cannot score.
    """

    connection: Connection
    model: str
    tokenizer: ModelTokenizer
    ids_in: bool
    ids_out: bool
    many: bool
    top_k: bool
    scoring_mode: ScoringMode | None
    refusals: RefusedFields = field(default_factory=RefusedFields)
    alias: ModelAlias = field(default_factory=ModelAlias)

    async def draw(self, request: DrawRequest) -> list[DrawnTokens]:
        parts = await together(self.complete(body) for body in self._payloads(request))
        choices = [choice for part in parts for choice in part]
        return [self._parse_choice(answer, request.max_tokens) for answer in choices]

    async def stream(self, request: DrawRequest) -> AsyncGenerator[DrawnChunk, None]:
        streams = [
            self._stream(body, first, request.max_tokens)
            for first, body in enumerate(self._payloads(request))
        ]
        async with aclosing(streams[0] if len(streams) == 1 else merged(streams)) as parts:
            async for part in parts:
                yield part

    async def _stream(
        self, body: dict[str, Any], first: int, budget: int
    ) -> AsyncGenerator[DrawnChunk, None]:
        """The responses of one request; ``first`` is added to their indices."""
        whole = self.refusals.without({"model": self.model} | NEUTRAL | body | {"stream": True})
        texts: dict[int, str] = {}
        lengths: Counter[int] = Counter()
        async with aclosing(self.connection.events(COMPLETIONS, whole, Completions)) as events:
            async for event in events:
                self.alias.check(event.model, self.model, self.connection.url)
                for choice in event.choices:
                    index, ended = choice.index, bool(choice.finish_reason)
                    if not self.ids_out:  # Tokens of a text differ from those of its parts.
                        texts[index] = texts.get(index, "") + choice.text
                        choice = choice.model_copy(update={"text": texts[index]})
                    drawn = self._parse_choice(choice, budget)
                    yield DrawnChunk(first + index, lengths[index], drawn, ended)
                    if self.ids_out:
                        lengths[index] += len(drawn.tokens)

    def _payloads(self, request: DrawRequest) -> list[dict[str, Any]]:
        """One request body for all responses, or one for each."""
        sampling = request.sampling
        if sampling.top_k and not self.top_k:
            raise BadInput(
                f"{self.connection.url} does not honour top_k, which is not part of OpenAI's API; leave it at 0"
                " (--top-k), or use --top-p"
            )
        if request.stop is not None and not self.ids_out:
            raise BadInput(
                f"{self.connection.url} returns text without token ids, so no search can go on from a step (dvts); use"
                " best-of-n"
            )
        body = {
            "prompt": self.prompt_of(request.context),
            "max_tokens": request.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop": [request.stop] if request.stop else None,
            "echo": False,
        }
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        if self.ids_out:
            body |= IDS_OUT | {"logprobs": 1, "include_stop_str_in_output": True}
        if self.many:
            return [body | {"n": request.n, "seed": request.seed}]
        return [body | {"n": 1, "seed": request.seed + i} for i in range(request.n)]

    async def score(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> list[Float[np.ndarray, "T"]]:
        if self.scoring_mode is None:
            raise BadInput(f"{self.connection.url} cannot score; name a second engine (--scorer)")
        return await together(
            self._score(context, completion, self.scoring_mode) for completion in completions
        )

    async def complete(self, body: dict[str, Any]) -> list[CompletionChoice]:
        """The choices in order."""
        answer = await self.ask(body)
        return sorted(answer.choices, key=lambda choice: choice.index)

    async def ask(self, body: dict[str, Any]) -> Completions:
        """Send a request; the answer must be of the same model."""
        whole = {"model": self.model} | NEUTRAL | body
        answer = await self.refusals.post(self.connection, COMPLETIONS, whole, Completions)
        self.alias.check(answer.model, self.model, self.connection.url)
        return answer

    def prompt_of(self, tokens: Tokens) -> list[int] | str:
        """The prompt field: token ids, or text.

        Raises :class:`~preftilt.errors.EngineError` for ids whose text is tokenised differently.
        """
        if self.ids_in:
            return list(tokens)
        text = self.tokenizer.spell(tokens)
        if self.tokenizer.chat.encode(text) != tokens:
            raise EngineError(
                f"{self.connection.url} only takes text, and the text of this prompt and response is tokenised"
                " otherwise; use a server that takes token ids"
            )
        return text

    async def _score(
        self, context: Tokens, completion: Tokens, scoring_mode: ScoringMode
    ) -> Float[np.ndarray, "T"]:
        prompt = context + completion
        body = {
            "prompt": self.prompt_of(prompt),
            "n": 1,
            "temperature": 0.0,
            "top_p": 1.0,
            "seed": 0,
        }
        choices = await self.complete(body | SCORING_MODES[scoring_mode])
        where = self.connection.url
        if len(choices) != 1:
            raise EngineError(f"{where} sent {len(choices)} answers where one was asked")
        [choice] = choices
        if scoring_mode == "prompt_logprobs":
            return completion_logprobs(choice.prompt_logprobs, context, completion, where)
        echoed = choice.logprobs.token_logprobs if choice.logprobs else []
        longest = len(prompt) + SCORING_MODES[scoring_mode]["max_tokens"]
        if not len(prompt) <= len(echoed) <= longest:
            raise EngineError(
                f"{where} echoed {len(echoed)} log-probs for {len(prompt)} tokens; does it add a token in front, or is"
                " --tokenizer another one?"
            )
        return checked_logprobs(echoed[len(context) : len(prompt)], len(completion), where)

    def _parse_choice(self, choice: CompletionChoice, budget: int) -> DrawnTokens:
        if not self.ids_out:
            chat, ends = self.tokenizer.chat, self.tokenizer.vocabulary.eos
            text = before_end(choice.text, chat, ends)
            tokens = self._with_end_token(
                chat.encode_response(text), choice, ended=text != choice.text
            )
            spent = choice.finish_reason == "length" and text == choice.text and bool(tokens)
            return DrawnTokens(tokens[:budget], None, spent=spent)
        ids = ids_of(choice) if choice.text else ids_of(choice) or ()
        if ids is None:
            raise EngineError(f"{self.connection.url} left out the token ids that it gave before")
        tokens = self._with_end_token(ids, choice)
        logprobs = choice.logprobs.token_logprobs if choice.logprobs else []
        if len(logprobs) != len(tokens):
            return DrawnTokens(tokens, None)
        return DrawnTokens(tokens, checked_logprobs(logprobs, len(tokens), self.connection.url))

    def _with_end_token(
        self, tokens: Tokens, choice: CompletionChoice, *, ended: bool = False
    ) -> Tokens:
        """The response with its end token, which many servers leave out; ``ended``: the text had one."""
        closed = any(token in self.tokenizer.vocabulary.eos for token in tokens)
        if (ended or choice.finish_reason == "stop") and not closed:
            return (*tokens, self.tokenizer.turn_end)
        return tokens


def ids_of(choice: CompletionChoice) -> Tokens | None:
    """Token ids of a response, if the server sent them in one of two ways."""
    if choice.token_ids is not None:
        return tuple(choice.token_ids)
    texts = choice.logprobs.tokens if choice.logprobs else []
    if texts and all(text.startswith(AS_ID) for text in texts):
        return tuple(int(text.removeprefix(AS_ID)) for text in texts)
    return None
