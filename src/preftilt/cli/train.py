"""``preftilt train``: an autoregressive reward model from preference pairs.

``soup`` and ``fix-alpha`` make adapters of adapters; ``demo-pairs`` writes preference pairs of the demo world, with
exact rewards.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from typer import Argument, Option

from preftilt.arm.spec import Objective, named_numbers
from preftilt.cli.options import Flags, flags_from, option
from preftilt.declare import declarations
from preftilt.engines.models import default_model
from preftilt.errors import BadInput
from preftilt.train import train as train_model
from preftilt.train.settings import TrainSettings
from preftilt.types import Sampling

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
    from preftilt.eval.objectives import PairSettings, write_pairs

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
