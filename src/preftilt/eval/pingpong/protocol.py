"""Where the paper, its code and the benchmark do different things: one switch each, and presets by name.

========================  ================  =====================  =====================
switch                    rear-paper        rear-official          pingpong
========================  ================  =====================  =====================
how the answer is made    best of 16        best of 16             one sample
candidates drawn from     full prompt       the history alone      full prompt
score of a candidate      sum               mean                   sum
sampling                  T 1               T 1, top-p 0.8,        T 0.6, top-p 0.9
                                            top-k 20
longest answer            2048              2048                   1536
turns of a dialogue       4                 4                      the situation's (4, 8)
greeting                  in the persona    in the persona and as  in the persona
                          and as a turn     a turn
the user's sampling       T 0               T 0                    T 0.8, top-p 0.95
refusals                  are rated         are rated              take the dialogue out
longest judgement         2048              2048                   4096
========================  ================  =====================  =====================

The preference is the character's persona; the question view is the history alone. The user is the model in the role
``interrogator``, by default the model under test itself, as in REAR's code. The benchmark's table is the mean of two
judges; here there is one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from preftilt.errors import BadInput
from preftilt.eval.harness.judge_client import JudgeSettings
from preftilt.eval.harness.method import BenchmarkProtocol, Json, one_of
from preftilt.eval.harness.rear import LINE_SEARCHES, rear_protocol
from preftilt.eval.harness.switches import switched
from preftilt.eval.pingpong.data import GREETINGS, Character
from preftilt.types import GenerateWith

PresetName = Literal["rear-paper", "rear-official", "pingpong"]
Refusals = Literal["rated", "excluded"]
Greetings = Literal["initial_message", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PingPongRules:
    """The switches of PingPong; see the table above.

    turns: of every dialogue; None is the situation's own number. greetings: opening lines are read from the field
    ``initial_message`` alone, as in the published codes, or from its other spellings, too. greeting_as_turn: the
    opening line is also the first turn of the chat. interrogator_temperature: 0 is the user's most likely words.
    """

    preset: PresetName
    generate_with: GenerateWith = "full"
    turns: int | None = 4
    greetings: Greetings = "initial_message"
    greeting_as_turn: bool = True
    interrogator_temperature: float = 0.0
    refusals: Refusals = "rated"

    def __post_init__(self) -> None:
        one_of("generate_with", self.generate_with, get_args(GenerateWith))
        one_of("greetings", self.greetings, get_args(Greetings))
        one_of("refusals", self.refusals, get_args(Refusals))
        _check_number("turns", 1 if self.turns is None else self.turns, int, 1)
        _check_number("interrogator_temperature", self.interrogator_temperature, (int, float), 0)

    def to_json(self) -> dict[str, Any]:
        """What stands in logs and reports."""
        return asdict(self)

    def greeting(self, character: Character) -> str | None:
        """The character's opening line, where it has one that is read."""
        names = GREETINGS[:1] if self.greetings == "initial_message" else GREETINGS
        return next(
            (character.greetings[name] for name in names if name in character.greetings), None
        )


def rules_for(preset: str, switches: str | Json | None) -> PingPongRules:
    """A preset's rules with the user's ``switches``."""
    bases: dict[PresetName, PingPongRules] = {
        "rear-paper": PingPongRules(preset="rear-paper"),
        "rear-official": PingPongRules(preset="rear-official", generate_with="question"),
        "pingpong": PingPongRules(
            preset="pingpong",
            turns=None,
            greeting_as_turn=False,
            interrogator_temperature=0.8,
            refusals="excluded",
        ),
    }
    return switched(bases[one_of("preset", preset, get_args(PresetName))], switches)


def method_protocol(rules: PingPongRules) -> BenchmarkProtocol:
    """The settings of the method that a preset comes with."""
    if rules.preset != "pingpong":
        return rear_protocol(rules.preset, max_tokens=2048)
    return BenchmarkProtocol(
        settings={
            "lambda": 20.0,
            "reduction": "sum",
            "temperature": 0.6,
            "top_p": 0.9,
            "max_tokens": 1536,
        },
        search="sample",
        searches=LINE_SEARCHES,
    )


def interrogator_settings(rules: PingPongRules) -> dict[str, Any]:
    """How the user's words are drawn."""
    if rules.interrogator_temperature == 0:
        return {"search": {"name": "greedy"}, "max_tokens": 1024}
    return {
        "search": {"name": "sample"},
        "temperature": float(rules.interrogator_temperature),
        "top_p": 0.95,
        "max_tokens": 1024,
    }


def judge_settings(preset: str) -> JudgeSettings:
    """How the judge is asked; T 0.1 in all presets."""
    longest = 4096 if preset == "pingpong" else 2048
    return JudgeSettings(max_tokens=longest, temperature=0.1, top_p=0.95)


def _check_number(name: str, value: object, kind: type | tuple[type, ...], least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not value >= least:  # pyright: ignore[reportOperatorIssue]
        raise BadInput(f"{name} is {value!r}; it must be a number from {least}")
