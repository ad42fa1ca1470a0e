"""The date and time that chat templates show: which one a prompt sees, and what it shows of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from preftilt.errors import BadInput

_REQUEST: ContextVar[datetime | None] = ContextVar("moment of the request", default=None)


@contextmanager
def rendered_at(moment: datetime) -> Iterator[None]:
    """Prompts made in this context see ``moment``, unless their engine was opened with another one (``now``)."""
    token = _REQUEST.set(moment)
    try:
        yield
    finally:
        _REQUEST.reset(token)


def requested_moment() -> datetime | None:
    """The moment of the nearest :func:`rendered_at`."""
    return _REQUEST.get()


def read_moment(text: str) -> datetime:
    """``2026-11-28`` or ``2026-11-28T18:30``; raises :class:`~preftilt.errors.BadInput` for anything else."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{text!r} is no moment; write 2026-11-28 or 2026-11-28T18:30") from None


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment that a chat template sees, and what it can show of it in a prompt."""

    now: datetime
    shown: tuple[str, ...]
