"""``preftilt soup``: several adapters of one base averaged into one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, cast

from typer import Argument, Option

from preftilt.errors import BadInput


def soup(
    *,
    adapters: Annotated[
        list[str],
        Argument(
            metavar="DIR=WEIGHT…", help="Adapters of preftilt train --method dpo (or genarm)."
        ),
    ],
    out: Annotated[Path, Option("--out", "-o", metavar="DIR", help="For the averaged adapter.")],
    average: Annotated[
        str,
        Option(metavar="delta|factors", help="Average ΔW, or its two factors by themselves."),
    ] = "delta",
) -> None:
    """Average adapters (rewarded soups), a baseline for reward models that decode.

    Example: preftilt soup out/helpful=0.7 out/brief=0.3 --out out/soup
    """
    if average not in ("delta", "factors"):
        raise BadInput(f"--average is {average!r}; use delta or factors")
    folders: list[Path] = []
    weights: list[float] = []
    for text in adapters:
        folder, _, weight = text.rpartition("=")
        try:
            weights.append(float(weight))
        except ValueError:
            raise BadInput(f"{text} is not DIR=WEIGHT") from None
        folders.append(Path(folder))
    from preftilt.train import soups

    spec = soups.soup(folders, weights, out, cast(Literal["delta", "factors"], average))
    print(f"{spec.objectives[0].description}: rank {spec.rank}")
    print(f"written to {out}", file=sys.stderr)
