"""``preftilt fix-alpha``: a reward model at one preference vector, as a plain LoRA adapter."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def fix_alpha(
    *,
    arm: Annotated[Path, Argument(metavar="DIR", help="A reward model of preftilt train.")],
    alpha: Annotated[str, Option(metavar="NAME=NUMBER,…", help="The preference vector.")],
    out: Annotated[Path, Option("--out", "-o", metavar="DIR", help="For the adapter.")],
) -> None:
    """Write a reward model at one preference vector as a peft LoRA adapter, for other programs.

    Example: preftilt fix-alpha out/parm --alpha helpful=0.7,brief=0.3 --out out/lora
    """
    from preftilt.arm.alpha import parse_alpha
    from preftilt.arm.spec import read_spec
    from preftilt.train import fixing

    vector = parse_alpha(alpha, read_spec(arm).objectives)
    if fixing.fix_alpha(arm, vector, out):
        print("it has biases (lora_bias), which not every program that loads LoRA adapters takes")
    print(f"written to {out}", file=sys.stderr)
