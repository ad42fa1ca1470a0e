"""Draws tokens: the torch twin of :mod:`preftilt.streams`, top-k and top-p, and the rule of guided decoding.

All rows of a step are drawn together, yet each row's token is a function of its own logits and its own key only. A row
has one row of logits a view: plain sampling has one, guided decoding several (:mod:`preftilt.guided`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from preftilt.engines.guides import Proposal
from preftilt.guided.combine import ONE_BIT
from preftilt.streams import GOLDEN, MIX_A, MIX_B
from preftilt.types import Mask, Sampling, StrengthBy

LIKELY = 1024
"""Top-p first looks at this many of the most likely tokens; sorting the whole vocabulary is seldom needed."""

BLOCK = 1 << 18
"""Numbers hashed, or mixed, at once, so that the passes over them run in the processor's cache."""


def signed(key: int) -> int:
    """A 64-bit key as the signed integer that torch holds it in."""
    return key - (1 << 64) if key >= 1 << 63 else key


@lru_cache(maxsize=8)
def _counters(vocabulary: int, device: torch.device) -> Tensor:
    """GOLDEN · (v + 1) for every token v, wrapping."""
    return torch.arange(1, vocabulary + 1, dtype=torch.int64, device=device) * signed(GOLDEN)


def _mix(x: Tensor) -> Tensor:
    """The splitmix64 finalizer in place; torch's int64 wraps, and a mask makes its shifts logical."""
    for shift, factor in ((30, MIX_A), (27, MIX_B), (31, None)):
        x ^= (x >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        if factor is not None:
            x *= signed(factor)
    return x


def uniforms(keys: Tensor, vocabulary: int, tokens: Tensor | None = None) -> Tensor:
    """The uniform behind every token's exponential: ``keys`` int64 [R] → float64 [R, V], inside (0, 1).

    ``tokens`` [R, k]: of these alone, as [R, k].
    """
    counters = _counters(vocabulary, keys.device)
    x = _mix(keys[:, None] + (counters if tokens is None else counters[tokens]))
    x >>= 11
    x &= (1 << 53) - 1
    return x.to(torch.float64).add_(0.5).mul_(2.0**-53)


def log_exponentials(keys: Tensor, vocabulary: int, tokens: Tensor | None = None) -> Tensor:
    """log E_v ~ log Exp(1) for every row's key and every token: int64 [R] → float64 [R, V]; or of ``tokens`` [R, k]."""
    return uniforms(keys, vocabulary, tokens).neg_().log1p_().neg_().log_()


def gumbel_argmax(scores: Tensor, keys: Tensor) -> Tensor:
    """Each row's token, drawn by the Gumbel-max trick: ``scores`` [R, V] in nats, ``keys`` int64 [R] → [R]."""
    vocabulary = scores.shape[1]
    rows = max(1, BLOCK // vocabulary)
    winners = [
        torch.argmax(
            scores[r : r + rows].double() - log_exponentials(keys[r : r + rows], vocabulary), dim=1
        )
        for r in range(0, scores.shape[0], rows)
    ]
    return winners[0] if len(winners) == 1 else torch.cat(winners)


def gumbel_argmax_among(scores: Tensor, tokens: Tensor, keys: Tensor, vocabulary: int) -> Tensor:
    """As :func:`gumbel_argmax` over ``tokens`` [R, k] alone, with their ``scores`` [R, k] in nats."""
    noise = log_exponentials(keys, vocabulary, tokens)
    return tokens.gather(1, torch.argmax(scores.double() - noise, dim=1, keepdim=True))[:, 0]


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Tempered logits [R, V], −inf outside top-k and then top-p.

    Top-p keeps the smallest set of most likely tokens whose tempered probability, among those that top-k left,
    reaches ``top_p``.
    """
    scores = _tempered(logits, sampling)
    if sampling.top_p >= 1:
        return scores
    kept, order = nucleus(scores, sampling.top_p)
    return torch.full_like(scores, -torch.inf).scatter(1, order, kept)


def _tempered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Tempered logits [R, V], −inf outside top-k."""
    scores = logits if sampling.temperature == 1 else logits / sampling.temperature
    if not 0 < sampling.top_k < scores.shape[1]:
        return scores
    values, best = torch.topk(scores, sampling.top_k, dim=1)
    return torch.full_like(scores, -torch.inf).scatter(1, best, values)


def nucleus(scores: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens [R, k] of ``scores`` [R, V] and their scores [R, k], −inf behind the nucleus of ``top_p``;
    k is the size of the largest row's."""
    total = torch.logsumexp(scores, dim=1, keepdim=True)
    likely = min(LIKELY, scores.shape[1])
    values, order = torch.topk(scores, likely, dim=1)
    if float(torch.exp(values - total).sum(dim=1).min()) < top_p and likely < scores.shape[1]:
        values, order = torch.sort(scores, dim=1, descending=True, stable=True)
    probabilities = torch.exp(values.double() - total.double())
    before = probabilities.cumsum(dim=1) - probabilities
    outside = before >= top_p
    width = int((~outside).sum(dim=1).max())
    return values[:, :width].masked_fill(outside[:, :width], -torch.inf), order[:, :width]


@dataclass(frozen=True, slots=True)
class GuidanceRule:
    """The mixing of a row's views into one distribution; see :class:`~preftilt.engines.guides.GuideRequest`."""

    weights: tuple[float, ...]
    mask: Mask | None = None
    preferred: int = 0
    strength_by: StrengthBy = "fixed"


@dataclass(frozen=True, slots=True)
class RowSampling:
    """The sampling of one row's next token: ``key`` of its stream and position, ``logit_rows`` of its views."""

    sampling: Sampling
    key: int
    logit_rows: tuple[int, ...]
    rule: GuidanceRule | None = None


def draw(
    logits: Tensor, row_samplings: Sequence[RowSampling]
) -> tuple[list[int], list[list[float]]]:
    """Every row's token and its raw log-prob (temperature 1, unfiltered) in each of the row's views.

    ``logits`` float32 [S, V] of all sequences; every one belongs to one row.
    """
    tokens = choose(logits, row_samplings)
    picked = [0] * sum(len(row_sampling.logit_rows) for row_sampling in row_samplings)
    for row_sampling, token in zip(row_samplings, tokens, strict=True):
        for logit_row in row_sampling.logit_rows:
            picked[logit_row] = token
    raw = logprobs_of(logits, torch.tensor(picked, device=logits.device)).tolist()
    return tokens, [
        [raw[logit_row] for logit_row in row_sampling.logit_rows] for row_sampling in row_samplings
    ]


def choose(logits: Tensor, row_samplings: Sequence[RowSampling]) -> list[int]:
    """Every row's token, as :func:`draw` draws it; ``logits`` may have sequences that belong to no row."""
    tokens = [0] * len(row_samplings)
    groups: dict[tuple[Sampling, GuidanceRule | None], list[int]] = {}
    for row, row_sampling in enumerate(row_samplings):
        groups.setdefault((row_sampling.sampling, row_sampling.rule), []).append(row)
    for (sampling, rule), rows in groups.items():
        for block in _blocks(rows, logits, rule):
            views = list(zip(*(row_samplings[row].logit_rows for row in block), strict=True))
            view_logits = [_select_rows(logits, indices) for indices in views]
            scores = view_logits[0] if rule is None else guided(view_logits, rule)
            drawn = _draw_rows(scores, sampling, [row_samplings[row].key for row in block])
            for row, token in zip(block, drawn.tolist(), strict=True):
                tokens[row] = token
    return tokens


def _blocks(
    rows: Sequence[int], logits: Tensor, rule: GuidanceRule | None
) -> Iterator[Sequence[int]]:
    """``rows`` in blocks: on a CPU, what is computed of a block's views stays in the processor's cache."""
    size = len(rows)
    if rule is not None and logits.device.type == "cpu":
        size = max(1, BLOCK // logits.shape[1])
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _select_rows(logits: Tensor, indices: Sequence[int]) -> Tensor:
    """``logits`` at ``indices``; a view rather than a copy where they are contiguous."""
    first, stop = indices[0], indices[0] + len(indices)
    if indices == tuple(range(first, stop)):
        return logits[first:stop]
    return logits[list(indices)]


def _draw_rows(scores: Tensor, sampling: Sampling, keys: Sequence[int]) -> Tensor:
    """The tokens [R] of rows with the same settings: ``scores`` [R, V] in nats."""
    if sampling.temperature == 0:
        return torch.argmax(scores, dim=1)
    signed_keys = torch.tensor([signed(key) for key in keys], device=scores.device)
    if sampling.top_p >= 1:
        return gumbel_argmax(_tempered(scores, sampling), signed_keys)
    # Noise is computed for the nucleus alone: over a wide vocabulary it would take longer than the rest of the draw.
    kept, tokens = nucleus(_tempered(scores, sampling), sampling.top_p)
    return gumbel_argmax_among(kept, tokens, signed_keys, scores.shape[1])


def guided(logits: Sequence[Tensor], rule: GuidanceRule) -> Tensor:
    """The views' weighted logits [R, V], implausible tokens at −inf: ``logits`` float32 [R, V] of every view.

    The twin of :func:`preftilt.guided.combine`. Logits do instead of log-probs: they differ by a constant a view.
    """
    first, *others = logits
    total = sum(rule.weights)
    scores = first if total == 1 else first * total
    weights = rule.weights[1:]
    if rule.strength_by == "divergence":
        (lam, *weights), (preferred, *others) = weights, others
        strengths = 1 + (lam - 1) * divergence(preferred, first)
        scores = torch.addcmul(scores, strengths[:, None], preferred - first)
    for weight, view in zip(weights, others, strict=True):
        scores = torch.add(scores, view - first, alpha=weight)
    # A token with −inf in one view has no finite sum; if all sums are finite, nothing needs to be masked.
    if not bool(torch.isfinite(scores).all()):
        ruled_out = torch.stack([torch.isneginf(view) for view in logits]).any(dim=0)
        scores = scores.masked_fill(ruled_out, -torch.inf)
    mask = rule.mask
    if mask is None or mask.top_p >= 1:
        return scores
    seen = scores if mask.of == "result" else logits[rule.preferred]
    inside = filtered(seen, Sampling(temperature=mask.temperature, top_p=mask.top_p))
    return scores.masked_fill(torch.isneginf(inside), -torch.inf)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Jensen–Shannon divergence [R], in bits, of the rows of two float32 logits [R, V].

    The twin of :func:`preftilt.guided.divergence`.
    """
    p, q = torch.log_softmax(p, dim=1), torch.log_softmax(q, dim=1)
    middle = torch.logaddexp(p, q) - ONE_BIT
    nats = torch.zeros(p.shape[0], dtype=torch.float64, device=p.device)
    for view in (p, q):
        terms = torch.where(torch.isneginf(view), 0.0, view.exp() * (view - middle))
        nats += terms.sum(dim=1, dtype=torch.float64)
    return (nats / (2 * ONE_BIT)).clamp(0, 1).to(p.dtype)


def likeliest(logits: Tensor, count: int) -> Proposal:
    """The ``count`` likeliest tokens after float32 ``logits`` [V]; fewer if there are not so many."""
    values, tokens = torch.topk(logits, min(count, logits.shape[0]))
    logprobs = values.double() - torch.logsumexp(logits, dim=0).double()
    possible = int(torch.isfinite(values).sum())
    return Proposal(tuple(tokens[:possible].tolist()), logprobs[:possible].cpu().numpy())


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probs of given tokens [R] under float32 ``logits`` [R, V], as float64 [R]."""
    picked = logits.gather(1, tokens[:, None])[:, 0]
    return picked.double() - torch.logsumexp(logits, dim=1).double()
