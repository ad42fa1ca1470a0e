"""Groups of flags: a frozen dataclass is a group, and ``grouped`` gives a command the flags of its groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

from typer import Option


def option(panel: str, *names: str, help: str, default: str = "", **rest: Any) -> Any:
    """An option whose default, which settings know, is told in its help."""
    told = f"{help} (default: {default})" if default else help
    return Option(*names, help=told, rich_help_panel=panel, **rest)


def flag(name: str) -> str:
    """How a field is spelled on the command line."""
    return "--" + name.replace("_", "-")


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with every parameter that is a group of flags replaced by those flags."""
    hints = get_type_hints(command, include_extras=True)
    flat: dict[str, inspect.Parameter] = {}
    groups: dict[str, Any] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if is_dataclass(hints[name]):
            groups[name] = hints[name]
            flat |= _parameters(hints[name])
        else:
            flat[name] = parameter.replace(
                annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY
            )

    @wraps(command, assigned=("__name__", "__doc__", "__module__"), updated=())
    def flattened(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{one.name: given.pop(one.name) for one in fields(group)})
        command(**given)

    shown: Any = flattened
    shown.__signature__ = inspect.Signature([*flat.values()])
    shown.__annotations__ = {name: one.annotation for name, one in flat.items()}
    del shown.__wrapped__
    return flattened


def _parameters(group: Any) -> dict[str, inspect.Parameter]:
    types = get_type_hints(group, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return {
        one.name: inspect.Parameter(
            one.name, keyword, default=one.default, annotation=types[one.name]
        )
        for one in fields(group)
    }
