"""``preftilt train``: an autoregressive reward model from preference pairs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from preftilt.arm.spec import Objective, named_numbers
from preftilt.cli.grouping import Flags, option
from preftilt.cli.options import flags_from
from preftilt.declare import declarations
from preftilt.engines.models import default_model
from preftilt.errors import BadInput
from preftilt.train import train as train_model
from preftilt.train.settings import TrainSettings

if TYPE_CHECKING:
    from preftilt.train.loop import StepReport


def train(
    *,
    method: Annotated[
        str,
        Option(
            metavar="genarm|parm|uniarm|dpo",
            help="GenARM; PARM; a reconstruction of UniARM; or a policy, for rewarded soups and MOD.",
        ),
    ],
    data: Annotated[
        str,
        Option(
            metavar="PAIRS.jsonl|ORG/NAME[:SPLIT]", help="Preference pairs, from a file or the hub."
        ),
    ],
    out: Annotated[Path, Option("--out", "-o", metavar="DIR", help="For the adapter.")],
    validation: Annotated[
        str | None,
        Option(
            metavar="PAIRS.jsonl|SHARE",
            help="Pairs to judge it on, or the share of prompts set aside. (default: 0.1)",
        ),
    ] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on from the checkpoints in --out.")
    ] = False,
    model: Annotated[
        str | None,
        option(
            "Model",
            "--model",
            "-m",
            metavar="ID|PATH",
            help="The frozen base; smollm2 and demo are short names, as for ask.",
        ),
    ] = None,
    flags: Annotated[
        Flags, flags_from(TrainSettings, "Model", without=("method", "model", "validation"))
    ],
) -> None:
    """Train a reward model that guides decoding, on preference pairs.

    Example: preftilt train --method parm --data pairs.jsonl --out out/parm
    """
    share = _share(validation)
    held = {} if share is None else {"validation": share}
    settings = _settings(flags, method=method, model=model or default_model(), **held)
    with _bar() as on_step:
        trained = train_model(
            data,
            out,
            settings,
            validation=validation if share is None else None,
            resume=resume,
            on_step=on_step,
        )
    print(_summary(trained.record))
    print(f"written to {trained.folder}", file=sys.stderr)


def _settings(flags: Flags, **values: Any) -> TrainSettings:
    """The settings from the flags that were given, over the method's defaults."""
    own = dict(flags)
    told = _told(own.pop("objective", ()), own.pop("beta", ()))
    targets = tuple(own.pop("target", ()))
    return TrainSettings(**values, **own, **told, targets=targets)


def _told(objectives: Sequence[str], betas: Sequence[str]) -> dict[str, Any]:
    """The objectives with their descriptions and betas, and the beta of those not named."""
    [common] = [each.default for each in declarations(TrainSettings) if each.name == "beta"]
    own = named_numbers(betas, "--beta")
    common = own.pop("", common)
    named: list[Objective] = [_objective(text, own, common) for text in objectives]
    if unknown := own.keys() - {objective.name for objective in named}:
        raise BadInput(
            f"--beta names {', '.join(sorted(unknown))}, which no --objective does; name it there too"
        )
    return {"objectives": tuple(named), "beta": common}


def _objective(text: str, own: dict[str, float], common: float) -> Objective:
    name, _, description = text.partition("=")
    return Objective(name, description or name, own.get(name, common))


def _share(validation: str | None) -> float | None:
    """The share of prompts to set aside, if ``--validation`` is a number."""
    try:
        return None if validation is None else float(validation)
    except ValueError:
        return None


def _summary(record: dict[str, Any]) -> str:
    parameters, pairs = record["parameters"], record["pairs"]
    lines = [
        f"{record['method']} on {record['base']}: {parameters['trained']:,} parameters"
        f" ({100 * parameters['share']:.2f} % of the base's), {pairs['train']} pairs, {record['steps']} steps,"
        f" {record['seconds']:.0f} s",
        *(
            f"validation accuracy, {name}: {100 * share:.1f} %"
            for name, share in record["accuracies"].items()
        ),
    ]
    if record["stopped"] == "early":
        lines.append(f"stopped early; the weights are those of step {record['best_step']}")
    return "\n".join(lines)


@contextmanager
def _bar() -> Iterator[Callable[[StepReport], None]]:
    """A bar of steps with loss and accuracy on a terminal, nothing anywhere else."""
    if not sys.stderr.isatty():
        yield lambda told: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("steps  {task.description}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as bar:
        task = bar.add_task("", total=None)
        accuracy = ""

        def update(told: StepReport) -> None:
            nonlocal accuracy
            if told.judged is not None:
                accuracy = f", accuracy {100 * told.judged.accuracy:.1f} %"
            words = f"loss {told.loss:.3f}{accuracy}"
            bar.update(task, total=told.steps, completed=told.step, description=words)

        yield update
