"""What is compared, a preferred response and dispreferred ones of a user, and what a rule may read of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from typing import Any

from preftilt.api import Realigner
from preftilt.engines.base import Engine
from preftilt.errors import BadInput, PromptTooLong
from preftilt.messages import Message
from preftilt.prompt import PromptSettings, build_query, check_contrast, with_preferences
from preftilt.rivals import Judges
from preftilt.settings import ArmSettings, Settings
from preftilt.types import Completion, Preference, Query, Tokens, View


@dataclass(frozen=True, slots=True)
class Example:
    """What a user asked before, and the response they wanted."""

    question: str
    response: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One preferred response and at least one dispreferred one: as many pairs as there are dispreferred ones.

    user: whose taste it is, one a comparison by default; intervals resample users. group: what the breakdown is by.
    examples: the user's past, oldest first. place: where it was read, for errors.
    """

    id: str
    messages: tuple[Message, ...]
    chosen: str
    rejected: tuple[str, ...] = ()
    user: str = ""
    group: str = "all"
    preferences: tuple[Preference, ...] = ()
    examples: tuple[Example, ...] = ()
    place: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "user", self.user or self.id)

    @property
    def responses(self) -> tuple[str, ...]:
        """All of them, the preferred one first."""
        return (self.chosen, *self.rejected)

    def fingerprint(self, how: Mapping[str, Any]) -> str:
        """A digest of the words, and of ``how`` they are measured."""
        whole = {name: value for name, value in asdict(self).items() if name != "place"}
        text = json.dumps(whole | {"how": dict(how)}, sort_keys=True, ensure_ascii=False)
        return blake2b(text.encode(errors="backslashreplace"), digest_size=12).hexdigest()


def users_of(items: Sequence[Comparison]) -> dict[str, list[int]]:
    """The places of every user's comparisons, users in the order of their first one."""
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(item.user, []).append(place)
    return places


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSetup:
    """How comparisons are read: by which engine and judges, with which prompts and reward models."""

    engine: Engine
    judges: Judges = field(default_factory=Judges)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    arms: ArmSettings = field(default_factory=ArmSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenisedComparison:
    """A comparison as the model reads it.

    question: the prompt without any preference. query: the views with the preferences; None if there are none. arms:
    the views of autoregressive reward models, with their weights. responses: the preferred one first, each closed with
    the end of a turn.
    """

    item: Comparison
    setup: ScoringSetup
    question: Tokens
    query: Query | None
    arms: tuple[View, ...]
    responses: tuple[Completion, ...]

    @property
    def engine(self) -> Engine:
        return self.setup.engine

    @property
    def full(self) -> Tokens:
        """The prompt that answers are drawn from: with the preferences, where there are any."""
        return self.query.prompt if self.query else self.question

    def stated(self) -> Query:
        """The views; raises :class:`~preftilt.errors.BadInput` if no preference is stated."""
        if self.query is None:
            raise BadInput(
                f"{self.item.place}: no preference is stated, and a rule needs one (--preference TEXT); the rules"
                " base, icl, arm and reward-model do without"
            )
        return self.query


def make_context(setup: ScoringSetup, item: Comparison) -> TokenisedComparison:
    """The comparison's prompts and responses.

    Raises :class:`~preftilt.errors.BadInput`, and :class:`~preftilt.errors.PromptTooLong` if a response does not fit.
    """
    realigner = Realigner(setup.engine, Settings(lam=1.0, prompt=setup.prompt))
    try:
        check_contrast(item.preferences, setup.prompt)
        plain = replace(setup.prompt, against=None)
        bare = build_query(setup.engine.tokenizer, item.messages, (), settings=plain)
        query, arms = None, ()
        if item.preferences or setup.prompt.history == "preference":
            query = realigner.prepare(item.messages, item.preferences).query
        if setup.arms.names:
            settings = Settings(lam=1.0, prompt=plain, arms=setup.arms)
            arms = realigner.prepare(item.messages, (), settings=settings).query.views[1:]
        responses = realigner.check_responses(query or bare, item.responses)
        if any(setup.engine.tokenizer.thoughts(response.tokens) for response in responses):
            raise BadInput(
                "a response has thoughts, which are no part of an answer, and accuracy compares answers; take them out,"
                " and turn thinking off"
            )
    except PromptTooLong as failure:
        raise PromptTooLong(f"{item.place}: {failure}") from failure
    except BadInput as failure:
        raise BadInput(f"{item.place}: {failure}") from failure
    return TokenisedComparison(
        item=item,
        setup=setup,
        question=query.views[0].prompt if query and plain == setup.prompt else bare.prompt,
        query=query,
        arms=arms,
        responses=tuple(responses),
    )


def with_examples(
    context: TokenisedComparison, count: int, room: int | None = None
) -> tuple[Query, int]:
    """The views of REAR where a user's last ``count`` examples are the preference, and how many of them are in it.

    They stand before the conversation, oldest first, as exchanges with the assistant, each whole or not at all: the
    oldest are left out until the prompt and ``room`` tokens of a response (None: the longest of the comparison's) fit
    into the context. No preference is stated.
    """
    engine, recent = context.engine, list(context.item.examples[-count:])
    if not recent:
        raise BadInput(f'{context.item.place}: "examples" is missing, and a rule needs it')
    room = room or max(len(response.tokens) for response in context.responses)
    plain = with_preferences(context.item.messages, (), context.setup.prompt)
    head = [message for message in plain[:1] if message.role == "system"]
    while True:
        turns = [
            turn
            for example in recent
            for turn in (Message("user", example.question), Message("assistant", example.response))
        ]
        shown = engine.tokenizer.render([*head, *turns, *plain[len(head) :]])
        if len(shown) + room <= engine.capabilities.max_context:
            views = (View("question", context.question, 0.0), View("full", shown, 1.0))
            return Query(prompt=shown, views=views, lam=1.0, ratios=(1.0,)), len(recent)
        if not recent:
            raise PromptTooLong(
                f"the question and a response of {room} tokens do not fit into the model's context of"
                f" {engine.capabilities.max_context}"
            )
        recent = recent[1:]
