"""Which tokens may be drawn: temperature, top-k and top-p, and the plausibility mask of guided decoding.

These are the references in numpy; engines have their own that do not sort a wide vocabulary.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from preftilt.streams import draw
from preftilt.types import Mask, Sampling


def filtered(logprobs: Float[np.ndarray, "V"], sampling: Sampling) -> Float[np.ndarray, "V"]:
    """Tempered log-probs with what top-k and then top-p leave out at −inf; the reference for every engine.

    Top-p keeps the smallest set of most likely tokens whose tempered probability reaches ``top_p``.
    """
    scaled = logprobs / sampling.temperature
    scaled = scaled - np.logaddexp.reduce(scaled)
    order = np.argsort(-scaled, kind="stable")
    keep = np.ones(scaled.size, dtype=bool)
    if sampling.top_k:
        keep[order[sampling.top_k :]] = False
    if sampling.top_p < 1:
        kept = np.where(keep[order], np.exp(scaled[order]), 0.0)
        before = np.cumsum(kept) - kept
        keep[order[before >= sampling.top_p * kept.sum()]] = False
    return np.where(keep, scaled, -np.inf)


def plausible(logprobs: Float[np.ndarray, "V"], mask: Mask) -> Bool[np.ndarray, "V"]:
    """The tokens inside the mask's nucleus of ``logprobs`` (nats, need not be normalised)."""
    nucleus = Sampling(temperature=mask.temperature, top_p=mask.top_p)
    return np.isfinite(filtered(logprobs, nucleus))


def pick(logprobs: Float[np.ndarray, "V"], sampling: Sampling, key: int) -> int:
    """The token drawn from ``logprobs`` with the key of its stream and position; temperature 0 is greedy."""
    if sampling.temperature == 0:
        return int(np.argmax(logprobs))
    return draw(filtered(logprobs, sampling), key)
