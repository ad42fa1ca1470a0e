"""Progress reports and phase times of a request while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from preftilt.engines.base import Engine, GuideRequest, SampleRequest, ScoreRequest
from preftilt.types import Candidate

TICK_SECONDS = 0.1
"""How often progress within a call to the engine is asked for, where the engine can say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a request has come.

    A report comes at the end of every call to the engine, and in between from engines that can tell.

    Attributes:
        item: the request's name, as in :meth:`~preftilt.api.Realigner.realign`.
        phase: ``sampling`` or ``scoring``, whichever is under way or has just ended.
        sampled: tokens drawn so far, those of the call under way included.
        scored: tokens scored so far, likewise.
        candidates: whole responses that have just been scored, in the order of their slots.
    """

    item: str
    phase: str
    sampled: int
    scored: int
    candidates: tuple[Candidate, ...] = ()


OnProgress = Callable[[Progress], None]


@dataclass(slots=True)
class Clock:
    """Wall seconds during which at least one plan was in a phase: phases of parallel plans overlap."""

    seconds: dict[str, float] = field(default_factory=dict)
    _active: dict[str, int] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)

    def enter(self, phase: str) -> None:
        if not self._active.get(phase):
            self._since[phase] = time.perf_counter()
        self._active[phase] = self._active.get(phase, 0) + 1

    def leave(self, phase: str) -> None:
        self._active[phase] -= 1
        if not self._active[phase]:
            elapsed = time.perf_counter() - self._since[phase]
            self.seconds[phase] = self.seconds.get(phase, 0.0) + elapsed


@dataclass(slots=True)
class CallsInProgress:
    """Engine calls in progress, and their token counts."""

    engine: Engine
    _requests: dict[int, SampleRequest | ScoreRequest | GuideRequest] = field(default_factory=dict)

    @contextmanager
    def holding(
        self, requests: Sequence[SampleRequest | ScoreRequest | GuideRequest]
    ) -> Iterator[None]:
        """Registers ``requests`` for the duration of their engine call."""
        here = {id(request): request for request in requests}
        self._requests.update(here)
        try:
            yield
        finally:
            for key in here:
                del self._requests[key]

    @property
    def phase(self) -> str:
        """``sampling`` while anything is drawn, otherwise ``scoring``."""
        scoring = all(isinstance(request, ScoreRequest) for request in self._requests.values())
        return "scoring" if scoring else "sampling"

    def tokens(self) -> tuple[int, int]:
        """Tokens drawn and scored."""
        sampled = scored = 0
        for request in self._requests.values():
            done = self.engine.progress(request)
            if isinstance(request, ScoreRequest):
                scored += done
            else:
                sampled += done
        return sampled, scored
