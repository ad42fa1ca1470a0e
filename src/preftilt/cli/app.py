"""What the command line looks like: every command with its flags, and what an error looks like.

A command imports its module when it is called, so that ``preftilt --help`` is fast.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

import preftilt
from preftilt.cli.arms_eval import arms_eval
from preftilt.cli.behaviour import behaviour
from preftilt.cli.demo_pairs import demo_pairs
from preftilt.cli.fix_alpha import fix_alpha
from preftilt.cli.fronts import fronts
from preftilt.cli.grouping import grouped
from preftilt.cli.method_options import MethodFlags
from preftilt.cli.model_options import ModelFlags
from preftilt.cli.options import (
    ClusterFlags,
    DrawFlags,
    FileFlags,
    Input,
    Lambda,
    Preferences,
    PromptFlags,
    ScoreFlags,
    ShowFlags,
)
from preftilt.cli.policy_accuracy import policy_accuracy
from preftilt.cli.probe import probe
from preftilt.cli.reproduce_options import ExperimentFlags, ReportFlags, SizeFlags
from preftilt.cli.serve import serve
from preftilt.cli.soup import soup
from preftilt.cli.train import train
from preftilt.errors import PreftiltError

app = typer.Typer(
    name="preftilt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 fine, 1 something failed, 2 bad input, 130 interrupted."""
    _replace_closed_streams()
    _spell_what_cannot_be_encoded()
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _replace_closed_streams() -> None:
    """What is said to a stream that was closed from the start (``>&-``) goes nowhere, and no file takes its place."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _spell_what_cannot_be_encoded() -> None:
    """A terminal or pipe that is not UTF-8 gets escapes; nothing fails after tokens are spent."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: Sequence[str]) -> int:
    try:
        code = app(list(arguments), prog_name="preftilt", standalone_mode=False)
        sys.stdout.flush()
        return code or 0
    except TyperException as failure:
        return _complain(failure.format_message(), failure.exit_code)
    except PreftiltError as failure:
        return _complain(str(failure), failure.exit_code)
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as failure:
        _drop_output()
        return _complain(f"{failure.strerror}: {failure.filename or 'standard output'}", 1)


def _drop_output() -> None:
    """Send what is still in the buffer nowhere, so that leaving does not fail on it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, code: int) -> int:
    if message:
        print(f"preftilt: error: {message}", file=sys.stderr)
    return code


app.command()(probe)
app.command("policy-accuracy")(policy_accuracy)
app.command()(behaviour)
app.command()(serve)
app.command()(train)
app.command()(soup)
app.command("fix-alpha")(fix_alpha)
app.command("demo-pairs")(demo_pairs)
app.command("arms-eval")(arms_eval)
app.command()(fronts)


@app.callback(invoke_without_command=True)
def preftilt_command(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Make a language model follow your preference more strongly, at test time, without training."""
    if version:
        print(f"preftilt {preftilt.__version__}")
        raise typer.Exit


@app.command()
@grouped
def ask(
    *,
    question: Annotated[str | None, typer.Argument(help="What to ask.")] = None,
    preference: Preferences = None,
    messages: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A whole conversation (JSON) instead of QUESTION; - is stdin."
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A picture that QUESTION is about, for a model that sees (may be repeated).",
        ),
    ] = None,
    lam: Lambda = None,
    draw: DrawFlags,
    method: MethodFlags,
    score: ScoreFlags,
    prompt: PromptFlags,
    model: ModelFlags,
    show: ShowFlags,
) -> None:
    """Answer one question, following a preference more strongly.

    Example: preftilt ask "How can I enjoy studying maths?" --preference "I dislike gamification."
    """
    from preftilt.cli.ask import ask

    flags = (draw, method, score, prompt)
    ask(question, messages, preference or [], lam, flags, model, show, image or ())


