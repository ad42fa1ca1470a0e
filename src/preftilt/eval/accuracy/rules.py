"""Scoring rules: what a method of test-time alignment thinks of a given response.

A rule either *mixes* views, log-probs of the response under several prompts or readers, or *judges* with another model
(a reward model). Rules are open: whatever has the attributes of :class:`MixingRule` or :class:`AskingRule` is one; a
view that an autoregressive reward model reads is a view like any other.

F of a response y is taken in three ways (Rezk et al., arXiv 2512.23067, with the definitions written out):
``unnormalised`` Σ_t Σ_k w_k log π(y_t | view k), what re-ranking compares; ``policy``, Σ_t log softmax over the
vocabulary of the same at y_t, how likely decoding by the rule is to write y; ``mean``, the first over the number of
tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from preftilt.engines.base import GuidedView, ProposeRequest, ScoreRequest
from preftilt.errors import BadInput
from preftilt.eval.accuracy.comparisons import TokenisedComparison, with_examples
from preftilt.guided import TrajectoryReward
from preftilt.messages import Message
from preftilt.rivals.methods import PreferenceIn, for_reward_model, require_reward_model
from preftilt.rivals.reward_models import trajectory_reward
from preftilt.run.guiding import guided_views
from preftilt.search import CFG, PRESETS, Amulet, LinearAlignment, default_lam
from preftilt.types import Completion, Guide, Mask, Query

Mode = Literal["unnormalised", "policy", "mean"]
Evidence = Literal["none", "stated", "examples"]
"""What a rule is told of the user."""

EXAMPLES = 4
"""In-context examples of rules that are not told how many."""
MODES: tuple[Mode, ...] = ("unnormalised", "policy", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """What is to be mixed for one comparison.

    views: with their weights in F. reward: with their weights in the reward that the rule steers by; None if by none.
    mask, preferred: as in :class:`~preftilt.engines.base.GuideRequest`. examples: that stand in its prompt.
    """

    views: tuple[GuidedView, ...]
    reward: tuple[GuidedView, ...] | None = None
    mask: Mask | None = None
    preferred: int = 0
    examples: int | None = None

    @property
    def is_policy(self) -> bool:
        """Whether F is a distribution's log-prob as it is."""
        return len(self.views) == 1 and self.views[0].weight == 1 and self.mask is None


@dataclass(frozen=True, slots=True)
class RuleValue:
    """F of one response (nats, or the reward model's unit); None where there is none, −inf where it is impossible.

    reward: of what the rule steers by. inside: the tokens that decoding by the rule could have drawn at all. whole: F
    is of the response as a whole and no sum over tokens, so that it has no mean.
    """

    unnormalised: float | None
    policy: float | None
    reward: float | None
    inside: int | None = None
    whole: bool = False


@runtime_checkable
class MixingRule(Protocol):
    """A rule over log-probs of views."""

    @property
    def name(self) -> str: ...

    @property
    def mode(self) -> Mode:
        """The mode that the method itself goes by."""
        ...

    def blend(self, context: TokenisedComparison) -> Blend:
        """What to mix; raises :class:`~preftilt.errors.BadInput` if the comparison lacks what the rule needs."""
        ...


@runtime_checkable
class AskingRule(Protocol):
    """A rule that asks another model."""

    @property
    def name(self) -> str: ...

    @property
    def mode(self) -> Mode: ...

    def check(self, context: TokenisedComparison) -> None:
        """Raises :class:`~preftilt.errors.BadInput` before anything is spent."""
        ...

    async def ask(self, context: TokenisedComparison, policy: bool) -> list[RuleValue]:
        """One value a response; ``policy`` says whether that mode is wanted, too."""
        ...


