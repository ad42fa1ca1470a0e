"""From an item to what is asked: the question with its additions, the history, the inserted turns, the two views."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, get_args

from preftilt.errors import BadInput
from preftilt.eval.harness.prompt_files import load_template
from preftilt.eval.harness.request import BenchmarkRequest
from preftilt.eval.prefeval.data import PrefEvalItem
from preftilt.eval.prefeval.protocol import ChoiceStyle, Counting, PrefEvalRules
from preftilt.messages import Message
from preftilt.prompt import PromptSettings
from preftilt.types import Preference

Prompting = Literal["zero-shot", "reminder", "cot", "self-critic"]
"""The benchmark's prompting baselines: nothing more, a reminder behind the question, worked examples before it, or an
answer that is criticised and written again."""

PROMPTINGS: tuple[Prompting, ...] = get_args(Prompting)

PACKAGE = "preftilt.eval.prefeval"


@dataclass(frozen=True, slots=True)
class ShownOptions:
    """The options of one question in the order shown; ``fitting`` is the letter of the one that fits."""

    shown: tuple[str, ...]
    fitting: str

    def lines(self) -> str:
        """One lettered line an option."""
        return "\n".join(
            f"{letter}. {option}"
            for letter, option in zip(string.ascii_uppercase, self.shown, strict=False)
        )


def shuffled(item: PrefEvalItem, seed: int) -> ShownOptions:
    """The item's options in an order that depends on ``seed`` and the item alone."""
    order = list(range(len(item.options)))
    random.Random(f"{seed}/{item.id}").shuffle(order)
    return ShownOptions(
        tuple(item.options[i] for i in order), string.ascii_uppercase[order.index(0)]
    )


def inserted(filler: Sequence[Message], turns: int, counting: Counting) -> tuple[Message, ...]:
    """The first ``turns`` messages, or pairs of messages, of the filler; every item gets the same ones.

    Counting messages, as the REAR paper's code does, an odd number ends on a user's message, so that two follow each
    other. The benchmark counts pairs, and what its paper calls 10 and 300 turns are 8 and 298 of them: the preference's
    exchange and the question count, too.
    """
    if turns < 0:
        raise BadInput(f"turns is {turns}; give 0 or more")
    count = 2 * turns if counting == "pairs" else turns
    if count > len(filler):
        per = 2 if counting == "pairs" else 1
        raise BadInput(
            f"{turns} {counting} of inserted turns were asked for, but there are {len(filler) // per}"
        )
    return tuple(filler[:count])


def question_text(
    item: PrefEvalItem, rules: PrefEvalRules, prompting: Prompting, options: ShownOptions | None
) -> str:
    """The last user turn: the question, as multiple choice if there are ``options``, with the baseline's additions."""
    text = item.question
    if options is not None:
        text = _choice_question(text, rules.choice_style, options)
    elif rules.word_limit:
        text = f"{text} {own_text('word_limit.txt')}"
    if prompting == "reminder":
        return f"{text} {own_text('reminder.txt')}"
    if prompting == "cot":
        examples = load_template(PACKAGE, "worked_examples.txt", frozenset({"question"}))
        return examples.fill({"question": text})
    return text


def stated_preference(item: PrefEvalItem, rules: PrefEvalRules) -> list[Message]:
    """The conversation that the model acknowledges the bare preference in (explicit form, history as preference)."""
    return [*_system(rules), Message("user", item.preference)]


def request_for(
    item: PrefEvalItem,
    rules: PrefEvalRules,
    question: str,
    filler: Sequence[Message],
    acknowledgement: str | None = None,
) -> BenchmarkRequest:
    """What every method is asked. ``acknowledgement`` is the model's own answer to the bare preference, where the
    preference was stated in the conversation; inserted turns come behind the preference and stand in both views.
    """
    history = item.history
    if acknowledgement is not None:
        history = (Message("user", item.preference), Message("assistant", acknowledgement))
    turns = (*history, *filler, Message("user", question))
    if rules.preference_as == "system":
        return BenchmarkRequest(
            messages=(*_system(rules), *turns),
            preferences=(Preference(item.preference),),
            prompt=PromptSettings(
                generate_with=rules.generate_with, question_system=rules.question_system
            ),
        )
    return BenchmarkRequest(
        messages=(*_system(rules), *turns),
        prompt=PromptSettings(
            generate_with=rules.generate_with,
            question_system=rules.question_system,
            history="preference",
            preference_turns=len(history),
        ),
    )


def own_text(file: str) -> str:
    """A fixed text of this package, without outer white space."""
    return (files(PACKAGE) / "texts" / file).read_text("utf-8").strip()


def _choice_question(question: str, style: ChoiceStyle, options: ShownOptions) -> str:
    template = load_template(PACKAGE, f"choice_{style}.txt", frozenset({"question", "options"}))
    return template.fill({"question": question, "options": options.lines()})


def _system(rules: PrefEvalRules) -> list[Message]:
    return [] if rules.system is None else [Message("system", rules.system)]
