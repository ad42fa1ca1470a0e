"""Checks of a method against its request, before the first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from preftilt.engines.base import Engine
from preftilt.errors import BadInput
from preftilt.messages import Message
from preftilt.prompt import PromptSettings, with_preferences
from preftilt.rivals.methods import ByJudge, ByLogprob, ByRewardModel, Method, PreferenceIn
from preftilt.rivals.reward_models import RewardModel
from preftilt.search import AutoSearch, BestOfN, Search
from preftilt.types import Preference


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
