"""A reward model's scores of partial responses, by which ARGS chooses tokens."""

from __future__ import annotations

from collections.abc import Sequence

from preftilt.guided.args import TrajectoryReward
from preftilt.messages import Message
from preftilt.prompt import ChatTokenizer, answer_text
from preftilt.rivals.base import RewardModel
from preftilt.types import Tokens


def trajectory_reward(
    model: RewardModel, messages: Sequence[Message], tokenizer: ChatTokenizer
) -> TrajectoryReward:
    """``model``'s scores of responses to ``messages`` given by their tokens; equal texts are scored once."""

    async def rewards(responses: Sequence[Tokens]) -> list[float | None]:
        texts = [answer_text(tokenizer, response) for response in responses]
        distinct = list(dict.fromkeys(texts))
        rated = await model.score([(messages, text) for text in distinct])
        score_of = dict(zip(distinct, rated.scores, strict=True))
        return [score_of[text] for text in texts]

    return rewards
