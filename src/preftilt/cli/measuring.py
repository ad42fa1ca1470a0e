"""Commands that measure: their flags, and nothing else; what they do is imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preftilt.cli.grouping import Defaults, grouped
from preftilt.cli.model_options import ModelFlags
from preftilt.cli.options import DrawFlags, Input, PromptFlags, ScoreFlags
from preftilt.cli.reproduce_options import ExperimentFlags, ReportFlags, SizeFlags
from preftilt.engines.models import DEMO


@grouped
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
    draw: DrawFlags,
    score: ScoreFlags,
    prompt: PromptFlags,
    model: ModelFlags,
) -> None:
    """Answer prompts under a grid of preference vectors, and rate the answers objective by objective.

    Example: preftilt sweep prompts.jsonl -o parm.jsonl --model BASE --arm parm=FOLDER --search parm-pku --reward
    help=org/reward --cost harmless=org/cost
    """
    from preftilt.cli.sweep import sweep_file

    flags = (draw, score, prompt)
    sweep_file(source, output, reward or [], cost or [], steps, method, limit, flags, model)


def calibrate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SCORES.jsonl…",
            help="Items with candidates' log-probs and qualities: results of run, or your own.",
        ),
    ],
    qualities: Annotated[
        Path | None,
        typer.Option(
            "--quality",
            metavar="FILE.jsonl",
            help='Qualities of candidates that have none of their own: lines of "id", "slot", "quality".',
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Choose on the items of this split. (default: the only one)"
        ),
    ] = None,
    lambdas: Annotated[
        list[str] | None,
        typer.Option(
            "--lambda",
            metavar="NUMBER[,NUMBER…]",
            help="Choose among these. (default: 0.5,1,2,3,5,10,20,50,100)",
        ),
    ] = None,
    reduction: Annotated[
        str, typer.Option(metavar="sum|mean|centred|all", help="Choose among these.")
    ] = "all",
    n: Annotated[
        int | None,
        typer.Option("--n", "-n", help="Of the candidates, the first N. (default: all of them)"),
    ] = None,
    min_items: Annotated[
        int, typer.Option(metavar="K", help="Refuse to choose on fewer items.")
    ] = 20,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the bootstrap.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.json", help="Write it as JSON.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it: .png, .svg or .pdf.")
    ] = None,
    example: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A candidate's text that you like: print the λ that choose it, and nothing else; may be repeated.",
        ),
    ] = None,
) -> None:
    """Choose λ and the reduction on a validation split, from stored scores; no model is opened."""
    from preftilt.cli.calibrate import calibrate_files, lambdas_of_examples

    if example:
        named = (qualities, split, lambdas, n, output, plot) != (None,) * 6
        alone = not named and (reduction, min_items, seed) == ("all", 20, 0)
        lambdas_of_examples(sources, example, alone=alone)
        return

    calibrate_files(
        sources,
        qualities=qualities,
        split=split,
        lambdas=lambdas or [],
        reduction=reduction,
        n=n,
        min_items=min_items,
        seed=seed,
        output=output,
        plot=plot,
    )


@grouped
def reproduce(
    *,
    experiments: Annotated[
        list[str],
        typer.Argument(
            metavar="table1|table2|table3|fig2|fig3|fig4|fig5|fig6|all|avoiding|equal-tokens|BENCHMARK…",
            help="Experiments of the paper; avoiding: wishes to leave something out; equal-tokens: how many draws are"
            " worth their tokens; a benchmark's name: picking whole answers beside guiding every token on it.",
        ),
    ],
    what: ExperimentFlags,
    sizes: SizeFlags,
    model: Annotated[ModelFlags, Defaults({"model": DEMO})],
    report: ReportFlags,
) -> None:
    """Repeat experiments of the REAR paper on your model: tables and figures with intervals, resumable.

    Without --benchmark it is the demo world: offline, checked exactly, no judge.
    """
    from preftilt.cli.reproduce import run_experiments

    run_experiments(experiments, what, sizes, model, report)
