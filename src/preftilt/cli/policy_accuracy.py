"""``preftilt policy-accuracy``: how often scoring rules rank preferred responses first; nothing is generated."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from typer import Argument, Exit, Option

from preftilt.cli.configure import (
    arms_from,
    check_model,
    engine_from,
    model_identity,
    open_judges,
    parse_lambdas,
    settings_from,
)
from preftilt.cli.options import FileFlags, Flags, ModelFlags, option, setting_flags
from preftilt.cli.show import spinner
from preftilt.errors import BadInput
from preftilt.eval.accuracy.comparisons import Comparison, ScoringSetup
from preftilt.eval.accuracy.evaluate import StudyOptions, write_report
from preftilt.eval.accuracy.evaluate import policy_accuracy as measured
from preftilt.eval.accuracy.formats import ComparisonSource, LoadedComparisons, read_comparisons
from preftilt.eval.accuracy.rules import (
    MODES,
    ArgsRule,
    Mode,
    RewardModelRule,
    Rule,
    default_rules,
    parse_rules,
)
from preftilt.prompt import PromptSettings, parse_preference
from preftilt.settings import ArmSettings

T = TypeVar("T")

LAMBDAS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)

_pairs = partial(option, "Pairs")
_rules = partial(option, "Rules")


def policy_accuracy(
    *,
    source: Annotated[
        str,
        Argument(
            metavar="PAIRS", help="A file, a folder, or hub:OWNER/NAME; demo with --format world."
        ),
    ],
    output: Annotated[
        Path, Option("--output", "-o", metavar="DIR", help="For the records and the report.")
    ],
    form: Annotated[
        str,
        _pairs(
            "--format",
            metavar="pairs|rewardbench|hh-rlhf|prefeval|train|world",
            help="How PAIRS is laid out.",
        ),
    ] = "pairs",
    preference: Annotated[
        list[str] | None,
        _pairs(
            "--preference",
            "-p",
            metavar="TEXT[=STRENGTH]",
            help="Of every pair, for data that states none.",
        ),
    ] = None,
    topic: Annotated[
        list[str] | None, _pairs(metavar="NAME", help="prefeval: only these; may be repeated.")
    ] = None,
    split: Annotated[str, _pairs(metavar="NAME", help="hub: the split.")] = "test",
    drop_long: Annotated[
        bool,
        _pairs("--drop-long", help="Leave out pairs that are longer than the model's context."),
    ] = False,
    rule: Annotated[
        list[str] | None,
        _rules(
            metavar="NAME[=NUMBER]",
            help="base, prompted, rear=λ, cfg=λ, linear-alignment=RATIO, amulet, la-author, icl=K, arm=WEIGHT,"
            " args=WEIGHT, reward-model; may be repeated.",
            default="all that the data allow",
        ),
    ] = None,
    lam: Annotated[
        list[str] | None,
        _rules(
            "--lambda",
            metavar="NUMBER[,NUMBER…]",
            help="REAR's λ of the sweep.",
            default="0 to 100",
        ),
    ] = None,
    mode: Annotated[
        list[str] | None,
        _rules(
            metavar="unnormalised|policy|mean",
            help="How a response's score is taken; may be repeated.",
            default="all that the engine has",
        ),
    ] = None,
    preference_in: Annotated[
        str, _rules(metavar="system|user", help="Where a reward model finds the preference.")
    ] = "system",
    alpha: Annotated[
        str | None,
        _rules(
            metavar="OBJECTIVE=SHARE,…", help="arm: the preference vector of the reward models."
        ),
    ] = None,
    seed: Annotated[int, _rules(metavar="N", help="Of the bootstrap.")] = 0,
    prompt: Annotated[Flags, setting_flags("prompt")],
    model: ModelFlags,
    files: FileFlags,
) -> None:
    """Measure which scoring rules rank a preferred response above a dispreferred one, before deploying any.

    Example: preftilt policy-accuracy demo --format world --model demo -o out/policy-accuracy
    """
    check_model(model)
    _check_judges(model, preference_in)
    settings = settings_from(prompt)
    arms = ArmSettings(names=tuple(arms_from(model)), alpha=alpha or "")
    if alpha and not arms.names:
        raise BadInput("--alpha belongs to --arm; name a reward model")
    compared = ComparisonSource(
        location=source,
        preferences=tuple(parse_preference(text) for text in preference or ()),
        topics=tuple(topic or ()),
        split=split,
        limit=files.limit,
    )
    loaded = read_comparisons(form, compared)
    states = settings.prompt.history == "preference" or _all_state(loaded)
    rules = _chosen_rules(rule or [], loaded, model, preference_in, states=states)
    about = {"source": Path(source).name, "format": form, "left_out": loaded.left_out}
    options = _options(model, files, lam, mode, states=states)
    options = replace(options, seed=seed, drop_long=drop_long, about=about)
    _report(model, (settings.prompt, arms), loaded.comparisons, rules, output, options)


def _options(
    model: ModelFlags,
    files: FileFlags,
    lam: list[str] | None,
    mode: list[str] | None,
    *,
    states: bool,
) -> StudyOptions:
    if lam and not states:
        raise BadInput("--lambda needs a preference in every pair (--preference TEXT)")
    return StudyOptions(
        lambdas=tuple(parse_lambdas(lam) if lam else LAMBDAS) if states else (),
        modes=tuple(_mode(name) for name in dict.fromkeys(mode or ())),
        identity=model_identity(model) | {"command": "policy-accuracy"},
        in_flight=files.concurrency,
        resume=files.resume,
        force=files.force,
    )


def _mode(name: str) -> Mode:
    for known in MODES:
        if name == known:
            return known
    raise BadInput(f"--mode must be {', '.join(MODES)}, not {name!r}")


def _check_judges(model: ModelFlags, preference_in: str) -> None:
    if model.judge_model is not None:
        raise BadInput("--judge-model does nothing here: no rule asks a judge")
    if model.reward_model is None and model.reward_tokenizer is not None:
        raise BadInput("--reward-tokenizer belongs to --reward-model")
    if preference_in not in ("system", "user"):
        raise BadInput(f"--preference-in must be system or user, not {preference_in!r}")


def _all_state(loaded: LoadedComparisons) -> bool:
    return all(comparison.preferences for comparison in loaded.comparisons)


def _chosen_rules(
    named: list[str],
    loaded: LoadedComparisons,
    model: ModelFlags,
    preference_in: str,
    *,
    states: bool,
) -> list[Rule]:
    """The rules that are named, or all that the pairs and the models at hand allow."""
    place = "user" if preference_in == "user" else "system"
    rules = parse_rules(named, place) or default_rules(
        preferences=states,
        examples=all(comparison.examples for comparison in loaded.comparisons),
        reward_model=model.reward_model is not None,
        arms="arms" in model.options,
        place=place,
    )
    asks = [rule.name for rule in rules if isinstance(rule, ArgsRule | RewardModelRule)]
    if asks and model.reward_model is None:
        raise BadInput(
            f"the rule {asks[0]} needs a reward model: name one with --reward-model SPEC"
        )
    if model.reward_model is not None and not asks:
        raise BadInput(
            "--reward-model does nothing here: add --rule reward-model or --rule args=1.5"
        )
    return rules


def _report(
    model: ModelFlags,
    prompts: tuple[PromptSettings, ArmSettings],
    comparisons: Sequence[Comparison],
    rules: Sequence[Rule],
    output: Path,
    options: StudyOptions,
) -> None:
    """Open the models, measure, write and print."""
    with spinner() as doing, ExitStack() as stack:
        doing(f"opening {model.model}")
        engine = stack.enter_context(closing(engine_from(model)))
        judges = stack.enter_context(closing(open_judges(model)))
        reading = ScoringSetup(engine=engine, judges=judges, prompt=prompts[0], arms=prompts[1])
        work = measured(
            reading,
            comparisons,
            rules,
            output,
            options,
            on_item=lambda done: doing(f"{done} of {len(comparisons)} comparisons"),
        )
        report = run_resumable(work, output)
    print(write_report(report, output, shlex.join(["preftilt", *sys.argv[1:]])))
    print(f"preftilt: written to {output}", file=sys.stderr)


def run_resumable(work: Coroutine[Any, Any, T], output: Path) -> T:
    """Wait for ``work``, which keeps records in ``output``; an interrupt says how to go on."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        print(
            f"preftilt: interrupted; what was measured is in {output}: repeat the call with --resume",
            file=sys.stderr,
        )
        raise Exit(130) from None
