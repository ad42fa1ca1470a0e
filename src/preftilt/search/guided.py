"""Guided decoding as a search: ``n`` responses, every token of which was chosen with the preference's help.

Five ways to choose a token. The first three are one rule, log π ∝ q + λ (p − q) (``guided/combine.py``): λ is the
request's in the first, and fixed by a paper's parameters in the next two, where the request's only ranks the ``n``
responses. The fourth is the model as it is. To all four come the request's autoregressive reward models, each with its
own weight. ARGS asks a reward model that reads whole responses.

With ``n`` above 1 the best by the request's own score is taken, so guided samples can be re-ranked. Temperature 0 of
the request's sampling is greedy decoding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from preftilt.errors import BadInput
from preftilt.guided import kappa
from preftilt.search.base import Plan, Score, rank
from preftilt.types import (
    Candidate,
    Expand,
    Guide,
    Mask,
    MaskFrom,
    Outcome,
    RewardGuide,
    StrengthBy,
    check_number,
    check_whole,
)


@runtime_checkable
class GuidedSearch(Protocol):
    """A search whose tokens are guided, so that it needs more of an engine than sampling and scoring."""

    @property
    def name(self) -> str: ...

    @property
    def guide(self) -> Guide | RewardGuide:
        """How every token is chosen."""
        ...


class _GuidedSampling(ABC):
    """The part that all five share: one plan, whose ``n`` responses are ranked by the request's own score."""

    __slots__ = ()
    n: int
    greedy: bool = False

    @property
    @abstractmethod
    def guide(self) -> Guide | RewardGuide: ...

    @property
    def candidates(self) -> int:
        return self.n

    def plans(self, root: Candidate, score: Score, max_tokens: int) -> Sequence[Plan]:
        return [_plan(root, score, max_tokens, self.n, self.guide, self.greedy)]

    def conclude(self, outcomes: Sequence[Outcome], score: Score) -> Outcome:
        [outcome] = outcomes
        return outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class CFG(_GuidedSampling):
    """Classifier-free guidance (Sanchez et al., 2023), which is REAR token by token: log π ∝ q + λ (p − q).

    λ of every token is the request's, and so are those of several preferences. The ``n`` responses are ranked at the
    same λ.

    Attributes:
        mask_top_p: only tokens in this nucleus may be drawn, as in :class:`LinearAlignment`. None: no mask.
        mask_from: whose nucleus: ``preference`` (the distribution with the preference) or ``result`` (the guided one).
        mask_temperature: the temperature at which the nucleus is taken.
        strength_by: ``fixed`` takes λ for every token. ``divergence`` takes more of it, the more the two views differ
            at that token (AdaCAD, Wang et al., 2024, arXiv 2409.07394); it needs exactly one preference.
        greedy: take the likeliest token of the guided distribution, whatever the sampling settings; that is one
            response.
        n: responses to draw.

    Deviation from transformers' ``guidance_scale``: none in greedy decoding; sampling filters after guiding, too.
    """

    mask_top_p: float | None = None
    mask_from: MaskFrom = "preference"
    mask_temperature: float = 1.0
    strength_by: StrengthBy = "fixed"
    greedy: bool = False
    n: int = 1
    name: str = field(default="cfg", init=False)

    def __post_init__(self) -> None:
        _check(self.name, self.n)
        if self.greedy and self.n > 1:
            raise BadInput(f"cfg draws one response where it is greedy, not n = {self.n}")
        Guide(strength_by=self.strength_by)
        _check_mask(self.mask_top_p, self.mask_from, self.mask_temperature)

    @property
    def guide(self) -> Guide:
        mask = _mask(self.mask_top_p, self.mask_from, self.mask_temperature)
        return Guide(mask=mask, strength_by=self.strength_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAlignment(_GuidedSampling):
    """Linear Alignment (Gao et al., ICML 2024, arXiv 2401.11458): p + ratio · (p − q), which is λ = 1 + ratio.

    The request's λ only ranks the ``n`` responses. The presets ``la-author`` and ``la-amulet-repo`` have the published
    settings.

    Attributes:
        ratio: the paper's strength.
        mask_top_p: only tokens in this nucleus of the distribution with the preference, at ``mask_temperature``, may
            be drawn.
        mask_from: ``result`` takes the nucleus of the guided distribution instead.
        mask_temperature: the temperature at which the nucleus is taken.
        n: responses to draw.

    Deviations from the published code: log-probs and masks are taken in float32 at least, not float16; the result
    cannot lose all its mass, so there is nothing to fall back from; answers end at EOS and not at a fixed length; the
    prompts are the request's own, and the random streams ours.
    """

    ratio: float = 2.0
    mask_top_p: float | None = None
    mask_from: MaskFrom = "preference"
    mask_temperature: float = 1.0
    n: int = 1
    name: str = field(default="linear-alignment", init=False)

    def __post_init__(self) -> None:
        _check(self.name, self.n, ratio=self.ratio)
        _check_mask(self.mask_top_p, self.mask_from, self.mask_temperature)

    @property
    def guide(self) -> Guide:
        mask = _mask(self.mask_top_p, self.mask_from, self.mask_temperature)
        return Guide(strength=1.0 + self.ratio, mask=mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amulet(_GuidedSampling):
    """Amulet (Zhang et al., ICLR 2025, arXiv 2502.19148): an online optimisation at every token, here in closed form.

    Its result is p + κ (p − q), with κ from :func:`preftilt.guided.kappa`; the defaults give κ = 4.6487. The request's
    λ only ranks the ``n`` responses. The paper decodes greedily: the preset ``amulet-default``.

    Attributes:
        iterations: the paper's T.
        alpha: the paper's α.
        anchor: the paper's λ.
        eta: the paper's learning rate η.
        n: responses to draw.

    Deviations from the published code: the ``iterations`` are one scalar recursion and not O(T · V) a token, with the
    same distribution; caches, and attention masks, so that an answer does not depend on its batch; the chat template
    opens the assistant's turn; log-softmax in place of log(softmax), which can be −inf; the prompts are the request's
    own, without the long system prompt. It has no mask: the published top-p does nothing under argmax.
    """

    iterations: int = 60
    alpha: float = 2.0
    anchor: float = 2.0
    eta: float = 10.0
    n: int = 1
    name: str = field(default="amulet", init=False)

    def __post_init__(self) -> None:
        _check(self.name, self.n, alpha=self.alpha)
        check_whole("iterations of amulet", self.iterations, 0)
        for name in ("anchor", "eta"):
            check_number(f"{name} of amulet", getattr(self, name), lambda x: x > 0, "above 0")

    @property
    def guide(self) -> Guide:
        gain = kappa(self.iterations, alpha=self.alpha, anchor=self.anchor, eta=self.eta)
        return Guide(strength=1.0 + gain)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmGuided(_GuidedSampling):
    """Decoding with autoregressive reward models (ARMs): log π ∝ log π_base + Σ_i w_i log π_ARM,i.

    GenARM (Xu et al., ICLR 2025), PARM (Lin et al., ICML 2025) and our reconstruction of UniARM (arXiv 2602.09538).
    Which models, their preference vector and the weights w come from :class:`~preftilt.settings.ArmSettings`. The base
    reads the prompt that answers are drawn from. The presets ``genarm-pku``, ``parm-pku`` and ``uniarm-recon`` have
    the published settings.

    Attributes:
        n: responses to draw.

    Deviations from the published code: weights are not divided by their sum, which it makes up for by the temperature
    1/(1 + Σ w); log-probs are float32 at least; all models read a token in one batch where they share their weights.
    """

    n: int = 1
    name: str = field(default="arm", init=False)

    def __post_init__(self) -> None:
        _check(self.name, self.n)

    @property
    def guide(self) -> Guide:
        return Guide(by_prompt=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ARGS(_GuidedSampling):
    """ARGS (Khanov et al., ICLR 2024): among the likeliest tokens, the one with log-prob + ``weight`` · reward.

    The reward is that of a sequence reward model, which reads the response so far with that token. Temperature 0 takes
    the best token, otherwise softmax(score / T) draws.

    Attributes:
        weight: of the reward.
        shortlist: how many of the likeliest tokens are tried.
        n: responses to draw.

    Written from the formula. Deviations from what is known of the published code: log-probs in place of logits, which
    shifts all scores alike; an answer ends at EOS; the reward model reads text in its own chat template and may have
    another tokenizer, so it reads every candidate whole and has no cache of its own.
    """

    weight: float = 1.5
    shortlist: int = 10
    n: int = 1
    name: str = field(default="args", init=False)

    def __post_init__(self) -> None:
        _check(self.name, self.n, weight=self.weight)
        check_whole("shortlist of args", self.shortlist, 1)

    @property
    def guide(self) -> RewardGuide:
        return RewardGuide(weight=self.weight, shortlist=self.shortlist)


def _plan(
    root: Candidate,
    score: Score,
    max_tokens: int,
    n: int,
    guide: Guide | RewardGuide,
    greedy: bool,
) -> Plan:
    room = max_tokens - len(root.tokens)
    responses = yield Expand(
        parent=root, slots=tuple(range(n)), max_tokens=room, greedy=greedy, guide=guide
    )
    return Outcome(rank(responses, score), stopped="all guided responses drawn")


def _check(name: str, n: int, **finite: float) -> None:
    check_whole(f"n of {name}", n, 1)
    for what, value in finite.items():
        check_number(f"{what} of {name}", value, lambda x: True, "a finite number")


def _mask(top_p: float | None, of: MaskFrom, temperature: float) -> Mask | None:
    return None if top_p is None else Mask(top_p=top_p, of=of, temperature=temperature)


def _check_mask(top_p: float | None, of: MaskFrom, temperature: float) -> None:
    Mask(top_p=1.0 if top_p is None else top_p, of=of, temperature=temperature)
    if top_p is None and (of, temperature) != ("preference", 1.0):
        raise BadInput("mask_from and mask_temperature do nothing without mask_top_p; give it, too")
