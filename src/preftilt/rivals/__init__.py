"""Other ways to pick an answer among candidates: baselines, votes, reward models, a language model as judge."""

from preftilt.rivals.methods import (
    METHODS,
    AtRandom,
    ByJudge,
    ByLogprob,
    ByRewardModel,
    ByVote,
    Judges,
    Method,
    check_method,
    check_search,
)
from preftilt.rivals.pick import CandidatePool, Ranking, pick, search_score

__all__ = [
    "METHODS",
    "AtRandom",
    "ByJudge",
    "ByLogprob",
    "ByRewardModel",
    "ByVote",
    "CandidatePool",
    "Judges",
    "Method",
    "Ranking",
    "check_method",
    "check_search",
    "pick",
    "search_score",
]
