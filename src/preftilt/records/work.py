"""Processing of one row, in this process or on a cluster: check it, answer or score it, and make its record.

Smaller records lack the log-probs of every token, which are most of a record, or hold the answer alone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from preftilt.api import Realigner
from preftilt.errors import BadInput, EngineError, PreftiltError
from preftilt.records.journal import error_record
from preftilt.records.rows import CheckedRow
from preftilt.run import OnProgress

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


CHECKED_FIRST = 64
"""Rows whose prompts are checked before the first token; the others are when their turn comes."""

LOGGER = logging.getLogger("preftilt.records")
"""Without a handler, what it says goes to standard error."""

Work = Callable[[Realigner, CheckedRow, OnProgress], Awaitable[dict[str, Any]]]
"""Processes a row; returns its record, or raises."""


async def realign_item(
    realigner: Realigner, item: CheckedRow, report: OnProgress
) -> dict[str, Any]:
    """The work of ``preftilt run``."""
    result = await realigner.realign(
        item.messages,
        item.preferences,
        settings=item.settings,
        item=item.id,
        on_progress=report,
    )
    return result.to_json()


async def record_of(
    work: Work,
    realigner: Realigner,
    item: CheckedRow,
    mark: str,
    report: OnProgress,
    kind: RecordKind = "full",
) -> dict[str, Any]:
    """The row's record, of its ``kind``, with its fingerprint ``mark`` and its columns.

    A failure is the record of a failed row. One that is a defect of ours, and not of the input or an engine, is marked
    as such, and logged with its traceback.
    """
    try:
        record = slim(await work(realigner, item, report), kind) | {"fingerprint": mark}
    except Exception as failure:
        record = error_record(item.id, failure, mark)
        if "defect" in record["error"]:
            LOGGER.error("row %s: a defect of preftilt or of the engine", item.id, exc_info=failure)
    return record | ({"columns": dict(item.columns)} if item.columns else {})


def check_items(realigner: Realigner, items: Iterable[CheckedRow]) -> None:
    """Refuse rows whose prompts or responses cannot be read or do not fit, all of these at once."""
    problems: list[tuple[int, PreftiltError]] = []
    for item in items:
        try:
            request = realigner.prepare(item.messages, item.preferences, settings=item.settings)
            if item.responses:
                realigner.check_responses(request.query, item.responses)
        except BadInput as failure:
            problems.append((item.line, failure))
        except (
            EngineError
        ):  # A tokenizer that stumbles over one row: that row fails when its turn comes.
            continue
    if problems:
        line, first = problems[0]
        others = ", ".join(str(line) for line, _ in problems[1:6])
        more = f" (the same or another problem: line {others}{' …' if problems[6:] else ''})"
        raise BadInput(f"line {line}: {first}{more if others else ''}")
