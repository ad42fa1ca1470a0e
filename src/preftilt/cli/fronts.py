"""``preftilt fronts``: hypervolume and mean inner product of recorded rewards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from preftilt.errors import BadInput
from preftilt.eval.fronts import RewardScale, draw_front, read_rewards, scale_in_words, table
from preftilt.eval.fronts import fronts as measure
from preftilt.plots.style import check_picture
from preftilt.records.lines import write_json


def fronts(
    *,
    sources: Annotated[
        list[Path],
        Argument(metavar="REWARDS.jsonl…", help="Rewards of answers under preference vectors."),
    ],
    ranges: Annotated[
        list[str],
        Option(
            "--range",
            metavar="NAME=LOW:HIGH",
            help="An objective and the rewards that become 0 and 1; once for each, higher better.",
        ),
    ],
    reference: Annotated[
        str,
        Option(metavar="R,R…", help="The point that volumes are measured from, after that."),
    ],
    out: Annotated[
        Path | None, Option("--output", "-o", metavar="FILE.json", help="Write it as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, Option(metavar="FILE", help="Draw the Pareto plane: .png, .svg or .pdf.")
    ] = None,
    seed: Annotated[int, Option(metavar="N", help="Of the bootstrap.")] = 0,
) -> None:
    """Measure methods over preference vectors: hypervolume, mean inner product (MIP), with intervals.

    Example: preftilt fronts rewards.jsonl --range help=-5:10 --range harmless=-8:4 --reference 0,0
    """
    if plot is not None:
        check_picture(plot)
    scale = _scale(ranges, reference)
    report = measure(read_rewards(sources, scale.objectives), scale, seed)
    print(f"{scale_in_words(report)}\n\n{table(report)}")
    if out is not None:
        write_json(out, report)
    if plot is not None:
        draw_front(report, plot)
        print(f"picture: {plot}", file=sys.stderr)


def _scale(ranges: list[str], reference: str):

    names, lows, highs = [], [], []
    for text in ranges:
        name, equals, span = text.partition("=")
        low, colon, high = span.partition(":")
        if not (name and equals and colon):
            raise BadInput(f"--range {text}: write NAME=LOW:HIGH, e.g. help=-5:10")
        names.append(name)
        lows.append(_number(low, f"--range {text}"))
        highs.append(_number(high, f"--range {text}"))
    point = tuple(_number(text, f"--reference {reference}") for text in reference.split(","))
    return RewardScale(objectives=tuple(names), low=tuple(lows), high=tuple(highs), reference=point)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f'{where}: "{text}" is no number') from None
