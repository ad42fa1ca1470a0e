"""``preftilt behaviour``: what methods generate, beside what users wrote themselves."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from preftilt.cli.configure import check_model, engine_from, model_identity, settings_from
from preftilt.cli.options import (
    FileFlags,
    Flags,
    FlagsFrom,
    ModelFlags,
    declared_flags,
    option,
    setting_flags,
)
from preftilt.cli.policy_accuracy import run_resumable
from preftilt.cli.show import spinner
from preftilt.errors import BadInput
from preftilt.eval.accuracy.behaviour import (
    AnswerMethod,
    AnswerSettings,
    default_methods,
    no_verdict,
    parse_methods,
    write_report,
)
from preftilt.eval.accuracy.behaviour import behaviour as compared
from preftilt.eval.accuracy.comparisons import Comparison, ScoringSetup
from preftilt.eval.accuracy.evaluate import StudyOptions
from preftilt.eval.accuracy.formats import QuestionSource, read_questions
from preftilt.eval.accuracy.world import world_verdict
from preftilt.prompt import PromptSettings
from preftilt.types import Sampling

_users = partial(option, "Users")
_methods = partial(option, "Methods")


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
    answers: Annotated[
        Flags,
        FlagsFrom(
            [
                *declared_flags(AnswerSettings, "Methods"),
                *declared_flags(Sampling, "Methods", ("temperature", "top_p")),
            ]
        ),
    ],
    prompt: Annotated[Flags, setting_flags("prompt")],
    model: ModelFlags,
    files: FileFlags,
) -> None:
    """Compare what methods generate with what users wrote themselves, by ROUGE.

    Example: preftilt behaviour demo --format world --model demo -o out/behaviour --limit 72
    """
    check_model(model)
    if model.reward_model or model.reward_tokenizer or model.judge_model or "arms" in model.options:
        raise BadInput("no method here asks another model; leave reward models and judges out")
    settings = settings_from(prompt)
    drawing = _drawing(answers)
    questions = read_questions(
        form, QuestionSource(location=source, outputs=outputs, limit=files.limit)
    )
    names = method or default_methods(
        preferences=all(question.preferences for question in questions),
        examples=all(question.examples for question in questions),
    )
    options = StudyOptions(
        identity=model_identity(model) | {"command": "behaviour"},
        about={"source": Path(source).name, "format": form},
        seed=drawing.seed,
        in_flight=files.concurrency,
        resume=files.resume,
        force=files.force,
    )
    methods = parse_methods(names, drawing)
    _report(model, settings.prompt, questions, methods, drawing, output, options, reference)


def _drawing(flags: Flags) -> AnswerSettings:
    sampled = {name: flags[name] for name in ("temperature", "top_p") if name in flags}
    own = {name: value for name, value in flags.items() if name not in sampled}
    return AnswerSettings(sampling=Sampling(**sampled), **own)


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
