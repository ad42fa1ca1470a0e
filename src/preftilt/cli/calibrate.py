"""``preftilt calibrate``: choose λ and the reduction on a validation split, from stored scores."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from preftilt.errors import BadInput
from preftilt.eval.calibrate.choice import LAMBDAS, REDUCTIONS, calibrate
from preftilt.eval.calibrate.figure import draw
from preftilt.eval.calibrate.reading import read_pools
from preftilt.eval.calibrate.report import markdown, to_json
from preftilt.plots import check_picture
from preftilt.records import write_json
from preftilt.types import Reduction

CHOICES: dict[str, tuple[Reduction, ...]] = {
    **{reduction: (reduction,) for reduction in REDUCTIONS},
    "all": REDUCTIONS,
}


def calibrate_files(
    sources: Sequence[str],
    *,
    qualities: Path | None,
    split: str | None,
    lambdas: Sequence[str],
    reduction: str,
    n: int | None,
    min_items: int,
    seed: int,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Read, choose, and print the choice; ``output`` gets it as JSON, ``plot`` as a picture."""
    if reduction not in CHOICES:
        raise BadInput(f"--reduction is {reduction!r}; it must be one of {', '.join(CHOICES)}")
    if plot is not None:
        check_picture(plot)
    tried = _numbers(lambdas) or LAMBDAS
    pools = read_pools([Path(source) for source in sources], split=split, qualities=qualities)
    calibration = calibrate(
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


def _numbers(texts: Sequence[str]) -> list[float]:
    numbers = []
    for text in ",".join(texts).split(","):
        if text.strip():
            try:
                numbers.append(float(text))
            except ValueError:
                raise BadInput(f"--lambda: {text!r} is not a number") from None
    return numbers
