"""Groups of flags: a frozen dataclass is a group, and ``grouped`` gives a command the flags of its groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer import Option


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


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with every parameter that is a group of flags replaced by those flags."""
    hints = get_type_hints(command, include_extras=True)
    flat: dict[str, inspect.Parameter] = {}
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        group = get_args(hints[name])[0] if get_origin(hints[name]) is Annotated else hints[name]
        if is_dataclass(group):
            groups[name] = group
            flat |= _parameters(group, _own_defaults(hints[name]))
        else:
            flat[name] = parameter.replace(
                annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY
            )

    @wraps(command, assigned=("__name__", "__doc__", "__module__"), updated=())
    def flattened(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    shown: Any = flattened
    shown.__signature__ = inspect.Signature([*flat.values()])
    shown.__annotations__ = {name: parameter.annotation for name, parameter in flat.items()}
    del shown.__wrapped__
    return flattened


def _own_defaults(hint: Any) -> Mapping[str, object]:
    return {
        name: value
        for extra in get_args(hint)[1:]
        if isinstance(extra, Defaults)
        for name, value in extra.values.items()
    }


def _parameters(group: Any, own: Mapping[str, object]) -> dict[str, inspect.Parameter]:
    types = get_type_hints(group, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return {
        field.name: inspect.Parameter(
            field.name,
            keyword,
            default=own.get(field.name, _default(field)),
            annotation=types[field.name],
        )
        for field in fields(group)
    }


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
