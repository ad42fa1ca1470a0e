"""The dialect of SGLang's server: its own ``/generate``, token ids in and out.

SGLang keeps prompts in a radix cache, token by token, and computes log-probs from any position of a prompt on
(``logprob_start_len``). So a response is scored with its prompt from the cache. Log-probs of sampling are those after
temperature scaling, unless the server was started with ``SGLANG_RETURN_ORIGINAL_LOGPROB=1``: the probe measures which,
and if they are scaled, every response is scored.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, RootModel

from preftilt.engines.base import Engine
from preftilt.engines.http.connection import Connection, Declined, shortened
from preftilt.engines.http.dialect import (
    DrawnChunk,
    DrawnTokens,
    DrawRequest,
    Fact,
    ProbeContext,
    ProbeResult,
    checked_logprobs,
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
from preftilt.engines.http.responses import ModelCard, TokenId
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput, EngineError
from preftilt.types import Tokens

GENERATE = "/generate"
RAW_FLAG = "SGLANG_RETURN_ORIGINAL_LOGPROB=1"

PREFIX = 100
"""Tokens of the probe's prompt for prefix sharing."""

CLIPPED = 0
"""The id by which SGLang (0.5.23) replaces the vocabulary's last id in a prompt's log-probs, as an image's."""

NEUTRAL: dict[str, Any] = {
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_new_tokens": 0,
    "skip_special_tokens": False,
}
"""Sent in every request, so that no default of the server or of the model's files changes the distribution."""

Entry = tuple[float | None, TokenId, str | None]
"""Log-prob, token id and, if requested, the token's text."""


class MetaInfo(BaseModel):
    """``meta_info`` of ``/generate``."""

    cached_tokens: int | None = None
    completion_tokens: int = 0
    finish_reason: Any = None
    input_token_logprobs: list[Entry] | None = None
    output_token_logprobs: list[Entry] | None = None


class Generated(BaseModel):
    """One answer of ``/generate``, or an event of a stream: response ``index`` so far.

    A server with ``--incremental-streaming-output`` sends only what is new; ``completion_tokens`` counts all tokens.
    """

    output_ids: list[TokenId]
    meta_info: MetaInfo
    index: int = 0


class Answers(RootModel[list[Generated]]):
    """The answer of ``/generate`` to several prompts, or with several responses to one."""


