"""One request on an open engine: the answer, its cost, and a record short enough for a log of a thousand items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from preftilt.api import Realigner, Settings
from preftilt.errors import BadInput
from preftilt.eval.harness.benchmark import BenchmarkRequest
from preftilt.prompt import answer_text, plain_query
from preftilt.result import Realigned, ScoredCandidate, number
from preftilt.run import plain_completion
from preftilt.types import Query


@dataclass(frozen=True, slots=True)
class DrawnAnswer:
    """An answer. ``read`` are tokens of prompts and of scored responses, ``sampled`` new ones; ``record`` is JSON.

    ``candidates`` stand in the order of the record's, with what it leaves out.
    """

    text: str
    cut_off: bool
    read: int
    sampled: int
    record: Mapping[str, Any]
    candidates: tuple[ScoredCandidate, ...] = ()


async def draw_realigned(
    realigner: Realigner, request: BenchmarkRequest, settings: Settings, item: str | None, fit: bool
) -> DrawnAnswer:
    """The request's answer by the settings' method; ``fit`` lowers ``max_tokens`` to what the context leaves."""
    notes: tuple[str, ...] = ()
    fit = fit and settings.max_tokens is not None
    prepared = realigner.prepare(
        request.messages,
        request.preferences,
        settings=replace(settings, max_tokens=None) if fit else settings,
    )
    if fit:
        settings, notes = _fitted(prepared.query, settings, realigner)
        most = settings.max_tokens or prepared.max_tokens
        whole = replace(prepared.settings, max_tokens=most)
        prepared = replace(prepared, settings=whole, max_tokens=most)
    result = await realigner.answer(prepared, item=item)
    usage = result.usage
    return DrawnAnswer(
        text=result.text,
        cut_off=result.candidates[0].finish == "length",
        read=sum(usage["prompt"].values()) + sum(usage["scored"].values()),
        sampled=usage["sampled"],
        record=short_record(replace(result, notes=(*notes, *result.notes))),
        candidates=result.candidates,
    )


async def draw_plain(
    realigner: Realigner, request: BenchmarkRequest, settings: Settings, item: str | None, fit: bool
) -> DrawnAnswer:
    """The model's answer as it is: one draw by the settings' sampling, the search and λ having no say."""
    engine = realigner.engine
    prompt = engine.tokenizer.render(request.conversation())
    query = plain_query(prompt)
    notes: tuple[str, ...] = ()
    if fit and settings.max_tokens is not None:
        settings, notes = _fitted(query, settings, realigner)
    drawn, budget = await plain_completion(engine, query, settings, item or "")
    return DrawnAnswer(
        text=answer_text(engine.tokenizer, drawn.tokens),
        cut_off=drawn.finish == "length",
        read=len(prompt),
        sampled=len(drawn.tokens),
        record={"plain": True, "max_tokens": budget, "notes": list(notes)},
    )


def short_record(result: Realigned) -> dict[str, Any]:
    """The record without token ids and per-token log-probs: what re-ranking by any λ, reduction and n needs.

    ``tokens`` is a candidate's length. ``sums`` are what its score is made of before the reduction: question log-prob
    and preference gain, and over how many tokens.
    """
    whole = result.to_json()
    kept = ("model", "engine", "seed", "settings", "path", "usage", "timing", "versions", "notes")
    return {name: whole[name] for name in kept} | {
        "prompt_tokens": {name: len(tokens) for name, tokens in result.prompts.items()},
        "candidates": [
            {
                "rank": candidate.rank,
                "slot": candidate.slot,
                "text": candidate.text,
                "tokens": len(candidate.tokens),
                "finish": candidate.finish,
                "question_logprob": number(candidate.question_logprob),
                "preference_gain": number(candidate.preference_gain),
                "score": number(candidate.score),
                "sums": {
                    "question_logprob": number(candidate.sums.question_logprob),
                    "preference_gain": number(candidate.sums.preference_gain),
                    "length": candidate.sums.length,
                },
            }
            for candidate in result.candidates
        ],
    }


def _fitted(
    query: Query, settings: Settings, realigner: Realigner
) -> tuple[Settings, tuple[str, ...]]:
    """``settings`` with as many tokens as the context leaves, and a note if that is fewer than asked."""
    wanted = settings.max_tokens or 0
    longest = max(len(view.prompt) for view in query.views)
    room = realigner.engine.capabilities.max_context - max(longest, len(query.prompt))
    if room < 1:
        raise BadInput(f"the prompt leaves no room for an answer ({1 - room} tokens too many)")
    if room >= wanted:
        return settings, ()
    note = f"max_tokens is {room}, not the protocol's {wanted}: the model's context leaves no more"
    return replace(settings, max_tokens=room), (note,)
