"""``preftilt behaviour``: what methods generate, beside what users wrote themselves."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from preftilt.cli.grouping import grouped, option
from preftilt.cli.model_options import ModelFlags
from preftilt.cli.options import DrawFlags, FileFlags, PromptFlags, ScoreFlags
from preftilt.cli.policy_accuracy import run_resumable
from preftilt.defaults import REDUCTION
from preftilt.errors import BadInput

if TYPE_CHECKING:
    from preftilt.eval.accuracy.comparisons import Comparison
    from preftilt.eval.accuracy.evaluate import StudyOptions
    from preftilt.eval.behaviour.evaluate import AnswerMethod, AnswerSettings
    from preftilt.prompt import PromptSettings

_users = partial(option, "Users")
_methods = partial(option, "Methods")


@grouped
def behaviour(
    *,
    source: Annotated[
        str, Argument(metavar="USERS", help="A file of questions; demo with --format world.")
    ],
    output: Annotated[
        Path, Option("--output", "-o", metavar="DIR", help="For the records and the report.")
    ],
    form: Annotated[
        str,
        _users("--format", metavar="users|lamp|longlamp|world", help="How USERS is laid out."),
    ] = "users",
    outputs: Annotated[
        str | None, _users(metavar="FILE", help="lamp: the file of true completions.")
    ] = None,
    method: Annotated[
        list[str] | None,
        _methods(
            metavar="NAME[=NUMBER]",
            help="base, prompted, icl=K, rear=λ, rear-icl=λ, cfg=λ, cfg-icl=λ, linear-alignment, amulet, amulet-icl;"
            " may be repeated.",
            default="all that the data allow",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        _methods(metavar="NAME", help="The method to compare with.", default="icl, or the first"),
    ] = None,
    n: Annotated[int, _methods("--n", "-n", help="Answers that rear picks from.")] = 8,
    temperature: Annotated[float, _methods(help="Of these answers.")] = 1.0,
    top_p: Annotated[float, _methods(help="Of these answers.")] = 1.0,
    reduction: Annotated[
        str, _methods(metavar="sum|mean|centred", help="Of rear's token scores.")
    ] = REDUCTION,
    max_tokens: Annotated[int, _methods(help="Of an answer.")] = 160,
    seed: Annotated[int, _methods(help="Of the random streams and the bootstrap.")] = 0,
    prompt: PromptFlags,
    model: ModelFlags,
    files: FileFlags,
) -> None:
    """Compare what methods generate with what users wrote themselves, by ROUGE.

    Example: preftilt behaviour demo --format world --model demo -o out/behaviour --limit 72
    """
    from preftilt.cli.configure import check_model, model_identity, settings_from
    from preftilt.eval.accuracy.evaluate import StudyOptions
    from preftilt.eval.behaviour.evaluate import default_methods, parse_methods
    from preftilt.eval.behaviour.formats import QuestionSource, read

    check_model(model)
    if model.reward_model or model.reward_tokenizer or model.judge_model or model.arm:
        raise BadInput("no method here asks another model; leave reward models and judges out")
    settings = settings_from(None, [prompt])
    drawing = _drawing(n, temperature, top_p, reduction, max_tokens, seed)
    questions = read(form, QuestionSource(location=source, outputs=outputs, limit=files.limit))
    names = method or default_methods(
        preferences=all(question.preferences for question in questions),
        examples=all(question.examples for question in questions),
    )
    options = StudyOptions(
        identity=model_identity(model) | {"command": "behaviour"},
        about={"source": Path(source).name, "format": form},
        seed=seed,
        in_flight=files.concurrency,
        resume=files.resume,
        force=files.force,
    )
    methods = parse_methods(names, drawing)
    _report(model, settings.prompt, questions, methods, drawing, output, options, reference)


def _drawing(
    n: int, temperature: float, top_p: float, reduction: str, max_tokens: int, seed: int
) -> AnswerSettings:
    """How answers are drawn, checked as the flags of other commands are."""
    from preftilt.cli.configure import settings_from
    from preftilt.eval.behaviour.evaluate import AnswerSettings

    draw = DrawFlags(n=n, temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    settings = settings_from(None, [draw, ScoreFlags(reduction=reduction)])
    return AnswerSettings(
        n=n,
        sampling=settings.sampling,
        reduction=settings.reward.reduction,
        max_tokens=max_tokens,
        seed=seed,
    )


def _report(
    model: ModelFlags,
    prompt: PromptSettings,
    questions: Sequence[Comparison],
    methods: Sequence[AnswerMethod],
    drawing: AnswerSettings,
    output: Path,
    options: StudyOptions,
    reference: str | None,
) -> None:
    """Open the model, answer, write and print."""
    from preftilt.cli.configure import engine_from
    from preftilt.cli.progress import spinner
    from preftilt.eval.accuracy.comparisons import ScoringSetup
    from preftilt.eval.accuracy.world import world_verdict
    from preftilt.eval.behaviour.evaluate import behaviour as compared
    from preftilt.eval.behaviour.evaluate import no_verdict, write_report

    with spinner() as doing:
        doing(f"opening {model.model}")
        with closing(engine_from(model)) as engine:
            work = compared(
                ScoringSetup(engine=engine, prompt=prompt),
                questions,
                methods,
                output,
                drawing,
                options,
                reference=reference,
                verdict=world_verdict if options.about["format"] == "world" else no_verdict,
                on_item=lambda done: doing(f"{done} of {len(questions)} questions"),
            )
            report = run_resumable(work, output)
    print(write_report(report, output, shlex.join(["preftilt", *sys.argv[1:]])))
    print(f"preftilt: written to {output}", file=sys.stderr)