Rule = MixingRule | AskingRule


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRule:
    """A rule of one language model, which is told ``evidence`` of the user beside the question.

    - Without a ``guide``, F is log π(y | evidence, question); it steers by what the evidence adds, if there is any.
    - With one, F is REAR's score q + λ (p − q) (arXiv 2606.30339, eq. 9), which re-ranking compares (``unnormalised``),
      or that of classifier-free guidance, Linear Alignment or Amulet by their settings (``search/guided.py``), which
      decoding goes by (``policy``); it steers by the preference gain p − q.

    count: of the user's last examples, where they are the evidence.
    """

    name: str
    mode: Mode
    evidence: Evidence
    guide: Guide | None = None
    count: int = EXAMPLES

    def blend(self, context: TokenisedComparison) -> Blend:
        if self.evidence == "none":
            return Blend(views=(GuidedView(context.question, 1.0),))
        query, used = context.stated(), None
        if self.evidence == "examples":
            query, used = with_examples(context, self.count)
        if self.guide is not None:
            return _guided(query, self.guide, used)
        told = GuidedView(query.prompt, 1.0)
        reward = (told, GuidedView(context.question, -1.0))
        return Blend(views=(told,), reward=reward, examples=used)


def rear(lam: float) -> ViewRule:
    """REAR's score at λ."""
    return _mixing(f"rear={lam:g}", Guide(strength=lam), mode="unnormalised")


def _mixing(
    name: str, guide: Guide, evidence: Evidence = "stated", mode: Mode = "policy"
) -> ViewRule:
    return ViewRule(name=name, mode=mode, evidence=evidence, guide=guide)


@dataclass(frozen=True, slots=True)
class ArmRule:
    """log π(y | question) + ``weight`` · Σ w_j log π_j(y | question) with the autoregressive reward models π_j.

    That is GenARM's decoding (Xu et al., ICLR 2025), and PARM's and UniARM's. It steers by Σ w_j log π_j, their reward.
    """

    weight: float
    name: str = "arm"
    mode: Mode = "policy"

    def blend(self, context: TokenisedComparison) -> Blend:
        if not context.arms:
            raise BadInput("the rule 'arm' needs a reward model: name one with --arm NAME=FOLDER")
        reward = tuple(GuidedView(arm.prompt, arm.weight, arm.reader) for arm in context.arms)
        scaled = tuple(replace(view, weight=self.weight * view.weight) for view in reward)
        views = (GuidedView(context.question, 1.0), *(view for view in scaled if view.weight))
        return Blend(views=views, reward=reward)


def _guided(query: Query, guide: Guide, examples: int | None) -> Blend:
    views, preferred = guided_views(query, guide)
    gain = tuple(
        GuidedView(view.prompt, ratio)
        for view, ratio in zip(query.views[1:], query.ratios, strict=False)
    )
    question = GuidedView(query.views[0].prompt, -math.fsum(query.ratios))
    return Blend(
        views=tuple(views.values()),
        reward=(*gain, question),
        mask=guide.mask,
        preferred=preferred,
        examples=examples,
    )


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
        policy = policy and context.engine.capabilities.proposes
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
        rewards = await reward([tokens[: t + 1] for t in range(len(tokens))])
        known = [reward for reward in rewards if reward is not None]
        if len(known) < len(rewards):
            return RuleValue(None, None, rewards[-1])
        total = math.fsum(own) + self.weight * math.fsum(known)
        if not policy:
            return RuleValue(total, None, known[-1])
        logprobs, inside = [], 0
        engine = context.engine
        for t, token in enumerate(tokens):  # log π of the token among the shortlist and itself
            prefix = tuple(tokens[:t])
            request = ProposeRequest(prompt=context.full, prefix=prefix, count=self.shortlist)
            [proposal] = await engine.propose([request])
            likely = dict(zip(proposal.tokens, proposal.logprobs.tolist(), strict=True))
            inside += token in likely
            likely[token] = float(own[t])
            gains = await reward([(*prefix, each) for each in likely])
            scores = {
                each: -math.inf if gain is None else logprob + self.weight * gain
                for (each, logprob), gain in zip(likely.items(), gains, strict=True)
            }
            logprobs.append(scores[token] - float(np.logaddexp.reduce(list(scores.values()))))
        return RuleValue(total, math.fsum(logprobs), known[-1], inside)


