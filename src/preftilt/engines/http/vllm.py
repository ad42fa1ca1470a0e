"""The dialect of vLLM's server: token ids in and out, n responses per request, scores by ``prompt_logprobs``.

vLLM does not use its prefix cache when log-probs of a prompt are requested, because log-probs are not cached. Its
token-in/token-out endpoint (``--enable-scale-out``) can be told to use it all the same; then only log-probs after the
cached part are read, and only if they equal those without the cache when the engine is opened. This makes scoring many
responses to one prompt several times cheaper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import Engine, Fact
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
    probe_tokens,
)
from preftilt.engines.http.logprob_checks import (
    FROM_CACHE,
    check_drawing,
    check_sampler,
    check_scores,
    shared_prefix_agrees,
)
from preftilt.engines.http.open_server import ServerKind, open_server
from preftilt.engines.http.responses import (
    CompletionChoice,
    Completions,
    GenerateResponse,
    ModelCard,
    Version,
)
from preftilt.engines.options import EngineOptions
from preftilt.engines.waiting import together
from preftilt.errors import BadInput, EngineError
from preftilt.types import Tokens

MIN_TEMPERATURE = 0.01
"""The lowest temperature besides 0 that vLLM draws at; it would silently raise a lower one to this."""

GENERATE = "/inference/v1/generate"

PREFIX = 300
"""Tokens of the probe's prompt for prefix sharing: more than two blocks of any usual size."""

NOT_JSON = "not JSON compliant"
"""vLLM's message for NaN in an answer: with status 500 in older versions, with 400 in 0.32."""

DRAWING = f"draw: POST {COMPLETIONS}, token ids, n responses a question"

