"""PrefEval (Zhao et al., 2025): does an answer follow a preference that was stated, chosen or said in passing?

Where the paper, its code and the benchmark do different things: one switch each, and presets by name.

========================  ================  =====================  ==========================================
switch                    rear-paper        rear-official          prefeval
========================  ================  =====================  ==========================================
preference                the sentence, as  the sentence, as       what the user said: stated and acknowledged
                          system message    system message         by the model (explicit), or the history
candidates drawn from     full prompt       full prompt            full prompt
                                            (explicit), question
                                            prompt (others)
score                     sum               mean                   sum
steps of a tree search    one line          a paragraph, 40 steps  one line
sampling                  T 1               T 1, top-p 0.8,        greedy
                                            top-k 20
longest answer            2048              2048                   300
inserted turns count      messages          messages               pairs of messages
word limit in question    no                no                     yes
multiple choice           explain, then     explain, then letter   letter only
                          letter
system message            none              none                   "You are a helpful assistant."
========================  ================  =====================  ==========================================

``rear-official`` samples as the server of the official code does by its model's defaults, for Qwen2.5; its repetition
penalty of 1.05 is not one of preftilt's settings and is left out. ``prefeval`` allows 16 tokens for a letter, where the
benchmark allows 5 behind an answer that it has begun itself.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from preftilt.errors import BadInput
from preftilt.eval.benchmarks.prefeval_data import (
    TOPICS,
    Form,
    PrefEvalItem,
    load_filler,
    load_items,
)
from preftilt.eval.harness.benchmark import (
    Benchmark,
    BenchmarkProtocol,
    BenchmarkRequest,
    Case,
    Json,
    Opening,
    QualityPart,
    Rules,
    Values,
    choose_rules,
    judged_by,
    own_protocol,
    rear_protocol,
    verdicts_mark,
)
from preftilt.eval.harness.rows import load_template, own_text
from preftilt.messages import Message
from preftilt.prompt import PromptSettings
from preftilt.types import GenerateWith, Preference

if TYPE_CHECKING:
    pass


Counting = Literal["messages", "pairs"]
Junk = Literal["unscored", "official"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefEvalRules(Rules):
    """The switches of PrefEval; see the table above.

    preference_as: ``system``: the preference's sentence is the system message, also where the model should find it in
        the history by itself (an oracle), and earlier turns stand in both views. ``history``: what the user said
        earlier is the preference, and the question view goes without it.
    system, question_system: system message of both views; of the question view alone.
    judge_junk: ``unscored`` leaves an item out whose judgement cannot be read; ``official`` reads it as the benchmark's
        code does, as neither yes nor no, which counts for the model.
    """

    preset: Literal["rear-paper", "rear-official", "prefeval"]
    preference_as: Literal["system", "history"] = "system"
    generate_with: GenerateWith = "full"
    system: str | None = None
    question_system: str | None = None
    counting: Counting = "messages"
    word_limit: bool = False
    choice_style: Literal["explain", "letter"] = "explain"
    judge_junk: Junk = "unscored"


def rules_for(preset: str, form: Form, switches: str | Json | None) -> PrefEvalRules:
    """A preset's rules for a task, with the user's ``switches``: an object or its JSON."""
    presets = [
        PrefEvalRules(preset="rear-paper"),
        PrefEvalRules(
            preset="rear-official", generate_with="full" if form == "explicit" else "question"
        ),
        PrefEvalRules(
            preset="prefeval",
            preference_as="history",
            system="You are a helpful assistant.",
            counting="pairs",
            word_limit=True,
            choice_style="letter",
        ),
    ]
    return choose_rules(presets, preset, switches)


def method_protocol(rules: PrefEvalRules, *, mcq: bool) -> BenchmarkProtocol:
    """The settings of the method that a preset comes with."""
    if rules.preset != "prefeval":
        return rear_protocol(rules.preset, max_tokens=2048)
    longest = 16 if mcq and rules.choice_style == "letter" else 300
    return own_protocol("greedy", max_tokens=longest)


Prompting = Literal["zero-shot", "reminder", "cot", "self-critic"]
"""The benchmark's prompting baselines: nothing more, a reminder behind the question, worked examples before it, or an
answer that is criticised and written again."""

PROMPTINGS: tuple[Prompting, ...] = get_args(Prompting)


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
        gaps = {"question": text, "options": options.lines()}
        template = load_template("prefeval", f"choice_{rules.choice_style}.txt", frozenset(gaps))
        text = template.fill(gaps)
    elif rules.word_limit:
        text = f"{text} {own_text('prefeval', 'word_limit.txt')}"
    if prompting == "reminder":
        return f"{text} {own_text('prefeval', 'reminder.txt')}"
    if prompting == "cot":
        examples = load_template("prefeval", "worked_examples.txt", frozenset({"question"}))
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
    as_system = rules.preference_as == "system"
    return BenchmarkRequest(
        messages=(*_system(rules), *turns),
        preferences=(Preference(item.preference),) if as_system else (),
        prompt=PromptSettings(
            generate_with=rules.generate_with,
            question_system=rules.question_system,
            history="both" if as_system else "preference",
            preference_turns=None if as_system else len(history),
        ),
    )


def _system(rules: PrefEvalRules) -> list[Message]:
    return [] if rules.system is None else [Message("system", rules.system)]


Known = bool | None

VALUES = (
    "following",
    "unhelpful",
    "inconsistent",
    "hallucinated_preference",
    "preference_unaware",
    "violates",
    "acknowledged",
)
"""What an item is scored with: whether the answer follows the preference, the four errors that keep it from it, and two
of the judge's verdicts."""

