"""Makes the record of a request from its ranked candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import preftilt
from preftilt.effect import NoteThresholds, StrengthEffect, effect_notes, strength_effect
from preftilt.engines.base import Engine
from preftilt.engines.checks import without_text
from preftilt.path import PathSegment, upper_envelope
from preftilt.prompt import ChatTokenizer
from preftilt.result import MethodScore, Realigned, ScoredCandidate, ViewRecord
from preftilt.reward import (
    IMPOSSIBLE,
    Reward,
    ScoreLine,
    Sums,
    contenders,
    reduced,
    sums,
    token_gains,
)
from preftilt.rivals import ByLogprob, Ranking
from preftilt.run import Run
from preftilt.search import CFG, DVTS
from preftilt.settings import ArmSettings, Settings
from preftilt.types import Candidate, Preference, Query, View

LARGE_LAMBDA, WIDE_SPREAD = 10.0, 3.0
"""From this λ on, and beyond this ratio of lengths, a sum is said to depend on length."""

LOOP = 32
"""Tokens at the end of an answer that are a loop, if they repeat each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run that has ended: the inputs of its record.

    ranked: best first. ranking: how a method other than REAR's score came to this order. responses_given: they were
    given and not drawn. seconds: wall time of the whole request.
    """

    engine: Engine
    run: Run
    settings: Settings
    preferences: Sequence[Preference]
    item: str | None
    ranked: Sequence[Candidate]
    ranking: Ranking | None
    responses_given: bool
    seconds: float


def record(done: FinishedRun) -> Realigned:
    """The result of a request."""
    engine, run, settings, ranking = done.engine, done.run, done.settings, done.ranking
    query, tokenizer = run.query, engine.tokenizer
    scores = [None] * len(done.ranked) if ranking is None else ranking.scores
    totals = [
        sums(candidate, query.ratios, settings.reward, query.arms) for candidate in done.ranked
    ]
    lines = reduced(totals, settings.reward)
    candidates = tuple(
        _scored(rank, candidate, query, total, line, score, tokenizer)
        for rank, (candidate, total, line, score) in enumerate(
            zip(done.ranked, totals, lines, scores, strict=True), start=1
        )
    )
    able = _contenders(candidates, settings.reward)
    path = upper_envelope(able, start=min(0.0, query.lam))
    pieces = tuple(tuple(tokenizer.pieces(candidate.tokens)) for candidate in done.ranked)
    effect = _effect(done, able, candidates[0], path) if query.ratios else None
    told = effect_notes(effect, query.lam, pieces[0][candidates[0].thoughts :]) if effect else []
    versions = {"preftilt": preftilt.__version__} | engine.versions
    return Realigned(
        id=done.item,
        text=candidates[0].text,
        model=engine.model,
        engine=engine.name,
        seed=settings.seed,
        settings=_settings_record(settings, done),
        views=tuple(_read_view(view, engine) for view in query.views),
        prompts={view.name: view.prompt for view in query.views},
        candidates=candidates,
        path=path,
        usage=asdict(run.usage),
        timing=run.clock.seconds | {"total": done.seconds},
        versions=versions | (ranking.versions if ranking else {}),
        notes=(*_notes(done, candidates), *told),
        pieces=pieces,
        method=ranking.about(settings.method) if ranking else None,
        effect=effect,
        moment=tokenizer.moment,
    )


def _effect(
    done: FinishedRun,
    able: Sequence[ScoreLine],
    answer: ScoredCandidate,
    path: Sequence[PathSegment],
) -> StrengthEffect:
    """What λ did: the path speaks where REAR's score chose among candidates that do not depend on λ."""
    by_rear = done.ranking is None
    drawn_by_lambda = isinstance(done.settings.search, DVTS | CFG) and not done.responses_given
    return strength_effect(
        able if by_rear else (),
        answer.gains[answer.thoughts :],
        path if by_rear and not drawn_by_lambda else (),
        done.run.query.lam,
        NoteThresholds(),
    )


def beside(result: Realigned, other: Realigned) -> Realigned:
    """``other``, an answer to the same request, with scores on the scale of ``result``'s candidates.

    A centred score is relative to a pool, and by itself an answer would score 0; other reductions stay as they are.
    """
    settings = result.settings
    reward = Reward(gamma=settings["gamma"], reduction=settings["reduction"])
    pool = [candidate.sums for candidate in result.candidates]
    lines = reduced([candidate.sums for candidate in other.candidates], reward, pool)
    return replace(
        other,
        candidates=tuple(
            replace(
                candidate,
                question_logprob=line.question_logprob,
                preference_gain=line.preference_gain,
                score=line.at(result.lam),
            )
            for candidate, line in zip(other.candidates, lines, strict=True)
        ),
    )


def _read_view(view: View, engine: Engine) -> ViewRecord:
    if view.reader is None:
        return ViewRecord(name=view.name, weight=view.weight)
    reader = view.reader
    arm = next(known for known in engine.capabilities.arms if known.name == reader.arm)
    names = [objective.name for objective in arm.objectives]
    return ViewRecord(
        name=view.name,
        weight=view.weight,
        arm=arm.name,
        method=arm.method,
        alpha=dict(zip(names, reader.alpha, strict=True)),
    )


