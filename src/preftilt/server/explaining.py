"""What can be asked about a request beside its answer: what it costs at most, the likeliest tokens at a place of an
answer that is there, and what carries it."""

from __future__ import annotations

from typing import Any

from preftilt.ablation import measure_influence
from preftilt.alternatives import likely_alternatives
from preftilt.api import Realigner
from preftilt.engines.base import Capabilities, Engine
from preftilt.run.guiding import count_as_scores, drawn_sources
from preftilt.search import DVTS, Search
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


def cost(checked: CheckedJob, able: Capabilities) -> dict[str, Any]:
    """Upper bounds on the tokens that a job samples and scores; nothing is drawn.

    ``at_most`` always holds. ``if_even`` is the bound for a tree search whose siblings are equally long: in the worst
    case every sibling that a step drops has used up the rest of the budget, which hardly ever happens.
    """
    job, query = checked.job, checked.query
    prompts = {view.name: len(view.prompt) for view in query.views}
    if query.prompt not in [view.prompt for view in query.views if view.reader is None]:
        prompts["generation"] = len(query.prompt)
    drawn, guided = drawn_sources(query, job.settings.search)
    if not count_as_scores(drawn, query, able, guided=guided):
        drawn = frozenset()
    passes = sum((view.prompt, view.reader) not in drawn for view in query.views)
    prefix = len(job.prefix) * len(query.views)
    if job.plain:
        passes = 0
        worst = even = job.choices * checked.max_tokens
        candidates = job.choices
    else:
        worst, even = sampled_at_most(job.settings.search, checked.max_tokens - len(job.prefix))
        candidates = job.settings.search.candidates
    return {
        "candidates": candidates,
        "max_tokens": checked.max_tokens,
        "prompt": prompts,
        "at_most": {"sampled": worst, "scored": worst * passes + prefix},
        "if_even": {"sampled": even, "scored": even * passes + prefix},
    }


def sampled_at_most(search: Search, max_tokens: int) -> tuple[int, int]:
    """Tokens that a search samples at most, and at most with siblings of equal length.

    The node before step k has k tokens or more, so each of the ``width − 1`` siblings that are dropped has at most
    ``max_tokens − k``; the ones that are kept make one answer of ``max_tokens``.
    """
    even = search.candidates * max_tokens
    if not isinstance(search, DVTS):
        return even, even
    steps = min(search.max_steps, max_tokens)
    dropped = sum(max_tokens - k for k in range(steps))
    return search.subtrees * (max_tokens + (search.width - 1) * dropped), even
