"""Other ways to pick an answer among candidates: baselines, votes, reward models, a language model as judge."""

from preftilt.rivals.base import Pair, Rated, RewardModel
from preftilt.rivals.checks import Judges, check_method, check_search
from preftilt.rivals.methods import (
    METHODS,
    AtRandom,
    ByJudge,
    ByLogprob,
    ByRewardModel,
    ByVote,
    Method,
    MethodName,
)
from preftilt.rivals.opening import open_reward_model, runs_here
from preftilt.rivals.pick import Pool, Ranking, guide, pick

__all__ = [
    "METHODS",
    "AtRandom",
    "ByJudge",
    "ByLogprob",
    "ByRewardModel",
    "ByVote",
    "Judges",
    "Method",
    "MethodName",
    "Pair",
    "Pool",
    "Ranking",
    "Rated",
    "RewardModel",
    "check_method",
    "check_search",
    "guide",
    "open_reward_model",
    "pick",
    "runs_here",
]
