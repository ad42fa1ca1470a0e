"""Answers: drawn on an open engine, kept as records, and picked from again by any λ without another model call.

A record is short enough for a log of a thousand items: of a candidate it keeps the two numbers every λ is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from jaxtyping import Float

from preftilt.api import Realigner, Settings
from preftilt.errors import BadInput
from preftilt.eval.harness.benchmark import BenchmarkRequest
from preftilt.prompt import answer_text, plain_query
from preftilt.result import Realigned, ScoredCandidate, number
from preftilt.reward import HasSums, Reward, order, reduced
from preftilt.rivals.votes import tally
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


class Ended(Protocol):
    """What tells whether it ended by itself."""

    @property
    def finished(self) -> bool: ...


class Scored(HasSums, Ended, Protocol):
    """A candidate's sums in λ, and whether it ended by itself."""


EndedT = TypeVar("EndedT", bound=Ended)
CandidateT = TypeVar("CandidateT", bound=Scored)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedAnswer:
    """An answer; its log-probs are sums over ``length`` tokens (nats), −inf if a token is impossible.

    ``questions`` and ``gains`` [length] are those of its tokens; empty where they were not kept.
    """

    text: str
    length: int
    finished: bool
    question_logprob: float
    preference_gain: float
    questions: Float[np.ndarray, "T"] = field(default_factory=lambda: np.empty(0), compare=False)
    gains: Float[np.ndarray, "T"] = field(default_factory=lambda: np.empty(0), compare=False)


def recorded_answer(candidate: Mapping[str, Any]) -> RecordedAnswer:
    """A candidate of :func:`short_record`; −inf and 0 for one with a token that a view holds impossible."""
    sums = candidate["sums"]
    question, gain = sums["question_logprob"], sums["preference_gain"]
    if question is None or gain is None:
        question, gain = -math.inf, 0.0
    return RecordedAnswer(
        text=candidate["text"],
        length=max(sums["length"], 1),
        finished=candidate["finish"] == "eos",
        question_logprob=question,
        preference_gain=gain,
    )


def scores(pool: Sequence[HasSums], lam: float, reward: Reward) -> list[float]:
    """S at λ of every candidate of a pool; −inf for one that must not win."""
    return [line.at(lam) for line in reduced(pool, reward)]


def first_by(
    pool: Sequence[EndedT],
    values: Sequence[float | None],
    reward: Reward = Reward(),  # noqa: B008  (frozen)
    *,
    vote: bool = False,
) -> EndedT:
    """The first of ``pool``, which stands in the order drawn, by any ``values`` (see :mod:`preftilt.reward`)."""
    cut_off = [not candidate.finished for candidate in pool]
    return pool[order(values, cut_off, reward.cut_off, vote=vote)[0]]


def best_of(pool: Sequence[CandidateT], lam: float, reward: Reward) -> CandidateT:
    """What best-of-n picks from ``pool``; λ may be infinite: then the preference gain alone decides."""
    return first_by(pool, scores(pool, lam, reward), reward)


def elected(
    pool: Sequence[RecordedAnswer],
    read: Callable[[str], str | None],
    lam: float | None,
    reward: Reward = Reward(),  # noqa: B008  (frozen)
) -> RecordedAnswer:
    """Who gives the answer that most of ``pool`` give, as ``read`` takes it from a text.

    With a λ a vote weighs 1 plus the score as a mean over tokens, or nothing for a response with an impossible token.
    """
    weights = [1.0] * len(pool)
    if lam is not None:
        means = scores(pool, lam, replace(reward, reduction="mean"))
        weights = [1.0 + mean if math.isfinite(mean) else 0.0 for mean in means]
    totals = tally([read(candidate.text) for candidate in pool], weights)
    return first_by(pool, totals, reward, vote=True)
