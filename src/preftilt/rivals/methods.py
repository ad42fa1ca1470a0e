"""The methods that pick an answer among candidates, as frozen settings; their scores are computed in the other modules.

A method is independent of the search that draws the candidates. In a tree search, methods that are a score over
log-probs guide the steps, too; under the others REAR's score guides the steps, and the method picks among the
responses that the tree ends with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from preftilt.errors import BadInput
from preftilt.rivals.extractors import EXTRACTORS
from preftilt.types import check_number, check_whole

LogprobName = Literal["rear", "full-logprob", "question-logprob", "preference-gain", "mean-logprob"]
VoteName = Literal["majority-vote", "weighted-vote"]
PreferenceIn = Literal["system", "user"]
JudgeMode = Literal["forced", "cot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ByLogprob:
    """The highest score over the views' log-probs: REAR's own, or one of its limits (see ``logprobs.py``)."""

    name: LogprobName = "rear"

    def __post_init__(self) -> None:
        if self.name not in get_args(LogprobName):
            raise BadInput(
                f"name must be one of {', '.join(get_args(LogprobName))}, not {self.name!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRandom:
    """Any of the candidates, by the seed and the request's id: the baseline of every method."""

    name: Literal["random"] = field(default="random", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByVote:
    """The answer that most candidates give; ``answers`` names the extractor (see ``extractors.py``).

    ``weighted-vote``: a candidate's vote weighs 1 plus its REAR score as a mean over tokens, as in the published code.
    """

    name: VoteName = "majority-vote"
    answers: str = "letter"

    def __post_init__(self) -> None:
        if self.name not in get_args(VoteName):
            raise BadInput(f"name must be {' or '.join(get_args(VoteName))}, not {self.name!r}")
        if self.answers not in EXTRACTORS:
            raise BadInput(f"answers must be one of {', '.join(EXTRACTORS)}, not {self.answers!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ByRewardModel:
    """The highest score of a reward model that reads the conversation with the preference and the response.

    preference_in: the preference is the reward model's system message, or stands before the last user turn (many
    reward models were trained without system messages).
    """

    name: Literal["reward-model"] = field(default="reward-model", init=False)
    preference_in: PreferenceIn = "system"

    def __post_init__(self) -> None:
        if self.preference_in not in get_args(PreferenceIn):
            raise BadInput(f"preference_in must be system or user, not {self.preference_in!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ByJudge:
    """The highest log P(Yes) − log P(No) of a language model that is asked whether the response is preferred.

    judge_mode: ``forced`` reads the verdict at once; ``cot`` lets the judge write its reasons first, at
    ``judge_temperature``, at most ``judge_tokens`` tokens of them.
    """

    name: Literal["generative-reward-model"] = field(default="generative-reward-model", init=False)
    judge_mode: JudgeMode = "forced"
    judge_tokens: int = 512
    judge_temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.judge_mode not in get_args(JudgeMode):
            raise BadInput(f"judge_mode must be forced or cot, not {self.judge_mode!r}")
        check_whole("judge_tokens", self.judge_tokens, 1)
        check_number("judge_temperature", self.judge_temperature, lambda x: x >= 0, "0 or more")


Method = ByLogprob | AtRandom | ByVote | ByRewardModel | ByJudge

MethodName = Literal[
    "rear",
    "full-logprob",
    "question-logprob",
    "preference-gain",
    "mean-logprob",
    "random",
    "majority-vote",
    "weighted-vote",
    "reward-model",
    "generative-reward-model",
]

METHODS: dict[str, Method] = {
    **{name: ByLogprob(name=name) for name in get_args(LogprobName)},
    "random": AtRandom(),
    **{name: ByVote(name=name) for name in get_args(VoteName)},
    "reward-model": ByRewardModel(),
    "generative-reward-model": ByJudge(),
}
"""Every method at its defaults, by the name it has in flags, rows, request bodies and records."""
