"""Picking among the candidates that a search has drawn, by any method.

Methods over log-probs are REAR's score and the ends of its λ: with q the log-prob of a response without the preference
and d what the preferences add (REAR, arXiv 2606.30339, eq. 9), best-of-N by REAR ranks by q + λ d; λ = 1 is the
likelihood under the full prompt, λ = 0 that under the question alone, and λ → ∞ the gain d alone. All are scores of a
pool, in its order, reduced as the reward says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from preftilt import reward as rewards
from preftilt.engines.base import Engine
from preftilt.messages import Message
from preftilt.prompt import PromptSettings, with_preferences
from preftilt.result import MethodScore
from preftilt.reward import Reward, order
from preftilt.rivals.methods import (
    AddedMethod,
    AtRandom,
    ByJudge,
    ByLogprob,
    ByRewardModel,
    ByVote,
    Judges,
    LogprobName,
    Method,
    for_reward_model,
    require_reward_model,
)
from preftilt.search import Score, rear
from preftilt.streams import MASK64, stream_key
from preftilt.types import Candidate, Preference, Query, Stream

if TYPE_CHECKING:
    from preftilt.rivals.verdict import JudgeVerdict

Rule = Callable[[Sequence[Candidate], Query, Reward], list[float]]


def full_logprob(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    """λ = 1. With one preference this is log π(response | question, preference)."""
    return _at(1.0, pool, query, reward)


def question_logprob(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    """λ = 0: log π(response | question)."""
    return _at(0.0, pool, query, reward)


def preference_gain(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    """λ → ∞, or → −∞ where λ is negative: d alone, p − q with one preference."""
    return _at(math.copysign(math.inf, query.lam), pool, query, reward)


def mean_logprob(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    """λ = 1 and divided by the number of tokens, whatever ``reward`` reduces by."""
    return full_logprob(pool, query, replace(reward, reduction="mean"))


def mean_rear(pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    """REAR's score divided by the number of tokens, whatever ``reward`` reduces by."""
    return rewards.scores(pool, query, replace(reward, reduction="mean"))


def _at(lam: float, pool: Sequence[Candidate], query: Query, reward: Reward) -> list[float]:
    return [line.at(lam) for line in rewards.lines_of(pool, query, reward)]


RULES: dict[LogprobName, Rule] = {
    "rear": rewards.scores,
    "full-logprob": full_logprob,
    "question-logprob": question_logprob,
    "preference-gain": preference_gain,
    "mean-logprob": mean_logprob,
}

UNSURE = 0.5
"""Mean probability of Yes and No together below which a judge's verdicts are said to mean little."""

UNRATED = "it gave none"
UNREAD = "they give no answer that could be read"
MISSING = {
    "majority-vote": UNREAD,
    "weighted-vote": UNREAD,
    "reward-model": "the reward model gave none, or they are too long for it",
    "generative-reward-model": "the judge came to no verdict, or they are too long for it",
}
"""Why a method may have no score for a candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatePool:
    """What a method picks from: N candidates in the order drawn, their texts, and the request."""

    candidates: tuple[Candidate, ...]
    texts: tuple[str, ...]
    query: Query
    reward: Reward
    stream: Stream
    messages: tuple[Message, ...]
    preferences: tuple[Preference, ...]
    prompt: PromptSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Candidates, best first, with their scores by the method in that order, and what it took.

    model: who judged, where a model did. cost: its ``forwards`` and the ``tokens`` it read and ``sampled``.
    """

    candidates: tuple[Candidate, ...]
    scores: tuple[MethodScore, ...]
    model: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    cost: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def about(self, method: Method) -> dict[str, Any]:
        """The record's ``method``: its name, the model that judged, and how many candidates have no score."""
        judged = {} if self.model is None else {"model": self.model}
        missing = sum(score.score is None for score in self.scores)
        return {"name": method.name, **judged, "missing": missing}


async def pick(pool: CandidatePool, method: Method, engine: Engine, judges: Judges) -> Ranking:
    """Rank the pool by ``method``; ``engine`` is the one that answered, and judges if ``judges`` has no other.

    The order is that of every search (:mod:`preftilt.reward`).
    """
    scored = await _scored(pool, method, engine, judges)
    ranked = order(
        [score.score for score in scored.scores],
        [candidate.cut_off for candidate in pool.candidates],
        pool.reward.cut_off,
        vote=isinstance(method, ByVote),
    )
    missing = sum(score.score is None for score in scored.scores)
    notes = scored.notes
    if missing:
        of = f"{missing} of {len(ranked)} candidates have no score by {method.name} and come last"
        notes += (f"{of}: {MISSING.get(method.name, UNRATED)}",)
    return replace(
        scored,
        candidates=tuple(pool.candidates[i] for i in ranked),
        scores=tuple(scored.scores[i] for i in ranked),
        notes=notes,
    )


