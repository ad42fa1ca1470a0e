"""A request is prepared once: everything decided and checked, its prompts made, before the first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from preftilt.engines.base import Engine, SampleRequest
from preftilt.errors import BadInput, PromptTooLong
from preftilt.guided import TrajectoryReward
from preftilt.messages import Message, check_encodable, image_cache
from preftilt.prompt import REASONING_TAGS, build_query, check_unended
from preftilt.rivals import Judges, check_method
from preftilt.rivals.methods import for_reward_model
from preftilt.run.guiding import GENERATION, check_guided
from preftilt.search import ARGS, ArmGuided, Greedy
from preftilt.settings import Settings, resolve, settled, with_arms
from preftilt.types import Completion, Preference, Query, Sampling, Stream, Tokens

DEFAULT_MAX_TOKENS = 512
LONG_CHARACTERS = 4_000
"""Requests with more text than that are prepared beside the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request that passed every check, with its prompts: all that answering it takes besides an engine.

    settings: with everything decided. max_tokens: its token budget for a response. prefix: the tokens that every
    response begins with.
    """

    messages: tuple[Message, ...]
    preferences: tuple[Preference, ...]
    settings: Settings
    query: Query
    max_tokens: int
    trajectory: TrajectoryReward | None = None
    prefix: Tokens = ()


def is_long(messages: Sequence[Message], preferences: Sequence[Preference]) -> bool:
    """Whether making a request's prompts takes so long that an event loop should not wait for it."""
    characters = sum(len(message.content) for message in messages)
    characters += sum(len(preference.text) for preference in preferences)
    return characters > LONG_CHARACTERS or any(message.images for message in messages)


def prepare(
    engine: Engine,
    judges: Judges,
    messages: Sequence[Message],
    preferences: Sequence[Preference],
    settings: Settings,
    prefix: Tokens = (),
) -> Prepared:
    """Check a request and make its prompts; nothing is drawn. ``prefix``: what every response begins with.

    Raises :class:`~preftilt.errors.BadInput` for everything that can be refused before the first token, with what to
    do about it.
    """
    able, prompt = engine.capabilities, settings.prompt
    prefers = bool(preferences or settings.arms.names or prompt.history == "preference")
    settings = settled(settings, able.guides, prefers=prefers)
    reads = resolve(settings.arms, able.arms, engine.name)
    if isinstance(settings.search, ArmGuided) and not reads:
        raise BadInput(
            "the search 'arm' draws with reward models, and none is named: name one with --arm NAME=FOLDER (in a"
            ' request "arm": NAME; in the library Settings(arms=ArmSettings(names=(NAME,))))'
        )
    with image_cache():
        query = build_query(
            engine.tokenizer, messages, preferences, lam=settings.strength, settings=prompt
        )
    query = with_arms(query, reads)
    check_method(settings.method, messages, preferences, settings.strength, prompt, engine, judges)
    trajectory = None
    if isinstance(settings.search, ARGS) and judges.reward_model is not None:
        from preftilt.rivals.reward_models import trajectory_reward

        read = for_reward_model(messages, preferences, prompt, "system")
        judges.reward_model.check(read)
        trajectory = trajectory_reward(judges.reward_model, read, engine.tokenizer)
    check_guided(engine, settings.search, query, trajectory)
    max_tokens = fit_max_tokens(query, able.max_context, settings.max_tokens)
    _check_prefix(prefix, able.eos, max_tokens)
    return Prepared(
        messages=tuple(messages),
        preferences=tuple(preferences),
        settings=settings,
        query=query,
        max_tokens=max_tokens,
        trajectory=trajectory,
        prefix=prefix,
    )


def _check_prefix(prefix: Tokens, eos: frozenset[int], max_tokens: int) -> None:
    if eos.intersection(prefix):
        raise BadInput(
            "the prefix has an end-of-turn token, behind which nothing is drawn: give the tokens before it"
        )
    if prefix and len(prefix) >= max_tokens:
        raise BadInput(
            f"the prefix has {len(prefix)} tokens, and an answer may have {max_tokens} in all: raise max_tokens, or"
            " give fewer"
        )


