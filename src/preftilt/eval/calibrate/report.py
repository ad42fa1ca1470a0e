"""A calibration for people (Markdown) and for programs (JSON)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from preftilt.eval.bootstrap import Interval
from preftilt.eval.calibrate.choice import Calibration, OptionResult


def to_json(found: Calibration) -> dict[str, Any]:
    """Everything, as plain JSON."""
    return {
        "schema": "preftilt.calibration/1",
        "lambda": found.chosen.option.lam,
        "reduction": found.chosen.option.reduction,
        **asdict(found),
    }


def markdown(found: Calibration) -> str:
    """The choice in words, then all options."""
    lines = [
        "| λ | reduction | quality | none better in | Δ λ = 1 | p |",
        "|---|---|---|---|---|---|",
        *(_row(one, found.chosen) for one in found.standings),
    ]
    return "\n".join([*_words(found), "", *lines, ""])


def _words(found: Calibration) -> list[str]:
    chosen = found.chosen
    left_out = f"; {found.left_out} left out, not fully rated" if found.left_out else ""
    told = [
        f"λ = {chosen.option.lam:g}, {chosen.option.reduction}: chosen on {found.items} items with {found.n} candidates"
        f" each{left_out}.",
        "",
        f"Its quality is {_interval(chosen.quality)} on these items (95 % bootstrap), and is expected to be"
        f" {_interval(found.expected)} on others (chosen on resamples, measured on the items they left out). None is"
        f" better in {chosen.wins:.0%} of the resamples; λ from {_range(found)} cannot be told from it.",
    ]
    over = chosen.over_plain
    if chosen.option.lam == 1:
        told += ["", "λ = 1 is the model's own likelihood: no λ did better than that here."]
    else:
        told += [
            "",
            f"Against λ = 1: {_signed(over.difference)} (p = {over.p:.2g}, {over.test}, uncorrected: the best of"
            f" {len(found.standings)} options was looked for).",
        ]
    return told


def _range(found: Calibration) -> str:
    near = {one.option.lam for one in found.within_reach()} | {found.chosen.option.lam}
    return f"{min(near):g} to {max(near):g}"


def _row(one: OptionResult, chosen: OptionResult) -> str:
    mark = "**" if one == chosen else ""
    plain = one.option.lam == 1
    over = ("–", "–") if plain else (_signed(one.over_plain.difference), f"{one.over_plain.p:.2g}")
    cells = [
        f"{mark}{one.option.lam:g}{mark}",
        one.option.reduction,
        _interval(one.quality),
        f"{one.wins:.0%}",
        *over,
    ]
    return "| " + " | ".join(cells) + " |"


def _interval(one: Interval) -> str:
    return f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _signed(one: Interval) -> str:
    return f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"
