"""``preftilt calibrate``: choose λ and the reduction on a validation split, from stored scores."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from preftilt.cli.show import interval
from preftilt.errors import BadInput
from preftilt.eval.calibrate import LAMBDAS, REDUCTIONS, draw, markdown, to_json
from preftilt.eval.calibrate import calibrate as choose_lambda
from preftilt.eval.rated_pools import read_pools
from preftilt.example import path_intervals
from preftilt.path import PathSegment
from preftilt.plots import check_picture
from preftilt.records.lines import file_lines, parse_json, write_json
from preftilt.types import Reduction

CHOICES: dict[str, tuple[Reduction, ...]] = {
    **{reduction: (reduction,) for reduction in REDUCTIONS},
    "all": REDUCTIONS,
}


def calibrate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SCORES.jsonl…",
            help="Items with candidates' log-probs and qualities: results of run, or your own.",
        ),
    ],
    qualities: Annotated[
        Path | None,
        typer.Option(
            "--quality",
            metavar="FILE.jsonl",
            help='Qualities of candidates that have none of their own: lines of "id", "slot", "quality".',
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Choose on the items of this split. (default: the only one)"
        ),
    ] = None,
    lambdas: Annotated[
        list[str] | None,
        typer.Option(
            "--lambda",
            metavar="NUMBER[,NUMBER…]",
            help="Choose among these. (default: 0.5,1,2,3,5,10,20,50,100)",
        ),
    ] = None,
    reduction: Annotated[
        str, typer.Option(metavar="sum|mean|centred|all", help="Choose among these.")
    ] = "all",
    n: Annotated[
        int | None,
        typer.Option("--n", "-n", help="Of the candidates, the first N. (default: all of them)"),
    ] = None,
    min_items: Annotated[
        int, typer.Option(metavar="K", help="Refuse to choose on fewer items.")
    ] = 20,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the bootstrap.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.json", help="Write it as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf.")
    ] = None,
    example: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A candidate's text that you like: print the λ that choose it, and nothing else; may be repeated.",
        ),
    ] = None,
) -> None:
    """Choose λ and the reduction on a validation split, from stored scores; no model is opened."""
    if example:
        named = (qualities, split, lambdas, n, output, plot) != (None,) * 6
        alone = not named and (reduction, min_items, seed) == ("all", 20, 0)
        _lambdas_of_examples(sources, example, alone=alone)
        return
    if reduction not in CHOICES:
        raise BadInput(f"--reduction is {reduction!r}; it must be one of {', '.join(CHOICES)}")
    if plot is not None:
        check_picture(plot)
    tried = _numbers(lambdas or ()) or LAMBDAS
    pools = read_pools([Path(source) for source in sources], split=split, qualities=qualities)
    calibration = choose_lambda(
        pools,
        lambdas=tried,
        reductions=CHOICES[reduction],
        n=n,
        min_items=min_items,
        seed=seed,
    )
    if output is not None:
        write_json(output, to_json(calibration))
    if plot is not None:
        draw(calibration, plot)
    print(markdown(calibration), end="")
    chosen = calibration.chosen.option
    print(f"use it with: --lambda {chosen.lam:g} --reduction {chosen.reduction}", file=sys.stderr)


def _lambdas_of_examples(sources: Sequence[str], examples: Sequence[str], *, alone: bool) -> None:
    """For every record with a candidate of a liked text: the λ that choose it, from the record's own λ-path."""
    if not alone:
        raise BadInput(
            "--example reads λ off the records and chooses nothing: of calibrate's other flags it takes none"
        )
    rows: list[tuple[str, tuple[tuple[float, float], ...]]] = []
    for example in examples:
        hits = [row for source in sources for row in _chosen_in(Path(source), example.strip())]
        if not hits:
            raise BadInput(
                f"no record has a candidate with the text {example!r}; for an answer of your own ask its question:"
                " preftilt ask QUESTION --preference TEXT --example TEXT"
            )
        rows += hits
    print("| id | chosen for λ |\n|---|---|")
    for name, intervals in rows:
        print(f"| {name} | {_told(intervals) if intervals else 'none'} |")
    common = _common([intervals for _, intervals in rows])
    if len(rows) > 1:
        print(f"\nall of them: {_told(common) if common else 'no λ chooses every one'}")


def _chosen_in(path: Path, text: str) -> Iterator[tuple[str, tuple[tuple[float, float], ...]]]:
    for number, line in enumerate(file_lines(path), start=1):
        record = parse_json(line) if line.strip() else None
        if not isinstance(record, dict) or not ({"path", "candidates"} <= record.keys()):
            continue
        texts = [str(candidate.get("text", "")).strip() for candidate in record["candidates"]]
        members = [place for place, drawn in enumerate(texts) if drawn == text]
        if members:
            segments = [
                PathSegment(
                    piece["from"],
                    math.inf if piece["to"] is None else piece["to"],
                    piece["candidate"],
                )
                for piece in record["path"]
            ]
            yield str(record.get("id", f"line {number}")), path_intervals(segments, members)


def _common(
    every: Sequence[tuple[tuple[float, float], ...]],
) -> tuple[tuple[float, float], ...]:
    """The λ that lie in an interval of each."""
    first, *others = every
    common = [*first]
    for intervals in others:
        common = [
            (max(a, c), min(b, d)) for a, b in common for c, d in intervals if max(a, c) < min(b, d)
        ]
    return tuple(common)


def _told(intervals: Sequence[tuple[float, float]]) -> str:
    return ", ".join(interval(start, stop) for start, stop in intervals)


def _numbers(texts: Sequence[str]) -> list[float]:
    numbers = []
    for text in ",".join(texts).split(","):
        if text.strip():
            try:
                numbers.append(float(text))
            except ValueError:
                raise BadInput(f"--lambda: {text!r} is not a number") from None
    return numbers
