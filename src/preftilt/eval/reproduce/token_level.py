"""Picking whole answers beside guiding every token: which follows better, at what price, chosen on validation items.

Families of methods that differ in λ (or in how they pick) are measured whole on validation items; the best member of
each is what is reported on test items, beside those that are the same for everybody. Nothing here calls a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np

from preftilt.eval.answers import RecordedAnswer, first_by, scores
from preftilt.eval.calibrate import REDUCTIONS
from preftilt.eval.reproduce import methods
from preftilt.eval.reproduce.measured import AnswerCost, ItemMeasurements
from preftilt.eval.reproduce.methods import OTHER_SCORES, ComparedMethod, sizes
from preftilt.eval.reproduce.numbers import JudgedItems, curve_of, table
from preftilt.eval.reproduce.parts import GUIDANCE, MeasureSettings, drawn_guidance, guidance_name
from preftilt.reward import Reward
from preftilt.types import CutOff, Reduction

PICKING_LAMBDAS = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, math.inf)
"""λ of choosing among answers; ∞ is the preference gain alone."""

GUIDED_PICKS = (1.0, 2.0, 3.0, 20.0, math.inf)
"""The same among answers that were guided themselves."""

CHOSEN_BY = frozenset({"pool", "guidance", "other guidance", "draws"})
"""What is measured on validation items."""

CUT_OFFS: tuple[CutOff, ...] = get_args(CutOff)


@dataclass(frozen=True, slots=True)
class MethodFamily:
    """Methods that are alike but for what validation chooses among: λ, reduction and the rule for cut-off answers."""

    name: str
    members: Sequence[ComparedMethod]


def families(how: MeasureSettings) -> list[MethodFamily]:
    """All that validation chooses among."""
    n = how.n
    alternatives = [
        MethodFamily(
            name,
            [
                _named(methods.best_by("", n, lam, reduction, cut_off=rule), name, lam)
                for lam in PICKING_LAMBDAS
            ],
        )
        for reduction in REDUCTIONS
        for rule in CUT_OFFS
        for name in [f"best-of-{n}, {reduction}, cut off {rule}"]
    ]
    alternatives += [
        MethodFamily(f"best-of-{n}, {name}", [_tried(n, lam, name) for lam in PICKING_LAMBDAS])
        for name in OTHER_SCORES
    ]
    alternatives.append(
        MethodFamily("guided, greedy", [_greedy(lam) for lam in how.guided_lambdas])
    )
    alternatives += [MethodFamily(name, [methods.guided(name)]) for name in GUIDANCE]
    alternatives += [
        MethodFamily(
            name, [_picked_guided(lam, how.drawn, rank, name, reduction) for rank in GUIDED_PICKS]
        )
        for lam in how.drawn_lambdas
        for reduction in REDUCTIONS
        for name in [f"guided draws at λ = {lam:g}, best of {how.drawn} by {reduction}"]
    ]
    return alternatives


def fixed(
    how: MeasureSettings, right: Callable[[ItemMeasurements, RecordedAnswer], float]
) -> list[ComparedMethod]:
    """What is reported as it is, beside what validation chose."""
    n = how.n
    return [
        methods.greedy(),
        methods.one_sample(),
        methods.random_of(n, how.seed, exact=True),
        *methods.likelihoods(n, "sum"),
        *(methods.rear(n, lam, reduction) for reduction in REDUCTIONS for lam in (3.0, 20.0)),
        *(methods.trees(lam, how.reduction) for lam in how.lambdas),
        *methods.judges(n),
        *(_greedy(lam) for lam in how.guided_lambdas),
        *(methods.guided(name) for name in GUIDANCE),
        *(_random_guided(lam, how.drawn) for lam in how.drawn_lambdas),
        methods.any_of(n, right),
        *(_any_guided(lam, how.drawn, right) for lam in how.drawn_lambdas),
    ]


def chosen(judged: JudgedItems, among: Sequence[MethodFamily]) -> list[ComparedMethod]:
    """The best member of each family by the headline, on the validation items of ``judged``; the first of equals."""
    picked = []
    for family in among:
        intervals = [judged.interval(member) for member in family.members]
        means = [None if each is None else each.mean for each in intervals]
        known = [place for place, mean in enumerate(means) if mean is not None]
        if known:
            best = max(known, key=lambda place: (means[place], -place))
            picked.append(replace(family.members[best], chosen=len(family.members) > 1))
    return picked


def report(
    test: JudgedItems,
    validation: JudgedItems | None,
    how: MeasureSettings,
    references: Mapping[str, ComparedMethod],
) -> dict[str, Any]:
    """The tables and what the figures are drawn from; without validation items nothing is chosen."""
    among = families(how)
    picked = [] if validation is None else chosen(validation, among)
    shown = _distinct([*fixed(how, test.verdicts.rightness(test.benchmark.headline)), *picked])
    numbers: dict[str, Any] = {
        "tables": {name: table(test, shown, reference) for name, reference in references.items()},
        "figures": _figures(test, how, picked),
        "breakdown": _breakdown(test, how, picked),
    }
    if validation is not None:
        every = [member for family in among for member in family.members]
        first = next(iter(references.values()))
        numbers["validation"] = table(validation, _distinct([first, *every]), first)
        numbers["chosen"] = [{"method": member.name, "lam": member.lam} for member in picked]
    return numbers


def every_method(how: MeasureSettings) -> list[ComparedMethod]:
    """All whose answers need verdicts, oracles apart."""
    return [
        member
        for member in [
            *fixed(how, lambda item, answer: 0.0),
            *(each for family in families(how) for each in family.members),
        ]
        if not member.oracle
    ]


def whole_pools(how: MeasureSettings) -> list[ComparedMethod]:
    """Every drawn answer, for the oracles."""
    return [methods.random_of(how.n, how.seed, exact=True)] + [
        _random_guided(lam, how.drawn) for lam in how.drawn_lambdas
    ]


def _greedy(lam: float) -> ComparedMethod:
    """Greedy decoding guided at λ."""
    return replace(methods.guided(guidance_name(lam)), name="guided, greedy", lam=lam)


def _tried(n: int, lam: float, name: str) -> ComparedMethod:
    """A score that is no reduction of preftilt's."""
    score = OTHER_SCORES[name]

    def pick(item: ItemMeasurements) -> Sequence[RecordedAnswer]:
        drawn = methods.first(item.pool, n)
        return [first_by(drawn, score(drawn, lam))] if drawn else []

    made = replace(methods.best_by("", n, lam, "sum"), pick=pick)
    return _named(made, f"best-of-{n}, {name}", lam)