NEUTRAL: dict[str, Any] = {
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
}
"""Sent in every request, so that no default of the server or of the model's files changes the distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmDialect:
    """The dialect of a vLLM server.

    end_ids: ids that end a response. scores_without_drawing: it accepts ``max_tokens`` 0. shares_prefix: scores may use
    its prefix cache.
    """

    connection: Connection
    model: str
    end_ids: tuple[int, ...]
    scores_without_drawing: bool
    shares_prefix: bool

    async def draw(self, request: DrawRequest) -> list[DrawnTokens]:
        choices = (await self._complete(self._payload(request))).choices
        ordered = sorted(choices, key=lambda choice: choice.index)
        return [self._parse_choice(answer, request.logprobs) for answer in ordered]

    async def stream(self, request: DrawRequest) -> AsyncGenerator[DrawnChunk, None]:
        payload = self._with_defaults(self._payload(request)) | {"stream": True}
        lengths: Counter[int] = Counter()
        async with aclosing(self.connection.events(COMPLETIONS, payload, Completions)) as events:
            async for event in events:
                self._check_model(event)
                for choice in event.choices:
                    drawn = self._parse_choice(choice, request.logprobs)
                    ended = choice.finish_reason is not None
                    yield DrawnChunk(choice.index, lengths[choice.index], drawn, ended)
                    lengths[choice.index] += len(drawn.tokens)

    def _payload(self, request: DrawRequest) -> dict[str, Any]:
        """The request body."""
        sampling = request.sampling
        if 0 < sampling.temperature < MIN_TEMPERATURE:
            raise BadInput(
                f"temperature is {sampling.temperature}; vLLM draws at 0 (greedy) or at {MIN_TEMPERATURE} and above"
            )
        return {
            "prompt": list(request.context),
            "n": request.n,
            "max_tokens": request.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": request.seed,
            "stop": [request.stop] if request.stop else [],
            "include_stop_str_in_output": True,
            "stop_token_ids": list(self.end_ids),
            "ignore_eos": True,
            "logprobs": 0 if request.logprobs else None,
            "echo": False,
            "return_token_ids": True,
        }

    async def score(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> list[Float[np.ndarray, "T"]]:
        if not self.shares_prefix:
            return await self.score_plain(context, completions)
        rows = await self.score_shared_prefix(context, completions)
        missing = [i for i, row in enumerate(rows) if row is None]
        if missing:
            plain = await self.score_plain(context, [completions[i] for i in missing])
            rows = [*rows]
            for i, row in zip(missing, plain, strict=True):
                rows[i] = row
        return [row for row in rows if row is not None]

    async def score_plain(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> list[Float[np.ndarray, "T"]]:
        """All prompts in one request; each is computed from its first token on."""
        body = {
            "prompt": [list(context + completion) for completion in completions],
            "n": 1,
            "max_tokens": 0 if self.scores_without_drawing else 1,
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "seed": 0,
            "echo": self.scores_without_drawing,
            "prompt_logprobs": 0,
        }
        choices = (await self._complete(body)).choices
        if len(choices) != len(completions):
            raise EngineError(
                f"{self.connection.url} sent {len(choices)} answers for {len(completions)} prompts"
            )
        ordered = sorted(choices, key=lambda choice: choice.index)
        return [
            completion_logprobs(answer.prompt_logprobs, context, completion, self.connection.url)
            for answer, completion in zip(ordered, completions, strict=True)
        ]

    async def score_shared_prefix(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> list[Float[np.ndarray, "T"] | None]:
        """One request per completion, after one that caches the context; None where needed log-probs were cached."""
        if len(completions) > 1:
            await self._generate(context, {})
        return await together(
            self._score_after_cached(context, completion) for completion in completions
        )

    async def _score_after_cached(
        self, context: Tokens, completion: Tokens
    ) -> Float[np.ndarray, "T"] | None:
        wanted = {"prompt_logprobs": 0, "skip_reading_prefix_cache": False}
        try:
            answer = await self._generate(context + completion, wanted)
        except Declined as failure:
            # Log-probs of the cached part are uninitialised; NaN cannot be sent as JSON.
            if failure.status == 500 or NOT_JSON in str(failure):
                return None
            raise
        cached = _cached_tokens(answer)
        if cached is None or cached >= len(context):
            return None
        return completion_logprobs(answer.prompt_logprobs, context, completion, self.connection.url)

    async def _generate(self, tokens: Tokens, more: dict[str, Any]) -> GenerateResponse:
        params = NEUTRAL | {"n": 1, "max_tokens": 1, "temperature": 0.0, "top_p": 1.0, "top_k": 0}
        params |= {"seed": 0, "detokenize": False} | more
        body = {"model": self.model, "token_ids": list(tokens), "sampling_params": params}
        return await self.connection.post(GENERATE, body, GenerateResponse)

    async def _complete(self, body: dict[str, Any]) -> Completions:
        answer = await self.connection.post(COMPLETIONS, self._with_defaults(body), Completions)
        self._check_model(answer)
        return answer

    def _with_defaults(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "stream": False, "add_special_tokens": False} | NEUTRAL | body

    def _check_model(self, answer: Completions) -> None:
        if answer.model != self.model:
            raise EngineError(
                f"{self.connection.url} answered with the model {answer.model} where {self.model} was asked; open it"
                " again"
            )

    def _parse_choice(self, choice: CompletionChoice, logprobs: bool) -> DrawnTokens:
        where = f"{self.connection.url}{COMPLETIONS}"
        if choice.token_ids is None or (logprobs and choice.logprobs is None):
            raise EngineError(
                f"{where} left out token ids or log-probs of what it drew; vLLM sends them from version 0.11 on"
            )
        tokens = tuple(choice.token_ids)
        if choice.logprobs is None:
            return DrawnTokens(tokens, None)
        return DrawnTokens(
            tokens, checked_logprobs(choice.logprobs.token_logprobs, len(tokens), where)
        )


async def probe_vllm(probe: ProbeContext, card: ModelCard) -> ProbeResult:
    """Probe a vLLM server."""
    connection, note = probe.connection, probe.note
    version = (await connection.get("/version", Version)).version
    note(Fact("server", f"vLLM {version}"))
    end_ids = tuple(sorted(probe.tokenizer.vocabulary.eos))
    dialect = VllmDialect(
        connection=connection,
        model=card.id,
        end_ids=end_ids,
        scores_without_drawing=False,
        shares_prefix=False,
    )
    await check_drawing(probe, dialect)
    if probe.options.scorer is not None:
        return _sampling_only(probe, dialect, card, version)
    dialect = await _probe_scoring_without_drawing(probe, dialect)
    await check_scores(probe, dialect)
    trusted = await check_sampler(probe, dialect)
    dialect = await _probe_shared_prefix(probe, dialect, card.max_model_len)
    scoring = (
        f"POST {GENERATE}: the prompt once, then only the responses"
        if dialect.shares_prefix
        else f"POST {COMPLETIONS} with prompt_logprobs: prompt and response every time"
    )
    return ProbeResult(
        dialect=dialect,
        model=card.id,
        scores=True,
        sampler_logprobs=trusted,
        max_context=_max_context(card),
        plan=(DRAWING, f"score: {scoring}"),
        versions={
            "vllm": version,
            "scoring": "shared prefix" if dialect.shares_prefix else "plain",
        },
    )


def _sampling_only(
    probe: ProbeContext, dialect: VllmDialect, card: ModelCard, version: str
) -> ProbeResult:
    """The result for a server that only samples, while another engine scores."""
    return ProbeResult(
        dialect=dialect,
        model=card.id,
        scores=False,
        sampler_logprobs=False,
        max_context=_max_context(card),
        plan=(DRAWING, f"score: by {probe.options.scorer}"),
        versions={"vllm": version},
    )


def _max_context(card: ModelCard) -> int | None:
    """vLLM needs one token of the context for itself: it draws one even when it only scores."""
    return card.max_model_len - 1 if card.max_model_len else None


async def _probe_scoring_without_drawing(probe: ProbeContext, dialect: VllmDialect) -> VllmDialect:
    """Whether the server scores a prompt without drawing a token."""
    context = probe_tokens(probe.tokenizer)
    candidate = replace(dialect, scores_without_drawing=True)
    try:
        await candidate.score(context[:-2], [context[-2:]])
    except Declined:
        probe.note(Fact("max_tokens = 0", "refused", "scoring draws one token in vain"))
        return dialect
    probe.note(Fact("max_tokens = 0", "yes", "scoring draws nothing"))
    return candidate


async def _probe_shared_prefix(
    probe: ProbeContext, dialect: VllmDialect, max_model_len: int | None
) -> VllmDialect:
    """Whether the server can score with the prompt from its cache, and gets the same scores."""
    length = min(PREFIX, (max_model_len or PREFIX + 16) - 16)
    context = probe_tokens(probe.tokenizer, length)
    completions = [context[start : start + 6] for start in (1, 4, 9)]
    try:
        rows = await dialect.score_shared_prefix(context, completions)
    except Declined as failure:
        remedy = "start the server with --enable-scale-out to score faster"
        probe.note(Fact(FROM_CACHE, f"not offered ({failure.status})", remedy))
        return dialect
    except EngineError:
        probe.note(Fact(FROM_CACHE, "wrong rows", "not used"))
        return dialect
    # A single row may be missing by chance: uninitialised values in its cached part may be NaN.
    if all(row is None for row in rows):
        remedy = "start the server with --enable-prompt-tokens-details to score faster"
        probe.note(Fact(FROM_CACHE, "not told what was cached", remedy))
        return dialect
    plain = await dialect.score_plain(context, completions)
    return replace(dialect, shares_prefix=shared_prefix_agrees(probe, rows, plain))


def _cached_tokens(answer: GenerateResponse) -> int | None:
    details = answer.usage.prompt_tokens_details if answer.usage else None
    return details.cached_tokens if details else None


def open_vllm_server(url: str, options: EngineOptions, scorer: Engine | None = None) -> Engine:
    """Open a vLLM server by its URL; an :data:`~preftilt.engines.options.Opener`."""
    return open_server(ServerKind("vllm", probe_vllm), url, options, scorer)
