"""``preftilt soup`` and ``fix-alpha``: adapters made of adapters."""

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


def fix_alpha(
    *,
    arm: Annotated[Path, Argument(metavar="DIR", help="A reward model of preftilt train.")],
    alpha: Annotated[str, Option(metavar="NAME=NUMBER,…", help="The preference vector.")],
    out: Annotated[Path, Option("--out", "-o", metavar="DIR", help="For the adapter.")],
) -> None:
    """Write a reward model at one preference vector as a peft LoRA adapter, for other programs.

    Example: preftilt fix-alpha out/parm --alpha helpful=0.7,brief=0.3 --out out/lora
    """
    from preftilt.arm.spec import parse_alpha, read_spec
    from preftilt.train import soups

    vector = parse_alpha(alpha, read_spec(arm).objectives)
    if soups.fix_alpha(arm, vector, out):
        print("it has biases (lora_bias), which not every program that loads LoRA adapters takes")
    print(f"written to {out}", file=sys.stderr)
