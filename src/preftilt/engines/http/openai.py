"""Probes and opens servers with OpenAI's completions API, or with chat completions alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from preftilt.engines.base import Engine
from preftilt.engines.facts import Fact, ServerRefused
from preftilt.engines.http.completions import (
    COMPLETIONS,
    IDS_OUT,
    SCORING_MODES,
    OpenAiDialect,
    ids_of,
)
from preftilt.engines.http.connection import Declined
from preftilt.engines.http.dialect import DrawRequest, ProbeContext, ProbeResult
from preftilt.engines.http.logprob_checks import HIGH_TEMPERATURE, check_sampler, check_scores
from preftilt.engines.http.open_chat_server import (
    applies_template,
    open_chat_sampler,
    open_chat_server,
    why_chat,
)
from preftilt.engines.http.open_server import ServerKind, open_sampler, open_server
from preftilt.engines.http.responses import ModelCard
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput, EngineError
from preftilt.types import Sampling

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


def open_openai_server(url: str, options: EngineOptions) -> Engine:
    """Open a server by its URL; an :data:`~preftilt.engines.options.Opener`."""
    if (why := why_chat(url, options)) is not None:
        return open_chat_server(url, options, why)
    try:
        return open_server(ServerKind("openai", probe_openai), url, options)
    except ServerRefused as refused:
        why = _other_token_count(refused)
        if why is None or options.scorer is None:
            raise
        return open_chat_server(url, options, why)


def open_openai_sampler(url: str, options: EngineOptions, scorer: Engine) -> Engine:
    """Open a server that only samples, by completions or chat; ``scorer``, which is open, scores."""
    if (why := why_chat(url, options)) is not None:
        return open_chat_sampler(url, options, scorer, why)
    try:
        return open_sampler(ServerKind("openai", probe_openai), url, options, scorer)
    except ServerRefused as refused:
        if (why := _other_token_count(refused)) is None:
            raise
        return open_chat_sampler(url, options, scorer, why)


def _other_token_count(refused: ServerRefused) -> Fact | None:
    """The reason to use chat completions: the server counts other tokens of a text than the tokenizer here."""
    counts = [fact.answer for fact in refused.facts if fact.question == TOKENIZER_MATCHES]
    return applies_template(counts[-1]) if counts else None
