"""Keyed randomness: a pure function of its key, and statistically what it claims to be."""

from __future__ import annotations

import math

import numpy as np

from preftilt.streams import draw, log_exponentials, mix64, position_key, stream_key
from preftilt.types import Stream


def test_keys_differ_in_every_part():
    keys = {
        stream_key(Stream(seed, item), slot)
        for seed in range(4)
        for item in ("", "a", "b", "1")
        for slot in range(16)
    }
    assert len(keys) == 4 * 4 * 16
    assert len({position_key(key, t) for key in keys for t in range(64)}) == len(keys) * 64


def test_mix64_is_the_published_finalizer():
    # splitmix64 seeded with 0 yields these first outputs (Vigna's reference implementation).
    golden = 0x9E3779B97F4A7C15
    assert mix64(golden) == 0xE220A8397B1DCDAF
    assert mix64((2 * golden) & (2**64 - 1)) == 0x6E789E6AA1B965F4


def test_noise_is_standard_exponential():
    key = position_key(stream_key(Stream(1), 2), 3)
    draws = np.exp(log_exponentials(key, 200_000))
    assert abs(draws.mean() - 1) < 0.01
    assert abs(draws.var() - 1) < 0.03
    assert abs((draws > 3).mean() - math.exp(-3)) < 0.002


def test_a_longer_vocabulary_keeps_the_noise_of_a_shorter_one():
    key = position_key(stream_key(Stream(0), 0), 0)
    np.testing.assert_array_equal(log_exponentials(key, 100), log_exponentials(key, 500)[:100])


def test_draws_follow_the_distribution():
    probabilities = np.array([0.5, 0.25, 0.125, 0.0625, 0.0625])
    logprobs = np.log(probabilities)
    n = 4_000
    keys = [stream_key(Stream(7), slot) for slot in range(200)]
    counts = np.zeros(5)
    for key in keys:
        for t in range(n // len(keys)):
            counts[draw(logprobs, position_key(key, t))] += 1
    chi_square = ((counts - n * probabilities) ** 2 / (n * probabilities)).sum()
    assert chi_square < 18.5  # 99.9 % point of chi-square with 4 degrees of freedom


def test_impossible_tokens_are_never_drawn():
    logprobs = np.array([-np.inf, 0.0, -np.inf])
    assert {draw(logprobs, position_key(1, t)) for t in range(300)} == {1}
