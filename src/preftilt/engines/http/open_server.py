"""Opens a server: connects, finds its model and tokenizer, probes it, and builds the engine."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from urllib.parse import urlsplit

from preftilt.engines.base import Capabilities, Engine, EngineInfo, Fact, ServerRefused
from preftilt.engines.http.connection import Connection, connect
from preftilt.engines.http.dialect import Probe, ProbeContext, ProbeResult, probe_tokens
from preftilt.engines.http.engine import Canary, ServerEngine
from preftilt.engines.http.responses import ModelCard, ModelList
from preftilt.engines.options import CHAT_OPTIONS, EngineOptions, refuse_others
from preftilt.engines.scored_by import ScoredBy, open_scorer, scored_by
from preftilt.engines.tokenizer import ModelTokenizer, open_tokenizer
from preftilt.engines.waiting import LoopThread
from preftilt.errors import BadInput, UnknownModel

HONOURED = CHAT_OPTIONS | {
    "tokenizer",
    "served_model",
    "api_key_env",
    "timeout",
    "max_connections",
    "max_context",
    "sampler_logprobs",
    "scorer",
}

CANARY = 8
"""Tokens whose log-probs tell whether the server still holds the same weights."""


@dataclass(frozen=True, slots=True)
class ServerKind:
    """A kind of server: the part of its scheme before ``+``, and its probe."""

    scheme: str
    probe: Probe


def open_server(
    kind: ServerKind, url: str, options: EngineOptions, scorer: Engine | None = None
) -> ServerEngine | ScoredBy:
    """Open the server at ``url``; with ``options.scorer``, an engine that samples there and scores elsewhere.

    ``scorer``: the one that scores, if it is open; it stays open if this fails. Raises :class:`ServerRefused`, with a
    remedy, for a server that lacks a needed ability, and :class:`~preftilt.errors.EngineError` for one that does not
    answer.
    """
    _check_options(kind, url, options)
    if options.scorer is None:
        return _open(kind, url, options, needs_scores=True)
    with ExitStack() as opened:
        engine = _open(kind, url, options, needs_scores=False)
        opened.callback(engine.close)
        if scorer is None:
            scorer = open_scorer(options.scorer, options)
            opened.callback(scorer.close)
        engine = scored_by(engine, scorer)
        opened.pop_all()
        return engine


def _check_options(kind: ServerKind, url: str, options: EngineOptions) -> None:
    label = f"{kind.scheme}+{urlsplit(url).scheme}"
    refuse_others(options, label, HONOURED, reason="the server decided about them when it started")


def _open(
    kind: ServerKind, url: str, options: EngineOptions, *, needs_scores: bool
) -> ServerEngine:
    loop = LoopThread()
    connection: Connection | None = None
    facts: list[Fact] = []
    try:
        connection = loop.run(lambda: connected(url, options))
        card = loop.run(lambda: chosen_model(connection, options.served_model))
        facts.append(Fact("model", card.id))
        tokenizer = find_tokenizer(card, options)
        facts.append(Fact("tokenizer", tokenizer.raw.name_or_path))
        probe = ProbeContext(
            connection=connection, options=options, tokenizer=tokenizer, note=facts.append
        )
        result = loop.run(lambda: kind.probe(probe, card))
        if needs_scores and not result.scores:
            raise BadInput(
                f"{connection.url} can draw but not score; name a second engine that scores (--scorer SPEC, a model"
                " with the same tokenizer)"
            )
        canary = loop.run(lambda: _canary(result, tokenizer))
        context = _context(result, tokenizer, options, connection.url)
        facts.append(Fact("context", f"{context:,} tokens"))
        return _engine(kind, loop, connection, tokenizer, result, canary, context, tuple(facts))
    except BaseException as failure:
        loop.close(connection.close if connection is not None else close_nothing)
        if type(failure) is BadInput:  # Not its subclasses, which are more specific.
            raise ServerRefused(str(failure), tuple(facts)) from failure
        raise


def _engine(
    kind: ServerKind,
    loop: LoopThread,
    connection: Connection,
    tokenizer: ModelTokenizer,
    result: ProbeResult,
    canary: Canary | None,
    context: int,
    facts: tuple[Fact, ...],
) -> ServerEngine:
    capabilities = Capabilities(
        max_context=context,
        eos=tokenizer.vocabulary.eos,
        turn_end=tokenizer.turn_end,
        sampler_logprobs=result.sampler_logprobs,
        keyed_streams=False,
    )
    info = EngineInfo(
        name=f"{kind.scheme}+{connection.url}",
        model=result.model,
        capabilities=capabilities,
        tokenizer=tokenizer.chat,
        versions=result.versions,
        facts=facts,
        plan=result.plan,
    )
    return ServerEngine(info, loop, connection, result.dialect, tokenizer.vocabulary, canary)


async def connected(url: str, options: EngineOptions) -> Connection:
    return connect(
        url,
        key_variable=options.api_key_env,
        timeout=options.timeout,
        max_connections=options.max_connections,
    )


async def close_nothing() -> None:
    """Close nothing: there is no connection yet."""


async def chosen_model(connection: Connection, wanted: str | None) -> ModelCard:
    """The requested model, or the only one."""
    cards = (await connection.get("/v1/models", ModelList)).data
    names = ", ".join(card.id for card in cards) or "none"
    if wanted is not None:
        matching = [card for card in cards if card.id == wanted]
        if not matching:
            raise UnknownModel(f"{connection.url} does not serve {wanted}; it serves: {names}")
        return matching[0]
    # Adapters are listed beside their base model.
    models = [card for card in cards if card.parent is None] or cards
    if len(models) != 1:
        raise BadInput(f"{connection.url} serves {names}; name one of them (--served-model ID)")
    return models[0]


def find_tokenizer(card: ModelCard, options: EngineOptions) -> ModelTokenizer:
    """The tokenizer that the user names, or that of the model that the server names."""
    if options.tokenizer is not None:
        return open_tokenizer(options.tokenizer, options)
    for name in dict.fromkeys(name for name in (card.root, card.parent, card.id) if name):
        try:
            return open_tokenizer(name, options)
        except UnknownModel:
            continue
    raise BadInput(
        f"the tokenizer of {json.dumps(card.id)} cannot be found by its name; give its folder or hub id (--tokenizer)"
    )


async def _canary(result: ProbeResult, tokenizer: ModelTokenizer) -> Canary | None:
    if not result.scores:
        return None
    tokens = probe_tokens(tokenizer)
    context, completion = tokens[:-CANARY], tokens[-CANARY:]
    [row] = await result.dialect.score(context, [completion])
    return Canary(context, completion, row)


def _context(
    result: ProbeResult, tokenizer: ModelTokenizer, options: EngineOptions, url: str
) -> int:
    """Maximum context: the smaller of the server's and the user's, or else that of the model's files."""
    limits = [limit for limit in (result.max_context, options.max_context) if limit is not None]
    if limits:
        return min(limits)
    if tokenizer.context is None:
        raise BadInput(f"{url} does not say how long its context is; give it (--max-context N)")
    return tokenizer.context
