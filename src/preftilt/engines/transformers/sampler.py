"""Draws tokens: the torch twin of :mod:`preftilt.streams`, top-k and top-p, and the rule of guided decoding.

All rows of a step are drawn together, yet each row's token is a function of its own logits and its own key only. A row
has one row of logits a view: plain sampling has one, guided decoding several (:mod:`preftilt.guided`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from preftilt.engines.base import Proposal
from preftilt.engines.transformers.device import on_cpu, upload
from preftilt.guided import ONE_BIT
from preftilt.streams import GOLDEN, MIX_A, MIX_B
from preftilt.types import Mask, Sampling, StrengthBy

LIKELY = 1024
"""Top-p first looks at this many of the most likely tokens; sorting the whole vocabulary is seldom needed."""

BLOCK = 1 << 18
"""Numbers hashed at once, so that the passes over them run in the processor's cache."""

GPU_BLOCK = 1 << 24
"""The same on a GPU, where the bound is memory: three copies of 8 bytes a number."""

MIXED = 1 << 19
"""Numbers of a view mixed at once, for the same reason."""

Race = Callable[[Tensor, Tensor], Tensor]
"""A way to run the exponential race of every row: :func:`gumbel_argmax`, or one with the same winners."""

RARE = (1e-3, 1e-4, 1e-5, 1e-6)
"""Probabilities below which tokens are left out of the search for the nucleus, the next one where too much is out."""

FINALISTS = 16
"""Tokens of a row whose Gumbel noise is computed in full; that of the others is bounded."""

ROUNDING = 1e-5
"""Bounds in float32 are off by at most this share of one plus their size."""

LARGE = 1e6
"""Taken for the size of an infinite bound, that of a token that is filtered out."""


def signed(key: int) -> int:
    """A 64-bit key as the signed integer that torch holds it in."""
    return key - (1 << 64) if key >= 1 << 63 else key


@lru_cache(maxsize=8)
def _counters(vocabulary: int, device: torch.device) -> Tensor:
    """GOLDEN · (v + 1) for every token v, wrapping."""
    return torch.arange(1, vocabulary + 1, dtype=torch.int64, device=device) * signed(GOLDEN)


def _mix(x: Tensor) -> Tensor:
    """The splitmix64 finalizer in place; torch's int64 wraps, and a mask makes its shifts logical."""
    shifted = torch.empty_like(x)
    for shift, factor in ((30, MIX_A), (27, MIX_B), (31, None)):
        torch.bitwise_right_shift(x, shift, out=shifted)
        x ^= shifted.bitwise_and_((1 << (64 - shift)) - 1)
        if factor is not None:
            x *= signed(factor)
    return x


def _hashes(keys: Tensor, vocabulary: int, tokens: Tensor | None = None) -> Tensor:
    """53 random bits for every row's key and every token, as :func:`uniforms` takes them: int64 [R, V] or [R, k]."""
    counters = _counters(vocabulary, keys.device)
    x = _mix(keys[:, None] + (counters if tokens is None else counters[tokens]))
    x >>= 11
    return x.bitwise_and_((1 << 53) - 1)


def _uniforms(hashes: Tensor) -> Tensor:
    return hashes.to(torch.float64).add_(0.5).mul_(2.0**-53)


def _log_exponentials(uniforms: Tensor) -> Tensor:
    """In place."""
    return uniforms.neg_().log1p_().neg_().log_()


def uniforms(keys: Tensor, vocabulary: int, tokens: Tensor | None = None) -> Tensor:
    """The uniform behind every token's exponential: ``keys`` int64 [R] → float64 [R, V], inside (0, 1).

    ``tokens`` [R, k]: of these alone, as [R, k].
    """
    return _uniforms(_hashes(keys, vocabulary, tokens))


def log_exponentials(keys: Tensor, vocabulary: int, tokens: Tensor | None = None) -> Tensor:
    """log E_v ~ log Exp(1) for every row's key and every token: int64 [R] → float64 [R, V]; or of ``tokens`` [R, k]."""
    return _log_exponentials(uniforms(keys, vocabulary, tokens))


