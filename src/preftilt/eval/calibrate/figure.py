"""A calibration as a picture: quality over λ, and how often no other λ is better."""

from __future__ import annotations

from pathlib import Path

from preftilt.eval.calibrate.choice import REDUCTIONS, Calibration, OptionResult
from preftilt.plots.curves import LINE_STYLES, Curve, Estimate, draw_curves, lambda_axis
from preftilt.plots.style import VERMILION, picture


def draw(calibration: Calibration, path: Path) -> None:
    """Two panels over the same λ: quality with its interval, and the share of resamples in which none is better."""
    shown = {
        reduction: [
            result
            for result in calibration.standings
            if result.option.reduction == reduction and result.option.lam > 0
        ]
        for reduction in REDUCTIONS
    }
    with picture(path, width=7.2, height=5.6) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
        draw_curves(above, [_quality(name, rows) for name, rows in shown.items() if rows])
        above.axvline(
            calibration.chosen.option.lam, color=VERMILION, linewidth=0.9, linestyle=(0, (4, 3))
        )
        above.set_ylabel("quality")
        above.legend(loc="best")
        for place, (name, rows) in enumerate((name, rows) for name, rows in shown.items() if rows):
            look = LINE_STYLES[REDUCTIONS.index(name)]
            x = [result.option.lam * (0.92, 1.0, 1.08)[place] for result in rows]
            wins = [100 * result.wins for result in rows]
            below.vlines(x, 0, wins, color=look.colour, linewidth=3)
            below.plot(x, wins, look.marker, color=look.colour, markersize=4)
        below.set_ylabel("none better in (%)")
        below.set_ylim(bottom=0)
        lambda_axis(
            below, sorted({result.option.lam for rows in shown.values() for result in rows})
        )


def _quality(reduction: str, rows: list[OptionResult]) -> Curve:
    return Curve(
        f"best-of-n, {reduction}",
        [result.option.lam for result in rows],
        [Estimate(result.quality.mean, result.quality.low, result.quality.high) for result in rows],
        LINE_STYLES[REDUCTIONS.index(rows[0].option.reduction)],
    )
