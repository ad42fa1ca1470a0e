"""Smaller records: without the log-probs of every token, which are most of a record, or with the answer alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from preftilt.errors import BadInput

RecordKind = Literal["full", "scores", "text"]
"""How much of a record is kept: all of it; candidates with their scores, without tokens; the answer alone."""

SCHEMAS: Mapping[RecordKind, str] = {"scores": "preftilt.scores/1", "text": "preftilt.text/1"}
"""The ``schema`` field of smaller records; ``schema/`` describes them."""

_OF_TEXT = ("id", "text", "model", "seed", "moment", "notes")
_BULK = ("tokens", "logprobs")


def record_kind(name: str) -> RecordKind:
    """The kind called ``name``; raises :class:`~preftilt.errors.BadInput` for any other."""
    for kind in get_args(RecordKind):
        if name == kind:
            return kind
    raise BadInput(f"--records must be {', '.join(get_args(RecordKind))}, not {name!r}")


def slim(record: Mapping[str, Any], kind: RecordKind) -> dict[str, Any]:
    """What ``kind`` keeps of a whole record.

    ``scores`` suffice to choose λ, and sum or mean, without a model; γ, further preferences and explanations need the
    log-probs. ``text`` has a few hundred bytes beside its text.
    """
    if kind == "full":
        return {**record}
    head = {"schema": SCHEMAS[kind]}
    if kind == "text":
        usage, best = record["usage"], record["candidates"][0]
        spent = {name: usage[name] for name in ("sampled", "scored")}
        told = {name: record[name] for name in _OF_TEXT if name in record}
        return head | told | {"finish": best["finish"], "usage": spent}
    candidates = [
        {name: value for name, value in candidate.items() if name not in _BULK}
        | {"length": len(candidate["tokens"])}
        for candidate in record["candidates"]
    ]
    rest = {name: value for name, value in record.items() if name != "prompts"}
    return {**rest, **head, "candidates": candidates}
