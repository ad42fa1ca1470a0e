"""Reward models that are a Python function: named ``module:function``, or added by a package by an entry point.

A scorer takes a list of pairs (see :data:`~preftilt.rivals.base.Pair`) and returns a number each, None where it has
none; it may be ``async``. Packages name theirs by an entry point of the group ``preftilt.scorers``.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from preftilt.errors import BadInput, EngineError
from preftilt.messages import Message
from preftilt.plugins import installed, load
from preftilt.rivals.base import Pair, RewardScores

SCORERS = "preftilt.scorers"
"""The entry point group of scorers from other packages."""

Scorer = Callable[[Sequence[Pair]], Any]
"""Pairs → one number or None each, or an awaitable of that."""


@dataclass(frozen=True, slots=True)
class FunctionModel:
    """A scorer as a reward model. Its cost is unknown, so no forwards or tokens are counted."""

    name: str
    scorer: Scorer

    @property
    def versions(self) -> dict[str, str]:
        """None are known."""
        return {}

    def check(self, messages: Sequence[Message]) -> None:
        """Takes every conversation."""

    async def score(self, pairs: Sequence[Pair]) -> RewardScores:
        """Call the function; one that is not ``async`` runs in a thread, so that the event loop goes on."""
        try:
            if inspect.iscoroutinefunction(self.scorer):
                returned = await self.scorer(list(pairs))
            else:
                returned = await asyncio.to_thread(self.scorer, list(pairs))
                returned = await returned if inspect.isawaitable(returned) else returned
            scores = [None if score is None else float(score) for score in returned]
        except Exception as error:  # Foreign code may raise anything.
            raise EngineError(
                f"the scorer {self.name} failed: {type(error).__name__}: {error}"
            ) from error
        if len(scores) != len(pairs):
            raise EngineError(
                f"the scorer {self.name} returned {len(scores)} scores for {len(pairs)} responses"
            )
        if any(score is not None and not math.isfinite(score) for score in scores):
            raise EngineError(
                f"the scorer {self.name} returned a score that is not finite; return None where there is none"
            )
        return RewardScores(tuple(scores))

    def close(self) -> None:
        """Nothing to release."""


def installed_scorer(name: str) -> FunctionModel | None:
    """The scorer that a package added under ``name``; None if there is none."""
    scorers = installed(SCORERS)
    return FunctionModel(name, load(scorers[name])) if name in scorers else None


def named_scorer(spec: str) -> FunctionModel:
    """The function that ``module:function`` names; modules are also looked for in the working directory.

    Raises :class:`~preftilt.errors.BadInput` if there is no such function, or its module cannot be imported.
    """
    module, _, function = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        scorer = import_module(module)
        for part in function.split("."):
            scorer = getattr(scorer, part)
    except AttributeError:
        raise BadInput(f"{spec}: the module {module} has no {function}") from None
    except ImportError as error:
        raise BadInput(f"{spec}: the module {module} cannot be imported ({error})") from error
    if not callable(scorer):
        raise BadInput(f"{spec} is no function; a scorer takes a list of (messages, response)")
    return FunctionModel(spec, scorer)
