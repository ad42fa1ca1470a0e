"""What the command line looks like: every command with its flags, and what an error looks like.

A command imports its module when it is called, so that ``preftilt --help`` is fast.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

import preftilt
from preftilt.cli.arms_eval import arms_eval
from preftilt.cli.behaviour import behaviour
from preftilt.cli.demo_pairs import demo_pairs
from preftilt.cli.fix_alpha import fix_alpha
from preftilt.cli.fronts import fronts
from preftilt.cli.grouping import flag, grouped
from preftilt.cli.measuring import calibrate, reproduce, sweep
from preftilt.cli.method_options import MethodFlags
from preftilt.cli.model_options import ModelFlags
from preftilt.cli.options import (
    ClusterFlags,
    Conversation,
    DrawFlags,
    FileFlags,
    Input,
    Lambda,
    Preferences,
    PromptFlags,
    RowPreferences,
    ScoreFlags,
    ShowFlags,
)
from preftilt.cli.policy_accuracy import policy_accuracy
from preftilt.cli.serve import serve
from preftilt.cli.soup import soup
from preftilt.cli.train import train
from preftilt.cli.verify import verify
from preftilt.defaults import LAMBDA
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
        return _complain(failure.format_message() + _renamed(failure), failure.exit_code)
    except PreftiltError as failure:
        return _complain(str(failure), failure.exit_code)
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as failure:
        _drop_output()
        return _complain(f"{failure.strerror}: {failure.filename or 'standard output'}", 1)


def _renamed(failure: TyperException) -> str:
    """What to write instead of a flag that former versions had."""
    from preftilt.records import RENAMED

    name = getattr(failure, "option_name", "").lstrip("-").replace("-", "_")
    return f" (use {flag(RENAMED[name])}, which is one for every search)" if name in RENAMED else ""


def _drop_output() -> None:
    """Send what is still in the buffer nowhere, so that leaving does not fail on it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, code: int) -> int:
    if message:
        print(f"preftilt: error: {message}", file=sys.stderr)
    return code


FIRST, EVALUATION, TRAINING, TOOLS = "Commands to begin with", "Evaluation", "Training", "Tools"
"""What commands are for: the panels of ``preftilt --help``, in this order."""


@app.callback(invoke_without_command=True)
def preftilt_command(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Make a language model follow your preference more strongly, at test time, without training."""
    if version:
        print(f"preftilt {preftilt.__version__}")
        raise typer.Exit


@app.command(rich_help_panel=FIRST)
@grouped
def ask(
    *,
    question: Annotated[str | None, typer.Argument(help="What to ask.")] = None,
    preference: Preferences = None,
    messages: Conversation = None,
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


@app.command(rich_help_panel=FIRST)
@grouped
def run(
    *,
    source: Input,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT.jsonl", help="- is stdout.")
    ],
    preference: RowPreferences = None,
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

    flags = (draw, method, score, prompt)
    run(source, output, preference or [], lam, flags, model, files, cluster)


@app.command(rich_help_panel=FIRST)
@grouped
def score(
    *,
    source: Input,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT.jsonl", help="- is stdout.")
    ] = "-",
    preference: RowPreferences = None,
    lam: Annotated[
        list[str] | None,
        typer.Option(
            "--lambda",
            metavar="NUMBER[,NUMBER…]",
            help=f"Score under each of these; may be repeated. (default: {LAMBDA:g})",
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

    flags = (method, score, prompt)
    score_rows(source, output, preference or [], lam or [], flags, model, files)


@grouped
def influence(
    *,
    question: Annotated[str | None, typer.Argument(help="What is asked.")] = None,
    preference: Preferences = None,
    messages: Conversation = None,
    response: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The answer to explain. (default: one is drawn, as ask does)",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.")
    ] = False,
    lam: Lambda = None,
    draw: DrawFlags,
    method: MethodFlags,
    score: ScoreFlags,
    prompt: PromptFlags,
    model: ModelFlags,
) -> None:
    """Show which sentences of a preference or system message carry an answer: one at a time is left out.

    Example: preftilt influence "How can I enjoy maths?" -p "I dislike games. I like music."
    """
    from preftilt.cli.influence import influence

    flags = (draw, method, score, prompt)
    influence(question, messages, preference or [], response, lam, flags, model, as_json)


def schema(
    name: Annotated[
        str,
        typer.Argument(
            metavar="realigned|scores|text|error|influence|row|score-row",
            help="Which object: a result, a failed row's record, or a row of the input.",
        ),
    ] = "realigned",
) -> None:
    """Print the JSON Schema of what preftilt writes or reads."""
    from preftilt.records.schemas import schema_text

    print(schema_text(name), end="")


for _command, _name, _panel in (
    (serve, "serve", FIRST),
    (calibrate, "calibrate", FIRST),
    (train, "train", FIRST),
    (reproduce, "reproduce", EVALUATION),
    (policy_accuracy, "policy-accuracy", EVALUATION),
    (behaviour, "behaviour", EVALUATION),
    (sweep, "sweep", EVALUATION),
    (fronts, "fronts", EVALUATION),
    (arms_eval, "arms-eval", EVALUATION),
    (soup, "soup", TRAINING),
    (fix_alpha, "fix-alpha", TRAINING),
    (demo_pairs, "demo-pairs", TRAINING),
    (influence, "influence", TOOLS),
    (verify, "verify", TOOLS),
    (schema, "schema", TOOLS),
):
    app.command(_name, rich_help_panel=_panel)(_command)
