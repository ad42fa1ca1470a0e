"""The methods that pick an answer among candidates, as frozen settings; their scores are computed in the other modules.

A method is independent of the search that draws the candidates. In a tree search, methods that are a score over
log-probs guide the steps, too; under the others REAR's score guides the steps, and the method picks among the
responses that the tree ends with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from preftilt.declare import check_settings, setting
from preftilt.plugins import Registry

if TYPE_CHECKING:
    from preftilt.rivals.pick import CandidatePool

LogprobName = Literal["rear", "full-logprob", "question-logprob", "preference-gain", "mean-logprob"]
VoteName = Literal["majority-vote", "weighted-vote"]
AnswerKind = Literal["letter", "maths"]
PreferenceIn = Literal["system", "user"]
JudgeMode = Literal["forced", "cot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ByLogprob:
    """The highest score over the views' log-probs: REAR's own, or one of its limits (see ``pick.py``)."""

    name: LogprobName = "rear"

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRandom:
    """Any of the candidates, by the seed and the request's id: the baseline of every method."""

    name: Literal["random"] = field(default="random", init=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByVote:
    """The answer that most candidates give.

    Attributes:
        name: ``weighted-vote``: a candidate's vote weighs 1 plus its REAR score as a mean over tokens, as in the
            published code.
        answers: the kind of answer to read off. See ``votes.py``.
    """

    name: VoteName = "majority-vote"
    answers: AnswerKind = "letter"

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByRewardModel:
    """The highest score of a reward model that reads the conversation with the preference and the response.

    Attributes:
        preference_in: the turn that the preference stands in. ``user``: before the last user turn's words (many reward
            models were trained without system messages).
    """

    name: Literal["reward-model"] = field(default="reward-model", init=False)
    preference_in: PreferenceIn = "system"

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByJudge:
    """The highest log P(Yes) − log P(No) of a language model that is asked whether the response is preferred.

    Attributes:
        judge_mode: a verdict at once, or (``cot``) after reasons that the judge writes.
        judge_tokens: tokens of these reasons at most.
        judge_temperature: at which they are drawn.
    """

    name: Literal["generative-reward-model"] = field(default="generative-reward-model", init=False)
    judge_mode: JudgeMode = "forced"
    judge_tokens: int = setting(512, least=1)
    judge_temperature: float = setting(0.1, least=0)

    def __post_init__(self) -> None:
        check_settings(self)


@runtime_checkable
class AddedMethod(Protocol):
    """A method that a package adds: a frozen dataclass whose fields are its settings, as those above."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...

    async def scores(self, pool: CandidatePool) -> Sequence[float | None]:
        """A score for each candidate of the pool, higher is better; None where it has none."""
        ...


Method = ByLogprob | AtRandom | ByVote | ByRewardModel | ByJudge | AddedMethod

OWN: tuple[Method, ...] = (
    *(ByLogprob(name=name) for name in get_args(LogprobName)),
    AtRandom(),
    *(ByVote(name=name) for name in get_args(VoteName)),
    ByRewardModel(),
    ByJudge(),
)

METHODS = Registry("preftilt.methods", {method.name: method for method in OWN})
"""Every method at its defaults, by the name it has in flags, rows, request bodies and records."""