@app.command()
@grouped
def run(
    *,
    source: Input,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT.jsonl", help="- is stdout.")
    ],
    lam: Lambda = None,
    draw: DrawFlags,
    method: MethodFlags,
    score: ScoreFlags,
    prompt: PromptFlags,
    model: ModelFlags,
    files: FileFlags,
    cluster: ClusterFlags,
) -> None:
    """Answer every row of a data set; a row's own "settings" come before these flags."""
    from preftilt.cli.rows import run

    run(source, output, lam, (draw, method, score, prompt), model, files, cluster)


@app.command()
@grouped
def score(
    *,
    source: Input,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT.jsonl", help="- is stdout.")
    ] = "-",
    lam: Annotated[
        list[str] | None,
        typer.Option(
            "--lambda",
            metavar="NUMBER[,NUMBER…]",
            help="Score under each of these; may be repeated. (default: 20)",
            rich_help_panel="Score",
        ),
    ] = None,
    method: MethodFlags,
    score: ScoreFlags,
    prompt: PromptFlags,
    model: ModelFlags,
    files: FileFlags,
) -> None:
    """Score given responses under one λ or several; nothing is drawn."""
    from preftilt.cli.rows import score as score_rows

    score_rows(source, output, lam or [], (method, score, prompt), model, files)


@app.command()
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


@app.command()
def schema(
    name: Annotated[
        str,
        typer.Argument(
            metavar="realigned|error|row|score-row",
            help="Which object: a result, a failed row's record, or a row of the input.",
        ),
    ] = "realigned",
) -> None:
    """Print the JSON Schema of what preftilt writes or reads."""
    from preftilt.records.schemas import schema_text

    print(schema_text(name), end="")


@app.command("demo-eval")
def demo_eval(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="demo|FOLDER",
            help="A model trained on the demo world; several (training seeds) are averaged. (default: demo)",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="For the report and its figures.")
    ] = Path("out/demo-eval"),
    records: Annotated[
        Path, typer.Option(metavar="DIR", help="Where measured items are kept and found again.")
    ] = Path("out/demo-eval/records"),
    limit: Annotated[
        int | None, typer.Option(metavar="K", help="Only the first K items of each split.")
    ] = None,
    trees: Annotated[
        int,
        typer.Option(
            metavar="K", help="Run tree searches on K test items and half as many others."
        ),
    ] = 60,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the random streams.")] = 0,
    temperature: Annotated[float, typer.Option(metavar="T", help="Of the samples.")] = 1.0,
    top_p: Annotated[float, typer.Option(metavar="P", help="Nucleus of the samples.")] = 1.0,
    processes: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="Share the items among K processes. (default: one for every core)"
        ),
    ] = None,
) -> None:
    """Measure the bundled model on its world: tables and figures, offline, no judge."""
    from preftilt.cli.demo_eval import demo_eval
    from preftilt.eval.demo.collect import Draws
    from preftilt.eval.shares import cores
    from preftilt.types import Sampling

    sampling = Sampling(temperature=temperature, top_p=top_p)
    draws = Draws(seed=seed, sampling=sampling, trees=trees)
    shares = cores() if processes is None else processes
    demo_eval(models or ["demo"], out, records, limit, draws, shares)


@app.command()
def calibrate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SCORES.jsonl…",
            help="Items with candidates' log-probs and qualities: results of run, records of demo-eval, or your own.",
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
        str, typer.Option(metavar="sum|mean|both", help="Choose among these.")
    ] = "both",
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
) -> None:
    """Choose λ, and sum or mean, on a validation split, from stored scores; no model is opened."""
    from preftilt.cli.calibrate import calibrate_files

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


@app.command()
@grouped
def reproduce(
    *,
    experiments: Annotated[
        list[str],
        typer.Argument(
            metavar="table1|table2|table3|fig2|fig3|fig4|fig5|fig6|all…",
            help="Experiments of the paper.",
        ),
    ],
    what: ExperimentFlags,
    sizes: SizeFlags,
    model: ModelFlags,
    report: ReportFlags,
) -> None:
    """Repeat experiments of the REAR paper on your model: tables and figures with intervals, resumable.

    Without --benchmark it is the demo world: offline, checked exactly, no judge.
    """
    from preftilt.cli.reproduce import run_experiments

    run_experiments(experiments, what, sizes, model, report)
