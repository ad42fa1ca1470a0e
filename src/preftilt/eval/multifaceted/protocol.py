"""Where the paper, its code and the benchmark do different things: one switch each, and presets by name.

=========================  ================  ================  =========================================
switch                     rear-paper        rear-official     multifaceted
=========================  ================  ================  =========================================
how the answer is made     best of 16        best of 16        one sample
score of a candidate       sum               mean              sum
sampling                   T 1               T 1, top-p 0.8,   T 1, top-p 0.9
                                             top-k 20
longest answer             2048              2048              1024
judge sees the system      yes               yes               no (as its scripts are published)
judge runs                 1                 1                 3
a grade that is missing    the others count  the others count  the row has no score
=========================  ================  ================  =========================================

The benchmark's repetition penalty of 1.03 is not one of preftilt's settings and is left out. REAR's code takes the
first digit behind the first "score" or "result" for the grade, which may stand in the middle of the feedback; here it
is the digit behind ``[RESULT]``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from preftilt.errors import BadInput
from preftilt.eval.harness.method import BenchmarkProtocol, Json, one_of
from preftilt.eval.harness.rear import LINE_SEARCHES, rear_protocol
from preftilt.eval.harness.request import BenchmarkRequest
from preftilt.eval.harness.switches import switched
from preftilt.eval.multifaceted.data import MultifacetedItem
from preftilt.messages import Message
from preftilt.prompt import PromptSettings
from preftilt.types import GenerateWith, Preference

PresetName = Literal["rear-paper", "rear-official", "multifaceted"]
Missing = Literal["skip-grade", "skip-row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MultifacetedRules:
    """The switches of Multifaceted Bench; see the table above.

    judge_sees_system: the instruction that the judge reads has the system message before the prompt.
    judge_runs: how often every grade is asked for; the row's rating is the mean.
    missing: a grade that the judge fails to give is left out of its row's mean, or takes the whole row out.
    """

    preset: PresetName
    generate_with: GenerateWith = "full"
    judge_sees_system: bool = True
    judge_runs: int = 1
    missing: Missing = "skip-grade"

    def __post_init__(self) -> None:
        one_of("generate_with", self.generate_with, get_args(GenerateWith))
        one_of("missing", self.missing, get_args(Missing))
        if isinstance(self.judge_runs, bool) or not isinstance(self.judge_runs, int):
            raise BadInput(f"judge_runs is {self.judge_runs!r}; it must be a whole number")
        if self.judge_runs < 1:
            raise BadInput(f"judge_runs is {self.judge_runs}; it must be at least 1")

    def to_json(self) -> dict[str, Any]:
        """What stands in logs and reports."""
        return asdict(self)


def rules_for(preset: str, switches: str | Json | None) -> MultifacetedRules:
    """A preset's rules with the user's ``switches``."""
    name: PresetName = one_of("preset", preset, get_args(PresetName))
    if name == "multifaceted":
        base = MultifacetedRules(
            preset=name, judge_sees_system=False, judge_runs=3, missing="skip-row"
        )
    else:
        base = MultifacetedRules(preset=name)
    return switched(base, switches)


def method_protocol(rules: MultifacetedRules) -> BenchmarkProtocol:
    """The settings of the method that a preset comes with."""
    if rules.preset != "multifaceted":
        return rear_protocol(rules.preset, max_tokens=2048)
    return BenchmarkProtocol(
        settings={
            "lambda": 20.0,
            "reduction": "sum",
            "temperature": 1.0,
            "top_p": 0.9,
            "max_tokens": 1024,
        },
        search="sample",
        searches=LINE_SEARCHES,
    )


def request_for(item: MultifacetedItem, rules: MultifacetedRules) -> BenchmarkRequest:
    """The prompt, with the system message as the preference."""
    return BenchmarkRequest(
        messages=(Message("user", item.prompt),),
        preferences=(Preference(item.system),),
        prompt=PromptSettings(generate_with=rules.generate_with),
    )


def judged_instruction(item: MultifacetedItem, rules: MultifacetedRules) -> str:
    """The instruction as the judge reads it."""
    return f"{item.system}\n{item.prompt}" if rules.judge_sees_system else item.prompt
