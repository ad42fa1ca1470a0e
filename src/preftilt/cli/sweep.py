"""``preftilt sweep``: answers under a grid of preference vectors, rated by reward models."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from pathlib import Path

import typer

from preftilt.api import Realigner
from preftilt.cli.configure import (
    Flags,
    arms_from,
    check_model,
    engine_from,
    model_identity,
    settings_from,
    source_lines,
)
from preftilt.cli.model_options import ModelFlags
from preftilt.errors import BadInput
from preftilt.eval.fronts.sweep import Rater, grid, sweep
from preftilt.records import CheckedRow, PromptRow, read_items
from preftilt.rivals import open_reward_model


def sweep_file(
    source: str,
    output: Path,
    rewards: list[str],
    costs: list[str],
    steps: int,
    method: str | None,
    limit: int | None,
    flags: Flags,
    model: ModelFlags,
) -> None:
    """Check everything, then answer and rate every prompt under every vector."""
    check_model(model)
    named = _named(rewards, 1) + _named(costs, -1)
    alphas = grid(len(named), steps)
    settings = settings_from(None, flags, list(arms_from(model)))
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
            sweep(
                Realigner(engine, settings),
                items,
                raters,
                alphas,
                output,
                method=title,
                identity=identity,
                on_done=lambda done: _say(f"{done} of {total}"),
            )
        )
    print(f"{total - failed} of {total} answers rated, {failed} failed: {output}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _named(options: list[str], sign: int) -> list[tuple[str, str, int]]:
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


def _say(words: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)
