"""Fronts: hypervolume and mean inner product of rewards over preference vectors, as PARM and UniARM measure them.

Both depend on units and on a reference point, and no published code states either: so both are arguments without a
default here, are recorded with every result, and numbers of different scales are not comparable.

They are measured from one JSON object a line, the rewards of one answer under one preference vector: ``{"method":
"parm", "alpha": {"help": 0.7, "brief": 0.3}, "prompt": "…", "rewards": {"help": 0.4, "brief": 0.9}}``, and whatever
else a line carries; ``tokens``, the length of the answer, is reported, too. Every method has the same prompts under
each of its preference vectors. They are told as a table, as JSON and as a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from preftilt.errors import BadInput, MissingPackage
from preftilt.eval.report import Table, cell, markdown, with_interval
from preftilt.eval.stats import percentile_interval, weights
from preftilt.plots.curves import LineStyle, line_styles
from preftilt.plots.style import QUIET, picture
from preftilt.records.lines import file_objects


@dataclass(frozen=True, slots=True)
class MethodRewards:
    """One method: ``alphas`` [A, k] in the order of the first objective, ``rewards`` [A, P, k] (the caller's units).

    ``tokens`` is the mean length of its answers, None where lines do not tell it.
    """

    method: str
    alphas: Float[np.ndarray, "A k"]
    rewards: Float[np.ndarray, "A P k"]
    tokens: float | None


Cell = dict[str, tuple[tuple[float, ...], float | None]]
"""Rewards and length of the answer to every prompt, under one preference vector."""


def read_rewards(paths: Sequence[Path], objectives: Sequence[str]) -> list[MethodRewards]:
    """The methods of all files, in the order in which they first appear.

    Raises :class:`~preftilt.errors.BadInput`, naming file, line and field, for lines that are no such records, and for
    a method that lacks an answer.
    """
    methods: dict[str, dict[tuple[float, ...], Cell]] = {}
    for where, row in (line for path in paths for line in file_objects(path)):
        if "error" in row:
            raise BadInput(f"{where} is an answer that failed: {row['error']}; run the sweep again")
        for name in ("method", "prompt"):
            if not isinstance(row.get(name), str):
                raise BadInput(f'{where}: "{name}" must be a text')
        method, prompt, tokens = row["method"], row["prompt"], row.get("tokens")
        alpha = _numbers(row, "alpha", objectives, where)
        cell = methods.setdefault(method, {}).setdefault(alpha, {})
        if prompt in cell:
            raise BadInput(f'{where}: {method} answers prompt "{prompt}" twice under one alpha')
        length = float(tokens) if isinstance(tokens, int | float) else None
        cell[prompt] = _numbers(row, "rewards", objectives, where), length
    if not methods:
        raise BadInput(f"{', '.join(map(str, paths))}: there are no records")
    prompts = sorted(
        {name for cells in methods.values() for cell in cells.values() for name in cell}
    )
    return [_swept(method, cells, prompts) for method, cells in methods.items()]


def _swept(
    method: str, cells: Mapping[tuple[float, ...], Cell], prompts: Sequence[str]
) -> MethodRewards:
    ordered = sorted(cells)
    for alpha in ordered:
        if missing := [name for name in prompts if name not in cells[alpha]]:
            raise BadInput(
                f"{method} has no answer to {len(missing)} of {len(prompts)} prompts under alpha {alpha}, e.g."
                f' "{missing[0]}": all methods must answer the same prompts under each of their preference vectors'
            )
    answers = [[cells[alpha][name] for name in prompts] for alpha in ordered]
    lengths = [length for each in answers for _, length in each]
    known = [length for length in lengths if length is not None]
    return MethodRewards(
        method,
        np.array(ordered, np.float64),
        np.array([[rewards for rewards, _ in each] for each in answers], np.float64),
        float(np.mean(known)) if len(known) == len(lengths) else None,
    )


def _numbers(
    row: Mapping[str, Any], field: str, objectives: Sequence[str], where: str
) -> tuple[float, ...]:
    numbers = row.get(field)
    if not isinstance(numbers, dict):
        raise BadInput(f'{where}: "{field}" must be an object of numbers by objective')
    for name in objectives:
        value = numbers.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise BadInput(f'{where}: "{field}" has no number for {name}')
    if field == "alpha" and set(numbers) - set(objectives):
        others = ", ".join(sorted(set(numbers) - set(objectives)))
        raise BadInput(f'{where}: "alpha" names {others} beside {", ".join(objectives)}')
    return tuple(float(numbers[name]) for name in objectives)


SLACK = 1e-12
"""How far rounding may push a reward over its bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardScale:
    """What rewards are measured in: objective i becomes (r_i − low_i) / (high_i − low_i), all of them higher-better.

    reference: the point that the volume is measured from, in those units; it must bound the rewards from below.
    """

    objectives: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    reference: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.objectives)
        if count < 2:
            raise BadInput("a front needs at least two objectives")
        if not len(self.low) == len(self.high) == len(self.reference) == count:
            raise BadInput(
                f"there are {count} objectives ({', '.join(self.objectives)}): give as many ranges and as many"
                " coordinates of the reference point"
            )
        if not np.isfinite([*self.low, *self.high, *self.reference]).all():
            raise BadInput("ranges and the reference point must be finite numbers")
        for name, low, high in zip(self.objectives, self.low, self.high, strict=True):
            if not low < high:
                raise BadInput(f"the range of {name} goes from {low:g} to {high:g}; give LOW:HIGH")

    def normalised(self, rewards: Float[np.ndarray, "*n k"]) -> Float[np.ndarray, "*n k"]:
        """``rewards`` in the scale's units."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return (np.asarray(rewards, np.float64) - low) / (high - low)


def hypervolume(points: Float[np.ndarray, "A k"], scale: RewardScale) -> float:
    """The volume that mean rewards ``points`` (the caller's units) dominate above the scale's reference point.

    Raises :class:`~preftilt.errors.BadInput` if the reference point does not bound them.
    """
    return _volume(_bounded(points, scale), scale)


def mean_inner_product(
    points: Float[np.ndarray, "A k"], alphas: Float[np.ndarray, "A k"], scale: RewardScale
) -> float:
    """MIP: the mean over the tested α of αᵀ r(α), r in the scale's units."""
    return float((np.asarray(alphas) * scale.normalised(points)).sum(axis=1).mean())


def on_the_front(points: Float[np.ndarray, "A k"]) -> Bool[np.ndarray, "A"]:
    """Which of the points no other one dominates; of equal points, the first."""
    return np.asarray(_moocore().is_nondominated(np.asarray(points, np.float64), maximise=True))


@dataclass(frozen=True, slots=True)
class ResampledValue:
    """A figure with its 95 % percentile interval over resampled prompts."""

    value: float
    low: float
    high: float


def bootstrapped(
    rewards: Float[np.ndarray, "A P k"],
    alphas: Float[np.ndarray, "A k"],
    scale: RewardScale,
    resamples: Float[np.ndarray, "R P"],
) -> tuple[ResampledValue, ResampledValue]:
    """Hypervolume and MIP of the rewards of P prompts under A preference vectors, prompts resampled R times.

    ``resamples`` are the weights of the prompts in every resample (``eval/stats.py``); equal ones make the
    figures of two methods comparable. The means of a resample are bounded by the rewards, so the same reference holds.
    """
    means = rewards.mean(axis=1)
    _bounded(means, scale)
    drawn = np.einsum("rp,apk->rak", resamples, rewards)
    volumes = [_volume(scale.normalised(each), scale) for each in drawn]
    products = [mean_inner_product(each, alphas, scale) for each in drawn]
    return (
        within(hypervolume(means, scale), np.array(volumes)),
        within(mean_inner_product(means, alphas, scale), np.array(products)),
    )


def within(value: float, drawn: Float[np.ndarray, "R"]) -> ResampledValue:
    """``value`` with the range of what was drawn in resamples."""
    low, high = percentile_interval(drawn)
    return ResampledValue(value, float(low), float(high))


def _bounded(points: Float[np.ndarray, "A k"], scale: RewardScale) -> Float[np.ndarray, "A k"]:
    """The points in the scale's units, none of them below the reference."""
    normalised = scale.normalised(points)
    lowest = normalised.min(axis=0)
    for name, least, bound in zip(scale.objectives, lowest, scale.reference, strict=True):
        if least < bound - SLACK:
            raise BadInput(
                f"the reference point does not bound the rewards: {name} is as low as {least:.4g} after normalisation,"
                f" and the reference has {bound:g}; give a lower one (the same for all that is compared)"
            )
    return normalised


def _volume(normalised: Float[np.ndarray, "A k"], scale: RewardScale) -> float:
    return float(_moocore().hypervolume(normalised, ref=list(scale.reference), maximise=True))


def _moocore():
    try:
        import moocore
    except ImportError:
        raise MissingPackage('fronts need moocore: pip install "preftilt[fronts]"') from None
    return moocore


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
    low, high = percentile_interval(drawn)
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


def draw_front(report: Mapping[str, Any], path: Path) -> None:
    """Draw the report's first two objectives; needs no model.

    A method is a line through its preference vectors, with a whisker each way at every point; the larger mark is the
    end where only the first objective is asked for. A method that does not look at α is one mark.
    """
    first, second = report["frame"]["objectives"][:2]
    with picture(path, width=7.6, height=5.2) as figure:
        axes = figure.add_subplot()
        for row, look in zip(report["methods"], line_styles(len(report["methods"])), strict=True):
            _line(axes, row, look)
        axes.set_xlabel(f"{first} (mean reward)")
        axes.set_ylabel(f"{second} (mean reward)")
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside right upper")


def _line(axes: Any, row: Mapping[str, Any], look: LineStyle) -> None:
    means, low, high = (np.array(row[name])[:, :2] for name in ("points", "lows", "highs"))
    if len(np.unique(means, axis=0)) == 1:
        means, low, high = means[:1], low[:1], high[:1]
    reach = np.stack([np.maximum(means - low, 0), np.maximum(high - means, 0)])
    axes.errorbar(
        *means.T, xerr=reach[:, :, 0], yerr=reach[:, :, 1], color=look.colour, linestyle=look.line,
        marker=look.marker, markersize=4.5, linewidth=1.3, elinewidth=0.5, label=row["method"],
    )  # fmt: skip
    first = int(np.argmax(np.array(row["alphas"])[:, 0]))
    if len(means) > 1:
        axes.plot(
            *means[first], color=look.colour, marker=look.marker, markersize=8,
            markeredgecolor=QUIET, linestyle="none",
        )  # fmt: skip