def _named(made: ComparedMethod, name: str, lam: float) -> ComparedMethod:
    """Under the name of its family, with its λ; λ → ∞ is a word of the name, as no number is."""
    if math.isinf(lam):
        return replace(made, name=f"{name}, λ → ∞", lam=None, reduction=None)
    return replace(made, name=name, lam=lam, reduction=None)


def _picked_guided(
    lam: float, n: int, rank_lam: float, name: str, reduction: Reduction
) -> ComparedMethod:
    reward = Reward(reduction=reduction)

    def pick(item: ItemMeasurements) -> Sequence[RecordedAnswer]:
        drawn = methods.guided_draws(lam, n, item)
        return [first_by(drawn, scores(drawn, rank_lam, reward))] if drawn else []

    made = ComparedMethod(
        name=name, pick=pick, spent=_draws_spent(lam, n), timed=drawn_guidance(lam)
    )
    return _named(made, name, rank_lam)


def _random_guided(lam: float, n: int) -> ComparedMethod:
    return ComparedMethod(
        name=f"guided draws at λ = {lam:g}, random of {n}",
        pick=lambda item: methods.guided_draws(lam, n, item),
        spent=_draws_spent(lam, 1),
    )


def _any_guided(
    lam: float, n: int, right: Callable[[ItemMeasurements, RecordedAnswer], float]
) -> ComparedMethod:
    def pick(item: ItemMeasurements) -> Sequence[RecordedAnswer]:
        drawn = methods.guided_draws(lam, n, item)
        return [max(drawn, key=lambda answer: right(item, answer))] if drawn else []

    name = f"guided draws at λ = {lam:g}, any of {n} (oracle)"
    return ComparedMethod(name=name, pick=pick, spent=_draws_spent(lam, n), oracle=True)