_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)
_CHOICE = re.compile(r"<choice>\s*([ABCD])\s*</choice>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Whether the answer refers to a preference, and its sentence that does; empty if the judge quoted none."""

    verdict: bool
    restatement: str


def tagged(text: str, tag: str) -> str | None:
    """What stands in the first ``<tag>…</tag>``; None without one."""
    match = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL | re.IGNORECASE)
    return None if match is None else match[1].strip()


def read_yes_no(text: str) -> bool | None:
    """The judge's Yes or No; None if its answer tag is missing or says neither.

    The benchmark's code searches the tag for "yes" and "no" anywhere ("unknown" has a no), and reads a missing tag as
    neither; here it must begin with one of them.
    """
    said = tagged(text, "answer")
    match = _YES_NO.match(said or "")
    return None if match is None else match[1].lower() == "yes"


def read_acknowledged(text: str) -> Acknowledged | None:
    """The judge's answer to the first check; None if it cannot be read."""
    verdict = read_yes_no(text)
    if verdict is None:
        return None
    return Acknowledged(verdict, tagged(text, "preference") or "")


def read_choice(text: str) -> str | None:
    """The letter of the first ``<choice>X</choice>`` with X from A to D, in upper case; None without one."""
    match = _CHOICE.search(text)
    return None if match is None else match[1].upper()


def settle(verdict: Known, junk: Junk, *, unread: bool, official: bool) -> Known:
    """A verdict as the protocol takes it: one that cannot be read stays unknown, or is the benchmark's default."""
    if verdict is None and unread and junk == "official":
        return official
    return verdict


def outcome(
    *, acknowledged: Known, hallucinated: Known, violates: Known, helpful: Known
) -> dict[str, float | None]:
    """The numbers of one item, by the names of :data:`VALUES`.

    acknowledged: the answer refers to a preference. hallucinated: it refers to another one than the user's (counts only
    where acknowledged). The four errors exclude each other, and an answer follows the preference if it has none of
    them, which is the same as being helpful and not violating.
    """
    wrong = _both(helpful, violates)
    verdicts: dict[str, Known] = {
        "following": _both(helpful, _not(violates)),
        "unhelpful": _not(helpful),
        "inconsistent": _both(wrong, _both(acknowledged, _not(hallucinated))),
        "hallucinated_preference": _both(wrong, _both(acknowledged, hallucinated)),
        "preference_unaware": _both(wrong, _not(acknowledged)),
        "violates": violates,
        "acknowledged": acknowledged,
    }
    return {name: None if verdict is None else float(verdict) for name, verdict in verdicts.items()}


