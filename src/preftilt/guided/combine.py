"""The one rule of guided decoding: a weighted sum of log-probs over views, renormalised.

log π_guided(v) = Σ_k w_k log π(v | view k) − log Z. With the weights 1 − λ and λ this is per-token REAR (arXiv
2606.30339, eq. 9), which is classifier-free guidance for language models (Sanchez et al., 2023) and context-aware
decoding (Shi et al., 2023) with scale λ, Linear Alignment (Gao et al., 2024) with ratio λ − 1, and Amulet (Zhang et
al., 2025) with κ = λ − 1. Weights need not add up to 1: a reward model that is a language model is one more view.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from preftilt.errors import EngineError
from preftilt.guided.filters import plausible
from preftilt.types import Mask

ONE_BIT = float(np.log(2.0))


def combine(logprobs: Float[np.ndarray, "K V"], weights: Sequence[float]) -> Float[np.ndarray, "V"]:
    """log π_guided (nats, normalised) from every view's log-probs; any constant a view adds to its own falls out.

    A token that some view holds impossible is impossible, whatever the sign of its weight. Computed as
    (Σ w) · first + Σ_k w_k (view_k − first), so identical views give their own distribution back, exactly.

    Raises :class:`~preftilt.errors.EngineError` if no token is possible under every view.
    """
    impossible = np.isneginf(logprobs).any(axis=0)
    if impossible.all():
        raise EngineError(
            "no token is possible under every view; the views' models differ too much"
        )
    first, *others = np.where(impossible, 0.0, logprobs)
    total = sum(weights) * first
    for weight, view in zip(weights[1:], others, strict=True):
        total += weight * (view - first)
    guided = np.where(impossible, -np.inf, total)
    return guided - np.logaddexp.reduce(guided)


def masked(
    guided: Float[np.ndarray, "V"], preferred: Float[np.ndarray, "V"], mask: Mask | None
) -> Float[np.ndarray, "V"]:
    """``guided`` with implausible tokens at −inf; ``preferred`` is what a mask of the preference looks at."""
    if mask is None:
        return guided
    inside = plausible(guided if mask.of == "result" else preferred, mask)
    return np.where(inside, guided, -np.inf)


def view_weights(
    ratios: Sequence[float], lam: float, strength: float | None = None
) -> tuple[float, ...]:
    """The weights of a query's views, the question's first: 1 − Σ λ_i, λ_1, …, λ_k.

    ``ratios`` and ``lam`` are those of a :class:`~preftilt.types.Query`. With a ``strength`` the strongest preference
    is given that, and the others their share; what is turned away from still is, and with ``lam`` 0 none counts.
    """
    strongest = lam if strength is None else strength * float(np.sign(lam))
    lams = [strongest * ratio for ratio in ratios]
    return (1.0 - sum(lams), *lams)


def divergence(p: Float[np.ndarray, "V"], q: Float[np.ndarray, "V"]) -> float:
    """The Jensen–Shannon divergence of two distributions, given as log-probs (nats, normalised): bits, 0 to 1."""
    middle = np.logaddexp(p, q) - ONE_BIT
    bits = 0.0
    for view in (p, q):
        possible = np.isfinite(view)
        nats = np.exp(view[possible]) @ (view[possible] - middle[possible])
        bits += float(nats) / (2 * ONE_BIT)
    return min(max(bits, 0.0), 1.0)


def adapted(logprobs: Float[np.ndarray, "K V"], weights: Sequence[float]) -> tuple[float, ...]:
    """The weights of a token whose λ goes by how much the first two views differ: 1 − λ_t, λ_t, and the others.

    λ_t = 1 + (λ − 1) · JSD(p ‖ q) with the divergence in bits: the model as it is where the views agree, the whole λ
    where they have nothing in common. That is adaptive context-aware decoding (AdaCAD, Wang et al., 2024, arXiv
    2409.07394), whose strength is ours at λ = 2.
    """
    lam = 1.0 + (weights[1] - 1.0) * divergence(logprobs[1], logprobs[0])
    return (1.0 - lam, lam, *weights[2:])
