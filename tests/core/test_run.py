"""The driver on a model small enough to know everything about."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from preftilt.engines.base import SampleRequest
from preftilt.errors import BadInput, EngineError, PromptTooLong
from preftilt.reward import Reward, scores
from preftilt.run import DEFAULT_MAX_TOKENS, fit_max_tokens
from preftilt.search import DVTS, BestOfN, Greedy, Sample
from preftilt.testing.toy import ToyEngine, hashed_bigrams
from preftilt.types import Candidate, Completion, Sampling, Stream, Tokens
from tests.core.conftest import FULL, QUESTION, toy_query, toy_run

SMALL = hashed_bigrams(seed=3, vocabulary=4, sharpness=1.0)


def responses(max_tokens: int) -> dict[Tokens, Candidate]:
    """Every response of the small model with its exact log-probs under both prompts."""
    found: dict[Tokens, Candidate] = {}
    for length in range(1, max_tokens + 1):
        for tokens in itertools.product(range(4), repeat=length):
            ended = tokens[-1] == 0
            if 0 in tokens[:-1] or (not ended and length < max_tokens):
                continue
            logprobs = np.array(
                [
                    [SMALL(view + tokens[:t])[tokens[t]] for t in range(length)]
                    for view in (QUESTION, FULL)
                ]
            )
            found[tokens] = Candidate(tokens, logprobs, "eos" if ended else "length")
    return found


def best_of_two_exactly(lam: float, max_tokens: int) -> dict[Tokens, float]:
    """P(best-of-2 returns y), summed over every pair of draws."""
    every = responses(max_tokens)
    query, reward = toy_query(lam), Reward()
    probability = {y: float(np.exp(one.logprobs[1].sum())) for y, one in every.items()}
    chosen: dict[Tokens, float] = defaultdict(float)
    for (a, one), (b, other) in itertools.product(every.items(), repeat=2):
        ours, theirs = scores([one, other], query, reward)
        first = (one.finished, ours) >= (other.finished, theirs)
        chosen[a if first else b] += probability[a] * probability[b]
    return chosen


def test_every_response_is_enumerated():
    total = sum(np.exp(response.logprobs[1].sum()) for response in responses(3).values())
    assert total == pytest.approx(1.0)


class Scripted(ToyEngine):
    """Draws the responses that it is told to, in place of random ones."""

    def draws(self, *responses: Candidate) -> Scripted:
        self.scripted = [
            Completion(response.tokens, response.logprobs[1], response.finish)
            for response in responses
        ]
        return self

    async def sample(self, requests: Sequence[SampleRequest]) -> list[list[Completion]]:
        return [self.scripted for _ in requests]


@pytest.mark.parametrize("lam", [0.0, 1.0, 20.0])
async def test_best_of_two_selects_with_the_enumerated_probabilities(lam: float):
    every = responses(max_tokens=2)
    probability = {y: float(np.exp(response.logprobs[1].sum())) for y, response in every.items()}
    selected: dict[Tokens, float] = defaultdict(float)
    for (a, first), (b, second) in itertools.product(every.items(), repeat=2):
        run = toy_run(Scripted(SMALL).draws(first, second), lam=lam, max_tokens=2)
        winner = (await run.search(BestOfN(n=2))).ranked[0].tokens
        selected[winner] += probability[a] * probability[b]
    assert selected == pytest.approx(best_of_two_exactly(lam, max_tokens=2))
    assert sum(selected.values()) == pytest.approx(1.0)


def test_best_of_eight_is_the_first_half_of_best_of_sixteen(search_toy):
    small, large = search_toy(BestOfN(n=8)), search_toy(BestOfN(n=16))
    by_slot = {candidate.slot: candidate.tokens for candidate in large.ranked}
    assert {candidate.slot: candidate.tokens for candidate in small.ranked} == {
        s: by_slot[s] for s in range(8)
    }


def test_more_samples_never_score_lower(engine, search_toy):
    query, reward = toy_query(20.0), Reward()
    winners = [search_toy(BestOfN(n=n)).ranked[0] for n in (1, 2, 4, 8, 16, 32)]
    finished_from_the_start = search_toy(BestOfN(n=1)).ranked[0].finished
    assert finished_from_the_start
    values = scores(winners, query, reward)
    assert values == sorted(values)


def test_best_of_one_and_dvts_of_width_one_are_sampling(search_toy):
    sample = search_toy(Sample())
    assert search_toy(BestOfN(n=1)).ranked[0].tokens == sample.ranked[0].tokens
    assert search_toy(DVTS(subtrees=1, width=1)).ranked[0].tokens == sample.ranked[0].tokens
    trees = search_toy(DVTS(subtrees=8, width=1)).ranked
    samples = search_toy(BestOfN(n=8)).ranked
    assert {tree.slot: tree.tokens for tree in trees} == {
        candidate.slot: candidate.tokens for candidate in samples
    }


def test_dvts_without_its_delimiter_is_best_of_n_within_each_subtree(search_toy):
    trees = search_toy(DVTS(subtrees=3, width=4, delimiter="never"))
    samples = {candidate.slot: candidate.tokens for candidate in search_toy(BestOfN(n=12)).ranked}
    assert all(samples[candidate.slot] == candidate.tokens for candidate in trees.ranked)
    assert trees.ranked[0].tokens == search_toy(BestOfN(n=12)).ranked[0].tokens


def test_one_subtree_without_a_delimiter_is_best_of_n(search_toy):
    tree = search_toy(DVTS(subtrees=1, width=6, delimiter="never"))
    assert tree.ranked[0].tokens == search_toy(BestOfN(n=6)).ranked[0].tokens


def test_a_response_s_logprobs_are_the_model_s_under_both_prompts(engine, search_toy):
    for candidate in search_toy(DVTS(subtrees=2, width=3)).ranked:
        for row, view in zip(candidate.logprobs, (QUESTION, FULL), strict=True):
            by_hand = [
                engine.next_logprobs(view + candidate.tokens[:t])[x]
                for t, x in enumerate(candidate.tokens)
            ]
            np.testing.assert_allclose(row, by_hand, rtol=0, atol=1e-12)


def test_the_same_request_gives_the_same_tokens_alone_and_in_company(engine):
    async def together() -> list[Tokens]:
        runs = [toy_run(engine, item=str(i)).search(DVTS(subtrees=2, width=2)) for i in range(5)]
        return [outcome.ranked[0].tokens for outcome in await asyncio.gather(*runs)]

    company = asyncio.run(together())
    alone = [
        asyncio.run(toy_run(engine, item=str(i)).search(DVTS(subtrees=2, width=2))).ranked[0].tokens
        for i in range(5)
    ]
    assert company == alone
    assert len(set(alone)) > 1


def test_temperature_near_zero_is_greedy(search_toy):
    greedy = search_toy(Greedy()).ranked[0].tokens
    assert search_toy(Sample(), sampling=Sampling(temperature=1e-4)).ranked[0].tokens == greedy
    assert search_toy(Sample(), sampling=Sampling(temperature=0)).ranked[0].tokens == greedy
    assert search_toy(Sample(), sampling=Sampling(top_k=1)).ranked[0].tokens == greedy


def test_duplicates_are_scored_once(engine):
    run = toy_run(engine, sampling=Sampling(top_k=1))
    outcome = asyncio.run(run.search(BestOfN(n=16)))
    length = len(outcome.ranked[0].tokens)
    assert run.usage.duplicates == 15
    assert run.usage.scored == {"question": length}
    assert run.usage.reused == length
    assert run.usage.sampled == 16 * length
    assert engine.counts["scored"] == length


def test_dvts_scores_no_token_twice_under_a_view(engine):
    run = toy_run(engine)
    asyncio.run(run.search(DVTS(subtrees=3, width=3)))
    assert engine.counts["scored"] == run.usage.scored["question"] <= run.usage.sampled


def test_an_engine_whose_sampler_is_not_exact_is_asked_to_score_every_view(engine):
    exact, measured = (
        toy_run(engine),
        toy_run(ToyEngine(engine.next_logprobs, sampler_logprobs=False)),
    )
    outcome = asyncio.run(exact.search(BestOfN(n=4)))
    other = asyncio.run(measured.search(BestOfN(n=4)))
    assert set(exact.usage.scored) == {"question"}
    assert set(measured.usage.scored) == {"question", "full"}
    assert measured.usage.reused == 0
    assert [c.tokens for c in outcome.ranked] == [c.tokens for c in other.ranked]


def test_candidates_from_the_question_prompt_are_scored_under_the_full_one(engine):
    run = toy_run(engine, query=toy_query(20.0, prompt=QUESTION))
    asyncio.run(run.search(BestOfN(n=4)))
    assert set(run.usage.scored) == {"full"}
    assert run.usage.reused > 0


def test_a_failing_engine_fails_the_request_with_its_own_error(engine):
    class Broken(ToyEngine):
        async def score(self, requests):
            raise EngineError("the server went away")

    with pytest.raises(EngineError, match="went away"):
        asyncio.run(toy_run(Broken(engine.next_logprobs)).search(DVTS()))


def test_an_engine_that_returns_too_few_logprobs_is_found_out(engine):
    class Short(ToyEngine):
        async def score(self, requests):
            return [row[:-1] for row in await ToyEngine.score(self, requests)]

    with pytest.raises(EngineError, match="log-probs came back"):
        asyncio.run(toy_run(Short(engine.next_logprobs)).search(BestOfN(n=2)))


def test_progress_is_reported_with_running_totals(engine):
    seen = []
    run = toy_run(engine, item="x", on_progress=seen.append)
    asyncio.run(run.search(DVTS(subtrees=2, width=2)))
    assert {progress.phase for progress in seen} == {"sampling", "scoring"}
    assert seen[-1].sampled == run.usage.sampled
    assert [progress.sampled for progress in seen] == sorted(progress.sampled for progress in seen)


def test_whole_responses_are_reported_once_each_when_they_are_scored(engine):
    seen = []
    outcome = asyncio.run(toy_run(engine, on_progress=seen.append).search(BestOfN(n=6)))
    [reported] = [progress.candidates for progress in seen if progress.candidates]
    assert [candidate.slot for candidate in reported] == [0, 1, 2, 3, 4, 5]
    assert {candidate.slot: candidate.tokens for candidate in reported} == {
        candidate.slot: candidate.tokens for candidate in outcome.ranked
    }
    assert all(candidate.logprobs.shape == (2, len(candidate.tokens)) for candidate in reported)


def test_steps_of_a_tree_are_not_reported_as_responses(engine):
    seen = []
    run = toy_run(engine, on_progress=seen.append)
    outcome = asyncio.run(run.search(DVTS(subtrees=2, width=3)))
    reported = [candidate for report in seen for candidate in report.candidates]
    assert all(candidate.finish != "step" for candidate in reported)
    assert {candidate.tokens for candidate in outcome.ranked if candidate.finish != "step"} <= {
        candidate.tokens for candidate in reported
    }


def test_given_responses_are_scored_without_drawing(engine):
    drawn = asyncio.run(toy_run(engine).search(BestOfN(n=3)))
    completions = [
        Completion(candidate.tokens, np.zeros(len(candidate.tokens)), candidate.finish)
        for candidate in drawn.ranked
    ]
    scored = asyncio.run(toy_run(engine, stream=Stream(9)).score_given(completions))
    for candidate, other in zip(drawn.ranked, scored, strict=True):
        np.testing.assert_allclose(candidate.logprobs, other.logprobs, atol=1e-12)


def test_max_tokens_defaults_to_what_fits():
    query = toy_query()
    assert fit_max_tokens(query, 100, None) == 95
    assert fit_max_tokens(query, 10_000, None) == DEFAULT_MAX_TOKENS
    assert fit_max_tokens(query, 100, 95) == 95


def test_what_does_not_fit_is_refused_with_the_view_and_the_excess():
    query = toy_query()
    long_full = replace(query, views=(query.views[0], replace(query.views[1], prompt=FULL * 3)))
    with pytest.raises(PromptTooLong, match=r"the full prompt has 15 tokens, 6 too many .* of 10"):
        fit_max_tokens(long_full, 10, None)
    with pytest.raises(PromptTooLong, match=r"4 more than .* lower max_tokens to 5"):
        fit_max_tokens(query, 10, 9)
    with pytest.raises(BadInput, match="at least 1"):
        fit_max_tokens(query, 10, 0)
