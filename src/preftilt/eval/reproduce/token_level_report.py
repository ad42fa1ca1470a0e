"""The report of :mod:`~preftilt.eval.reproduce.token_level`: its tables in words, and its three figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from preftilt.eval.harness.method import Json
from preftilt.eval.reproduce.document import Block, Heading, Picture, Table, Text
from preftilt.plots.curves import Curve, Estimate, draw_curves, lambda_axis, level, line_styles
from preftilt.plots.style import picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TableOf = Callable[[Json, Json, str], Table]

TOKEN_TICKS = [digit * 10**power for power in range(1, 7) for digit in (1, 2, 5)]

BEST_ROWS = 12
"""Rows of the validation table that are shown: the best of them, as all are in report.json."""


def draw(data: Json, benchmark: Json, out: Path) -> list[str]:
    """Following over λ, following over tokens, and the winner's length over λ; the files' names."""
    figures: list[tuple[str, Callable[[Json, Json, Path], None]]] = [
        ("lambda", _over_lambda),
        ("tokens", _over_tokens),
        ("length", _lengths),
    ]
    names = []
    for name, make in figures:
        file = f"{benchmark['name']}-token-level-{name}.png"
        make(data["figures"][name], benchmark, out / file)
        names.append(file)
    return names


def blocks(benchmark: Json, files: Sequence[str], table_of: TableOf) -> list[Block]:
    """What was chosen and by what, the test table against both references, the constraints, the figures."""
    data = benchmark["token-level"]
    section: list[Block] = []
    if "validation" in data:
        section += _choice(data, benchmark, table_of)
    section += [Heading("Test items", 4), Text(_reading())]
    section += [table_of(each, benchmark, "") for each in data["tables"].values()]
    section += [Picture(file, f"{benchmark['title']}: {_caption(file)}") for file in files]
    if data["breakdown"]["rows"]:
        section += _constraints(data["breakdown"])
    return section


def _reading() -> str:
    return (
        "*Best-of-N* draws N answers and picks one by S at λ, reduced as named; *cut off last* puts answers that were"
        " cut off behind all that ended, *cut off as-is* compares them like the others. *Guided* decoding applies λ to"
        " every token: greedily, or drawn (*guided draws*), of which one is then picked. λ in *italics* was chosen on"
        " validation items. What is sampled and scored is per answer; a guided token is read under both views."
    )


def _choice(data: Json, benchmark: Json, table_of: TableOf) -> list[Block]:
    whole = data["validation"]
    headline = benchmark["metrics"][0]
    ranked = sorted(whole["rows"], key=lambda row: -row["metrics"][headline]["mean"])
    best = {**whole, "rows": ranked[:BEST_ROWS]}
    return [
        Heading("Validation items: what was chosen from", 4),
        Text(
            f"{len(whole['rows'])} methods were measured on items that are none of those reported below; the best"
            f" {min(BEST_ROWS, len(ranked))} stand here, all of them in report.json. The best member of each family"
            " goes on to the test items."
        ),
        table_of(best, benchmark, ""),
    ]


def _constraints(data: Json) -> list[Block]:
    header = ["constraint", "n", *(f"{name} (%)" for name in data["methods"])]
    rows = [
        [
            row["metric"].removeprefix("constraint "),
            str(row["n"]),
            *("–" if mean is None else f"{100 * mean:.0f}" for mean in row["means"]),
        ]
        for row in data["rows"]
    ]
    return [
        Heading("By constraint", 4),
        Text(
            "Share of the constraints of a kind that are met; n are rows. Few rows: read large differences alone."
        ),
        Table(header, rows),
    ]


def _caption(file: str) -> str:
    if file.endswith("-lambda.png"):
        return "following over λ"
    if file.endswith("-tokens.png"):
        return "following over the tokens spent on an answer"
    return "mean length of the answer that wins, over λ"


def _over_lambda(data: Json, benchmark: Json, path: Path) -> None:
    with picture(path, width=7.6, height=4.4) as figure:
        axes = figure.add_subplot()
        lambda_axis(
            axes, sorted({point["at"] for each in data["curves"].values() for point in each})
        )
        draw_curves(axes, _curves(data["curves"]), whiskers=True)
        if data["greedy"] is not None:
            level(axes, 100 * data["greedy"], "greedy")
        axes.set_ylabel(f"{benchmark['metrics'][0]} (%)")
        _legend(axes)


def _over_tokens(data: Json, benchmark: Json, path: Path) -> None:
    with picture(path, width=8.4, height=4.8) as figure:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        draw_curves(axes, _curves(data), whiskers=True)
        low, high = axes.get_xlim()
        ticks = [tick for tick in TOKEN_TICKS if low <= tick <= high]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("tokens drawn and scored for an answer")
        axes.set_ylabel(f"{benchmark['metrics'][0]} (%)")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def _lengths(data: Json, benchmark: Json, path: Path) -> None:
    with picture(path, width=7.6, height=4.2) as figure:
        axes = figure.add_subplot()
        lambda_axis(
            axes, sorted({point["at"] for each in data["curves"].values() for point in each})
        )
        curves = [
            Curve(
                name,
                [point["at"] for point in points],
                [Estimate(point["mean"], point["mean"], point["mean"]) for point in points],
                look,
            )
            for (name, points), look in zip(
                data["curves"].items(), line_styles(len(data["curves"])), strict=True
            )
        ]
        draw_curves(axes, curves)
        if data["drawn"] is not None:
            level(axes, data["drawn"], "all drawn")
        axes.set_ylabel("mean tokens of the winner")
        _legend(axes)


def _curves(curves: Json) -> list[Curve]:
    known = {
        name: [point for point in points if point["mean"] is not None]
        for name, points in curves.items()
    }
    return [
        Curve(
            name,
            [point["at"] for point in points],
            [
                Estimate(100 * point["mean"], 100 * point["low"], 100 * point["high"])
                for point in points
            ],
            look,
        )
        for (name, points), look in zip(known.items(), line_styles(len(known)), strict=True)
        if points
    ]


def _legend(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