def gumbel_argmax(scores: Tensor, keys: Tensor) -> Tensor:
    """Each row's token, drawn by the Gumbel-max trick: ``scores`` [R, V] in nats, ``keys`` int64 [R] → [R]."""
    block, race = (BLOCK, _race) if on_cpu(scores.device) else (GPU_BLOCK, _race_in_full)
    rows = max(1, block // scores.shape[1])
    winners = [
        race(scores[r : r + rows], keys[r : r + rows]) for r in range(0, scores.shape[0], rows)
    ]
    return winners[0] if len(winners) == 1 else torch.cat(winners)


def _race_in_full(scores: Tensor, keys: Tensor) -> Tensor:
    """The same for the rows of a block. A GPU computes all of it sooner than a host learns what it need not compute."""
    noise = log_exponentials(keys, scores.shape[1])
    return torch.argmax(scores.double() - noise, dim=1)


def _race(scores: Tensor, keys: Tensor) -> Tensor:
    """The same on a CPU.

    E = −log(1 − u) is at least u, so that s − log u bounds a token's sum from above. It is computed in float32 for all
    tokens, and the sums themselves, in float64, for the few with the largest bounds; if the best of them does not
    exceed the bounds of the others, for all.
    """
    vocabulary = scores.shape[1]
    hashes = _hashes(keys, vocabulary)
    if vocabulary > FINALISTS:
        bounds = scores - hashes.to(torch.float32).add_(0.5).mul_(2.0**-53).log_()
        largest, tokens = torch.topk(bounds, FINALISTS, dim=1)
        noise = _log_exponentials(_uniforms(hashes.gather(1, tokens)))
        sums, places = torch.max(scores.gather(1, tokens).double() - noise, dim=1)
        rounding = ROUNDING * (1 + largest[:, -1].abs()).clamp(max=LARGE)
        if bool((sums > largest[:, -1] + rounding).all()):
            return tokens.gather(1, places[:, None])[:, 0]
    return torch.argmax(scores.double() - _log_exponentials(_uniforms(hashes)), dim=1)


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
    k is the size of the largest row's, or more."""
    likeliest = scores.amax(dim=1, keepdim=True)
    total = likeliest + (scores - likeliest).exp_().sum(dim=1, keepdim=True).log_()
    values, order = (_above if on_cpu(scores.device) else _top)(scores, total, top_p)
    probabilities = torch.exp(values.double() - total.double())
    before = probabilities.cumsum(dim=1) - probabilities
    outside = before >= top_p
    if not on_cpu(scores.device):  # The width would have to be waited for.
        return values.masked_fill(outside, -torch.inf), order
    width = int((~outside).sum(dim=1).max())
    return values[:, :width].masked_fill(outside[:, :width], -torch.inf), order[:, :width]


def _top(scores: Tensor, total: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens, at least those of the nucleus, by descending score: the scores [R, k], and the tokens."""
    likely = min(LIKELY, scores.shape[1])
    values, order = torch.topk(scores, likely, dim=1)
    if float(torch.exp(values - total).sum(dim=1).min()) < top_p and likely < scores.shape[1]:
        values, order = torch.sort(scores, dim=1, descending=True, stable=True)
    return values, order


def _above(scores: Tensor, total: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """As :func:`_top`, by leaving out what is rare: on a CPU, a selection of the largest takes many times longer."""
    table, logs = scores.numpy(), total.numpy()
    for rare in RARE:
        rows, tokens = np.divmod(np.flatnonzero(table > logs + math.log(rare)), table.shape[1])
        values = table[rows, tokens]
        mass = np.bincount(rows, np.exp(values - logs[rows, 0]), len(table))
        # A little more than top_p, since the rest is summed up in another precision.
        if mass.min() > top_p + 1e-4:
            break
    else:
        largest = torch.sort(scores, dim=1, descending=True, stable=True)
        return largest.values, largest.indices
    descending = np.lexsort((-values, rows))
    counts = np.bincount(rows, minlength=len(table))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.full((len(table), counts.max()), -np.inf, dtype=table.dtype)
    order = np.zeros(kept.shape, dtype=np.int64)
    kept[rows, places], order[rows, places] = values[descending], tokens[descending]
    return torch.from_numpy(kept), torch.from_numpy(order)


@dataclass(frozen=True, slots=True)
class GuidanceRule:
    """The mixing of a row's views into one distribution; see :class:`~preftilt.engines.base.GuideRequest`."""

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
    tokens = _chosen(logits, row_samplings, gumbel_argmax)
    rows = [0] * sum(len(row_sampling.logit_rows) for row_sampling in row_samplings)
    for row, row_sampling in enumerate(row_samplings):
        for logit_row in row_sampling.logit_rows:
            rows[logit_row] = row
    logprobs = logprobs_of(logits, tokens[upload(rows, logits.device)])
    # All of a step is under way before the host waits for it, here.
    drawn, raw = tokens.tolist(), logprobs.tolist()
    return drawn, [
        [raw[logit_row] for logit_row in row_sampling.logit_rows] for row_sampling in row_samplings
    ]


def choose(
    logits: Tensor, row_samplings: Sequence[RowSampling], race: Race = gumbel_argmax
) -> list[int]:
    """Every row's token, as :func:`draw` draws it; ``logits`` may have sequences that belong to no row."""
    return _chosen(logits, row_samplings, race).tolist()


def _chosen(logits: Tensor, row_samplings: Sequence[RowSampling], race: Race) -> Tensor:
    """The tokens [R] of :func:`choose`."""
    groups: dict[tuple[Sampling, GuidanceRule | None], list[int]] = {}
    for row, row_sampling in enumerate(row_samplings):
        groups.setdefault((row_sampling.sampling, row_sampling.rule), []).append(row)
    order: list[int] = []
    parts: list[Tensor] = []
    for (sampling, rule), rows in groups.items():
        for block in _blocks(rows, logits, rule):
            views = list(zip(*(row_samplings[row].logit_rows for row in block), strict=True))
            view_logits = [_select_rows(logits, indices) for indices in views]
            scores = view_logits[0] if rule is None else guided(view_logits, rule)
            keys = [row_samplings[row].key for row in block]
            parts.append(_draw_rows(scores, sampling, keys, race))
            order += block
    drawn = parts[0] if len(parts) == 1 else torch.cat(parts)
    if order == list(range(len(order))):
        return drawn
    return torch.empty_like(drawn).index_copy_(0, upload(order, logits.device), drawn)


def _blocks(
    rows: Sequence[int], logits: Tensor, rule: GuidanceRule | None
) -> Iterator[Sequence[int]]:
    """``rows`` in blocks: on a CPU, what is computed of a block's views stays in the processor's cache."""
    size = len(rows)
    if rule is not None and on_cpu(logits.device):
        size = max(1, MIXED // logits.shape[1])
    for first in range(0, len(rows), size):
        yield rows[first : first + size]


def _select_rows(logits: Tensor, indices: Sequence[int]) -> Tensor:
    """``logits`` at ``indices``; a view rather than a copy where they are evenly spaced."""
    first, step = indices[0], indices[1] - indices[0] if len(indices) > 1 else 1
    if step > 0 and tuple(indices) == tuple(range(first, indices[-1] + 1, step)):
        return logits[first : indices[-1] + 1 : step]
    return logits[upload(indices, logits.device)]


def _draw_rows(scores: Tensor, sampling: Sampling, keys: Sequence[int], race: Race) -> Tensor:
    """The tokens [R] of rows with the same settings: ``scores`` [R, V] in nats."""
    if sampling.temperature == 0:
        return _argmax(scores)
    signed_keys = upload([signed(key) for key in keys], scores.device)
    if sampling.top_p >= 1:
        return race(_tempered(scores, sampling), signed_keys)
    # Noise is computed for the nucleus alone: over a wide vocabulary it would take longer than the rest of the draw.
    kept, tokens = nucleus(_tempered(scores, sampling), sampling.top_p)
    return gumbel_argmax_among(kept, tokens, signed_keys, scores.shape[1])


def _argmax(scores: Tensor) -> Tensor:
    """The likeliest token of every row [R], the first of several; torch's own takes several times longer on a CPU."""
    if on_cpu(scores.device):
        return torch.from_numpy(scores.numpy().argmax(axis=1))
    return torch.argmax(scores, dim=1)


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
        difference = view - first
        scores = torch.add(scores, difference, alpha=weight, out=difference)
    # A token with −inf in one view has a sum of −inf, as it should, or of NaN or +inf, which the maximum shows; it is
    # not worth waiting for.
    if not (on_cpu(scores.device) and math.isfinite(float(scores.amax()))):
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
