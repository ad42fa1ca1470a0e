"""Dates in prompts: the date that a chat template shows is part of a record and of its fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from preftilt.engines.base import Engine
from preftilt.errors import BadInput

Shown = tuple[str, ...]
"""What prompts show of the moment; empty if the template shows nothing of it."""


def shown_by(engine: Engine) -> Shown:
    """What prompts of ``engine`` show of the moment now."""
    moment = engine.tokenizer.moment
    return moment.shown if moment else ()


def shown_in(record: Mapping[str, Any]) -> Shown:
    """What the prompts of a record showed."""
    return tuple((record.get("moment") or {}).get("shown", ()))


def dated(identity: Mapping[str, Any], shown: Shown) -> Mapping[str, Any]:
    """All that fingerprints are made with besides the row: ``identity``, and the date where prompts show one."""
    return {**identity, "moment": list(shown)} if shown else identity


def check_dates(done: Iterable[Mapping[str, Any]], engine: Engine) -> None:
    """Raises :class:`~preftilt.errors.BadInput` if prompts show another date now than in the records ``done``."""
    shown = shown_by(engine)
    for record in done:
        before = shown_in(record)
        if before == shown:
            continue
        then, now = (", ".join(dates) or "no date" for dates in (before, shown))
        moment = (record.get("moment") or {}).get("now")
        remedy = f"go on with --now {moment}" if moment else "go on without --now"
        raise BadInput(
            f'line {record["line"]} (id "{record["id"]}") was made with a prompt that shows {then}, and now it shows'
            f" {now}: {remedy}, or begin anew with --force"
        )
