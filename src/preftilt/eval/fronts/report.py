"""Fronts as a table and as JSON: every method's hypervolume and mean inner product, with intervals and the scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.errors import BadInput
from preftilt.eval.bootstrap import weights
from preftilt.eval.fronts.metrics import ResampledValue, RewardScale, bootstrapped, on_the_front
from preftilt.eval.fronts.records import MethodRewards
from preftilt.eval.harness.cells import cell

RESAMPLES = 2000
"""Of the bootstrap over prompts; a hypervolume each."""


@dataclass(frozen=True, slots=True)
class MethodFront:
    """A method's figures.

    beyond: its MIP less that of the first method, prompt by prompt; None for the first. points [A, k]: its mean rewards
    under each α, in the caller's units; lows, highs: their 95 % intervals.
    """

    method: str
    hypervolume: ResampledValue
    inner_product: ResampledValue
    beyond: ResampledValue | None
    front: int
    alphas: tuple[tuple[float, ...], ...]
    points: tuple[tuple[float, ...], ...]
    lows: tuple[tuple[float, ...], ...]
    highs: tuple[tuple[float, ...], ...]
    tokens: float | None


def fronts(methods: Sequence[MethodRewards], scale: RewardScale, seed: int = 0) -> dict[str, Any]:
    """The report's JSON. Raises :class:`~preftilt.errors.BadInput` where methods are not comparable.

    Prompts are resampled alike for all methods; ``front`` counts the α whose point no other α of the method dominates.
    """
    first = methods[0]
    for method in methods:
        if not np.array_equal(method.alphas, first.alphas):
            raise BadInput(
                f"{method.method} and {first.method} were measured under different preference vectors; their figures"
                " cannot be compared"
            )
        if method.rewards.shape[1] != first.rewards.shape[1]:
            raise BadInput(f"{method.method} and {first.method} answer different prompts")
    resamples = weights(first.rewards.shape[1], seed)[:RESAMPLES]
    rows = [_row(method, first, scale, resamples) for method in methods]
    return {
        "frame": asdict(scale),
        "prompts": first.rewards.shape[1],
        "alphas": first.alphas.tolist(),
        "resamples": RESAMPLES,
        "seed": seed,
        "methods": [asdict(row) for row in rows],
    }


def _row(
    method: MethodRewards,
    first: MethodRewards,
    scale: RewardScale,
    resamples: Float[np.ndarray, "R P"],
) -> MethodFront:
    volume, product = bootstrapped(method.rewards, method.alphas, scale, resamples)
    means = method.rewards.mean(axis=1)
    low, high = np.percentile(
        np.einsum("rp,apk->rak", resamples, method.rewards), [2.5, 97.5], axis=0
    )
    return MethodFront(
        method.method,
        volume,
        product,
        None if method is first else _beyond(method, first, scale, resamples),
        int(on_the_front(means).sum()),
        _rows(method.alphas),
        _rows(means),
        _rows(low),
        _rows(high),
        method.tokens,
    )


def _rows(matrix: Float[np.ndarray, "A k"]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


def _beyond(
    method: MethodRewards,
    first: MethodRewards,
    scale: RewardScale,
    resamples: Float[np.ndarray, "R P"],
) -> ResampledValue:
    difference = scale.normalised(method.rewards) - scale.normalised(first.rewards)
    products = np.einsum("apk,ak->p", difference, method.alphas) / len(method.alphas)
    low, high = np.percentile(resamples @ products, [2.5, 97.5])
    return ResampledValue(float(products.mean()), float(low), float(high))


def table(report: Mapping[str, Any], beside: Mapping[str, Sequence[str]] | None = None) -> str:
    """The Markdown table; ``beside`` has more columns, title → a cell for every method."""
    beside = beside or {}
    scale = report["frame"]
    ends = [f"{name}, only {name} asked for" for name in scale["objectives"]]
    first = report["methods"][0]["method"]
    head = [
        "method",
        "hypervolume",
        "MIP",
        f"Δ MIP, {cell(first)}",
        *ends,
        "α on the front",
        "tokens",
        *beside,
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for number, row in enumerate(report["methods"]):
        more = [column[number] for column in beside.values()]
        lines.append("| " + " | ".join([*_cells(row), *more]) + " |")
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    ends = [
        f"{row['points'][int(np.argmax([alpha[i] for alpha in row['alphas']]))][i]:.3f}"
        for i in range(len(row["points"][0]))
    ]
    tokens = "–" if row["tokens"] is None else f"{row['tokens']:.0f}"
    figures = [_with_interval(row[name]) for name in ("hypervolume", "inner_product")]
    figures.append("–" if row["beyond"] is None else _with_interval(row["beyond"], "+"))
    return [cell(row["method"]), *figures, *ends, f"{row['front']} of {len(row['alphas'])}", tokens]


def _with_interval(interval: Mapping[str, float], sign: str = "") -> str:
    value, low, high = (f"{interval[name]:{sign}.3f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def scale_in_words(report: Mapping[str, Any]) -> str:
    """What the figures are measured in, in a sentence."""
    scale = report["frame"]
    ranges = ", ".join(
        f"{name} from {low:g} to {high:g}"
        for name, low, high in zip(scale["objectives"], scale["low"], scale["high"], strict=True)
    )
    point = ", ".join(f"{value:g}" for value in scale["reference"])
    return (
        f"Rewards are normalised to [0, 1] ({ranges}); the reference point is ({point}). There are {report['prompts']}"
        f" prompts under each of {len(report['alphas'])} preference vectors; 95 % intervals by {report['resamples']}"
        " resamples of the prompts, the same ones for all methods."
    )
