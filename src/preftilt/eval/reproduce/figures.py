"""The figures of a report, drawn from its numbers alone: without a model, data or a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from preftilt.eval.harness.benchmark import Json
from preftilt.eval.reproduce.experiments import TOKEN_LEVEL
from preftilt.plots.curves import (
    Curve,
    Estimate,
    LineStyle,
    doubling_axis,
    draw_bars,
    draw_curves,
    lambda_axis,
    level,
    line_styles,
    plain,
)
from preftilt.plots.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    PURPLE,
    VERMILION,
    Label,
    picture,
    place_labels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


SEARCHES = {
    "sum": LineStyle(BLUE, "-", "o"),
    "mean": LineStyle(GREEN, "--", "s"),
    "centred": LineStyle(PURPLE, ":", "D"),
    "DVTS": LineStyle(VERMILION, "-", "^"),
}
"""Of a search over λ; best-of-n by its reduction. They differ in colour as in line and marker."""

MARKERS = "Dv^<>Ph8*X"
"""Of methods that are points."""


def draw_figures(report: Json, out: Path) -> dict[tuple[str, str], list[str]]:
    """Draw every figure of every benchmark into ``out``; gives the files' names by benchmark and experiment."""
    files: dict[tuple[str, str], list[str]] = {}
    for benchmark in report["benchmarks"]:
        figures = dict(benchmark["figures"])
        if TOKEN_LEVEL in benchmark:
            figures[TOKEN_LEVEL] = benchmark[TOKEN_LEVEL]["figures"]
        for name, data in figures.items():
            for suffix, draw in FIGURES[name]:
                file = f"{benchmark['name']}-{name}{suffix}.png"
                if draw(data, benchmark, out / file):
                    files.setdefault((benchmark["name"], name), []).append(file)
    return files


Draw = Callable[[Json, Json, Path], bool]
"""Draws a figure's numbers for a benchmark into a file; whether there was anything to draw."""

