"""Guided decoding as a search: ``n`` responses, every token of which was chosen with the preference's help.

Five ways to choose a token. The first three are one rule, log π ∝ q + λ (p − q) (``preftilt.guided``): λ is the
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

from preftilt.declare import check_settings, setting
from preftilt.errors import BadInput
from preftilt.guided import kappa
from preftilt.search.base import OnePlan, Plan, Score, rank
from preftilt.types import (
    Candidate,
    Expand,
    Guide,
    Mask,
    MaskFrom,
    Outcome,
    RewardGuide,
    StrengthBy,
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


class _GuidedSampling(OnePlan, ABC):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CFG(_GuidedSampling):
    """Classifier-free guidance (Sanchez et al., 2023), which is REAR token by token: log π ∝ q + λ (p − q).

    λ of every token is the request's, and so are those of several preferences. The ``n`` responses are ranked at the
    same λ.

    Attributes:
        mask_top_p: draw inside this nucleus only. None: no mask.
        mask_from: whose nucleus: of the distribution with the preference, or of the guided one (``result``).
        mask_temperature: the temperature at which that nucleus is taken.
        strength_by: the same λ at every token, or more of it the more the views differ there. ``divergence`` is AdaCAD
            (Wang et al., 2024, arXiv 2409.07394); it needs exactly one preference.
        greedy: the likeliest token of the guided distribution each time, whatever the temperature. That is one
            response.
        n: responses to draw.

    Deviation from transformers' ``guidance_scale``: none in greedy decoding; sampling filters after guiding, too.
    """

    mask_top_p: float | None = setting(None, above=0, most=1, told="no mask")
    mask_from: MaskFrom = "preference"
    mask_temperature: float = setting(1.0, above=0)
    strength_by: StrengthBy = "fixed"
    greedy: bool = False
    n: int = setting(1, least=1)
    name: str = field(default="cfg", init=False)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.greedy and self.n > 1:
            raise BadInput(f"cfg draws one response where it is greedy, not n = {self.n}")
        _check_mask(self)

    @property
    def guide(self) -> Guide:
        return Guide(mask=_mask(self), strength_by=self.strength_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAlignment(_GuidedSampling):
    """Linear Alignment (Gao et al., ICML 2024, arXiv 2401.11458): p + ratio · (p − q), which is λ = 1 + ratio.

    The request's λ only ranks the ``n`` responses. The presets ``la-author`` and ``la-amulet-repo`` have the published
    settings.

    Attributes:
        ratio: the paper's strength: λ of every token, less 1.
        mask_top_p: as in :class:`CFG`.
        mask_from: as in :class:`CFG`.
        mask_temperature: as in :class:`CFG`.
        n: responses to draw.

    Deviations from the published code: log-probs and masks are taken in float32 at least, not float16; the result
    cannot lose all its mass, so there is nothing to fall back from; answers end at EOS and not at a fixed length; the
    prompts are the request's own, and the random streams ours.
    """

    ratio: float = 2.0
    mask_top_p: float | None = setting(None, above=0, most=1)
    mask_from: MaskFrom = "preference"
    mask_temperature: float = setting(1.0, above=0)
    n: int = setting(1, least=1)
    name: str = field(default="linear-alignment", init=False)

    def __post_init__(self) -> None:
        check_settings(self)
        _check_mask(self)

    @property
    def guide(self) -> Guide:
        return Guide(strength=1.0 + self.ratio, mask=_mask(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Amulet(_GuidedSampling):
    """Amulet (Zhang et al., ICLR 2025, arXiv 2502.19148): an online optimisation at every token, here in closed form.

    Its result is p + κ (p − q), with κ from :func:`preftilt.guided.kappa`; the defaults give κ = 4.6487. The request's
    λ only ranks the ``n`` responses. The paper decodes greedily: the preset ``amulet-default``.

    Attributes:
        iterations: the paper's T, of its optimisation at a token.
        alpha: the paper's α.
        anchor: the paper's λ, which holds the optimisation to where it began.
        eta: the paper's learning rate η.
        n: responses to draw.

    Deviations from the published code: the ``iterations`` are one scalar recursion and not O(T · V) a token, with the
    same distribution; caches, and attention masks, so that an answer does not depend on its batch; the chat template
    opens the assistant's turn; log-softmax in place of log(softmax), which can be −inf; the prompts are the request's
    own, without the long system prompt. It has no mask: the published top-p does nothing under argmax.
    """

    iterations: int = setting(60, least=0)
    alpha: float = 2.0
    anchor: float = setting(2.0, above=0)
    eta: float = setting(10.0, above=0)
    n: int = setting(1, least=1)
    name: str = field(default="amulet", init=False)

    def __post_init__(self) -> None:
        check_settings(self)

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

    n: int = setting(1, least=1)
    name: str = field(default="arm", init=False)

    def __post_init__(self) -> None:
        check_settings(self)

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
    shortlist: int = setting(10, least=1)
    n: int = setting(1, least=1)
    name: str = field(default="args", init=False)

    def __post_init__(self) -> None:
        check_settings(self)

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


def _mask(search: CFG | LinearAlignment) -> Mask | None:
    if search.mask_top_p is None:
        return None
    return Mask(top_p=search.mask_top_p, of=search.mask_from, temperature=search.mask_temperature)


def _check_mask(search: CFG | LinearAlignment) -> None:
    if search.mask_top_p is None and (search.mask_from, search.mask_temperature) != (
        "preference",
        1.0,
    ):
        raise BadInput("mask_from and mask_temperature do nothing without mask_top_p; give it, too")
