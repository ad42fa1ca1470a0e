"""Groups of flags: ``grouped`` gives a command the flags of the parameters that stand for several.

Such a parameter is a frozen dataclass whose fields are flags, or :data:`Flags`, whose flags settings declare themselves
(:mod:`preftilt.declare`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import wraps
from keyword import iskeyword
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer import Option

from preftilt.declare import Declared

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
