"""Where the paper and its code do different things: one switch each, and presets by name.

==========================  ==================  ==================
switch                      rear-paper          rear-official
==========================  ==================  ==================
score of a candidate        sum                 mean
sampling                    T 1                 T 1, top-p 0.8,
                                                top-k 20
steps of a tree search      one line            a paragraph,
                                                40 steps
==========================  ==================  ==================

Both draw 16 candidates of at most 8096 tokens with the preference, weigh by λ = 20 and give the answer of the weighted
vote, in which a candidate's vote weighs 1 plus its score as a mean over tokens. The texts of the three preferences are
our wording of what the paper describes: a rigorous mathematician, one line, and an author of fiction as the control.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

from preftilt.eval.harness.method import BenchmarkProtocol, Json, one_of
from preftilt.eval.harness.rear import rear_protocol
from preftilt.eval.harness.request import BenchmarkRequest
from preftilt.eval.harness.switches import switched
from preftilt.eval.maths.data import MathsProblem
from preftilt.messages import Message
from preftilt.prompt import PromptSettings
from preftilt.types import GenerateWith, Preference

PACKAGE = "preftilt.eval.maths"
LONGEST = 8096
VOTE = {"name": "weighted-vote", "answers": "maths"}

PresetName = Literal["rear-paper", "rear-official"]
PreferenceName = Literal["full", "brief", "unrelated"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MathsRules:
    """The switches of the mathematics tasks.

    preference: which of the three texts is the system message. box: the problem is followed by a line that asks for
    the answer in a box, in both views; off in both presets, as models that were trained on such problems do it unasked.
    """

    preset: PresetName
    preference: PreferenceName = "full"
    generate_with: GenerateWith = "full"
    box: bool = False

    def __post_init__(self) -> None:
        one_of("preference", self.preference, get_args(PreferenceName))
        one_of("generate_with", self.generate_with, get_args(GenerateWith))

    def to_json(self) -> dict[str, Any]:
        """What stands in logs and reports."""
        return asdict(self)


def rules_for(preset: str, preference: str, switches: str | Json | None) -> MathsRules:
    """A preset's rules with a preference and the user's ``switches``."""
    text: PreferenceName = one_of("preference", preference, get_args(PreferenceName))
    name: PresetName = one_of("preset", preset, get_args(PresetName))
    return switched(MathsRules(preset=name, preference=text), switches)


def method_protocol(rules: MathsRules) -> BenchmarkProtocol:
    """The settings of the method that a preset comes with."""
    return rear_protocol(rules.preset, max_tokens=LONGEST, method=VOTE)


def request_for(item: MathsProblem, rules: MathsRules) -> BenchmarkRequest:
    """The problem, with the preference as the system message."""
    problem = f"{item.problem}\n\n{own_text('box.txt')}" if rules.box else item.problem
    return BenchmarkRequest(
        messages=(Message("user", problem),),
        preferences=(Preference(own_text(f"preference_{rules.preference}.txt")),),
        prompt=PromptSettings(generate_with=rules.generate_with),
    )


def own_text(file: str) -> str:
    """A fixed text of this package, without outer white space."""
    return (files(PACKAGE) / "texts" / file).read_text("utf-8").strip()
