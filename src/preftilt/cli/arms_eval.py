"""``preftilt arms-eval``: train reward models for the bundled model and measure them over preference vectors."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

from typer import Option

from preftilt.cli.show import say_line
from preftilt.errors import BadInput


def arms_eval(
    *,
    out: Annotated[
        Path, Option("--output", "-o", metavar="DIR", help="For the report and its figure.")
    ] = Path("out/arms-eval"),
    records: Annotated[
        Path, Option(metavar="DIR", help="Where adapters and answers are kept and found again.")
    ] = Path("out/arms-eval/records"),
    items: Annotated[
        int, Option(metavar="K", help="Items of the world whose answers are paired for training.")
    ] = 1500,
    prompts: Annotated[
        int, Option(metavar="K", help="Test prompts answered under every preference vector.")
    ] = 100,
    epochs: Annotated[int, Option(metavar="K", help="Of every training.")] = 1,
    seed: Annotated[int, Option(metavar="N", help="Of pairs, training and samples.")] = 0,
    processes: Annotated[
        int | None,
        Option(metavar="K", help="Share the work among K processes. (default: one for every core)"),
    ] = None,
) -> None:
    """Train UniARM, PARM, GenARM and DPO adapters for the bundled model and measure them beside REAR, offline.

    Example: preftilt arms-eval -o out/arms-eval
    """
    from preftilt.eval.arms.decode import Sizes
    from preftilt.eval.arms.experiment import experiment
    from preftilt.eval.runner import cores

    if min(items, prompts, epochs, 1 if processes is None else processes) < 1:
        raise BadInput("--items, --prompts, --epochs and --processes must be at least 1")
    held = max(1, min(150, items // 5))
    text = experiment(
        out,
        records,
        Sizes(
            pairs=(items, held, held),
            prompts=prompts,
            epochs=epochs,
            seed=seed,
            tuning_prompts=min(40, prompts),
        ),
        command=shlex.join(["preftilt", *sys.argv[1:]]),
        processes=cores() if processes is None else processes,
        on_trained=lambda done, total: say_line(f"trained {done} of {total} adapters"),
        on_unit=lambda what, done, total: say_line(f"{what}: {done} of {total}"),
    )
    print(text)
    print(f"written to {out}; adapters and answers in {records}", file=sys.stderr)
