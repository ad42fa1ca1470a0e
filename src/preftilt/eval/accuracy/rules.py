"""Scoring rules: what a method of test-time alignment thinks of a given response.

A rule either *mixes* views, log-probs of the response under several prompts or readers, or *judges* with another model
(``judged.py``). Rules are open: whatever has the attributes of :class:`MixingRule` or :class:`AskingRule` is one, and a
view that an autoregressive reward model reads is a view like any other.

F of a response y is taken in three ways (Rezk et al., arXiv 2512.23067, with the definitions written out):
``unnormalised`` Σ_t Σ_k w_k log π(y_t | view k), what re-ranking compares; ``policy``, Σ_t log softmax over the
vocabulary of the same at y_t, how likely decoding by the rule is to write y; ``mean``, the first over the number of
tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from preftilt.engines.guides import GuidedView
from preftilt.errors import BadInput
from preftilt.eval.accuracy.context import TokenisedComparison, with_examples
from preftilt.run.guiding import guided_views
from preftilt.search import CFG, Amulet, LinearAlignment, default_lam
from preftilt.search.presets import PRESETS
from preftilt.types import Guide, Mask, Query

Mode = Literal["unnormalised", "policy", "mean"]
EXAMPLES = 4
"""In-context examples of rules that are not told how many."""
MODES: tuple[Mode, ...] = ("unnormalised", "policy", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """What is to be mixed for one comparison.

    views: with their weights in F. reward: with their weights in the reward that the rule steers by; None if by none.
    mask, preferred: as in :class:`~preftilt.engines.guides.GuideRequest`. examples: that stand in its prompt.
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


@dataclass(frozen=True, slots=True)
class BaseRule:
    """log π(y | question): the model, told nothing."""

    name: str = "base"
    mode: Mode = "policy"

    def blend(self, context: TokenisedComparison) -> Blend:
        return Blend(views=(GuidedView(context.question, 1.0),))


@dataclass(frozen=True, slots=True)
class PromptedRule:
    """log π(y | question, preferences): the model, told in words. It steers by what the words add."""

    name: str = "prompted"
    mode: Mode = "policy"

    def blend(self, context: TokenisedComparison) -> Blend:
        query = context.stated()
        full = GuidedView(query.prompt, 1.0)
        return Blend(views=(full,), reward=(full, GuidedView(context.question, -1.0)))


@dataclass(frozen=True, slots=True)
class RearRule:
    """REAR's score q + λ (p − q) (arXiv 2606.30339, eq. 9); it steers by the preference gain p − q."""

    lam: float
    mode: Mode = "unnormalised"

    @property
    def name(self) -> str:
        return f"rear={self.lam:g}"

    def blend(self, context: TokenisedComparison) -> Blend:
        return _guided(context.stated(), Guide(strength=self.lam))


@dataclass(frozen=True, slots=True)
class GuidedDecodingRule:
    """The policy of classifier-free guidance, Linear Alignment or Amulet, by their settings (``search/guided.py``)."""

    name: str
    guide: Guide
    mode: Mode = "policy"

    def blend(self, context: TokenisedComparison) -> Blend:
        return _guided(context.stated(), self.guide)


@dataclass(frozen=True, slots=True)
class InContextExamplesRule:
    """log π(y | the user's last ``count`` examples, question); it steers by what the examples add."""

    count: int
    mode: Mode = "policy"

    @property
    def name(self) -> str:
        return f"icl={self.count}"

    def blend(self, context: TokenisedComparison) -> Blend:
        query, used = with_examples(context, self.count)
        view = GuidedView(query.prompt, 1.0)
        reward = (view, GuidedView(context.question, -1.0))
        return Blend(views=(view,), reward=reward, examples=used)


@dataclass(frozen=True, slots=True)
class FromExamplesRule:
    """REAR or guided decoding by ``guide``; the user's last ``count`` examples stand in for a stated preference."""

    name: str
    guide: Guide
    count: int
    mode: Mode

    def blend(self, context: TokenisedComparison) -> Blend:
        query, used = with_examples(context, self.count)
        return replace(_guided(query, self.guide), examples=used)


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


def _guided(query: Query, guide: Guide) -> Blend:
    views, preferred = guided_views(query, guide)
    gain = tuple(
        GuidedView(view.prompt, ratio)
        for view, ratio in zip(query.views[1:], query.ratios, strict=False)
    )
    question = GuidedView(query.views[0].prompt, -math.fsum(query.ratios))
    return Blend(
        views=tuple(views.values()), reward=(*gain, question), mask=guide.mask, preferred=preferred
    )


def number_of(name: str, text: str) -> float:
    """The finite number behind a rule's =."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"--rule {name}={text}: a finite number must stand behind the =")
    return value


def _count(name: str, text: str) -> int:
    value = number_of(name, text)
    if value < 1 or value != int(value):
        raise BadInput(
            f"--rule {name}={text}: a whole number of at least 1 must stand behind the ="
        )
    return int(value)


def _cfg(name: str, text: str) -> Rule:
    return GuidedDecodingRule(name, Guide(strength=number_of("cfg", text)))


def _alignment(name: str, text: str) -> Rule:
    return GuidedDecodingRule(
        name, LinearAlignment(ratio=number_of("linear-alignment", text)).guide
    )


def _preset(name: str) -> Rule:
    return GuidedDecodingRule(name, PRESETS[name].search.guide)


PLAIN: dict[str, Callable[[], Rule]] = {
    "base": BaseRule,
    "prompted": PromptedRule,
    "arm": lambda: ArmRule(1.0),
    "cfg": lambda: GuidedDecodingRule("cfg", Guide(strength=default_lam(CFG()))),
    "linear-alignment": lambda: GuidedDecodingRule("linear-alignment", LinearAlignment().guide),
    "amulet": lambda: GuidedDecodingRule("amulet", Amulet().guide),
    "amulet-icl": lambda: FromExamplesRule("amulet-icl", Amulet().guide, EXAMPLES, "policy"),
    "la-author": lambda: _preset("la-author"),
    "la-amulet-repo": lambda: _preset("la-amulet-repo"),
    "amulet-default": lambda: _preset("amulet-default"),
}
"""Rules by name, with their settings' defaults."""

VALUED: dict[str, Callable[[str, str], Rule]] = {
    "rear": lambda name, text: RearRule(number_of("rear", text)),
    "rear-icl": lambda name, text: FromExamplesRule(
        name, Guide(strength=number_of("rear-icl", text)), EXAMPLES, "unnormalised"
    ),
    "cfg-icl": lambda name, text: FromExamplesRule(
        name, Guide(strength=number_of("cfg-icl", text)), EXAMPLES, "policy"
    ),
    "cfg": _cfg,
    "linear-alignment": _alignment,
    "arm": lambda name, text: ArmRule(number_of("arm", text), name),
    "icl": lambda name, text: InContextExamplesRule(_count("icl", text)),
}
"""Rules that take a number: ``NAME=NUMBER``."""