def fit_max_tokens(query: Query, max_context: int, max_tokens: int | None) -> int:
    """The response's token budget; refuses what does not fit into the context, naming the view and the excess."""
    prompts = {view.name: view.prompt for view in query.views} | {GENERATION: query.prompt}
    name, prompt = max(prompts.items(), key=lambda named: len(named[1]))
    room = max_context - len(prompt)
    if room < 1:
        raise PromptTooLong(
            f"the {name} prompt has {len(prompt)} tokens, {1 - room} too many for the model's context "
            f"of {max_context}: shorten the question, the preference or the history"
        )
    if max_tokens is None:
        return min(DEFAULT_MAX_TOKENS, room)
    if max_tokens < 1:
        raise BadInput(f"max_tokens must be at least 1, not {max_tokens}")
    if max_tokens > room:
        raise PromptTooLong(
            f"the {name} prompt has {len(prompt)} tokens; with max_tokens {max_tokens} that is {max_tokens - room} "
            f"more than the model's context of {max_context}: lower max_tokens to {room} or shorten the prompt"
        )
    return max_tokens


def given_completions(engine: Engine, query: Query, responses: Sequence[str]) -> list[Completion]:
    """Given responses as the model would have drawn them: closed with one end of turn, and none before.

    Raises :class:`~preftilt.errors.BadInput` if there are none or one is empty, and
    :class:`~preftilt.errors.PromptTooLong` if one does not fit behind the longest prompt of ``query``.
    """
    if not responses or not all(text.strip() for text in responses):
        raise BadInput("there must be at least one response, and none may be empty")
    return [
        _given_completion(engine, query, number, text)
        for number, text in enumerate(responses, start=1)
    ]


def _given_completion(engine: Engine, query: Query, number: int, text: str) -> Completion:
    able = engine.capabilities
    try:
        check_encodable(text, "its text")
        check_unended(text, engine.tokenizer, able.eos)
        tokens = engine.tokenizer.encode_response(text)
    except BadInput as failure:
        raise BadInput(f"response {number}: {failure}") from failure
    if tokens and tokens[-1] in able.eos:
        tokens = tokens[:-1]
    if able.eos.intersection(tokens):
        raise BadInput(f"response {number} has an end-of-turn token before its end; take it out")
    if tokens and engine.tokenizer.thoughts(tokens) == len(tokens):
        raise BadInput(
            f"response {number} has thoughts and no answer: {REASONING_TAGS[1]} is missing, which ends what the"
            f" prompt or the response begins with {REASONING_TAGS[0]}; give the answer, too, or turn thinking off"
        )
    over = max(len(view.prompt) for view in query.views) + len(tokens) + 1 - able.max_context
    if over > 0:
        raise PromptTooLong(
            f"response {number} has {len(tokens) + 1} tokens; with the prompt that is {over} more than the model's"
            f" context of {able.max_context}: shorten one of them"
        )
    return Completion((*tokens, able.turn_end), np.zeros(len(tokens) + 1), "eos")


async def plain_completion(
    engine: Engine, query: Query, settings: Settings, item: str = ""
) -> tuple[Completion, int]:
    """The model's answer as it is, and its token budget: one draw by the settings' sampling.

    Of the search only counts whether it is greedy; λ and the method have no say.
    """
    greedy = isinstance(settings.search, Greedy)
    request = SampleRequest(
        prompt=query.prompt,
        slots=(0,),
        stream=Stream(settings.seed, item),
        sampling=Sampling(temperature=0.0) if greedy else settings.sampling,
        max_tokens=fit_max_tokens(query, engine.capabilities.max_context, settings.max_tokens),
    )
    [[drawn]] = await engine.sample([request])
    return drawn, request.max_tokens
