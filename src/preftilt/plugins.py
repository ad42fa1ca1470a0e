"""What other packages add: an entry point of one of preftilt's groups, which are searched when a name is looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from preftilt.errors import EngineError

T = TypeVar("T")


def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group, by name."""
    return {point.name: point for point in entry_points(group=group)}


def load(point: EntryPoint) -> Any:
    """What an entry point names; raises :class:`~preftilt.errors.EngineError` where it cannot be imported."""
    kind = point.group.rpartition(".")[2]
    try:
        return point.load()
    except Exception as error:  # A foreign package may raise anything when it is imported.
        raise EngineError(
            f"the {kind} plugin {point.name!r} of {point.value} cannot be loaded ({error}); reinstall or remove it"
        ) from error


class Registry(Mapping[str, T]):
    """What there is of a kind, by name: preftilt's own, and then what packages add under an entry point group.

    A package cannot replace what preftilt has. Its entry points are loaded at the first look into the registry.
    """

    def __init__(self, group: str, own: Mapping[str, T]) -> None:
        self._group, self._own = group, own

    @cached_property
    def _entries(self) -> dict[str, T]:
        added = {name: load(point) for name, point in installed(self._group).items()}
        return {
            **self._own,
            **{name: made for name, made in added.items() if name not in self._own},
        }

    def __getitem__(self, name: str) -> T:
        return self._own[name] if name in self._own else self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
