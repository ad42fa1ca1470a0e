"""``preftilt sweep``: answers under a grid of preference vectors, rated by reward models."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from preftilt.api import Realigner
from preftilt.cli.configure import (
    arms_from,
    check_model,
    engine_from,
    model_identity,
    settings_from,
    source_lines,
)
from preftilt.cli.options import Flags, Input, ModelFlags, setting_flags
from preftilt.cli.show import say_line
from preftilt.errors import BadInput
from preftilt.eval.sweep import Rater, grid
from preftilt.eval.sweep import sweep as answer_grid
from preftilt.records.rows import CheckedRow, PromptRow, read_items
from preftilt.rivals.reward_models import open_reward_model


def sweep(
    *,
    source: Input,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="REWARDS.jsonl", help="For preftilt fronts.")
    ],
    reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OBJECTIVE=SPEC",
            help="Who rates an objective: a hub id or path, vllm+http://HOST:PORT, or MODULE:FUNCTION.",
        ),
    ] = None,
    cost: Annotated[
        list[str] | None,
        typer.Option(metavar="OBJECTIVE=SPEC", help="As --reward, where lower is better."),
    ] = None,
    steps: Annotated[
        int, typer.Option(metavar="K", help="Preference vectors in steps of 1/K.")
    ] = 10,
    method: Annotated[
        str | None, typer.Option("--name", metavar="TEXT", help="What the method is called.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="K", min=1, help="The first K prompts.")
    ] = None,
    flags: Annotated[Flags, setting_flags("draw", "score", "prompt")],
    model: ModelFlags,
) -> None:
    """Answer prompts under a grid of preference vectors, and rate the answers objective by objective.

    Example: preftilt sweep prompts.jsonl -o parm.jsonl --model BASE --arm parm=FOLDER --search parm-pku --reward
    help=org/reward --cost harmless=org/cost
    """
    check_model(model)
    named = _named(reward or (), 1) + _named(cost or (), -1)
    alphas = grid(len(named), steps)
    settings = settings_from(flags, list(arms_from(model)))
    items = read_items(source_lines(source), source=source, base=settings, model=PromptRow)[:limit]
    _check(items, output, named)
    title = method or ", ".join(arms_from(model)) or model.model
    identity = model_identity(model) | {"command": "sweep", "raters": named, "method": title}
    with ExitStack() as opened:
        raters = []
        for name, spec, sign in named:
            rated_by = open_reward_model(spec)
            opened.callback(rated_by.close)
            raters.append(Rater(name, rated_by, sign))
        engine = engine_from(model)
        opened.callback(engine.close)
        total = len(items) * len(alphas)
        failed = asyncio.run(
            answer_grid(
                Realigner(engine, settings),
                items,
                raters,
                alphas,
                output,
                method=title,
                identity=identity,
                on_done=lambda done: say_line(f"{done} of {total}"),
            )
        )
    print(f"{total - failed} of {total} answers rated, {failed} failed: {output}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _named(options: Sequence[str], sign: int) -> list[tuple[str, str, int]]:
    flag = "--reward" if sign > 0 else "--cost"
    named = []
    for option in options:
        name, equals, spec = option.partition("=")
        if not (name and equals and spec):
            raise BadInput(f"{flag} {option}: write OBJECTIVE=SPEC, e.g. help=org/reward-model")
        named.append((name, spec, sign))
    return named


def _check(items: list[CheckedRow], output: Path, named: list[tuple[str, str, int]]) -> None:
    names = [name for name, _, _ in named]
    if len(set(names)) < len(names):
        raise BadInput(f"an objective is named twice: {', '.join(names)}")
    if not items:
        raise BadInput("there are no prompts")
    if not output.parent.is_dir():
        raise BadInput(f"cannot write {output}: there is no folder {output.parent}")
