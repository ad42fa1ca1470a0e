"""The result of a request: a frozen record of all that the run computed, one JSON object with a schema version.

``schema/realigned.schema.json`` describes the object; ``preftilt run`` writes one a line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.effect import StrengthEffect
from preftilt.path import PathSegment
from preftilt.prompt import Moment
from preftilt.reward import Sums
from preftilt.types import Finish, Reduction, Tokens, was_cut_off

SCHEMA = "preftilt.realigned/1"

UNITS: Mapping[Reduction, str] = {
    "sum": "nats",
    "mean": "nats a token",
    "centred": "nats a √token",
}
"""Of a score, by its reduction; the standard deviation of a sum grows with the root of its length."""


@dataclass(frozen=True, slots=True)
class MethodScore:
    """What a method other than REAR's score made of a candidate: higher is better, None is no score at all.

    ``answer`` is what it votes for, in a vote.
    """

    score: float | None
    answer: str | None = None

    def to_json(self) -> dict[str, Any]:
        voted = {} if self.answer is None else {"answer": self.answer}
        return {"score": None if self.score is None else number(self.score)} | voted


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRecord:
    """A view as it was read: its weight in the score, and the reward model that read it, if one did.

    ``alpha`` maps the reward model's objectives to the numbers of its preference vector.
    """

    name: str
    weight: float
    arm: str | None = None
    method: str | None = None
    alpha: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        reader = {"arm": self.arm, "method": self.method, "alpha": dict(self.alpha or {})}
        return {"name": self.name, "weight": self.weight} | (
            {} if self.arm is None else {"reader": reader}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCandidate:
    """A response with everything its score is made of. Log-probs are in nats; T tokens, the end of turn included.

    ``score = question_logprob + lambda · preference_gain``, all three reduced as the settings say. Under ``centred``
    they are relative to the other candidates of the result (:func:`preftilt.reward.reduced`).

    Attributes:
        rank: from 1, best first.
        slot: the random stream that it was drawn from; a smaller best-of-n has the candidates with the smaller slots.
        text: the answer, without thoughts.
        tokens: ids [T].
        finish: why it ended: ``eos``, ``stop_string``, ``length``, …
        logprobs: per-token log-probs [T] by the name of a view.
        gains: per-token preference gain [T].
        question_logprob: the score at λ = 0, which reward models beside preferences are a part of.
        preference_gain: what λ multiplies.
        score: what REAR ranks by.
        sums: the two parts of the score before the reduction.
        method: the score of the method that ranked, where that is not REAR's.
        reasoning: what the model thought before the answer.
        thoughts: how many of the tokens are thoughts; they are not scored.
    """

    rank: int
    slot: int
    text: str
    tokens: Tokens
    finish: Finish
    logprobs: Mapping[str, Float[np.ndarray, "T"]]
    gains: Float[np.ndarray, "T"]
    question_logprob: float
    preference_gain: float
    score: float
    sums: Sums
    method: MethodScore | None = None
    reasoning: str = ""
    thoughts: int = 0

    @property
    def answered(self) -> bool:
        """Whether the model came to an answer, where it thought first."""
        return self.thoughts == 0 or self.thoughts < len(self.tokens)

    @property
    def cut_off(self) -> bool:
        """See :func:`~preftilt.types.was_cut_off`."""
        return was_cut_off(self.finish, self.thoughts, len(self.tokens))

    def to_json(self) -> dict[str, Any]:
        ranked = {} if self.method is None else {"method": self.method.to_json()}
        if self.thoughts:
            ranked["reasoning"] = {"text": self.reasoning, "tokens": self.thoughts}
        return ranked | {
            "rank": self.rank,
            "slot": self.slot,
            "text": self.text,
            "tokens": list(self.tokens),
            "finish": self.finish,
            "logprobs": {name: [number(x) for x in view] for name, view in self.logprobs.items()},
            "question_logprob": number(self.question_logprob),
            "preference_gain": number(self.preference_gain),
            "score": number(self.score),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Realigned:
    """The answer to a request, the candidates it was picked from, and what every other λ would have picked.

    Attributes:
        id: the request's name, if it has one.
        text: the answer.
        model: what was opened.
        engine: the engine's name.
        seed: of the random numbers.
        settings: as they were used, search and λ filled in.
        prompts: token ids by the name of a view.
        candidates: best first.
        path: which candidate wins on which interval of λ, exactly (indices into ``candidates``). For a tree search,
            and where λ guides every token, it ranks the candidates that the search at this λ ended with.
        usage: tokens of prompts, drawn and scored, by view.
        timing: seconds by phase.
        versions: of the packages that made the numbers.
        notes: what is worth knowing of this result, in words.
        views: what candidates were read under, and with which weight, in the order of ``prompts``.
        pieces: the text of every token of every candidate, for display.
        method: how the answer was picked, where not by REAR's score: ``name``, ``model`` and how many scores are
            ``missing``.
        effect: what λ and the preference did to the choice; None without a preference.
        moment: the date that the prompts show, if the chat template shows one.
    """

    id: str | None
    text: str
    model: str
    engine: str
    seed: int
    settings: Mapping[str, Any]
    prompts: Mapping[str, Tokens]
    candidates: tuple[ScoredCandidate, ...]
    path: tuple[PathSegment, ...]
    usage: Mapping[str, Any]
    timing: Mapping[str, float]
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    views: tuple[ViewRecord, ...] = ()
    pieces: tuple[tuple[str, ...], ...] = ()
    method: Mapping[str, Any] | None = None
    effect: StrengthEffect | None = None
    moment: Moment | None = None

    @property
    def lam(self) -> float:
        """λ the answer was chosen with."""
        return self.settings["lambda"]

    @property
    def unit(self) -> str:
        """What candidates' scores are measured in."""
        return UNITS[self.settings["reduction"]]

    def to_json(self) -> dict[str, Any]:
        """The object of ``schema/realigned.schema.json``."""
        record: dict[str, Any] = {"schema": SCHEMA}
        if self.id is not None:
            record["id"] = self.id
        if self.method is not None:
            record["method"] = dict(self.method)
        if self.effect is not None:
            record["effect"] = self.effect.to_json()
        if self.moment is not None:
            shown = {"now": self.moment.now.isoformat(), "shown": list(self.moment.shown)}
            record["moment"] = shown
        return record | {
            "text": self.text,
            "model": self.model,
            "engine": self.engine,
            "seed": self.seed,
            "settings": dict(self.settings),
            "views": [view.to_json() for view in self.views],
            "prompts": {name: list(tokens) for name, tokens in self.prompts.items()},
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "path": [
                {"from": segment.start, "to": number(segment.stop), "candidate": segment.candidate}
                for segment in self.path
            ],
            "usage": dict(self.usage),
            "timing": dict(self.timing),
            "versions": dict(self.versions),
            "notes": list(self.notes),
        }


def number(x: float) -> float | None:
    """A JSON number; infinities, which JSON cannot say, become null."""
    return float(x) if math.isfinite(x) else None
