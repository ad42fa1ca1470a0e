"""Randomness keyed by (seed, item, slot, token position): the same request draws the same tokens in any batch.

A token is drawn by the exponential race (Gumbel-max in log space): token v wins if ``log p_v − log E_v`` is largest,
with E_v independent standard exponentials. Here E_v is a pure function of (seed, item, slot, position, v), so
nothing depends on scheduling, batch composition or device; two runs differ only where floating-point noise in the
log-probs decides between two tokens that were tied to seven digits. (An inverse-CDF draw needs one number a token
instead of V, but a rounding error anywhere in the cumulative sum can change its outcome.)

The hash is the finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), in wrapping 64-bit arithmetic that numpy
and torch both have; the torch twin of :func:`log_exponentials` lives with the engine that needs it.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from jaxtyping import Float, Int

from preftilt.types import Stream

GOLDEN = 0x9E3779B97F4A7C15
MIX_A = 0xBF58476D1CE4E5B9
MIX_B = 0x94D049BB133111EB
MASK64 = (1 << 64) - 1


def stream_key(stream: Stream, slot: int) -> int:
    """The 64-bit key of one slot's stream; take it once, then :func:`position_key` for every token."""
    text = f"{stream.seed}\x1f{stream.item}\x1f{slot}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def position_key(key: int, position: int) -> int:
    """The key of one token position of a stream."""
    return mix64((key + GOLDEN * (position + 1)) & MASK64)


def mix64(x: int) -> int:
    """The splitmix64 finalizer on Python integers."""
    x = ((x ^ (x >> 30)) * MIX_A) & MASK64
    x = ((x ^ (x >> 27)) * MIX_B) & MASK64
    return x ^ (x >> 31)


def log_exponentials(key: int, vocabulary: int) -> Float[np.ndarray, "V"]:
    """log E_v for every token v, E_v ~ Exp(1), from a position key (float64)."""
    return log_exponentials_of(key, np.arange(vocabulary))


def log_exponentials_of(key: int, tokens: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """As :func:`log_exponentials`, for these tokens only."""
    with np.errstate(over="ignore"):
        x = np.uint64(key) + np.uint64(GOLDEN) * (tokens.astype(np.uint64) + np.uint64(1))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(MIX_A)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(MIX_B)
        x = x ^ (x >> np.uint64(31))
    uniform = ((x >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return np.log(-np.log1p(-uniform))


def draw(logprobs: Float[np.ndarray, "V"], key: int) -> int:
    """The token that wins the exponential race under ``logprobs`` (nats, need not be normalised)."""
    return int(np.argmax(logprobs - log_exponentials(key, logprobs.size)))
