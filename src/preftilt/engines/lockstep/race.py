"""The exponential race of :func:`~preftilt.engines.transformers.sampler.gumbel_argmax`, compiled: the same winners.

Token v wins with the largest score_v − log E_v, and E_v = −log(1 − u_v) ≥ u_v. So v can only beat a token that
reached S if log u_v ≤ score_v − S, which takes a hash and no logarithm: all but a handful of tokens are out by that.
numba compiles it, which vLLM brings along.
"""

# pyright: reportMissingImports=false
# numba is not part of the environment that types are checked in.

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from preftilt.engines.transformers.sampler import gumbel_argmax
from preftilt.streams import GOLDEN, MIX_A, MIX_B

COLUMNS = 512
"""Tokens whose bounds are computed together, before any of them is looked at closely."""

SLACK = 1e-3, 1e-6
"""By how much the bound (in log₂) is widened, absolutely and a unit of score: more than float32 rounds."""

_GOLDEN, _MIX_A, _MIX_B = np.uint64(GOLDEN), np.uint64(MIX_A), np.uint64(MIX_B)
_ONE, _11, _27, _30, _31, _33 = map(np.uint64, (1, 11, 27, 30, 31, 33))
_HALF, _TWO_TO_MINUS_53 = 0.5, 2.0**-53
_BIT, _BIAS = np.float32(2.0**-23), np.float32(127 + 31)
_LOG2E = np.float32(np.log2(np.e))


@njit(inline="always")
def _hashed(key: Any, token: Any) -> Any:
    """The hash behind a token's uniform but for its last step, which leaves the upper 31 bits as they are."""
    x = key + _GOLDEN * (np.uint64(token) + _ONE)
    x = (x ^ (x >> _30)) * _MIX_A
    return (x ^ (x >> _27)) * _MIX_B


@njit(inline="always")
def _log_exponential(key: Any, token: Any) -> Any:
    """log E of a token, as :func:`preftilt.streams.log_exponentials` has it."""
    x = _hashed(key, token)
    x ^= x >> _31
    return np.log(-np.log1p(-(np.float64(x >> _11) + _HALF) * _TWO_TO_MINUS_53))


@njit(inline="always")
def _log2_uniform(key: Any, token: Any) -> Any:
    """Less than log₂ of a token's uniform, by 0.09 at most: the bits of a float are its logarithm, roughly."""
    upper = np.float32(np.int32(_hashed(key, token) >> _33))
    return np.float32(upper.view(np.int32)) * _BIT - _BIAS


@njit(nogil=True)
def _run(scores: Any, keys: Any, winners: Any) -> None:
    """``winners`` int64 [R] begins as the likeliest token of every row of ``scores`` float32 [R, V]."""
    for r in range(scores.shape[0]):
        row, key, winner = scores[r], keys[r], winners[r]
        best = np.float64(row[winner]) - _log_exponential(key, winner)
        if not np.isfinite(best):
            continue
        slack = np.float32(SLACK[0] + SLACK[1] * abs(best))
        for start in range(0, row.shape[0], COLUMNS):
            stop = min(start + COLUMNS, row.shape[0])
            reach, survivors = np.float32(best), 0
            for token in range(start, stop):
                survivors += _log2_uniform(key, token) <= (row[token] - reach) * _LOG2E + slack
            if survivors == 0:
                continue
            for token in range(start, stop):
                if _log2_uniform(key, token) <= (row[token] - reach) * _LOG2E + slack:
                    score = np.float64(row[token]) - _log_exponential(key, token)
                    if score > best or (score == best and token < winner):
                        best, winner = score, token
        winners[r] = winner


def race(scores: Tensor, keys: Tensor) -> Tensor:
    """Every row's token [R]: ``scores`` float32 [R, V] in nats, ``keys`` int64 [R] of the rows' positions."""
    if scores.device.type != "cpu":
        return gumbel_argmax(scores, keys)
    table = np.ascontiguousarray(scores.numpy())
    winners = table.argmax(axis=1)
    _run(table, keys.numpy().view(np.uint64), winners)
    return torch.from_numpy(winners)
