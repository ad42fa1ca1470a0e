"""Where the paper, its code and the benchmark do different things: one switch each, and presets by name.

=========================  ================  ===================  ================
switch                     rear-paper        rear-official        mmhal
=========================  ================  ===================  ================
preference                 careful           careful              none
how the answer is made     best of 16        best of 16           the likeliest
candidates drawn from      full prompt       the question alone   the question
score of a candidate       sum               mean                 –
sampling                   T 1               T 1, top-p 0.8,      T 0
                                             top-k 20
longest answer             1024              1024                 1024
an unreadable rating       no score          rated 0              rated 0
=========================  ================  ===================  ================

The preference is one text for all items: be careful with what the picture does not show. ``careful`` is our wording of
REAR's; any other text may be given. The picture and the question stand in both views. Where an answer has no readable
rating the benchmark and REAR's code rate it 0, which also counts it as made up; by default such an item has no score.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

from preftilt.errors import BadInput
from preftilt.eval.harness.method import BenchmarkProtocol, Json, TaskMethod, one_of
from preftilt.eval.harness.rear import LINE_SEARCHES, rear_protocol
from preftilt.eval.harness.request import BenchmarkRequest
from preftilt.eval.harness.switches import switched
from preftilt.eval.mmhal.data import MMHalItem
from preftilt.images import Image
from preftilt.messages import Message
from preftilt.prompt import PromptSettings
from preftilt.types import GenerateWith, Preference

PACKAGE = "preftilt.eval.mmhal"

PresetName = Literal["rear-paper", "rear-official", "mmhal"]
Junk = Literal["unscored", "zero"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MMHalRules:
    """The switches of MMHal-Bench; see the table above.

    preference: ``careful``, ``none`` or a text. junk: what a rating counts that cannot be read.
    """

    preset: PresetName
    preference: str = "careful"
    generate_with: GenerateWith = "full"
    junk: Junk = "unscored"

    def __post_init__(self) -> None:
        one_of("generate_with", self.generate_with, get_args(GenerateWith))
        one_of("junk", self.junk, get_args(Junk))
        if not self.preference.strip():
            raise BadInput('the switch preference is empty; give a text, "careful" or "none"')

    def to_json(self) -> dict[str, Any]:
        """What stands in logs and reports."""
        return asdict(self) | {"preference_text": self.wish}

    @property
    def wish(self) -> str | None:
        """The preference's text."""
        if self.preference == "none":
            return None
        if self.preference == "careful":
            return (files(PACKAGE) / "texts" / "careful.txt").read_text("utf-8").strip()
        return self.preference


def rules_for(preset: str, switches: str | Json | None) -> MMHalRules:
    """A preset's rules with the user's ``switches``."""
    bases: dict[PresetName, MMHalRules] = {
        "rear-paper": MMHalRules(preset="rear-paper"),
        "rear-official": MMHalRules(preset="rear-official", generate_with="question", junk="zero"),
        "mmhal": MMHalRules(preset="mmhal", preference="none", junk="zero"),
    }
    return switched(bases[one_of("preset", preset, get_args(PresetName))], switches)


def method_protocol(rules: MMHalRules) -> BenchmarkProtocol:
    """The settings of the method that a preset comes with."""
    if rules.preset != "mmhal":
        return rear_protocol(rules.preset, max_tokens=1024)
    return BenchmarkProtocol(
        settings={"lambda": 20.0, "reduction": "sum", "temperature": 1.0, "max_tokens": 1024},
        search="greedy",
        searches=LINE_SEARCHES,
    )


def check_wish(rules: MMHalRules, method: TaskMethod) -> None:
    """A method needs something to follow: raises :class:`~preftilt.errors.BadInput` where there is no preference."""
    idle = {"lambda", "method", "search"} & set(method.chosen)
    if rules.wish is None and idle:
        raise BadInput(
            f"{', '.join(sorted(idle))} would do nothing: without a preference the model answers as it is; give one"
            """ (-T switches='{"preference": "careful"}')"""
        )


def request_for(item: MMHalItem, picture: Image, rules: MMHalRules) -> BenchmarkRequest:
    """The picture and then the question, with the preference of all items."""
    wish = rules.wish
    return BenchmarkRequest(
        messages=(Message("user", item.question, (picture,)),),
        preferences=() if wish is None else (Preference(wish),),
        prompt=PromptSettings(generate_with=rules.generate_with),
    )