def _scored(
    rank: int,
    candidate: Candidate,
    query: Query,
    total: Sums,
    line: ScoreLine,
    method: MethodScore | None,
    tokenizer: ChatTokenizer,
) -> ScoredCandidate:
    tokens, thoughts = candidate.tokens, candidate.thoughts
    return ScoredCandidate(
        rank=rank,
        slot=candidate.slot,
        text=tokenizer.decode(tokens[thoughts:]),
        tokens=tokens,
        finish=candidate.finish,
        logprobs={
            view.name: row for view, row in zip(query.views, candidate.logprobs, strict=True)
        },
        gains=token_gains(candidate.logprobs, query.ratios, query.arms),
        question_logprob=line.question_logprob,
        preference_gain=line.preference_gain,
        score=line.at(query.lam),
        sums=total,
        method=method,
        reasoning=tokenizer.decode(tokens[:thoughts]),
        thoughts=thoughts,
    )


def _notes(done: FinishedRun, candidates: Sequence[ScoredCandidate]) -> tuple[str, ...]:
    """Warnings about the result, for whoever reads it."""
    notes = [*(done.ranking.notes if done.ranking else ())]
    by_rear = isinstance(done.settings.method, ByLogprob)
    if isinstance(done.settings.search, DVTS) and not (by_rear or done.responses_given):
        notes.append(
            f"REAR's score guided the steps; {done.settings.method.name} picked among the subtrees' responses"
        )
    if not done.responses_given and len(candidates) > 1 and done.settings.sampling.temperature == 0:
        notes.append(
            f"temperature 0 draws one answer: all {len(candidates)} candidates are it; raise the temperature, or draw"
            " one (search greedy)"
        )
    if done.run.absent:
        notes.append(f"{without_text(done.run.absent)}: no candidates")
    cut_off = [candidate.finish == "length" for candidate in candidates]
    budget = f"{done.run.max_tokens} tokens"
    if cut_off[0]:
        none_ended = len(candidates) > 1 and all(cut_off)
        why = (
            f"no candidate ended within {budget}, so a cut-off one was chosen"
            if none_ended
            else f"the answer was cut off at {budget}"
        )
        period, times = repeated_end(candidates[0].tokens)
        if times:
            notes.append(
                f"{why}; it ends in a loop (period in tokens: {period}, repeats: {times}), which more tokens would not"
                " end: draw it (no greedy, a temperature above 0), or try another λ"
            )
        else:
            notes.append(f"{why}; allow more (max_tokens)")
    elif (
        by_rear
        and done.settings.reward.cut_off == "last"
        and cut_off.count(False) == 1 < len(cut_off)
    ):
        notes.append(
            f"1 of {len(candidates)} candidates ended within {budget}, so it is chosen whatever λ is; allow more"
            " (max_tokens), or compare those that were cut off, too (cut_off as-is)"
        )
    unanswered = sum(not candidate.answered for candidate in candidates)
    if unanswered:
        notes.append(
            f"{unanswered} of {len(candidates)} candidates thought and came to no answer; allow more (max_tokens)"
        )
    return (*notes, *_length_notes(done, candidates))


def repeated_end(tokens: Sequence[int]) -> tuple[int, int]:
    """The period and the number of repeats of a loop at the end of ``tokens``; (0, 0) where there is none.

    A loop has three repeats or more, and :data:`LOOP` tokens or more in all of them.
    """
    for period in range(1, len(tokens) // 3 + 1):
        same = 0
        while same + period < len(tokens) and tokens[-1 - same] == tokens[-1 - same - period]:
            same += 1
        times = same // period + 1
        if times >= 3 and times * period >= LOOP:
            return period, times
    return 0, 0


def _length_notes(done: FinishedRun, candidates: Sequence[ScoredCandidate]) -> list[str]:
    lengths = [
        len(candidate.tokens) - candidate.thoughts for candidate in candidates if candidate.answered
    ] or [0]
    lam = done.run.query.lam
    reduction = done.settings.reward.reduction
    if reduction == "centred" and len(candidates) == 1:
        return [
            "there is one candidate, so the centred score has nothing to compare it with and is 0"
        ]
    summed = done.ranking is None and reduction == "sum"
    if not summed or abs(lam) < LARGE_LAMBDA or max(lengths) <= WIDE_SPREAD * min(lengths):
        return []
    return [
        f"candidates have {min(lengths)} to {max(lengths)} tokens and λ = {lam:g}: a sum over tokens then"
        " depends much on length; compare them on the scale of their lengths (reduction centred)"
    ]


def _contenders(candidates: Sequence[ScoredCandidate], reward: Reward) -> list[ScoreLine]:
    """The lines of those candidates that may win; the others stand aside at every λ, as in the ranking."""
    able = contenders([candidate.cut_off for candidate in candidates], reward.cut_off)
    return [
        ScoreLine(candidate.question_logprob, candidate.preference_gain) if may_win else IMPOSSIBLE
        for candidate, may_win in zip(candidates, able, strict=True)
    ]


def _settings_record(settings: Settings, done: FinishedRun) -> dict[str, Any]:
    run = done.run
    search = (
        {"name": "given"}
        if done.responses_given
        else {"name": settings.search.name} | asdict(settings.search)
    )
    return {
        "search": search,
        "method": asdict(settings.method),
        "lambda": run.query.lam,
        "preferences": [
            {
                "text": preference.text,
                "strength": settings.strength
                if preference.strength is None
                else preference.strength,
            }
            for preference in done.preferences
        ],
        **asdict(settings.reward),
        **asdict(settings.prompt),
        **asdict(settings.sampling),
        **_arms_record(settings.arms),
        "max_tokens": run.max_tokens,
        **({"prefix": list(run.prefix)} if run.prefix else {}),
    }


def _arms_record(arms: ArmSettings) -> dict[str, Any]:
    """What was asked of reward models; what it came to stands with the views."""
    return {"arms": asdict(arms) | {"weights": dict(arms.weights)}} if arms.names else {}
