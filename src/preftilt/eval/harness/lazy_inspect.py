"""Inspect's decorators for the functions of benchmarks, whose modules are loaded without Inspect, too.

What they mark is made known to Inspect when it is first called, or by :func:`register`, which ``eval/registry.py``
calls when Inspect loads it. A function that is marked imports by itself what it needs of Inspect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from preftilt.eval.harness.budget import COUNTS

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.scorer import Scorer
    from inspect_ai.solver import Solver

P = ParamSpec("P")
T = TypeVar("T")

_marked: list[Callable[[], object]] = []


def task(name: str) -> Callable[[Callable[P, Task]], Callable[P, Task]]:
    """A task of this name; errors of preftilt in it are told as Inspect tells its own."""

    def decorated(make: Callable[P, Task]) -> Callable[P, Task]:
        from inspect_ai import task as inspect_task

        from preftilt.eval.provider import plainly

        return inspect_task(name=name)(plainly()(make))

    return lambda make: _deferred(make, decorated)


def solver(make: Callable[P, Solver]) -> Callable[P, Solver]:
    """A solver."""

    def decorated(make: Callable[P, Solver]) -> Callable[P, Solver]:
        from inspect_ai.solver import solver as inspect_solver

        return inspect_solver(make)

    return _deferred(make, decorated)


def scorer(
    names: Sequence[str], counted: Sequence[str] = COUNTS, *, by: tuple[str, str] | None = None
) -> Callable[[Callable[P, Scorer]], Callable[P, Scorer]]:
    """A scorer whose metrics are those of ``harness.judge.metrics_for``.

    by: the name of a number, and the field of a sample's metadata by whose values its mean is told, too.
    """

    def decorated(make: Callable[P, Scorer]) -> Callable[P, Scorer]:
        from inspect_ai.scorer import grouped
        from inspect_ai.scorer import scorer as inspect_scorer

        from preftilt.eval.harness.judge import average, metrics_for

        metrics = metrics_for(names, counted)
        if by is not None:
            metrics[by[0]].append(grouped(average(), by[1], all=False))
        return inspect_scorer(metrics=metrics)(make)

    return lambda make: _deferred(make, decorated)


def register() -> None:
    """Make all that was marked known to Inspect."""
    for decorated in _marked:
        decorated()


def _deferred(
    make: Callable[P, T], decorate: Callable[[Callable[P, T]], Callable[P, T]]
) -> Callable[P, T]:
    decorated = cache(lambda: decorate(make))
    _marked.append(decorated)

    @wraps(make)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return decorated()(*args, **kwargs)

    return call