def search_score(method: Method, query: Query, reward: Reward) -> Score:
    """The score that a search goes by: the method's own over log-probs, REAR's under every other method."""
    if not isinstance(method, ByLogprob):
        return rear(query, reward)
    rule = RULES[method.name]
    return Score(lambda pool: rule(pool, query, reward), reward.cut_off)


async def _scored(pool: CandidatePool, method: Method, engine: Engine, judges: Judges) -> Ranking:
    """The pool in the order drawn, with the method's scores."""
    match method:
        case ByLogprob():
            rule = RULES[method.name]
            return _ranking(pool, rule(pool.candidates, pool.query, pool.reward))
        case AtRandom():
            stream = replace(pool.stream, item=f"{pool.stream.item}\x1frandom pick")
            keys = [stream_key(stream, candidate.slot) / MASK64 for candidate in pool.candidates]
            return _ranking(pool, keys)
        case ByVote():
            return _by_vote(pool, method)
        case ByRewardModel():
            return await _by_reward_model(pool, method, judges)
        case ByJudge():
            return await _by_judge(pool, method, judges.judge or engine)
        case AddedMethod():
            return _ranking(pool, await method.scores(pool))


def _ranking(pool: CandidatePool, scores: Sequence[float | None]) -> Ranking:
    return Ranking(candidates=pool.candidates, scores=tuple(map(MethodScore, scores)))


def _by_vote(pool: CandidatePool, method: ByVote) -> Ranking:
    from preftilt.rivals.votes import EXTRACTORS, tally

    answers = [EXTRACTORS[method.answers](text) for text in pool.texts]
    weights = [1.0] * len(answers)
    if method.name == "weighted-vote":
        # A response with an impossible token has no finite score, and no say.
        means = mean_rear(pool.candidates, pool.query, pool.reward)
        weights = [1.0 + mean if math.isfinite(mean) else 0.0 for mean in means]
    scores = map(MethodScore, tally(answers, weights), answers)
    return Ranking(candidates=pool.candidates, scores=tuple(scores))


async def _by_reward_model(pool: CandidatePool, method: ByRewardModel, judges: Judges) -> Ranking:
    model = require_reward_model(judges.reward_model)
    messages = for_reward_model(pool.messages, pool.preferences, pool.prompt, method.preference_in)
    distinct = list(dict.fromkeys(pool.texts))
    rated = await model.score([(messages, text) for text in distinct])
    score_of = dict(zip(distinct, rated.scores, strict=True))
    return replace(
        _ranking(pool, [score_of[text] for text in pool.texts]),
        model=model.name,
        versions={f"reward model {name}": value for name, value in model.versions.items()},
        cost={"forwards": rated.forwards, "tokens": rated.tokens, "sampled": 0},
    )


async def _by_judge(pool: CandidatePool, method: ByJudge, engine: Engine) -> Ranking:
    from preftilt.rivals.verdict import GenerativeRewardModel

    messages = with_preferences(pool.messages, pool.preferences, pool.prompt)
    distinct = list(dict.fromkeys(pool.texts))
    stream = replace(pool.stream, item=f"{pool.stream.item}\x1fjudge")
    verdicts = await GenerativeRewardModel(engine, method).judge(messages, distinct, stream)
    verdict_of = dict(zip(distinct, verdicts, strict=True))
    return replace(
        _ranking(pool, [verdict_of[text].score for text in pool.texts]),
        model=engine.name,
        versions={f"judge {name}": value for name, value in engine.versions.items()},
        cost={
            "forwards": sum(verdict.forwards for verdict in verdicts),
            "tokens": sum(verdict.read for verdict in verdicts),
            "sampled": sum(verdict.sampled for verdict in verdicts),
        },
        notes=_uncertainty_notes(verdicts),
    )


def _uncertainty_notes(verdicts: Sequence[JudgeVerdict]) -> tuple[str, ...]:
    masses = [verdict.mass for verdict in verdicts if verdict.score is not None]
    if not masses or sum(masses) / len(masses) >= UNSURE:
        return ()
    share = sum(masses) / len(masses)
    return (
        f"the judge gave Yes and No together {share:.1%} of the probability on average, so its verdicts mean little",
    )
