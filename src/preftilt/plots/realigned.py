"""The figure of a result: its candidates, and which of them wins for which λ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from preftilt.plots.style import (
    BLUE,
    FAINT,
    INK,
    QUIET,
    VERMILION,
    Label,
    picture,
    place_labels,
    plain_number,
)
from preftilt.result import Realigned, ScoredCandidate
from preftilt.reward import ScoreLine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELLED_SHARE = 0.035
"""An interval of λ narrower than this share of the axis gets no label."""

LAMBDAS = (0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
TICK_GAP = 0.075


def plot_realigned(result: Realigned, path: Path, *, plain: Realigned | None = None) -> None:
    """The candidates in the plane of question log-prob and preference gain, and what every λ would choose.

    ``plain`` is the model's own answer, drawn beside them. Equal candidates are one point.
    """
    dots = _dots(result)
    with picture(path, width=10.5, height=4.6) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
        _draw_path(right, result, dots)
        _draw_plane(left, result, dots, plain)
        if dots:
            figure.legend(loc="outside lower center", ncols=5)
        place_labels(figure, left, [point.tag() for point in dots])


@dataclass(frozen=True, slots=True)
class CandidatePoint:
    """One distinct candidate as it is drawn."""

    label: str
    line: ScoreLine
    cut_off: bool
    on_path: bool
    wins: bool

    @property
    def colour(self) -> str:
        return VERMILION if self.wins else BLUE if self.on_path else FAINT

    def tag(self) -> Label:
        """Its rank, to stand beside it."""
        return Label(
            self.label,
            self.line.question_logprob,
            self.line.preference_gain,
            INK if self.on_path or self.wins else QUIET,
            bold=self.wins,
            gap=11 if self.wins else 9,
        )


def _dots(result: Realigned) -> list[CandidatePoint]:
    """Distinct candidates that can be drawn, best first."""
    on_path = {result.candidates[segment.candidate].tokens for segment in result.path}
    first: dict[tuple[int, ...], ScoredCandidate] = {}
    for candidate in result.candidates:
        first.setdefault(candidate.tokens, candidate)
    winner = result.candidates[0].tokens
    return [
        CandidatePoint(
            str(candidate.rank),
            line,
            candidate.finish == "length",
            tokens in on_path,
            tokens == winner,
        )
        for tokens, candidate in first.items()
        if math.isfinite((line := _line(candidate)).at(1.0))
    ]


def _line(candidate: ScoredCandidate) -> ScoreLine:
    return ScoreLine(candidate.question_logprob, candidate.preference_gain)


# --- the plane ----------------------------------------------------------------------


def _draw_plane(
    axes: Axes, result: Realigned, dots: Sequence[CandidatePoint], plain: Realigned | None
) -> None:
    axes.set_title("Candidates")
    axes.set_xlabel(f"question log-prob ({result.unit})")
    axes.set_ylabel(f"preference gain ({result.unit})")
    hull = [_line(result.candidates[segment.candidate]) for segment in result.path]
    hull = [line for line in hull if math.isfinite(line.at(1.0))]
    if len(hull) > 1:
        xs, ys = _xy(hull)
        axes.plot(xs, ys, color=BLUE, linewidth=1.2, zorder=2, label="best for some λ")
    # A finished answer may go before any that was cut off, whatever their scores: the reader sees which are which.
    cut_off = next((point for point in dots if point.cut_off and not point.wins), None)
    for point in dots:
        _mark(axes, point, "cut off" if point is cut_off else None)
    if plain is not None and math.isfinite(_line(plain.candidates[0]).at(1.0)):
        xs, ys = _xy([_line(plain.candidates[0])])
        axes.plot(
            xs,
            ys,
            "D",
            markerfacecolor="white",
            color=INK,
            markersize=7,
            zorder=3,
            label="model alone",
        )
    axes.margins(0.1)
    if dots and dots[0].wins:
        _draw_equal_scores(axes, dots[0].line, result.lam)


def _mark(axes: Axes, point: CandidatePoint, label: str | None) -> None:
    marker, size, level = "o", 5.0, 3
    if point.wins:
        marker, size, level, label = "*", 15.0, 5, "this answer"
    elif point.on_path:
        size, level = 6.5, 4
    axes.plot(
        *_xy([point.line]),
        marker,
        color=point.colour,
        markerfacecolor="white" if point.cut_off else point.colour,
        markersize=size,
        zorder=level,
        label=label,
    )


def _draw_equal_scores(axes: Axes, line: ScoreLine, lam: float) -> None:
    """All points that score as the answer does: candidates below it score less."""
    limits = axes.get_xlim(), axes.get_ylim()
    at = (line.question_logprob, line.preference_gain)
    label = f"equal score, λ = {lam:g}"
    if lam == 0:
        axes.axvline(at[0], color=VERMILION, linewidth=0.9, linestyle=(0, (4, 3)), label=label)
    else:
        axes.axline(
            at, slope=-1 / lam, color=VERMILION, linewidth=0.9, linestyle=(0, (4, 3)), label=label
        )
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])


def _xy(lines: Sequence[ScoreLine]) -> tuple[list[float], list[float]]:
    return [line.question_logprob for line in lines], [line.preference_gain for line in lines]


# --- the path -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LambdaScale:
    """All λ from ``start`` to infinity on 0 … 1, with ``start + centre`` in the middle.

    Scores divided by (λ − start + centre) are straight lines on this axis.
    """

    start: float
    centre: float

    def x(self, lam: float) -> float:
        if lam == math.inf:
            return 1.0
        return (lam - self.start) / (lam - self.start + self.centre)

    def ends(self, line: ScoreLine) -> tuple[float, float]:
        """The rescaled score at ``start`` and at infinity."""
        return line.at(self.start) / self.centre, line.preference_gain


def _draw_path(axes: Axes, result: Realigned, dots: Sequence[CandidatePoint]) -> None:
    start = result.path[0].start if result.path else 0.0
    warp = LambdaScale(start, (result.lam - start) or max(abs(start), 1.0))
    axes.set_title("Which of them every λ would choose")
    for point in reversed(dots):
        width = 1.6 if point.wins else 1.0 if point.on_path else 0.7
        axes.plot((0, 1), warp.ends(point.line), color=point.colour, linewidth=width, zorder=2)
    _draw_winners(axes, result, warp)
    axes.axvline(warp.x(result.lam), color=VERMILION, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 1)
    _label_lambdas(axes, warp, result.lam)
    axes.set_ylabel(f"score ÷ (λ + {plain_number(warp.centre - start)})")
    axes.set_xlabel("λ: strength of the preference")
    axes.margins(y=0.06)


def _draw_winners(axes: Axes, result: Realigned, warp: LambdaScale) -> None:
    """The upper envelope, bold, and above it who holds which interval."""
    for index, segment in enumerate(result.path):
        candidate = result.candidates[segment.candidate]
        if not math.isfinite(_line(candidate).at(1.0)):
            continue
        left, right = warp.x(segment.start), warp.x(segment.stop)
        low, high = warp.ends(_line(candidate))
        wins = candidate.tokens == result.candidates[0].tokens
        colour = VERMILION if wins else BLUE
        ys = [low + (high - low) * x for x in (left, right)]
        axes.plot((left, right), ys, color=colour, linewidth=3.2, zorder=4, solid_capstyle="butt")
        if index:
            axes.plot(left, ys[0], "o", color="white", markeredgecolor=INK, markersize=5, zorder=5)
        axes.axvspan(
            left,
            right,
            1.02,
            1.07,
            facecolor=colour,
            edgecolor="white",
            linewidth=1.5,
            clip_on=False,
        )
        if right - left > LABELLED_SHARE:
            axes.text(
                (left + right) / 2,
                1.043,
                f"{candidate.rank}",
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="center_baseline",
                fontsize=8.5,
                fontweight="bold",
                color="white",
            )


def _label_lambdas(axes: Axes, warp: LambdaScale, lam: float) -> None:
    """Round values of λ where there is room for them; the one in use always."""
    shown: list[float] = [lam]
    for tick in (warp.start, math.inf, *LAMBDAS):
        room = all(abs(warp.x(tick) - warp.x(other)) >= TICK_GAP for other in shown)
        if tick >= warp.start and room:
            shown.append(tick)
    axes.set_xticks([warp.x(tick) for tick in shown], [plain_number(tick) for tick in shown])