Axis = Callable[["Axes"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """Curves over an axis that ``axis`` sets up; ``across``: a dotted line, with its name."""

    curves: Sequence[Curve]
    axis: Axis
    label: str
    percent: bool = True
    across: tuple[float | None, str] = (None, "")


def _drawn(
    path: Path,
    panels: Sequence[Panel],
    size: tuple[float, float],
    *,
    beside: bool = False,
    whiskers: bool = True,
) -> bool:
    """Panels side by side, their legend above the first, where it hides no interval, or ``beside`` them."""
    with picture(path, width=size[0], height=size[1]) as figure:
        for place, panel in enumerate(panels, start=1):
            axes = figure.add_subplot(1, len(panels), place)
            panel.axis(axes)
            draw_curves(axes, panel.curves, whiskers=whiskers)
            value, name = panel.across
            if value is not None:
                level(axes, value, name)
            axes.set_ylabel(panel.label)
            if panel.percent:
                _percent_axis(axes)
            if beside:
                axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
            elif place == 1:
                _legend_above(axes)
    return True


def _score(benchmark: Json) -> str:
    return f"{benchmark['metrics'][0]} (%)"


def _greedy(mean: float | None) -> tuple[float | None, str]:
    return None if mean is None else 100 * mean, "greedy"


def _over_lambda(data: Json, benchmark: Json, path: Path) -> bool:
    panel = Panel(
        curves=_search_curves(data["curves"]),
        axis=_lambdas(data["curves"]),
        label=_score(benchmark),
        across=_greedy(data["greedy"]["mean"]),
    )
    return _drawn(path, [panel], (7.2, 4.2))


def _reward_parts(data: Json, benchmark: Json, path: Path) -> bool:
    labels = {"question": "log π(answer | question), nats", "gain": "preference gain, nats"}
    panels = [
        Panel(
            curves=_search_curves(data["reward"][part], scale=1),
            axis=_lambdas(data["reward"][part]),
            label=label,
            percent=False,
        )
        for part, label in labels.items()
    ]
    return _drawn(path, panels, (9.2, 4.0))


def _quality_parts(data: Json, benchmark: Json, path: Path) -> bool:
    panels = [
        Panel(
            curves=_search_curves(part["curves"], inverted=part["inverted"]),
            axis=_lambdas(part["curves"]),
            label=part["label"],
        )
        for part in data.get("quality", ())
    ]
    return bool(panels) and _drawn(path, panels, (9.2, 4.0))


def _over_samples(data: Json, benchmark: Json, path: Path) -> bool:
    sizes = sorted({point["at"] for curve in data["curves"].values() for point in curve})
    panel = Panel(
        curves=_looked(data["curves"]),
        axis=lambda axes: doubling_axis(axes, sizes, "samples N"),
        label=_score(benchmark),
        across=_greedy(data["greedy"]["mean"]),
    )
    return _drawn(path, [panel], (7.2, 4.8))


def _over_context(data: Json, benchmark: Json, path: Path) -> bool:
    if len(data["prompts"]) < 2:
        return False
    places = {at: place + 1 for place, at in enumerate(data["inserted"])}
    pairs = zip(data["inserted"], data["prompts"], strict=True)
    ticks = [f"{inserted}\n{prompt:,.0f}" for inserted, prompt in pairs]

    def axis(axes: Axes) -> None:
        axes.set_xticks(list(places.values()), ticks)
        axes.set_xlabel("messages inserted, and median tokens of the prompt")

    curves = [
        Curve(curve.label, [places[int(at)] for at in curve.x], curve.spans, curve.look)
        for curve in _looked(data["curves"])
    ]
    panel = Panel(curves=curves, axis=axis, label=_score(benchmark))
    return _drawn(path, [panel], (8.4, 4.6), beside=True)


def _guiding_over_lambda(data: Json, benchmark: Json, path: Path) -> bool:
    part = data["lambda"]
    panel = Panel(
        curves=_looked(part["curves"]),
        axis=_lambdas(part["curves"]),
        label=_score(benchmark),
        across=_greedy(part["greedy"]),
    )
    return _drawn(path, [panel], (7.6, 4.4))


def _guiding_over_tokens(data: Json, benchmark: Json, path: Path) -> bool:
    def axis(axes: Axes) -> None:
        from matplotlib.ticker import LogLocator, StrMethodFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.minorticks_off()
        axes.set_xlabel("tokens drawn and scored for an answer")

    panel = Panel(curves=_looked(data["tokens"]), axis=axis, label=_score(benchmark))
    return _drawn(path, [panel], (8.4, 4.8), beside=True)


def _winners_lengths(data: Json, benchmark: Json, path: Path) -> bool:
    part = data["length"]
    curves = {
        name: [{**point, "low": point["mean"], "high": point["mean"], "n": 1} for point in points]
        for name, points in part["curves"].items()
    }
    panel = Panel(
        curves=_curves(curves, line_styles(len(curves)), scale=1),
        axis=_lambdas(curves),
        label="mean tokens of the winner",
        percent=False,
        across=(part["drawn"], "all drawn"),
    )
    return _drawn(path, [panel], (7.6, 4.2), whiskers=False)


def _plane(data: Json, benchmark: Json, path: Path) -> bool:
    """Lines of λ and other methods as points, in the plane of the two parts; up and right is better."""
    if "plane" not in data:
        return False
    plane = data["plane"]
    labels: list[Label] = []
    with picture(path, width=9.4, height=5.6) as figure:
        axes = figure.add_subplot()
        for name, members in plane["lines"].items():
            known = [point for point in members if point["x"]["mean"] is not None]
            if known:
                look = _search_look(name)
                labels += _plane_line(axes, known, plane["inverted"], name, look)
        for point, marker in zip(plane["points"], MARKERS, strict=False):
            _plane_point(axes, point, plane["inverted"], marker)
        axes.set_xlabel(plane["labels"][0])
        axes.set_ylabel(plane["labels"][1])
        axes.margins(0.08)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        place_labels(figure, axes, labels)
    return True


def _plane_line(
    axes: Axes, members: Sequence[Json], inverted: Sequence[bool], name: str, look: LineStyle
) -> list[Label]:
    """λ from end to end; the intervals of two of them, which have labels, stand for those of the rest."""
    spans = [
        tuple(_percent(point[axis], lost) for axis, lost in zip("xy", inverted, strict=True))
        for point in members
    ]
    xs, ys = [x.mean for x, _ in spans], [y.mean for _, y in spans]
    axes.plot(
        xs, ys, color=look.colour, linestyle=look.line, marker=look.marker, label=name,
        markersize=8 if look.line == "-" else 4,  # One is seen behind another in the same place.
    )  # fmt: skip
    labels = []
    for point, (x, y) in zip(members, spans, strict=True):
        if point["lam"] in (1.0, 20.0):
            axes.plot(
                (x.low, x.high), (y.mean, y.mean), color=look.colour, linewidth=0.7, alpha=0.5
            )
            axes.plot(
                (x.mean, x.mean), (y.low, y.high), color=look.colour, linewidth=0.7, alpha=0.5
            )
            labels.append(Label(f"λ = {point['lam']:g}", x.mean, y.mean, look.colour))
    return labels


def _plane_point(axes: Axes, point: Json, inverted: Sequence[bool], marker: str) -> None:
    x, y = (_percent(point[axis], lost) for axis, lost in zip("xy", inverted, strict=True))
    axes.errorbar(
        x.mean, y.mean, xerr=[[x.mean - x.low], [x.high - x.mean]],
        yerr=[[y.mean - y.low], [y.high - y.mean]], fmt=marker, color=INK, ecolor=FAINT, elinewidth=0.8,
        markersize=7, markerfacecolor="white", label=point["name"],
    )  # fmt: skip


def _times(data: Json, benchmark: Json, path: Path) -> bool:
    bars = data["bars"]
    if not bars:
        return False
    labels = [bar["method"] for bar in bars]
    with picture(path, width=9.6, height=1.4 + 0.34 * len(bars)) as figure:
        left, right = figure.subplots(1, 2)
        draw_bars(left, labels, [_span(bar["seconds"]) for bar in bars], BLUE)
        items = "1 item" if data["timed items"] == 1 else f"{data['timed items']} items"
        left.set_xlabel(f"seconds an answer, one at a time ({items})")
        _tokens(right, bars)
        right.set_yticks([])
    return True


def _percent_axis(axes: Axes) -> None:
    """Ten points at least, so that numbers that are all the same do not look as if they differed."""
    low, high = axes.get_ylim()
    lack = max(0.0, 10 - (high - low)) / 2
    low = min(max(low - lack, -1), 91)
    axes.set_ylim(low, max(min(high + lack, 101), low + 10))


def _legend_above(axes: Axes) -> None:
    """Where no interval is hidden by it, however wide."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


def _tokens(axes: Axes, bars: Sequence[Json]) -> None:
    """Tokens sampled, and behind them tokens scored."""
    places = range(len(bars))
    sampled = [bar["sampled"]["mean"] for bar in bars]
    scored = [bar["scored"]["mean"] for bar in bars]
    axes.barh(places, sampled, color=VERMILION, height=0.62, label="sampled")
    axes.barh(
        places, scored, left=sampled, color="white", edgecolor=VERMILION, hatch="////", height=0.62,
        label="scored",
    )  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlabel("tokens an answer")
    totals = [drawn_tokens + other for drawn_tokens, other in zip(sampled, scored, strict=True)]
    for place, total in zip(places, totals, strict=True):
        axes.text(total + 0.015 * max(totals), place, plain(total), va="center", fontsize=8.5)
    axes.margins(x=0.16)
    _legend_above(axes)


FIGURES: Mapping[str, Sequence[tuple[str, Draw]]] = {
    "fig2": [("-lambda", _over_lambda)],
    "fig3": [("-reward", _reward_parts), ("-parts", _quality_parts), ("-plane", _plane)],
    "fig4": [("-samples", _over_samples)],
    "fig5": [("-context", _over_context)],
    "fig6": [("-cost", _times)],
    TOKEN_LEVEL: [
        ("-lambda", _guiding_over_lambda),
        ("-tokens", _guiding_over_tokens),
        ("-length", _winners_lengths),
    ],
}
"""What is drawn for an experiment, and how the file's name ends."""


def _search_look(name: str) -> LineStyle:
    return SEARCHES["DVTS" if name.startswith("DVTS") else name.rpartition(", ")[2]]


def _search_curves(curves: Json, *, scale: float = 100, inverted: bool = False) -> list[Curve]:
    return _curves(curves, [_search_look(name) for name in curves], scale, inverted)


def _looked(curves: Json) -> list[Curve]:
    return _curves(curves, line_styles(len(curves)))


def _curves(
    curves: Json, looks: Sequence[LineStyle], scale: float = 100, inverted: bool = False
) -> list[Curve]:
    """A curve that was measured on fewer items than others says on how many."""
    known = {
        name: [point for point in each if point["mean"] is not None]
        for name, each in curves.items()
    }
    counts = {
        name: max((point.get("n", 0) for point in each), default=0) for name, each in known.items()
    }
    most = max(counts.values(), default=0)
    return [
        Curve(
            name if counts[name] == most else f"{name} ({counts[name]} items)",
            [point["at"] for point in points],
            [_percent(point, inverted) if scale == 100 else _span(point) for point in points],
            look,
        )
        for (name, points), look in zip(known.items(), looks, strict=True)
        if points
    ]


def _lambdas(curves: Json) -> Axis:
    lambdas = sorted({point["at"] for curve in curves.values() for point in curve})
    return lambda axes: lambda_axis(axes, lambdas)


def _span(interval: Json) -> Estimate:
    return Estimate(interval["mean"], interval["low"], interval["high"])


def _percent(interval: Json, inverted: bool = False) -> Estimate:
    mean, low, high = (100 * interval[key] for key in ("mean", "low", "high"))
    return Estimate(100 - mean, 100 - high, 100 - low) if inverted else Estimate(mean, low, high)
