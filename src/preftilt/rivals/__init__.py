"""Other ways to pick an answer among candidates: baselines, votes, reward models, a language model as judge."""

from preftilt.rivals.checks import Judges, check_method, check_search
from preftilt.rivals.methods import (
    METHODS,
    AtRandom,
    ByJudge,
    ByLogprob,
    ByRewardModel,
    ByVote,
    Method,
)
from preftilt.rivals.pick import CandidatePool, Ranking, pick, search_score
from preftilt.rivals.reward_models import (
    Pair,
    RewardModel,
    RewardScores,
    open_reward_model,
    runs_here,
)

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
    "Pair",
    "Ranking",
    "RewardModel",
    "RewardScores",
    "check_method",
    "check_search",
    "open_reward_model",
    "pick",
    "runs_here",
    "search_score",
]
