"""λ from an example: under which strengths an answer that the user likes would have been the answer.

Among candidates it is exact: scores are lines in λ, so the λ under which a candidate wins are its pieces of the λ-path
(:mod:`preftilt.path`). Where λ guides every token it is a likelihood: with the views' log-probs q and p_i,

    log p_λ(answer) = Σ_t [ q(a_t) + λ Σ_i r_i (p_i(a_t) − q(a_t)) − log Z_t(λ) ]

where Z_t sums over the vocabulary. log Z_t is convex in λ, so the likelihood is concave: it has one maximum, and the λ
that explain the answer nearly as well are one interval.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preftilt.api import Realigner
from preftilt.engines.base import Engine, Mixture, NormaliseRequest, ScoreRequest
from preftilt.errors import BadInput, EngineError
from preftilt.guided import view_weights
from preftilt.messages import Message
from preftilt.path import PathSegment, upper_envelope
from preftilt.result import Realigned, ScoredCandidate, number
from preftilt.reward import IMPOSSIBLE, Reward, ScoreLine, contenders, reduced
from preftilt.run.guiding import by_base
from preftilt.settings import Settings
from preftilt.types import Preference, Query, Tokens

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
"""λ at which the likelihood is told; its maximum is looked for between them."""

SUPPORT_NATS = 1.92
"""λ this far below the maximum still explain the answer: the 95 % interval of a likelihood ratio (χ² with 1 degree)."""

REFINED = 9
ROUNDS = 3
"""Between two known λ so many points are measured, so many times over, to find a maximum or the edge of an interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenFor:
    """The λ under which an answer wins among candidates.

    Attributes:
        intervals: pairs (from, to): it is chosen for from ≤ λ < to. None at all if another one always wins.
        nearest: the λ at which it comes closest to winning.
        behind: by how much it loses there, in the unit of the scores; 0 where it wins.
    """

    intervals: tuple[tuple[float, float], ...]
    nearest: float
    behind: float

    def to_json(self) -> dict[str, Any]:
        return {
            "intervals": [{"from": start, "to": number(stop)} for start, stop in self.intervals],
            "nearest": self.nearest,
            "behind": number(self.behind),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LikelihoodOfLambda:
    """How likely guided decoding (temperature 1, no mask, one λ for every token) draws an answer, as a function of λ.

    Attributes:
        lambdas: :data:`STRENGTHS` and the maximum, in order; their negatives for a preference that is turned away from.
        logprobs: log p_λ(answer) at each of them, in nats.
        best: the λ of the maximum, among those from 0 to 100.
        low, high: λ between them explain the answer as well as ``best``, up to :data:`SUPPORT_NATS`.
    """

    lambdas: tuple[float, ...]
    logprobs: tuple[float, ...]
    best: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "from": self.low,
            "to": self.high,
            "lambdas": list(self.lambdas),
            "logprobs": [number(logprob) for logprob in self.logprobs],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleFit:
    """Which λ would have given an answer that the user likes.

    Attributes:
        text: the answer.
        candidate: its index among the candidates, if it is one of them.
        chosen: when it is chosen among them, or beside them.
        guided: how likely guided decoding draws it; None where the engine cannot tell.
    """

    text: str
    candidate: int | None
    chosen: ChosenFor
    guided: LikelihoodOfLambda | None

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "candidate": self.candidate,
            "chosen": self.chosen.to_json(),
            "guided": None if self.guided is None else self.guided.to_json(),
        }


async def lambda_from_example(
    realigner: Realigner,
    messages: Sequence[Message],
    preferences: Sequence[Preference],
    example: str,
    result: Realigned,
    *,
    settings: Settings | None = None,
) -> ExampleFit:
    """The λ under which ``example`` would have been the answer to a request.

    With several preferences λ is that of the strongest, and the others keep their proportion to it.

    Args:
        realigner: the engine that ``result`` came from.
        messages: the request's conversation.
        preferences: its preferences, at least one.
        example: the answer that is liked; it need not be one of the candidates.
        result: what :meth:`Realigner.realign` answered, with the candidates to choose among.
        settings: those of the request.

    Raises:
        BadInput: the example cannot be an answer of this model, or there is no preference whose strength to find.
        EngineError: the engine failed.
    """
    settings = realigner.settled(settings)
    query = check_example(realigner, messages, preferences, example, settings=settings)
    scored = await realigner.score(messages, preferences, [example], settings=settings)
    [candidate] = scored.candidates
    members = [
        i for i, drawn in enumerate(result.candidates) if drawn.text.strip() == example.strip()
    ]
    pool = result.candidates if members else (*result.candidates, candidate)
    lines = _lines(pool, settings.reward)
    chosen = chosen_for(
        upper_envelope(lines, start=result.path[0].start), lines, members or [len(pool) - 1]
    )
    likelihood = None
    if realigner.engine.capabilities.normalises:
        likelihood = await likelihood_of_lambda(
            realigner.engine, query, candidate.tokens, candidate.thoughts
        )
    return ExampleFit(
        text=example,
        candidate=members[0] if members else None,
        chosen=chosen,
        guided=likelihood,
    )


