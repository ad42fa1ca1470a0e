"""Drawing from logits on the CPU, with numpy: filters that do not sort a wide vocabulary, and exact log-probs."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from preftilt import streams
from preftilt.engines.base import GuideRequest
from preftilt.guided import adapted, combine
from preftilt.types import Sampling

BLOCK = 1 << 20
"""Logits turned into log-probs at once, which bounds the float64 copies."""


def draw(logits: Float[np.ndarray, "V"], sampling: Sampling, key: int) -> int:
    """The token drawn from ``logits`` with the key of its stream and position; temperature 0 is greedy."""
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    return streams.draw(filtered(logits.astype(np.float64), sampling), key)


def guided(logits: Float[np.ndarray, "K V"], request: GuideRequest) -> Float[np.ndarray, "V"]:
    """The weighted log-probs of all views (nats, normalised), implausible tokens at −inf: see ``request``."""
    rows = logits.astype(np.float64)
    rows -= _log_sum(rows)[:, None]
    weights = [view.weight for view in request.views]
    if request.strength_by == "divergence":
        weights = adapted(rows, weights)
    mixed, mask = combine(rows, weights), request.mask
    if mask is None or mask.top_p >= 1:
        return mixed
    seen = mixed if mask.of == "result" else rows[request.preferred]
    inside = filtered(seen, Sampling(temperature=mask.temperature, top_p=mask.top_p))
    return np.where(np.isneginf(inside), -np.inf, mixed)


def filtered(logits: Float[np.ndarray, "V"], sampling: Sampling) -> Float[np.ndarray, "V"]:
    """Tempered logits with what top-k and then top-p leave out at −inf.

    Top-p keeps the smallest set of most likely tokens whose tempered probability, among those that top-k left,
    reaches ``top_p``; of equally likely tokens those with lower ids come first.
    """
    scores = (logits - logits.max()) / sampling.temperature
    if 0 < sampling.top_k < scores.size:
        scores = _only(scores, _likeliest(scores, sampling.top_k))
    return _only(scores, _nucleus(scores, sampling.top_p)) if sampling.top_p < 1 else scores


def logprobs_of(
    logits: Float[np.ndarray, "M V"], tokens: Int[np.ndarray, "M"]
) -> Float[np.ndarray, "M"]:
    """Log-probs (float64, temperature 1, unfiltered) of one token after each row of float32 logits."""
    rows = max(1, BLOCK // logits.shape[1])
    totals = [
        _log_sum(logits[start : start + rows].astype(np.float64))
        for start in range(0, len(logits), rows)
    ]
    return logits[np.arange(len(tokens)), tokens].astype(np.float64) - np.concatenate(totals)


def _log_sum(rows: Float[np.ndarray, "M V"]) -> Float[np.ndarray, "M"]:
    highest = rows.max(axis=1)
    return highest + np.log(np.exp(rows - highest[:, None]).sum(axis=1))


def _likeliest(scores: Float[np.ndarray, "V"], count: int) -> Int[np.ndarray, "count"]:
    least = np.partition(scores, -count)[-count]
    above = np.flatnonzero(scores > least)
    level = np.flatnonzero(scores == least)
    return np.concatenate([above, level[: count - above.size]])


def _nucleus(scores: Float[np.ndarray, "V"], top_p: float) -> Int[np.ndarray, "kept"]:
    """Ids of the nucleus.

    All tokens less likely than (1 − top_p) / V have less than 1 − top_p together, so the others reach ``top_p``
    without them, and only the others are sorted.
    """
    [total] = _log_sum(scores[None])
    ids = np.flatnonzero(scores >= total + np.log1p(-top_p) - np.log(scores.size))
    ids = ids[np.argsort(-scores[ids], kind="stable")]
    probabilities = np.exp(scores[ids] - total)
    before = np.cumsum(probabilities) - probabilities
    return ids[before < top_p]


def _only(scores: Float[np.ndarray, "V"], ids: Int[np.ndarray, "kept"]) -> Float[np.ndarray, "V"]:
    left = np.full_like(scores, -np.inf)
    left[ids] = scores[ids]
    return left
