"""What the page asks about an answer that is there: the likeliest tokens at a place of it, and what carries it."""

from __future__ import annotations

from typing import Any

from preftilt.ablation import measure_influence
from preftilt.alternatives import likely_alternatives
from preftilt.api import Realigner
from preftilt.engines.base import Engine
from preftilt.server.failures import ApiError
from preftilt.server.wire import AlternativesBody, InfluenceBody
from preftilt.server.work import CheckedJob


async def alternatives(
    engine: Engine, body: AlternativesBody, checked: CheckedJob
) -> dict[str, Any]:
    """The likeliest tokens behind the request's prefix, under every view and mixed."""
    if checked.prepared is None:
        raise ApiError(
            400,
            "there is no preference, so that there is one view alone: state it in preftilt.preference",
            param="preftilt.preference",
        )
    told = await likely_alternatives(engine, checked.prepared, count=body.count, include=body.token)
    return {"object": "preftilt.alternatives", **told.to_json()}


async def influence(engine: Engine, body: InfluenceBody, checked: CheckedJob) -> dict[str, Any]:
    """What every sentence of the preferences and of the system message does for the response."""
    job = checked.job
    if job.prefix:
        raise ApiError(400, "the response is whole: leave the prefix out", param="preftilt.prefix")
    told = await measure_influence(
        Realigner(engine),
        job.messages,
        job.preferences,
        response=body.response,
        settings=job.settings,
    )
    return told.to_json()