def _not(verdict: Known) -> Known:
    return None if verdict is None else not verdict


def _both(verdict: Known, other: Known) -> Known:
    if verdict is False or other is False:
        return False
    return None if verdict is None or other is None else True


SHUFFLE_SEED = 0
"""Of the options' order, as in ``prefeval_mcq``."""


def open_judged(form: Form, opening: Opening) -> Benchmark:
    """For ``preftilt reproduce``: two calls of the judge an answer, what the headline number needs."""
    rules, common = _opened(form, opening, mcq=False)
    name = f"prefeval-{form}"
    return Benchmark(
        name=name,
        title=f"PrefEval, {form}",
        metrics=("following", "unhelpful", "violates"),
        fault="violates",
        parts=(
            QualityPart("unhelpful", "helpful (%)", inverted=True),
            QualityPart("violates", "preference kept (%)", inverted=True),
        ),
        **common,
        judge=judged_by(
            name,
            "prefeval_task:prefeval_checks",
            opening,
            checks=2,
            judge_junk=rules.judge_junk,
        ),
        verdicts=verdicts_mark(rules, opening.judge_prompts),
    )


def open_choice(opening: Opening) -> Benchmark:
    """For ``preftilt reproduce``: the implicit choice as multiple choice, which the paper reports by accuracy."""
    _, common = _opened("choice", opening, mcq=True)
    return Benchmark(
        name="prefeval-choice",
        title="PrefEval, implicit choice",
        metrics=("correct", "no choice made"),
        fault="no choice made",
        **common,
        answers="letter",
        check=_chosen,
        verdicts=repr(SHUFFLE_SEED),
    )


def _opened(form: Form, opening: Opening, *, mcq: bool) -> tuple[PrefEvalRules, dict[str, Any]]:
    """The rules, and what the benchmarks of all forms have in common."""
    data = opening.folder("PrefEval")
    rules = rules_for(opening.preset, form, opening.switches)
    if rules.preference_as != "system":
        raise BadInput(
            "preference_as=history has the model speak before it is asked, and an experiment draws all candidates at"
            f" once: run inspect eval preftilt/prefeval_{form} for that"
        )
    items = load_items(data, form, options=mcq)
    test, validation = opening.split(items)

    def cases(some: Sequence[PrefEvalItem], turns: int) -> list[Case]:
        filler = inserted(load_filler(data) if turns else (), turns, rules.counting)
        return [_case(item, rules, filler, mcq) for item in some]

    also = {"shuffle_seed": SHUFFLE_SEED} if mcq else {"checks": 2}
    return rules, {
        "protocol": method_protocol(rules, mcq=mcq),
        "switches": {
            **rules.to_json(),
            **also,
            "rows there": f"{len(items)} of {sum(TOPICS.values())}",
        },
        "test": lambda turns: cases(test, turns),
        "validation": lambda: cases(validation, 0),
        "contexts": True,
    }


def _case(item: PrefEvalItem, rules: PrefEvalRules, filler: Sequence[Message], mcq: bool) -> Case:
    options = shuffled(item, SHUFFLE_SEED) if mcq else None
    question = question_text(item, rules, "zero-shot", options)
    facts = {"preference": item.preference, "question": item.question}
    fitting = "" if options is None else options.fitting
    return Case(item.id, request_for(item, rules, question, filler), facts, target=fitting)


def _chosen(case: Case, answer: str) -> Values:
    """An answer without a choice is wrong, and counted."""
    letter = read_choice(answer)
    return {
        "correct": float(letter == case.target),
        "no choice made": float(letter is None),
    }
