"""Drawing in numpy, against the written-out reference."""

import numpy as np
import pytest

from preftilt import guided, streams
from preftilt.engines.llamacpp.sampler import draw, filtered, logprobs_of
from preftilt.types import Sampling

SETTINGS = [
    Sampling(),
    Sampling(temperature=0.5),
    Sampling(temperature=1.7, top_k=5),
    Sampling(top_p=0.6),
    Sampling(temperature=0.8, top_k=30, top_p=0.9),
    Sampling(top_k=1),
    Sampling(top_p=1e-9),
    Sampling(top_k=10_000),
]


def rows(count: int, vocabulary: int, *, tied: bool = False) -> np.ndarray:
    logits = 3 * np.random.default_rng(1).standard_normal((count, vocabulary))
    return (np.round(logits) if tied else logits).astype(np.float32)


def normalised(scores: np.ndarray) -> np.ndarray:
    return scores - np.logaddexp.reduce(scores)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_filters_equal_the_reference_also_where_tokens_are_equally_likely(
    settings: Sampling, tied: bool
):
    for row in rows(7, 300, tied=tied).astype(np.float64):
        ours = normalised(filtered(row, settings))
        wanted = normalised(guided.filtered(normalised(row), settings))
        assert np.array_equal(np.isfinite(ours), np.isfinite(wanted))
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-9)


def test_the_nucleus_of_a_flat_distribution_needs_the_whole_vocabulary():
    kept = np.isfinite(filtered(np.zeros(5000), Sampling(top_p=0.90005)))
    assert kept.sum() == 4501


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_draws_equal_the_reference(settings: Sampling):
    for number, row in enumerate(rows(16, 400)):
        wanted = streams.draw(guided.filtered(normalised(row.astype(np.float64)), settings), number)
        assert draw(row, settings, number) == wanted


def test_temperature_0_takes_the_likeliest_token():
    for row in rows(4, 100):
        assert draw(row, Sampling(temperature=0.0), 1) == row.argmax()


def test_a_token_that_does_not_exist_is_never_drawn():
    row = rows(1, 50)[0]
    row[[0, 7, 49]] = -np.inf
    drawn = {draw(row, Sampling(temperature=5.0), key) for key in range(2000)}
    assert drawn.isdisjoint({0, 7, 49})
    assert len(drawn) == 47


def test_log_probs_are_exact_for_many_rows_and_extreme_logits():
    logits = rows(40, 60_000)
    logits[3] *= 200
    tokens = np.arange(40)
    wanted = [
        normalised(row.astype(np.float64))[token] for row, token in zip(logits, tokens, strict=True)
    ]
    found = logprobs_of(logits, tokens)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
