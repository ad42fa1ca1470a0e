"""Where the paper, its code and the benchmark do different things: one switch each, and presets by name.

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

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from preftilt.errors import BadInput
from preftilt.eval.harness.method import BenchmarkProtocol, Json, one_of
from preftilt.eval.harness.rear import LINE_SEARCHES, rear_protocol
from preftilt.eval.harness.switches import switched
from preftilt.eval.prefeval.data import Form
from preftilt.types import GenerateWith

PreferenceAs = Literal["system", "history"]
Counting = Literal["messages", "pairs"]
ChoiceStyle = Literal["explain", "letter"]
Junk = Literal["unscored", "official"]
PresetName = Literal["rear-paper", "rear-official", "prefeval"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefEvalRules:
    """The switches of PrefEval; see the table above.

    preference_as: ``system``: the preference's sentence is the system message, also where the model should find it in
        the history by itself (an oracle), and earlier turns stand in both views. ``history``: what the user said
        earlier is the preference, and the question view goes without it.
    system, question_system: system message of both views; of the question view alone.
    judge_junk: ``unscored`` leaves an item out whose judgement cannot be read; ``official`` reads it as the benchmark's
        code does, as neither yes nor no, which counts for the model.
    """

    preset: PresetName
    preference_as: PreferenceAs
    generate_with: GenerateWith = "full"
    system: str | None = None
    question_system: str | None = None
    counting: Counting = "messages"
    word_limit: bool = False
    choice_style: ChoiceStyle = "explain"
    judge_junk: Junk = "unscored"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise BadInput(f"{name} is {value!r}; it must be one of {', '.join(choices)}")

    def to_json(self) -> dict[str, Any]:
        """What stands in logs and reports."""
        return asdict(self)


_CHOICES = {
    "preference_as": get_args(PreferenceAs),
    "generate_with": get_args(GenerateWith),
    "counting": get_args(Counting),
    "choice_style": get_args(ChoiceStyle),
    "judge_junk": get_args(Junk),
}


def rules_for(preset: str, form: Form, switches: str | Json | None) -> PrefEvalRules:
    """A preset's rules for a task, with the user's ``switches``: an object or its JSON."""
    bases: dict[PresetName, PrefEvalRules] = {
        "rear-paper": PrefEvalRules(preset="rear-paper", preference_as="system"),
        "rear-official": PrefEvalRules(
            preset="rear-official",
            preference_as="system",
            generate_with="full" if form == "explicit" else "question",
        ),
        "prefeval": PrefEvalRules(
            preset="prefeval",
            preference_as="history",
            system="You are a helpful assistant.",
            counting="pairs",
            word_limit=True,
            choice_style="letter",
        ),
    }
    base = bases[one_of("preset", preset, get_args(PresetName))]
    return switched(base, switches)


def method_protocol(rules: PrefEvalRules, *, mcq: bool) -> BenchmarkProtocol:
    """The settings of the method that a preset comes with."""
    if rules.preset != "prefeval":
        return rear_protocol(rules.preset, max_tokens=2048)
    longest = 16 if mcq and rules.choice_style == "letter" else 300
    return BenchmarkProtocol(
        settings={"lambda": 20.0, "reduction": "sum", "max_tokens": longest},
        search="greedy",
        searches=LINE_SEARCHES,
    )
