"""The dialect of OpenAI's completions API, as far as a server implements it, and its probe, which finds out what works.

Prompts are sent as token ids, or as text if ids are refused; responses are ids, or text that is tokenised once. Scores
come from ``echo``: the prompt's own log-probs. A server with chat completions alone is asked by chat (``chat.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Engine, Fact, ServerRefused
from preftilt.engines.http.chat import (
    applies_template,
    open_chat_server,
    why_chat,
)
from preftilt.engines.http.connection import Connection, Declined
from preftilt.engines.http.dialect import (
    COMPLETIONS,
    DrawnChunk,
    DrawnTokens,
    DrawRequest,
    ProbeContext,
    ProbeResult,
    checked_logprobs,
    completion_logprobs,
)
from preftilt.engines.http.logprob_checks import HIGH_TEMPERATURE, check_sampler, check_scores
from preftilt.engines.http.open_server import ServerKind, open_server
from preftilt.engines.http.responses import CompletionChoice, Completions, ModelCard
from preftilt.engines.http.server_quirks import ModelAlias, RefusedFields
from preftilt.engines.options import EngineOptions
from preftilt.engines.tokenizer import ModelTokenizer
from preftilt.engines.waiting import merged, together
from preftilt.errors import BadInput, EngineError
from preftilt.prompt import before_end
from preftilt.types import Sampling, Tokens

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
                    # More text may change the last token.
                    room = budget if ended or self.ids_out else budget - 1
                    drawn = self._parse_choice(choice, room)
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
            return DrawnTokens(tokens[:budget], None, finish="length" if spent else None)
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


TOKENIZER_MATCHES = "tokenizer matches"
"""The question of the fact that a server counts other tokens of a text."""


async def probe_openai(probe: ProbeContext, card: ModelCard) -> ProbeResult:
    """Probe which parts of the completions API a server implements."""
    dialect = OpenAiDialect(
        connection=probe.connection,
        model=card.id,
        tokenizer=probe.tokenizer,
        ids_in=True,
        ids_out=False,
        many=False,
        top_k=False,
        scoring_mode=None,
    )
    dialect = await _ids_in(probe, dialect)
    dialect = await _ids_out(probe, dialect)
    dialect = await _many(probe, dialect)
    dialect = await _top_k(probe, dialect)
    if probe.options.scorer is None:
        dialect = await _find_scoring_mode(probe, dialect)
    trusted = False
    if dialect.scoring_mode is not None:
        await check_scores(probe, dialect)
        trusted = await check_sampler(probe, dialect)
    for fact in (*dialect.alias.facts(card.id), *dialect.refusals.facts):
        probe.note(fact)
    prompts = "token ids" if dialect.ids_in else "text"
    responses = "token ids" if dialect.ids_out else "text"
    many = "n responses a question" if dialect.many else "one question a response"
    return ProbeResult(
        dialect=dialect,
        model=card.id,
        scores=dialect.scoring_mode is not None,
        sampler_logprobs=trusted,
        max_context=card.max_model_len - 1 if card.max_model_len else None,
        plan=(
            f"draw: POST {COMPLETIONS}, {prompts} in, {responses} out, {many}",
            f"score: {dialect.scoring_mode or 'by another engine (--scorer)'}",
        ),
        versions={"scoring": dialect.scoring_mode or "none"},
    )


def _one_token_payload(prompt: list[int] | str) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "n": 1,
        "max_tokens": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 5,
        "echo": False,
    }


async def _ids_in(probe: ProbeContext, dialect: OpenAiDialect) -> OpenAiDialect:
    """Whether prompts can be token ids, or else text with the same number of tokens."""
    tokens = probe.tokenizer.chat.encode("What shall we do on a rainy day, and why?")
    try:
        counted = await _prompt_tokens(dialect, list(tokens))
    except Declined as failure:
        if failure.status in (401, 403):
            raise
        counted = -1
    if counted in (len(tokens), None):
        probe.note(Fact("token ids in", "yes", "prompts are sent as they are scored"))
        return dialect
    counted = await _prompt_tokens(dialect, probe.tokenizer.spell(tokens))
    if counted not in (len(tokens), None):
        probe.note(Fact(TOKENIZER_MATCHES, f"{counted} tokens, not {len(tokens)}"))
        raise BadInput(
            f"{probe.connection.url} makes {counted} tokens of a text that has {len(tokens)} by the tokenizer here: it"
            " is another tokenizer (--tokenizer), or the server adds tokens of its own; use one that takes token ids"
        )
    probe.note(Fact("token ids in", "no", "prompts are sent as text"))
    return replace(dialect, ids_in=False)


async def _prompt_tokens(dialect: OpenAiDialect, prompt: list[int] | str) -> int | None:
    usage = (await dialect.ask(_one_token_payload(prompt))).usage
    return usage.prompt_tokens if usage else None


async def _ids_out(probe: ProbeContext, dialect: OpenAiDialect) -> OpenAiDialect:
    prompt = dialect.prompt_of(probe.tokenizer.chat.encode("Name a way to relax."))
    try:
        choices = await dialect.complete(_one_token_payload(prompt) | IDS_OUT | {"logprobs": 1})
    except Declined:
        choices = []
    if choices and ids_of(choices[0]) is not None:
        probe.note(Fact("token ids out", "yes", "responses are never tokenised again"))
        return replace(dialect, ids_out=True)
    probe.note(Fact("token ids out", "no", "responses are tokenised here, once"))
    return dialect


async def _many(probe: ProbeContext, dialect: OpenAiDialect) -> OpenAiDialect:
    """Whether ``n`` is honoured; with a seed, some servers send the same response n times."""
    tokens = probe.tokenizer.chat.encode("Name a way to relax.")
    draw = DrawRequest(context=tokens, n=3, max_tokens=12, sampling=HIGH_TEMPERATURE, seed=5)
    candidate = replace(dialect, many=True)
    try:
        drawn = {response.tokens for response in await candidate.draw(draw)}
    except Declined:
        drawn = set()
    if len(drawn) > 1:
        probe.note(Fact("n responses in one question", "yes", "prompts are sent once"))
        return candidate
    probe.note(Fact("n responses in one question", "no", "one question a response"))
    return dialect


async def _top_k(probe: ProbeContext, dialect: OpenAiDialect) -> OpenAiDialect:
    """Whether ``top_k`` 1 draws the greedy response alone, where other ones are drawn without it."""
    tokens = probe.tokenizer.chat.encode("Name a way to relax.")
    candidate = replace(dialect, top_k=True)
    free = DrawRequest(context=tokens, n=2, max_tokens=12, sampling=HIGH_TEMPERATURE, seed=5)
    likeliest = replace(free, sampling=replace(HIGH_TEMPERATURE, top_k=1))
    greedy = replace(free, n=1, sampling=Sampling(temperature=0.0))
    try:
        [best] = await candidate.draw(greedy)
        kept = {row.tokens for row in await candidate.draw(likeliest)}
        others = {row.tokens for row in await candidate.draw(free)}
    except Declined:
        best, kept, others = None, set(), set()
    if best is not None and kept == {best.tokens} and others != kept:
        probe.note(Fact("top_k", "yes"))
        return candidate
    probe.note(Fact("top_k", "no", "use top_p"))
    return dialect


async def _find_scoring_mode(probe: ProbeContext, dialect: OpenAiDialect) -> OpenAiDialect:
    """The first scoring mode that works."""
    tokens = probe.tokenizer.chat.encode("What shall we do on a rainy day, and why?")
    for scoring_mode in SCORING_MODES:
        candidate = replace(dialect, scoring_mode=scoring_mode)
        try:
            await candidate.score(tokens[:-3], [tokens[-3:]])
        except EngineError:
            continue
        probe.note(Fact("log-probs of given text", scoring_mode, "it can score"))
        return candidate
    probe.note(Fact("log-probs of given text", "no", "a second engine must score (--scorer)"))
    return dialect


def open_openai_server(url: str, options: EngineOptions, scorer: Engine | None = None) -> Engine:
    """Open a server by its URL, by completions or chat; an :data:`~preftilt.engines.options.Opener`."""
    if (why := why_chat(url, options)) is None:
        try:
            return open_server(ServerKind("openai", probe_openai), url, options, scorer)
        except ServerRefused as refused:
            why = _other_token_count(refused)
            if why is None or options.scorer is None:
                raise
    return open_chat_server(url, options, why, scorer)


def _other_token_count(refused: ServerRefused) -> Fact | None:
    """The reason to use chat completions: the server counts other tokens of a text than the tokenizer here."""
    counts = [fact.answer for fact in refused.facts if fact.question == TOKENIZER_MATCHES]
    return applies_template(counts[-1]) if counts else None
