"""The methods that pick an answer among candidates, as frozen settings; and the checks of a method against its request,
before the first token. Scores are computed in the other modules.

A method is independent of the search that draws the candidates. In a tree search, methods that are a score over
log-probs guide the steps, too; under the others REAR's score guides the steps, and the method picks among the
responses that the tree ends with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from preftilt.declare import check_settings, setting
from preftilt.engines.base import Engine
from preftilt.errors import BadInput
from preftilt.messages import Message
from preftilt.plugins import Registry
from preftilt.prompt import PromptSettings, with_preferences
from preftilt.search import AutoSearch, BestOfN, Search
from preftilt.types import Preference

if TYPE_CHECKING:
    from preftilt.rivals.pick import CandidatePool
    from preftilt.rivals.reward_models import RewardModel

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Judges:
    """The models besides the one that answers; ``judge`` is None where that one judges, too."""

    reward_model: RewardModel | None = None
    judge: Engine | None = None

    def close(self) -> None:
        """Close those that are there."""
        for model in (self.reward_model, self.judge):
            if model is not None:
                model.close()


def check_method(
    method: Method,
    messages: Sequence[Message],
    preferences: Sequence[Preference],
    lam: float,
    prompt: PromptSettings,
    engine: Engine,
    judges: Judges,
) -> None:
    """Raises :class:`~preftilt.errors.BadInput` if ``method`` cannot rank answers to this request."""
    if not isinstance(method, ByRewardModel | ByJudge):
        return
    if any(
        (lam if preference.strength is None else preference.strength) < 0
        for preference in preferences
    ):
        raise BadInput(
            f"the method {method.name!r} cannot turn away from a preference (a negative strength); say in words what"
            " is not wanted, or use another method"
        )
    if isinstance(method, ByJudge):
        from preftilt.rivals.verdict import GenerativeRewardModel

        GenerativeRewardModel(judges.judge or engine, method).check(
            with_preferences(messages, preferences, prompt)
        )
        return
    model = require_reward_model(judges.reward_model)
    model.check(for_reward_model(messages, preferences, prompt, method.preference_in))


def check_search(method: Method, search: Search) -> None:
    """Raises :class:`~preftilt.errors.BadInput` if ``search`` draws one answer, and ``method`` picks among several."""
    if isinstance(search, AutoSearch):
        return  # Checked when it is decided.
    if method != ByLogprob() and search.candidates == 1 and not isinstance(search, BestOfN):
        raise BadInput(
            f"the method {method.name!r} picks among candidates, and the search {search.name!r} draws one: leave the"
            " method out, or draw several (best-of-n, dvts)"
        )


def require_reward_model(model: RewardModel | None) -> RewardModel:
    """The reward model; raises :class:`~preftilt.errors.BadInput` if none is open."""
    if model is None:
        raise BadInput(
            "the method 'reward-model' needs a reward model: name one with --reward-model SPEC (in the library:"
            " Realigner(…, judges=Judges(reward_model=open_reward_model(SPEC))))"
        )
    return model


def for_reward_model(
    messages: Sequence[Message],
    preferences: Sequence[Preference],
    prompt: PromptSettings,
    place: PreferenceIn,
) -> list[Message]:
    """The conversation as a reward model reads it: the preference is its system message, or begins its last turn."""
    if place == "system" or not preferences:
        return with_preferences(messages, preferences, replace(prompt, placement="system"))
    wishes = "\n".join(preference.text.strip() for preference in preferences)
    *earlier, last = with_preferences(messages, (), prompt)
    text = f"{wishes}\n\n{last.content}"
    ahead = len(text) - len(last.content)
    images = tuple(replace(image, at=image.at + ahead) for image in last.images)
    return [*earlier, Message("user", text, images)]