def check_example(
    realigner: Realigner,
    messages: Sequence[Message],
    preferences: Sequence[Preference],
    example: str,
    *,
    settings: Settings | None = None,
) -> Query:
    """The query of a request, before anything is drawn for it.

    Raises :class:`~preftilt.errors.BadInput` if ``example`` cannot tell its λ (:func:`lambda_from_example`).
    """
    query = realigner.prepare(messages, preferences, settings=settings).query
    if len(by_base(query)) < 2:
        raise BadInput(
            "an example tells the strength of a preference: state one (--preference TEXT)"
        )
    realigner.check_responses(query, [example])
    return query


def chosen_for(
    path: Sequence[PathSegment], lines: Sequence[ScoreLine], members: Collection[int]
) -> ChosenFor:
    """When one of the candidates ``members`` (indices into ``lines``) wins on a λ-path over all of them."""
    gaps = [
        (
            min(
                lines[segment.candidate].at(segment.start) - lines[i].at(segment.start)
                for i in members
            ),
            segment.start,
        )
        for segment in path
    ]
    intervals = path_intervals(path, members)
    behind, nearest = (0.0, intervals[0][0]) if intervals else min(gaps)
    return ChosenFor(intervals=intervals, nearest=nearest, behind=behind)


def path_intervals(
    path: Sequence[PathSegment], members: Collection[int]
) -> tuple[tuple[float, float], ...]:
    """The λ for which a candidate of ``members`` wins; pieces that touch are one."""
    intervals: list[tuple[float, float]] = []
    for segment in path:
        if segment.candidate not in members:
            continue
        if intervals and intervals[-1][1] == segment.start:
            intervals[-1] = (intervals[-1][0], segment.stop)
        else:
            intervals.append((segment.start, segment.stop))
    return tuple(intervals)


async def likelihood_of_lambda(
    engine: Engine, query: Query, tokens: Tokens, thoughts: int = 0
) -> LikelihoodOfLambda:
    """log p_λ(tokens) under guided decoding, on :data:`STRENGTHS` and at its maximum; some ten forwards of the tokens.

    ``query`` has at least one preference; reward models that read along keep their weights. The first ``thoughts``
    tokens are not counted.

    Raises :class:`~preftilt.errors.EngineError` if no λ can draw the tokens.
    """
    curve = _Curve(engine, query, tokens, thoughts)
    sign = -1.0 if query.lam < 0 else 1.0
    told = [sign * strength for strength in STRENGTHS]
    await curve.measure(told)
    for _ in range(ROUNDS):
        known = sorted(curve.logprobs)
        place = known.index(curve.best)
        await curve.measure(
            np.linspace(known[max(place - 1, 0)], known[min(place + 1, len(known) - 1)], REFINED)
        )
    best = curve.best
    if math.isinf(curve.logprobs[best]):
        raise EngineError("no λ can draw this answer: a view holds one of its tokens impossible")
    low, high = [await curve.edge(best, end) for end in (min(told), max(told))]
    told = sorted({*told, best})
    return LikelihoodOfLambda(
        lambdas=tuple(told),
        logprobs=tuple(curve.logprobs[lam] for lam in told),
        best=best,
        low=low,
        high=high,
    )


@dataclass(frozen=True, slots=True)
class _Curve:
    """log p_λ of some tokens where it was measured, by λ."""

    engine: Engine
    query: Query
    tokens: Tokens
    thoughts: int
    logprobs: dict[float, float] = field(default_factory=dict)

    @property
    def best(self) -> float:
        """The λ of the largest value; of several the one nearest to the model as it is."""
        return max(self.logprobs, key=lambda lam: (self.logprobs[lam], -abs(lam - 1)))

    async def measure(self, lambdas: Iterable[float]) -> None:
        """Measure at those that are new, in one call."""
        new = [lam for lam in map(float, lambdas) if lam not in self.logprobs]
        if not new:
            return
        query = self.query
        fixed = [view.weight for view in query.views[len(by_base(query)) :]]
        request = NormaliseRequest(
            reads=tuple(
                ScoreRequest(prompt=view.prompt, completion=self.tokens, reader=view.reader)
                for view in query.views
            ),
            mixtures=tuple(Mixture((*view_weights(query.ratios, lam), *fixed)) for lam in new),
        )
        [table] = await self.engine.normalise([request])
        totals = table[:, self.thoughts :].sum(axis=1)
        self.logprobs.update(zip(new, totals.tolist(), strict=True))

    async def edge(self, inside: float, outside: float) -> float:
        """The λ furthest from ``inside``, towards ``outside``, that is :data:`SUPPORT_NATS` below the best at most."""
        level = self.logprobs[self.best] - SUPPORT_NATS
        for _ in range(ROUNDS):
            between = sorted(
                (
                    lam
                    for lam in self.logprobs
                    if min(inside, outside) <= lam <= max(inside, outside)
                ),
                reverse=outside < inside,
            )
            inside = max((lam for lam in between if self.logprobs[lam] >= level), key=between.index)
            if inside == between[-1]:
                break
            outside = between[between.index(inside) + 1]
            await self.measure(np.linspace(inside, outside, REFINED))
        return inside


def _lines(pool: Sequence[ScoredCandidate], reward: Reward) -> list[ScoreLine]:
    """The score lines of candidates that may win, beside each other; the others are out."""
    able = contenders([candidate.cut_off for candidate in pool], reward.cut_off)
    lines = reduced([candidate.sums for candidate in pool], reward)
    return [line if may_win else IMPOSSIBLE for line, may_win in zip(lines, able, strict=True)]
