"""Rules that ask a reward model: its own score of whole responses, and ARGS, which asks it at every token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import ScoreRequest
from preftilt.engines.guides import Proposal, ProposeRequest, can_propose
from preftilt.eval.accuracy.context import TokenisedComparison
from preftilt.eval.accuracy.rules import Mode, RuleValue
from preftilt.guided.args import TrajectoryReward
from preftilt.messages import Message
from preftilt.rivals.checks import for_reward_model, require_reward_model
from preftilt.rivals.methods import PreferenceIn
from preftilt.rivals.trajectory import trajectory_reward
from preftilt.types import Completion


@dataclass(frozen=True, slots=True)
class RewardModelRule:
    """The reward model's score of the whole response: what best-of-n by it compares. It is its own reward."""

    place: PreferenceIn = "system"
    name: str = "reward-model"
    mode: Mode = "unnormalised"

    def check(self, context: TokenisedComparison) -> None:
        require_reward_model(context.setup.judges.reward_model).check(_read(context, self.place))

    async def ask(self, context: TokenisedComparison, policy: bool) -> list[RuleValue]:
        model = require_reward_model(context.setup.judges.reward_model)
        read = _read(context, self.place)
        rated = await model.score([(read, text) for text in context.item.responses])
        return [RuleValue(score, None, score, whole=True) for score in rated.scores]


@dataclass(frozen=True, slots=True)
class ArgsRule:
    """ARGS (Khanov et al., ICLR 2024): Σ_t [log π(y_t | full prompt) + w · r(prompt, y up to t)].

    Its policy is the softmax over a shortlist, the ``shortlist`` likeliest tokens. y_t is added to the shortlist, so
    that F is finite; ``inside`` counts the tokens that were in it by themselves. Decoding could not have written the
    others.
    """

    weight: float
    shortlist: int = 10
    place: PreferenceIn = "system"
    mode: Mode = "unnormalised"

    @property
    def name(self) -> str:
        return f"args={self.weight:g}"

    def check(self, context: TokenisedComparison) -> None:
        require_reward_model(context.setup.judges.reward_model).check(_read(context, self.place))

    async def ask(self, context: TokenisedComparison, policy: bool) -> list[RuleValue]:
        model = require_reward_model(context.setup.judges.reward_model)
        reward = trajectory_reward(model, _read(context, self.place), context.engine.tokenizer)
        prompt = context.full
        own = await context.engine.score(
            [
                ScoreRequest(prompt=prompt, completion=response.tokens)
                for response in context.responses
            ]
        )
        policy = policy and can_propose(context.engine)
        return [
            await self._one(context, response, row, reward, policy)
            for response, row in zip(context.responses, own, strict=True)
        ]

    async def _one(
        self,
        context: TokenisedComparison,
        response: Completion,
        own: Float[np.ndarray, "T"],
        reward: TrajectoryReward,
        policy: bool,
    ) -> RuleValue:
        tokens = response.tokens
        parts = [tokens[: t + 1] for t in range(len(tokens))]
        rewards = await reward(parts)
        known = [reward for reward in rewards if reward is not None]
        if len(known) < len(rewards):
            return RuleValue(None, None, rewards[-1])
        total = math.fsum(own) + self.weight * math.fsum(known)
        if not policy:
            return RuleValue(total, None, known[-1])
        steps = [
            await self._step(context, tokens, t, float(own[t]), reward) for t in range(len(tokens))
        ]
        inside = sum(listed for _, listed in steps)
        return RuleValue(total, math.fsum(logprob for logprob, _ in steps), known[-1], inside)

    async def _step(
        self,
        context: TokenisedComparison,
        tokens: Sequence[int],
        t: int,
        own: float,
        reward: TrajectoryReward,
    ) -> tuple[float, bool]:
        """log π of token ``t`` among the shortlist and itself, and whether it was in the shortlist."""
        prompt = context.full
        so_far = tuple(tokens[:t])
        proposal = await _propose(
            context, ProposeRequest(prompt=prompt, prefix=so_far, count=self.shortlist)
        )
        likely = dict(zip(proposal.tokens, proposal.logprobs.tolist(), strict=True))
        inside = tokens[t] in likely
        likely[tokens[t]] = own
        rewards = await reward([(*so_far, token) for token in likely])
        scores = {
            token: -math.inf if gained is None else logprob + self.weight * gained
            for (token, logprob), gained in zip(likely.items(), rewards, strict=True)
        }
        total = float(np.logaddexp.reduce(list(scores.values())))
        return scores[tokens[t]] - total, inside


async def _propose(context: TokenisedComparison, request: ProposeRequest) -> Proposal:
    engine = context.engine
    assert can_propose(engine)
    [proposal] = await engine.propose([request])
    return proposal


def _read(context: TokenisedComparison, place: PreferenceIn) -> list[Message]:
    return for_reward_model(
        context.item.messages, context.item.preferences, context.setup.prompt, place
    )
