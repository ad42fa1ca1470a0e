"""From records to numbers: every method's metrics on the test split, each with its interval.

Several models (training seeds) are averaged item by item before the bootstrap over items, and their spread is shown
beside it. λ is chosen on the validation records, the numbers are those of the test records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.eval.bootstrap import Interval, mean_interval, paired_difference
from preftilt.eval.demo.choose import (
    METRICS,
    SIZES,
    Method,
    N,
    baselines,
    best_of_n,
    dvts,
    oracle,
    tuned,
)
from preftilt.eval.demo.collect import LAMBDAS, REDUCTIONS, Draws, Record
from preftilt.types import Reduction

PAPER_LAMBDA = 20.0


@dataclass(frozen=True, slots=True)
class Measured:
    """The records of one model."""

    model: str
    validation: Sequence[Record]
    test: Sequence[Record]


@dataclass(frozen=True, slots=True)
class Row:
    """One method on the test split.

    ``lams`` are the λs its models use, ``tuned`` whether validation chose them; ``per_model`` is following by model.
    """

    name: str
    reduction: str | None
    lams: tuple[float, ...]
    tuned: bool
    following: Interval
    helpful: Interval
    violates: Interval
    length: float
    per_model: tuple[float, ...]
    beyond_greedy: Interval
    beyond_lambda_one: Interval


Family = Callable[[Measured], Method]
"""A method for each model: the same for all, or one with the model's own λ."""

Search = Callable[[float, Reduction], Method]
SEARCHES: dict[str, Search] = {"best-of-n": best_of_n, "dvts": dvts}


def always(method: Method) -> Family:
    """The same method for every model."""
    return lambda _: method


def chosen(search: Search, reduction: Reduction) -> Family:
    """The search with the λ that follows best on each model's own validation records."""
    return lambda model: tuned(search, reduction, model.validation)


def rows(models: Sequence[Measured]) -> list[Row]:
    """The table: baselines, REAR at the paper's λ and at the λ chosen on validation, and the oracle."""
    grid: list[tuple[Search, Reduction]] = [
        (search, reduction) for search in SEARCHES.values() for reduction in REDUCTIONS
    ]
    fixed = [*baselines(), *(search(PAPER_LAMBDA, reduction) for search, reduction in grid)]
    return [
        *(_row(models, always(method)) for method in fixed),
        *(_row(models, chosen(search, reduction), tuned=True) for search, reduction in grid),
        _row(models, always(oracle())),
    ]


def sweep(models: Sequence[Measured]) -> dict[str, Any]:
    """Every metric over λ and over N: what the figures are drawn from."""

    def at(method: Method, metric: str) -> dict[str, Any]:
        return asdict(_interval(models, always(method), metric))

    by_lambda = {
        name: {
            reduction: {
                metric: [at(search(lam, reduction), metric) for lam in LAMBDAS]
                for metric in METRICS
            }
            for reduction in REDUCTIONS
        }
        for name, search in SEARCHES.items()
    }
    by_size = {
        reduction: {
            str(lam): [at(best_of_n(lam, reduction, n), "following") for n in SIZES]
            for lam in LAMBDAS
        }
        for reduction in REDUCTIONS
    }
    return {"lambdas": list(LAMBDAS), "sizes": list(SIZES), "lambda": by_lambda, "n": by_size}


def report_json(models: Sequence[Measured], draws: Draws) -> dict[str, Any]:
    """Everything the Markdown and the figures show."""
    return {
        "models": [one.model for one in models],
        "seed": draws.seed,
        "sampling": asdict(draws.sampling),
        "n": N,
        "items": {"validation": len(models[0].validation), "test": len(models[0].test)},
        "rows": [asdict(row) for row in rows(models)],
        "sweep": sweep(models),
        "unhelpful": _causes(models),
        "combinations": _combinations(models),
    }


def _row(models: Sequence[Measured], family: Family, *, tuned: bool = False) -> Row:
    methods = [family(model) for model in models]
    records = [method.on(model.test) for method, model in zip(methods, models, strict=True)]
    reduction = methods[0].reduction
    following = _mean(methods, records, "following")
    greedy = _mean([baselines()[0]] * len(models), records, "following")
    lambda_one = _mean([best_of_n(1.0, reduction or "sum")] * len(models), records, "following")
    return Row(
        name=methods[0].name,
        reduction=reduction,
        lams=tuple(one.lam for one in methods if one.lam is not None),
        tuned=tuned,
        following=mean_interval(following),
        helpful=mean_interval(_mean(methods, records, "helpful")),
        violates=mean_interval(_mean(methods, records, "violates")),
        length=float(_mean(methods, records, "length").mean()),
        per_model=tuple(
            float(method.values(part, "following").mean())
            for method, part in zip(methods, records, strict=True)
        ),
        beyond_greedy=paired_difference(following, greedy),
        beyond_lambda_one=paired_difference(following, lambda_one),
    )


def _mean(
    methods: Sequence[Method], records: Sequence[Sequence[Record]], metric: str
) -> Float[np.ndarray, "N"]:
    """Per item, the metric averaged over the models."""
    values = [one.values(part, metric) for one, part in zip(methods, records, strict=True)]
    return np.mean(values, axis=0)


def _interval(models: Sequence[Measured], family: Family, metric: str) -> Interval:
    methods = [family(model) for model in models]
    records = [method.on(model.test) for method, model in zip(methods, models, strict=True)]
    return mean_interval(_mean(methods, records, metric))


def _causes(models: Sequence[Measured]) -> dict[str, dict[str, float]]:
    """Share of test answers that were unhelpful, by cause, for greedy and for REAR over λ."""
    families: dict[str, Family] = {"greedy": always(baselines()[0])}
    for lam in (1.0, 3.0, 20.0, 100.0):
        families[f"best-of-16 sum, λ = {lam:g}"] = always(best_of_n(lam, "sum"))
    shares: dict[str, dict[str, float]] = {}
    for name, family in families.items():
        picked = [
            one for model in models for item in model.test for one in family(model).pick(item)
        ]
        counts = Counter(one.cause for one in picked if not one.helpful)
        shares[name] = {str(cause): n / len(picked) for cause, n in sorted(counts.items(), key=str)}
    return shares


def _combinations(models: Sequence[Measured]) -> dict[str, dict[str, Any]]:
    """Following apart for pairs of topic and preference that training showed, and that it did not."""
    table: dict[str, dict[str, Any]] = {}
    for kind in ("seen", "held-out"):
        parts = [
            Measured(
                one.model,
                one.validation,
                [item for item in one.test if item.combination == kind],
            )
            for one in models
        ]
        if parts[0].test:
            families: dict[str, Family] = {
                "greedy": always(baselines()[0]),
                "best-of-16 sum, λ = 1": always(best_of_n(1.0, "sum")),
                "best-of-16 sum, chosen λ": chosen(best_of_n, "sum"),
            }
            table[kind] = {
                name: asdict(_interval(parts, family, "following"))
                for name, family in families.items()
            }
    return table
