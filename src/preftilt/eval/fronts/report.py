"""Fronts as a table, as JSON and as a picture: every method's hypervolume and mean inner product, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from preftilt.errors import BadInput
from preftilt.eval.fronts.metrics import (
    MethodRewards,
    RewardScale,
    bootstrapped,
    on_the_front,
    within,
)
from preftilt.eval.report import Table, cell, markdown, with_interval
from preftilt.eval.stats import weights
from preftilt.plots.curves import LineStyle, line_styles
from preftilt.plots.style import QUIET, picture

RESAMPLES = 2000
"""Of the bootstrap over prompts; a hypervolume each."""


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
        "methods": rows,
    }


def _row(
    method: MethodRewards,
    first: MethodRewards,
    scale: RewardScale,
    resamples: Float[np.ndarray, "R P"],
) -> dict[str, Any]:
    """A method's figures.

    beyond: its MIP less that of the first method, prompt by prompt; None for the first. points [A, k]: its mean rewards
    under each α, in the caller's units; lows, highs: their 95 % intervals.
    """
    volume, product = bootstrapped(method.rewards, method.alphas, scale, resamples)
    means = method.rewards.mean(axis=1)
    drawn = np.einsum("rp,apk->rak", resamples, method.rewards)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    difference = scale.normalised(method.rewards) - scale.normalised(first.rewards)
    products = np.einsum("apk,ak->p", difference, method.alphas) / len(method.alphas)
    beyond = within(float(products.mean()), resamples @ products)
    return {
        "method": method.method,
        "hypervolume": asdict(volume),
        "inner_product": asdict(product),
        "beyond": None if method is first else asdict(beyond),
        "front": int(on_the_front(means).sum()),
        "alphas": method.alphas.tolist(),
        "points": means.tolist(),
        "lows": low.tolist(),
        "highs": high.tolist(),
        "tokens": method.tokens,
    }


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
    rows = [
        [*_cells(row), *(column[number] for column in beside.values())]
        for number, row in enumerate(report["methods"])
    ]
    return markdown([Table(head, rows)]).rstrip()


def _cells(row: Mapping[str, Any]) -> list[str]:
    ends = [
        f"{row['points'][int(np.argmax([alpha[i] for alpha in row['alphas']]))][i]:.3f}"
        for i in range(len(row["points"][0]))
    ]
    tokens = "–" if row["tokens"] is None else f"{row['tokens']:.0f}"
    figures = [with_interval(row[name]) for name in ("hypervolume", "inner_product")]
    figures.append("–" if row["beyond"] is None else with_interval(row["beyond"], "+.3f"))
    return [row["method"], *figures, *ends, f"{row['front']} of {len(row['alphas'])}", tokens]


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


def draw_front(
    report: Mapping[str, Any], path: Path, objectives: tuple[str, str] | None = None
) -> None:
    """Draw two of the report's objectives (its first two by default); needs no model.

    A method is a line through its preference vectors, with a whisker each way at every point; the larger mark is the
    end where only the first objective is asked for. A method that does not look at α is one mark.
    """
    names = report["frame"]["objectives"]
    pair = objectives or tuple(names[:2])
    if unknown := set(pair) - set(names):
        raise BadInput(
            f"the report has no objective {', '.join(unknown)}; it has {', '.join(names)}"
        )
    columns = [names.index(name) for name in pair]
    with picture(path, width=7.6, height=5.2) as figure:
        axes = figure.add_subplot()
        for row, look in zip(report["methods"], line_styles(len(report["methods"])), strict=True):
            _line(axes, row, columns, look)
        axes.set_xlabel(f"{pair[0]} (mean reward)")
        axes.set_ylabel(f"{pair[1]} (mean reward)")
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside right upper")


def _line(axes: Any, row: Mapping[str, Any], columns: list[int], look: LineStyle) -> None:
    means, low, high = (np.array(row[name])[:, columns] for name in ("points", "lows", "highs"))
    if len(np.unique(means, axis=0)) == 1:
        means, low, high = means[:1], low[:1], high[:1]
    reach = np.stack([np.maximum(means - low, 0), np.maximum(high - means, 0)])
    axes.errorbar(
        *means.T, xerr=reach[:, :, 0], yerr=reach[:, :, 1], color=look.colour, linestyle=look.line,
        marker=look.marker, markersize=4.5, linewidth=1.3, elinewidth=0.5, label=row["method"],
    )  # fmt: skip
    first = int(np.argmax(np.array(row["alphas"])[:, columns[0]]))
    if len(means) > 1:
        axes.plot(
            *means[first], color=look.colour, marker=look.marker, markersize=8,
            markeredgecolor=QUIET, linestyle="none",
        )  # fmt: skip
