"""Opens a server by chat completions, because it has no others, or none that can be used.

Some servers (Ollama) apply their chat template to prompts at ``/v1/completions``, too. Rendered prompts would get two
templates; so the conversation is sent instead.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from preftilt.engines.base import Capabilities, Engine
from preftilt.engines.facts import Fact, ServerRefused
from preftilt.engines.http.chat import CHAT, ChatEndpoint, ChatSampler
from preftilt.engines.http.connection import Connection, Declined
from preftilt.engines.http.engine import ServerEngineInfo
from preftilt.engines.http.open_server import HONOURED, chosen_model, close_nothing, connected
from preftilt.engines.http.remembering import RememberingTokenizer
from preftilt.engines.http.responses import Completions
from preftilt.engines.loop import LoopThread
from preftilt.engines.options import EngineOptions, refuse_others
from preftilt.engines.scored_by import ScoredBy, open_scorer
from preftilt.errors import BadInput
from preftilt.prompt import opens_thoughts

COMPLETIONS = "/v1/completions"
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


def open_chat_server(url: str, options: EngineOptions, why: Fact) -> ScoredBy:
    """Open a server by chat completions, because of ``why``, together with the engine that scores."""
    if options.scorer is None:
        can = "only chats" if why.answer == "no" else "applies its chat template to every prompt"
        raise ServerRefused(
            f"{url} {can}, so it can draw but not score; name a second engine that scores (--scorer SPEC; demo, a"
            " hub id, vllm+http://…)",
            (why,),
        )
    _check_options(url, options, why)
    scorer = open_scorer(options.scorer, options)
    try:
        return open_chat_sampler(url, options, scorer, why)
    except BaseException:
        scorer.close()
        raise


def open_chat_sampler(url: str, options: EngineOptions, scorer: Engine, why: Fact) -> ScoredBy:
    """Open a server by chat completions, because of ``why``.

    Its answers are scored by ``scorer``, which stays open if this fails.
    """
    _check_options(url, options, why)
    if opens_thoughts(scorer.tokenizer):
        raise BadInput(
            f"{scorer.name} scores what comes after thoughts, and a server that is asked by chat sends none of them;"
            " turn thinking off, or take a scorer that does not think"
        )
    return ScoredBy(_open(url, options, scorer, why), scorer)


def _check_options(url: str, options: EngineOptions, why: Fact) -> None:
    honoured = HONOURED - {"sampler_logprobs"}
    if why.answer == "no":
        honoured -= {"tokenizer"}
    label = f"openai+{urlsplit(url).scheme}"
    refuse_others(options, label, honoured, reason="the server only chats; the scorer's is used")


def _open(url: str, options: EngineOptions, scorer: Engine, why: Fact) -> ChatSampler:
    loop = LoopThread()
    facts = [why]
    connection: Connection | None = None
    try:
        connection = loop.run(lambda: connected(url, options))
        card = loop.run(lambda: chosen_model(connection, options.served_model))
        facts.append(Fact("model", card.id))
        endpoint = ChatEndpoint(connection, card.id)
        many = loop.run(lambda: _probe_many(endpoint, facts))
    except BaseException:
        loop.close(connection.close if connection is not None else close_nothing)
        raise
    scorer_capabilities = scorer.capabilities
    limits = (card.max_model_len, options.max_context, scorer_capabilities.max_context)
    context = min(limit for limit in limits if limit is not None)
    facts.append(Fact("context", f"{context:,} tokens"))
    plan = f"draw: POST {CHAT}, {'n answers a question' if many else 'one question an answer'}"
    info = ServerEngineInfo(
        name=f"openai+{connection.url}",
        model=card.id,
        facts=tuple(facts),
        plan=(plan, f"score: {scorer.name}"),
        versions={},
    )
    capabilities = Capabilities(
        max_context=context,
        eos=scorer_capabilities.eos,
        turn_end=scorer_capabilities.turn_end,
        sampler_logprobs=False,
        keyed_streams=False,
        images=scorer_capabilities.images,
    )
    tokenizer = scorer.tokenizer
    if not isinstance(tokenizer, RememberingTokenizer):
        tokenizer = RememberingTokenizer(tokenizer)
    return ChatSampler(info, loop, endpoint, tokenizer, capabilities, many=many)


async def _probe_many(endpoint: ChatEndpoint, facts: list[Fact]) -> bool:
    """Whether one request returns n answers; also finds refused fields and the model's alias."""
    body = QUESTION | {"max_tokens": 16, "temperature": 1.0, "top_p": 1.0, "seed": 5}
    many = False
    try:
        await endpoint.ask(body)
        choices = await endpoint.ask(body | {"n": 3})
        texts = [choice.message.content for choice in choices if choice.message.content]
        # A reasoning model may not reach its answer within so few tokens.
        many = len(choices) == 3 and (not texts or len(set(texts)) > 1)
    except Declined as failure:
        if failure.status in (401, 403, 404):
            raise
    facts += [*endpoint.alias.facts(endpoint.model), *endpoint.refusals.facts]
    meaning = "prompts are sent once" if many else "one question an answer"
    facts.append(Fact("n answers in one question", "yes" if many else "no", meaning))
    return many
