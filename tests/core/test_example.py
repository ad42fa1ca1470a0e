"""λ from an example: exact against picking again at every λ, and against the toy's own distributions."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

import preftilt as pt
from preftilt.errors import BadInput
from preftilt.example import (
    STRENGTHS,
    SUPPORT_NATS,
    ExampleFit,
    chosen_for,
    lambda_from_example,
    likelihood_of_lambda,
    path_intervals,
)
from preftilt.path import PathSegment, upper_envelope
from preftilt.prompt import PromptSettings, build_query
from preftilt.reward import ScoreLine
from preftilt.testing.toy import ToyEngine, hashed_bigrams
from preftilt.types import Query, Tokens
from tests.cli.toys import Slow

QUESTION = [pt.Message("user", "How do I study maths?")]
WISH = [pt.Preference("No games.")]
LINES = [ScoreLine(-9.0, 4.0), ScoreLine(-4.0, 1.0), ScoreLine(-2.0, -1.0), ScoreLine(-8.0, 2.0)]


def fit(
    example: str,
    preferences: Sequence[pt.Preference] = WISH,
    engine: pt.Engine | None = None,
    **changes,
) -> tuple[ExampleFit, pt.Realigned, pt.Realigner]:
    realigner = pt.Realigner(engine or ToyEngine(hashed_bigrams(2)))
    settings = pt.Settings(**{"max_tokens": 6, "search": pt.BestOfN(n=12)} | changes)

    async def work() -> tuple[ExampleFit, pt.Realigned]:
        result = await realigner.realign(QUESTION, preferences, settings=settings)
        fitted = await lambda_from_example(
            realigner, QUESTION, preferences, example, result, settings=settings
        )
        return fitted, result

    return *asyncio.run(work()), realigner


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_an_answer_beside_the_candidates_is_chosen_exactly_where_its_score_is_the_largest(
    reduction,
):
    reward = pt.Reward(reduction=reduction, cut_off="as-is")
    wins = losses = 0
    for example in ("draw", "read not", "win.", "sleep", "not", "play win"):
        fitted, result, realigner = fit(example, reward=reward)
        assert fitted.candidate is None
        settings = pt.Settings(reward=reward)
        scored = asyncio.run(realigner.score(QUESTION, WISH, [example], settings=settings))
        for lam in (0.0, 0.7, 1.0, 2.3, 6.0, 40.0, 1e3):
            mine, *others = (
                c.question_logprob + lam * c.preference_gain
                for c in (*scored.candidates, *result.candidates)
            )
            inside = any(a <= lam < b for a, b in fitted.chosen.intervals)
            assert inside == (mine > max(others))
            wins, losses = wins + inside, losses + (not inside)
    assert min(wins, losses) > 0


def test_of_a_candidate_the_intervals_are_its_pieces_of_the_path():
    _, result, _ = fit("draw")
    for candidate in result.candidates[:4]:
        if candidate.text.strip():
            fitted, _, _ = fit(candidate.text)
            texts = [other.text.strip() for other in result.candidates]
            same = [i for i, text in enumerate(texts) if text == candidate.text.strip()]
            assert fitted.candidate == same[0]
            assert fitted.chosen.intervals == path_intervals(result.path, same)
            assert (fitted.chosen.behind == 0) == bool(fitted.chosen.intervals)


def test_pieces_that_touch_are_one_interval_and_others_are_not():
    path = [PathSegment(a, b, i) for a, b, i in ((0, 1, 0), (1, 2, 1), (2, 5, 2), (5, math.inf, 0))]
    assert path_intervals(path, {0}) == ((0, 1), (5, math.inf))
    assert path_intervals(path, {1, 2}) == ((1, 5),)
    assert path_intervals(path, {3}) == ()


def test_an_answer_that_never_wins_has_the_lambda_where_it_comes_closest():
    chosen = chosen_for(upper_envelope(LINES), LINES, {3})
    grid = np.linspace(0, 20, 20001)
    gaps = [max(line.at(lam) for line in LINES) - LINES[3].at(lam) for lam in grid]
    assert chosen.intervals == ()
    assert chosen.nearest == pytest.approx(grid[int(np.argmin(gaps))], abs=1e-3)
    assert chosen.behind == pytest.approx(min(gaps), abs=1e-3)


# --- guided ----------------------------------------------------------------------------


def guided_logprobs(
    engine: ToyEngine, query: Query, tokens: Tokens, lambdas: Sequence[float]
) -> np.ndarray:
    """log p_λ of a response at every λ, by the definition: tokens from q + λ Σ r (p − q), normalised."""
    lams = np.asarray(lambdas)[:, None]
    total = np.zeros(len(lams))
    for t, token in enumerate(tokens):
        q, *others = (engine.next_logprobs(view.prompt + tokens[:t]) for view in query.views)
        gain = sum(r * (p - q) for r, p in zip(query.ratios, others, strict=True))
        mixed = q + lams * gain
        total += mixed[:, token] - np.log(np.exp(mixed).sum(axis=1))
    return total


def query_of(engine: ToyEngine, *preferences: pt.Preference, lam: float = 3.0) -> Query:
    return build_query(engine.tokenizer, QUESTION, preferences, lam=lam, settings=PromptSettings())


def remembered(seed: int) -> ToyEngine:
    """A toy whose distributions are computed once."""
    model = hashed_bigrams(seed)
    known = cache(lambda prompt, last: model((*prompt, *last)))
    return ToyEngine(lambda context: known(context[:4], context[-1:]))


WISHES = {
    "single": WISH,
    "two": [pt.Preference("No games.", 4.0), pt.Preference("Music.", -2.0)],
    "turned away from": [pt.Preference("No games.", -3.0)],
}


@pytest.mark.parametrize("name", WISHES)
def test_the_likelihood_is_that_of_the_mixed_distributions(name):
    engine = remembered(3)
    query = query_of(engine, *WISHES[name])
    tokens = (5, 9, 3, 0)
    curve = asyncio.run(likelihood_of_lambda(engine, query, tokens))
    assert curve.logprobs == pytest.approx(guided_logprobs(engine, query, tokens, curve.lambdas))
    assert set(curve.lambdas) - {curve.best} <= {query.lam / abs(query.lam) * s for s in STRENGTHS}


def test_the_best_lambda_and_its_interval_are_those_of_an_enumeration():
    engine = remembered(3)
    query = query_of(engine, *WISH)
    grid = np.concatenate([np.linspace(0, 20, 801), np.linspace(20.5, 100, 160)]).tolist()
    inner = 0
    for tokens in itertools.product(range(1, 12, 3), repeat=2):
        curve = asyncio.run(likelihood_of_lambda(engine, query, (*tokens, 0)))
        every = guided_logprobs(engine, query, (*tokens, 0), grid)
        best = grid[int(np.argmax(every))]
        assert curve.best == pytest.approx(best, rel=0.02, abs=0.05)
        able = np.array(grid)[every >= every.max() - SUPPORT_NATS]
        assert (curve.low, curve.high) == pytest.approx((able[0], able[-1]), rel=0.05, abs=0.1)
        inner += 0 < best < 100
    assert inner > 3


def test_guided_answers_are_likeliest_near_the_lambda_that_drew_them():
    """The maximum over many draws: log-likelihoods of independent draws add up."""
    engine = remembered(3)
    query = query_of(engine, *WISH)
    settings = pt.Settings(lam=3.0, search=pt.CFG(n=100), max_tokens=12)
    drawn = asyncio.run(pt.Realigner(engine).realign(QUESTION, WISH, settings=settings))
    lambdas = [2.0, 2.5, 3.0, 3.5, 4.0]
    total = sum(guided_logprobs(engine, query, c.tokens, lambdas) for c in drawn.candidates)
    assert lambdas[int(np.argmax(total))] == 3.0


def test_where_the_views_agree_the_model_as_it_is_stands_for_every_lambda():
    engine = remembered(3)
    flat = engine.next_logprobs((1, 2, 3, 4))
    engine.next_logprobs = lambda context: flat
    curve = asyncio.run(likelihood_of_lambda(engine, query_of(engine, *WISH), (3, 0)))
    assert (curve.best, curve.low, curve.high) == (1.0, 0.0, 100.0)


def test_an_engine_that_cannot_mix_distributions_tells_the_intervals_alone():
    fitted, _, _ = fit("draw", engine=Slow(inner=ToyEngine(hashed_bigrams(2))))
    whole, _, _ = fit("draw")
    assert fitted.guided is None
    assert whole.guided is not None
    assert fitted.chosen == whole.chosen


@pytest.mark.parametrize(
    ("example", "words"), [(" ", "none may be empty"), ("draw<end>", "take it out")]
)
def test_what_cannot_be_an_answer_is_refused(example: str, words: str):
    with pytest.raises(BadInput, match=words):
        fit(example)
