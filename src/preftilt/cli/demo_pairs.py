"""``preftilt demo-pairs``: preference pairs of the demo world, with exact rewards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from preftilt.errors import BadInput
from preftilt.eval.objectives import PairSettings, write_pairs
from preftilt.types import Sampling


def demo_pairs(
    *,
    out: Annotated[
        Path,
        Option("--out", "-o", metavar="DIR", help="For train.jsonl, validation.jsonl, test.jsonl."),
    ],
    source: Annotated[
        str,
        Option(metavar="writer|MODEL", help="Who answers: the world's writer, or a model (demo)."),
    ] = "writer",
    items: Annotated[
        str, Option(metavar="N,N,N", help="Items of train, validation and test.")
    ] = "1500,200,200",
    answers: Annotated[
        int,
        Option(metavar="K", help="Answers to each; every two that differ in a reward are a pair."),
    ] = 2,
    seed: Annotated[int, Option(metavar="N", help="Of items and answers.")] = 0,
    temperature: Annotated[float, Option(metavar="T", help="Of a model's answers.")] = 1.0,
    top_p: Annotated[float, Option(metavar="P", help="Nucleus of a model's answers.")] = 1.0,
) -> None:
    """Make preference pairs of the demo world: objectives helpful, keeping and brief, judged exactly.

    Example: preftilt demo-pairs --out out/pairs
    """
    try:
        train, validation, test = (int(count) for count in items.split(","))
    except ValueError:
        raise BadInput(f"--items {items}: give three whole numbers, N,N,N") from None
    settings = PairSettings(
        source=source,
        sizes=(train, validation, test),
        answers=answers,
        seed=seed,
        sampling=Sampling(temperature=temperature, top_p=top_p),
    )
    written = write_pairs(out, settings)
    print(", ".join(f"{count} {split}" for split, count in written.items()) + " pairs")
    print(f"written to {out}", file=sys.stderr)
