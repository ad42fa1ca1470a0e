"""A calibration for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from preftilt.eval.bootstrap import Interval
from preftilt.eval.calibrate.choice import Calibration, OptionResult


def to_json(calibration: Calibration) -> dict[str, Any]:
    """Everything, as plain JSON."""
    return {
        "schema": "preftilt.calibration/1",
        "lambda": calibration.chosen.option.lam,
        "reduction": calibration.chosen.option.reduction,
        **asdict(calibration),
    }


def markdown(calibration: Calibration) -> str:
    """The choice in words, then all options."""
    lines = [
        "| λ | reduction | quality | none better in | Δ λ = 1 | p |",
        "|---|---|---|---|---|---|",
        *(_row(result, calibration.chosen) for result in calibration.standings),
    ]
    return "\n".join([*_words(calibration), "", *lines, ""])


def _words(calibration: Calibration) -> list[str]:
    chosen = calibration.chosen
    left_out = f"; {calibration.left_out} left out, not fully rated" if calibration.left_out else ""
    words = [
        f"λ = {chosen.option.lam:g}, {chosen.option.reduction}: chosen on {calibration.items} items with"
        f" {calibration.n} candidates each{left_out}.",
        "",
        f"Its quality is {_interval(chosen.quality)} on these items (95 % bootstrap), and is expected to be"
        f" {_interval(calibration.expected)} on others (chosen on resamples, measured on the items they left out). None"
        f" is better in {chosen.wins:.0%} of the resamples; λ from {_range(calibration)} cannot be told from it.",
    ]
    over = chosen.over_plain
    if chosen.option.lam == 1:
        words += ["", "λ = 1 is the model's own likelihood: no λ did better than that here."]
    else:
        words += [
            "",
            f"Against λ = 1: {_signed(over.difference)} (p = {over.p:.2g}, {over.test}, uncorrected: the best of"
            f" {len(calibration.standings)} options was looked for).",
        ]
    return words


def _range(calibration: Calibration) -> str:
    near = {result.option.lam for result in calibration.within_reach()} | {
        calibration.chosen.option.lam
    }
    return f"{min(near):g} to {max(near):g}"


def _row(result: OptionResult, chosen: OptionResult) -> str:
    mark = "**" if result == chosen else ""
    plain = result.option.lam == 1
    over = (
        ("–", "–")
        if plain
        else (_signed(result.over_plain.difference), f"{result.over_plain.p:.2g}")
    )
    cells = [
        f"{mark}{result.option.lam:g}{mark}",
        result.option.reduction,
        _interval(result.quality),
        f"{result.wins:.0%}",
        *over,
    ]
    return "| " + " | ".join(cells) + " |"


def _interval(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
