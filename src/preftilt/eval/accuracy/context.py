"""What a rule may read of a comparison: its prompts and its responses, as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from preftilt.api import Realigner
from preftilt.engines.base import Engine
from preftilt.errors import BadInput, PromptTooLong
from preftilt.eval.accuracy.pairs import Comparison, Example
from preftilt.messages import Message
from preftilt.prompt import (
    PromptSettings,
    build_question,
    check_contrast,
    thoughts_in,
    with_preferences,
)
from preftilt.readers import ArmSettings
from preftilt.rivals import Judges
from preftilt.settings import Settings
from preftilt.types import Completion, Query, Tokens, View


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
        bare = build_question(setup.engine.tokenizer, item.messages, plain)
        query, arms = None, ()
        if item.preferences or setup.prompt.history == "preference":
            query = realigner.prepare(item.messages, item.preferences).query
        if setup.arms.names:
            settings = Settings(lam=1.0, prompt=plain, arms=setup.arms)
            arms = realigner.prepare(item.messages, (), settings=settings).query.views[1:]
        responses = realigner.check_responses(query or bare, item.responses)
        if any(thoughts_in(setup.engine.tokenizer, response.tokens) for response in responses):
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

    ``room`` is left for a response; None is for the longest of the comparison's.
    """
    if not context.item.examples:
        raise BadInput(f'{context.item.place}: "examples" is missing, and a rule needs it')
    shown = in_context(
        context.engine,
        context.item.messages,
        context.item.examples,
        count,
        room or max(len(response.tokens) for response in context.responses),
        context.setup.prompt,
    )
    return examples_query(context.question, shown.prompt, 1.0), shown.used


def examples_query(question: Tokens, shown: Tokens, lam: float) -> Query:
    """A query whose preference is what ``shown`` has beside ``question``."""
    views = (View("question", question, 1 - lam), View("full", shown, lam))
    return Query(prompt=shown, views=views, lam=lam, ratios=(1.0,))


@dataclass(frozen=True, slots=True)
class ExamplesPrompt:
    """A prompt with a user's examples; ``used`` of them are in it."""

    prompt: Tokens
    used: int


def in_context(
    engine: Engine,
    messages: Sequence[Message],
    examples: Sequence[Example],
    count: int,
    room: int,
    prompt: PromptSettings,
) -> ExamplesPrompt:
    """The conversation behind the user's last ``count`` examples, oldest first, as exchanges with the assistant.

    An example stands in it whole or not at all: the oldest are left out until prompt and ``room`` tokens of a response
    fit into the context. No preference is stated.
    """
    recent = list(examples[-count:]) if count else []
    plain = with_preferences(messages, (), prompt)
    head = [message for message in plain[:1] if message.role == "system"]
    while True:
        turns = [
            turn
            for example in recent
            for turn in (Message("user", example.question), Message("assistant", example.response))
        ]
        tokens = engine.tokenizer.render([*head, *turns, *plain[len(head) :]])
        if len(tokens) + room <= engine.capabilities.max_context:
            return ExamplesPrompt(tokens, len(recent))
        if not recent:
            raise PromptTooLong(
                f"the question and a response of {room} tokens do not fit into the model's context of"
                f" {engine.capabilities.max_context}"
            )
        recent = recent[1:]