class ServerInfo(BaseModel):
    """``GET /server_info``: the fields that are used."""

    version: str
    max_req_input_len: int | None = None
    enable_deterministic_inference: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SglangDialect:
    """The dialect of an SGLang server.

    end_ids: ids that end a response. seeded: the server honours seeds, so equal requests get equal answers.
    shares_prefix: scores may use its prefix cache.
    """

    connection: Connection
    model: str
    end_ids: tuple[int, ...]
    seeded: bool
    shares_prefix: bool

    async def draw(self, request: DrawRequest) -> list[DrawnTokens]:
        answers = await self._generate(self._payload(request), logprobs=request.logprobs)
        return [self._parse_output(answer, request.logprobs) for answer in answers]

    async def stream(self, request: DrawRequest) -> AsyncGenerator[DrawnChunk, None]:
        payload = self._with_defaults(self._payload(request), logprobs=request.logprobs) | {
            "stream": True
        }
        async with aclosing(self.connection.events(GENERATE, payload, Generated)) as events:
            async for event in events:
                ended = self._has_ended(event)
                # Before the end, the lists may be ahead of the counts: SGLang writes them while it generates.
                start = max(0, event.meta_info.completion_tokens - len(event.output_ids))
                event_so_far = event if ended else _up_to_logprobs(event, request.logprobs)
                yield DrawnChunk(
                    event.index, start, self._parse_output(event_so_far, request.logprobs), ended
                )

    def _has_ended(self, event: Generated) -> bool:
        """Whether the response has ended; raises :class:`~preftilt.errors.EngineError` if the server aborted it."""
        reason = event.meta_info.finish_reason
        if isinstance(reason, dict) and reason.get("type") == "abort":
            said = shortened(str(reason.get("message", "no reason given")))
            raise EngineError(f"{self.connection.url}{GENERATE} gave up a response: {said}")
        return reason is not None

    def _payload(self, request: DrawRequest) -> dict[str, Any]:
        """One prompt with ``n``; with seeds, which would make all n equal, n prompts with a seed each."""
        sampling = request.sampling
        params = NEUTRAL | {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "max_new_tokens": request.max_tokens,
            "stop": [request.stop] if request.stop else None,
            "no_stop_trim": True,
            "stop_token_ids": list(self.end_ids),
            "ignore_eos": True,
        }
        if self.seeded:
            prompts = [list(request.context)] * request.n
            each = [params | {"n": 1, "sampling_seed": request.seed + i} for i in range(request.n)]
        else:
            prompts, each = [list(request.context)], [params | {"n": request.n}]
        return {"input_ids": prompts, "sampling_params": each, "logprob_start_len": -1}

    async def score(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> list[Float[np.ndarray, "T"]]:
        if self.shares_prefix:
            return await self.score_shared_prefix(context, completions)
        return await self.score_plain(context, completions)

    async def score_plain(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> list[Float[np.ndarray, "T"]]:
        """All prompts in one request; each is computed from its first token on."""
        return await self._score(context, completions, 0)

    async def score_shared_prefix(
        self, context: Tokens, completions: Sequence[Tokens]
    ) -> list[Float[np.ndarray, "T"]]:
        """One request that caches the context, if several share it, and one for all completions."""
        if len(completions) > 1:
            await self._generate(
                {
                    "input_ids": [list(context)],
                    "sampling_params": [_scoring_params()],
                    "logprob_start_len": -1,
                }
            )
        return await self._score(context, completions, len(context) - 1)

    async def _score(
        self, context: Tokens, completions: Sequence[Tokens], start: int
    ) -> list[Float[np.ndarray, "T"]]:
        answers = await self._generate(
            {
                "input_ids": [list(context + completion) for completion in completions],
                "sampling_params": [_scoring_params()] * len(completions),
                "logprob_start_len": start,
            }
        )
        if len(answers) != len(completions):
            raise EngineError(
                f"{self.connection.url} sent {len(answers)} answers for {len(completions)} prompts"
            )
        return [
            self._completion_logprobs(
                answer.meta_info.input_token_logprobs,
                (context + completion)[start:],
                len(completion),
            )
            for answer, completion in zip(answers, completions, strict=True)
        ]

    def _completion_logprobs(
        self, entries: list[Entry] | None, tokens: Tokens, count: int
    ) -> Float[np.ndarray, "T"]:
        """The last ``count`` log-probs of ``entries``, which must be of ``tokens``."""
        where = f"{self.connection.url}{GENERATE}"
        if entries is None or not _same_tokens([token for _, token, _ in entries], tokens):
            raise EngineError(
                f"{where} did not send the log-probs of the tokens that it was asked about; use another version of"
                " SGLang"
            )
        return checked_logprobs([logprob for logprob, _, _ in entries[-count:]], count, where)

    def _parse_output(self, answer: Generated, logprobs: bool) -> DrawnTokens:
        where = f"{self.connection.url}{GENERATE}"
        tokens = tuple(answer.output_ids)
        if not logprobs:
            return DrawnTokens(tokens, None)
        entries = answer.meta_info.output_token_logprobs
        if entries is None or tuple(token for _, token, _ in entries) != tokens:
            raise EngineError(
                f"{where} sent other log-probs than those of the tokens it drew; use another version of SGLang"
            )
        return DrawnTokens(
            tokens, checked_logprobs([logprob for logprob, _, _ in entries], len(tokens), where)
        )

    async def _generate(self, body: dict[str, Any], *, logprobs: bool = True) -> list[Generated]:
        payload = self._with_defaults(body, logprobs=logprobs)
        return (await self.connection.post(GENERATE, payload, Answers)).root

    def _with_defaults(self, body: dict[str, Any], *, logprobs: bool) -> dict[str, Any]:
        """The body with the fields of every request; prompts are always a list, so answers are one, too."""
        return body | {"stream": False, "return_logprob": logprobs, "top_logprobs_num": 0}


async def probe_sglang(probe: ProbeContext, card: ModelCard) -> ProbeResult:
    """Probe an SGLang server."""
    if card.parent is not None:
        raise BadInput(
            f"{card.id} is an adapter of {card.parent}, which preftilt cannot ask an SGLang server for; serve the two"
            " merged, or by vLLM"
        )
    info = await probe.connection.get("/server_info", ServerInfo)
    probe.note(Fact("server", f"SGLang {info.version}"))
    dialect = SglangDialect(
        connection=probe.connection,
        model=card.id,
        end_ids=tuple(sorted(probe.tokenizer.vocabulary.eos)),
        seeded=info.enable_deterministic_inference,
        shares_prefix=False,
    )
    await check_drawing(probe, dialect)
    probe.note(
        Fact("seeds", "kept", "draws can be had again")
        if dialect.seeded
        else Fact("seeds", "not kept", "--enable-deterministic-inference would keep them")
    )
    await check_scores(probe, dialect)
    trusted = await check_sampler(probe, dialect)
    dialect = await _probe_shared_prefix(probe, dialect)
    many = "one prompt a response" if dialect.seeded else "n responses a prompt"
    scoring = (
        "the prompt once, then only the responses"
        if dialect.shares_prefix
        else "prompt and response every time"
    )
    rescored = (
        "" if trusted else f", also under the prompt they were drawn from ({RAW_FLAG} saves it)"
    )
    return ProbeResult(
        dialect=dialect,
        model=card.id,
        scores=True,
        sampler_logprobs=trusted,
        max_context=_max_context(info, card),
        plan=(
            f"draw: POST {GENERATE}, token ids, {many}",
            f"score: POST {GENERATE} with logprob_start_len: {scoring}{rescored}",
        ),
        versions={
            "sglang": info.version,
            "scoring": "shared prefix" if dialect.shares_prefix else "plain",
        },
    )


async def _probe_shared_prefix(probe: ProbeContext, dialect: SglangDialect) -> SglangDialect:
    """Whether the server can score with the prompt from its cache, and gets the same scores."""
    context = probe_tokens(probe.tokenizer, PREFIX)
    completions = [context[start : start + 6] for start in (1, 4, 9)]
    try:
        shared = await dialect.score_shared_prefix(context, completions)
    except Declined as failure:
        probe.note(Fact(FROM_CACHE, f"not offered ({failure.status})", "prompts are read again"))
        return dialect
    plain = await dialect.score_plain(context, completions)
    return replace(dialect, shares_prefix=shared_prefix_agrees(probe, shared, plain))


def _up_to_logprobs(event: Generated, logprobs: bool) -> Generated:
    """The event, cut to the tokens that have log-probs."""
    if not logprobs:
        return event
    entries = event.meta_info.output_token_logprobs or []
    length = min(len(entries), len(event.output_ids))
    meta = event.meta_info.model_copy(update={"output_token_logprobs": entries[:length]})
    return Generated(output_ids=event.output_ids[:length], meta_info=meta, index=event.index)


def _same_tokens(sent_tokens: Sequence[int], tokens: Tokens) -> bool:
    """Whether ``sent_tokens`` are ``tokens``, except for clipped ids."""
    same = (sent in (token, CLIPPED) for sent, token in zip(sent_tokens, tokens, strict=False))
    return len(sent_tokens) == len(tokens) and all(same)


def _scoring_params() -> dict[str, Any]:
    """Sampling parameters of a request that draws nothing."""
    return NEUTRAL | {"n": 1, "max_new_tokens": 0, "temperature": 0.0, "top_p": 1.0, "top_k": -1}


def _max_context(info: ServerInfo, card: ModelCard) -> int | None:
    """SGLang accepts inputs shorter than ``max_req_input_len``; a scored response is input."""
    if info.max_req_input_len is not None:
        return info.max_req_input_len - 1
    return card.max_model_len - 1 if card.max_model_len else None


def open_sglang_server(url: str, options: EngineOptions, scorer: Engine | None = None) -> Engine:
    """Open an SGLang server by its URL; an :data:`~preftilt.engines.options.Opener`."""
    return open_server(ServerKind("sglang", probe_sglang), url, options, scorer)