def _draws_spent(lam: float, n: int) -> Callable[[ItemMeasurements], AnswerCost]:
    """Guided draws bring their scores along; each token was read under both views."""

    def spent(item: ItemMeasurements) -> AnswerCost:
        pool = item.draws.get(drawn_guidance(lam))
        return AnswerCost() if pool is None else pool.guided(n)

    return spent


def _figures(
    judged: JudgedItems, how: MeasureSettings, picked: Sequence[ComparedMethod]
) -> dict[str, Any]:
    """Following over λ and over tokens, and the length of the winner over λ by reduction."""
    n = how.n
    over_lambda = {
        f"best-of-{n}, {reduction}": [
            methods.rear(n, lam, reduction) for lam in PICKING_LAMBDAS if math.isfinite(lam)
        ]
        for reduction in REDUCTIONS
    }
    guided = {"guided, greedy": [_greedy(lam) for lam in how.guided_lambdas]}
    greedy = judged.interval(methods.greedy())
    return {
        "lambda": {
            "curves": {
                name: curve_of(judged, members) for name, members in (over_lambda | guided).items()
            },
            "greedy": None if greedy is None else greedy.mean,
        },
        "length": {
            "curves": {
                name: [{"at": member.lam, "mean": _length(judged, member)} for member in members]
                for name, members in over_lambda.items()
            },
            "drawn": _length(judged, methods.random_of(n, how.seed, exact=True)),
        },
        "tokens": _over_tokens(judged, how, picked),
    }


def _over_tokens(
    judged: JudgedItems, how: MeasureSettings, picked: Sequence[ComparedMethod]
) -> dict[str, Any]:
    """Lines over N of every way of spending tokens; x are tokens drawn and read an answer."""
    best: dict[Reduction, float] = {
        reduction: next(
            (
                member.lam
                for member in picked
                if member.name == f"best-of-{how.n}, {reduction}, cut off {Reward().cut_off}"
                and member.lam is not None
            ),
            3.0,
        )
        for reduction in REDUCTIONS
    }
    lines: dict[str, list[ComparedMethod]] = {
        f"best-of-N, {reduction}, λ = {lam:g}": [
            methods.best_by("", n, lam, reduction) for n in sizes(how.n)
        ]
        for reduction, lam in best.items()
    }
    lines |= {
        f"guided draws at λ = {lam:g}, by gain": [
            _picked_guided(lam, n, math.inf, "", "sum") for n in sizes(how.drawn)
        ]
        for lam in how.drawn_lambdas
    }
    lines |= {
        guidance_name(lam): [methods.guided(guidance_name(lam))] for lam in how.guided_lambdas
    }
    lines["greedy"] = [methods.greedy()]
    curves = {}
    for name, members in lines.items():
        points = []
        for member in members:
            interval = judged.interval(member)
            if interval is not None:
                spent = [member.spent(item) for item in judged.measured(member)]
                tokens = float(np.mean([each.sampled + each.scored for each in spent]))
                span = {"mean": interval.mean, "low": interval.low, "high": interval.high}
                points.append({"at": tokens, **span})
        if points:
            curves[name] = points
    return curves


def _breakdown(
    judged: JudgedItems, how: MeasureSettings, picked: Sequence[ComparedMethod]
) -> dict[str, Any]:
    """Every further number by greedy decoding, by λ = 1, by guided decoding and by the best that was chosen."""
    shown = [
        methods.greedy(),
        methods.plain(how.n, "sum"),
        *(_greedy(lam) for lam in how.guided_lambdas),
    ]
    rows = []
    for metric in judged.benchmark.breakdown:
        values = [judged.interval(member, metric) for member in shown]
        if values[0] is not None:
            means = [None if value is None else value.mean for value in values]
            rows.append({"metric": metric, "n": values[0].n, "means": means})
    return {"methods": [member.label for member in shown], "rows": rows}


def _length(judged: JudgedItems, member: ComparedMethod) -> float | None:
    """Mean tokens of what a method picks."""
    lengths = [
        np.mean([answer.length for answer in member.pick(item)]) for item in judged.measured(member)
    ]
    return float(np.mean(lengths)) if lengths else None


def _distinct(members: Sequence[ComparedMethod]) -> list[ComparedMethod]:
    """The first of those of one label; one that was chosen stands for its like."""
    by_label: dict[str, ComparedMethod] = {}
    for member in members:
        if member.label not in by_label or member.chosen:
            by_label[member.label] = member
    return list(by_label.values())