def _read(context: TokenisedComparison, place: PreferenceIn) -> list[Message]:
    return for_reward_model(
        context.item.messages, context.item.preferences, context.setup.prompt, place
    )


WEIGHT = 1.5
"""Of the reward in the default rule ARGS, as in the search of that name."""


PLAIN: dict[str, Rule] = {
    "base": ViewRule(name="base", mode="policy", evidence="none"),
    "prompted": ViewRule(name="prompted", mode="policy", evidence="stated"),
    "arm": ArmRule(1.0),
    "cfg": _mixing("cfg", Guide(strength=default_lam(CFG()))),
    "linear-alignment": _mixing("linear-alignment", LinearAlignment().guide),
    "amulet": _mixing("amulet", Amulet().guide),
    "amulet-icl": _mixing("amulet-icl", Amulet().guide, "examples"),
    **{
        name: _mixing(name, PRESETS[name].search.guide)
        for name in ("la-author", "la-amulet-repo", "amulet-default")
    },
}
"""Rules by name, with their settings' defaults."""

VALUED: dict[str, Callable[[str, float], Rule]] = {
    "rear": lambda name, value: rear(value),
    "rear-icl": lambda name, value: _mixing(
        name, Guide(strength=value), "examples", "unnormalised"
    ),
    "cfg-icl": lambda name, value: _mixing(name, Guide(strength=value), "examples"),
    "cfg": lambda name, value: _mixing(name, Guide(strength=value)),
    "linear-alignment": lambda name, value: _mixing(name, LinearAlignment(ratio=value).guide),
    "arm": lambda name, value: ArmRule(value, name),
    "icl": lambda name, value: _examples(name, value),
}
"""Rules that take a number: ``NAME=NUMBER``."""


def _examples(name: str, value: float) -> ViewRule:
    if value < 1 or value != int(value):
        raise BadInput(f"--rule {name}: a whole number of at least 1 must stand behind the =")
    count = int(value)
    return ViewRule(name=f"icl={count}", mode="policy", evidence="examples", count=count)


def default_rules(
    *,
    preferences: bool,
    examples: bool,
    reward_model: bool,
    arms: bool,
    place: PreferenceIn = "system",
) -> list[Rule]:
    """The rules that are measured if none is named: those that the data and the models at hand allow."""
    names = ["base"]
    names += ["prompted", "rear=3", "rear=20", "linear-alignment", "amulet"] * preferences
    names += [f"icl={EXAMPLES}", "rear-icl=3"] * examples
    names += ["arm"] * arms + ["reward-model", "args"] * reward_model
    return parse_rules(names, place)


def parse_rules(names: Sequence[str], place: PreferenceIn = "system") -> list[Rule]:
    """The rules of these ``names``, each once, in order."""
    by_name = {rule.name: rule for rule in (parse_rule(name, place) for name in names)}
    return list(by_name.values())


def parse_rule(spec: str, place: PreferenceIn = "system") -> Rule:
    """``base``, ``rear=3``, ``icl=4``, …; ``place`` is where reward models find the preference."""
    name, equals, text = (part.strip() for part in spec.partition("="))
    if name == "args":
        return ArgsRule(_number("args", text) if equals else WEIGHT, place=place)
    if name == "reward-model" and not equals:
        return RewardModelRule(place)
    if equals and name in VALUED:
        return VALUED[name](spec.strip(), _number(name, text))
    if not equals and name in PLAIN:
        return PLAIN[name]
    if name in VALUED or name in PLAIN or name == "reward-model":
        raise BadInput(
            f"--rule {spec}: {name} takes {'no number' if equals else 'a number: ' + name + '=NUMBER'}"
        )
    known = sorted({*PLAIN, "reward-model", "args=NUMBER", *(f"{name}=NUMBER" for name in VALUED)})
    raise BadInput(f"there is no rule {spec!r}; there are {', '.join(known)}")


def _number(name: str, text: str) -> float:
    """The finite number behind a rule's =."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"--rule {name}={text}: a finite number must stand behind the =")
    return value
