"""Guided searches through the driver, on the toy model: exact, and without torch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from preftilt.engines.base import Capabilities, Engine, EngineInfo, ScoreRequest
from preftilt.errors import BadInput, EngineError
from preftilt.guided import adapted, combine, filtered, pick
from preftilt.reward import Reward, scores
from preftilt.run import Progress
from preftilt.search import ARGS, CFG, Amulet, BestOfN, Greedy, LinearAlignment, Sample, Search
from preftilt.streams import position_key, stream_key
from preftilt.testing.toy import ToyEngine, hashed_bigrams
from preftilt.types import Outcome, Query, Sampling, Stream, Tokens, Usage, View
from tests.cli.toys import sampling_alone
from tests.core.conftest import FULL, QUESTION, toy_query, toy_run

GREEDY = Sampling(temperature=0)


def run(search, engine: Engine | None = None, **changes) -> tuple[Outcome, Usage]:
    one = toy_run(engine or ToyEngine(hashed_bigrams(seed=5)), **changes)
    return asyncio.run(one.search(search)), one.usage


def by_hand(lam: float, sampling: Sampling, slot: int = 0, length: int = 24) -> Tokens:
    """Tokens of q + λ (p − q), from the toy model's tables."""
    model, key = hashed_bigrams(seed=5), stream_key(Stream(0, ""), slot)
    tokens: Tokens = ()
    while len(tokens) < length and tokens[-1:] != (0,):
        raw = np.stack([model(prompt + tokens) for prompt in (QUESTION, FULL)])
        guided = combine(raw, (1 - lam, lam))
        tokens += (pick(guided, sampling, position_key(key, len(tokens))),)
    return tokens


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(temperature=0.6, top_p=0.9)])
@pytest.mark.parametrize("lam", [2.0, 3.0, -1.5])
def test_tokens_are_those_of_the_guided_distribution(lam: float, sampling: Sampling):
    outcome, _ = run(CFG(), sampling=sampling, lam=lam)
    assert outcome.ranked[0].tokens == by_hand(lam, sampling)


@pytest.mark.parametrize("lam", [6.0, 0.0, -1.5])
def test_a_strength_by_divergence_is_taken_anew_at_every_token(lam: float):
    outcome, usage = run(CFG(strength_by="divergence"), lam=lam, sampling=GREEDY)
    model, tokens = hashed_bigrams(seed=5), outcome.ranked[0].tokens
    for t, token in enumerate(tokens):
        raw = np.stack([model(prompt + tokens[:t]) for prompt in (QUESTION, FULL)])
        assert token == combine(raw, adapted(raw, (1 - lam, lam))).argmax()
    assert usage.guided == {"question": len(tokens), "full": len(tokens)}


@pytest.mark.parametrize("ratios", [(), (1.0, 0.5)])
def test_a_strength_by_divergence_is_for_one_preference(ratios: tuple[float, ...]):
    prompts = (QUESTION, FULL, (6, 6, 1, 8, 2))[: 1 + len(ratios)]
    views = tuple(View(f"view {i}", prompt, 1.0) for i, prompt in enumerate(prompts))
    query = Query(prompt=FULL, views=views, lam=3.0, ratios=ratios)
    with pytest.raises(BadInput, match=f"has {len(ratios)} preferences"):
        run(CFG(strength_by="divergence"), query=query)


def test_a_lambda_of_one_is_the_model_as_it_is():
    guided, usage = run(CFG(), lam=1.0)
    plain, _ = run(Sample())
    assert guided.ranked[0].tokens == plain.ranked[0].tokens
    np.testing.assert_array_equal(guided.ranked[0].logprobs, plain.ranked[0].logprobs)
    assert usage.guided == {"full": usage.sampled}


def test_a_lambda_of_zero_is_the_question_alone():
    guided, _ = run(CFG(), lam=0.0)
    plain, _ = run(Sample(), query=toy_query(prompt=QUESTION))
    assert guided.ranked[0].tokens == plain.ranked[0].tokens


def test_a_negative_strength_turns_away():
    outcome, _ = run(CFG(), lam=-2.0, sampling=GREEDY)
    assert outcome.ranked[0].tokens == by_hand(-2.0, GREEDY)
    fixed, _ = run(LinearAlignment(ratio=2.0), lam=-0.5, sampling=GREEDY)
    assert fixed.ranked[0].tokens == by_hand(-3.0, GREEDY)


def test_a_search_with_a_strength_of_its_own_draws_the_same_under_every_lambda():
    weak, strong = (run(LinearAlignment(ratio=2.0, n=3), lam=lam)[0] for lam in (0.5, 9.0))
    drawn = [
        {candidate.slot: candidate.tokens for candidate in outcome.ranked}
        for outcome in (weak, strong)
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == by_hand(3.0, Sampling())


def test_amulet_draws_what_linear_alignment_with_its_number_draws():
    amulet, _ = run(Amulet(iterations=60))
    aligned, _ = run(LinearAlignment(ratio=4.648699))
    assert amulet.ranked[0].tokens == aligned.ranked[0].tokens


def test_the_candidates_logprobs_are_raw_and_of_every_view():
    outcome, _ = run(CFG(), lam=4.0, sampling=Sampling(temperature=0.5, top_k=3))
    model, [one] = hashed_bigrams(seed=5), outcome.ranked
    expected = [
        [model(prompt + one.tokens[:t])[token] for t, token in enumerate(one.tokens)]
        for prompt in (QUESTION, FULL)
    ]
    np.testing.assert_allclose(one.logprobs, expected, atol=1e-12)


def test_the_best_of_several_guided_responses_is_taken():
    outcome, _ = run(CFG(n=6), lam=2.0)
    query = toy_query(2.0)
    values = scores(
        [candidate for candidate in outcome.ranked if candidate.finished], query, Reward()
    )
    assert len(outcome.ranked) == 6
    assert values == sorted(values, reverse=True)
    assert sorted(candidate.slot for candidate in outcome.ranked) == list(range(6))
    for candidate in outcome.ranked:
        assert candidate.tokens == by_hand(2.0, Sampling(), candidate.slot)


def test_fewer_guided_responses_are_the_first_of_more():
    few, many = (run(CFG(n=n))[0].ranked for n in (2, 5))
    first = {candidate.slot: candidate.tokens for candidate in many}
    assert all(first[candidate.slot] == candidate.tokens for candidate in few)


def test_scores_come_with_the_drawing_and_are_counted_for_every_view():
    outcome, usage = run(CFG(n=3))
    drawn = sum(len(candidate.tokens) for candidate in outcome.ranked)
    assert usage.sampled == drawn
    assert usage.guided == {"question": drawn, "full": drawn}
    distinct = {candidate.tokens: len(candidate.tokens) for candidate in outcome.ranked}
    assert usage.scored == {}
    assert usage.reused == 2 * sum(distinct.values())


def test_an_engine_whose_drawing_is_not_exact_scores_again():
    engine = ToyEngine(hashed_bigrams(seed=5), sampler_logprobs=False)
    outcome, usage = run(CFG(), engine)
    length = len(outcome.ranked[0].tokens)
    assert usage.scored == {"question": length, "full": length}
    assert usage.reused == 0


@pytest.mark.parametrize(
    ("search", "lam", "scored"),
    [
        (CFG(n=3), 2.0, set()),
        (LinearAlignment(n=3), 2.0, set()),
        # λ = 1 reads one view while it draws: both are scored, as one drawn and one scored would not compare.
        (CFG(n=3), 1.0, {"question", "full"}),
        (BestOfN(n=3), 2.0, {"question", "full"}),
    ],
)
def test_guided_logprobs_of_all_views_compare_even_where_scoring_rounds_otherwise(
    search: Search, lam: float, scored: set[str]
):
    exact, _ = run(search, lam=lam)
    engine = ToyEngine(hashed_bigrams(seed=5), sampler_logprobs=False, guided_logprobs=True)
    outcome, usage = run(search, engine, lam=lam)
    assert set(usage.scored) == scored
    assert (engine.counts["scored"] > 0) == bool(scored)
    assert [each.tokens for each in outcome.ranked] == [each.tokens for each in exact.ranked]


def test_several_preferences_guide_together():
    third: Tokens = (6, 6, 1, 8, 2)
    views = (View("question", QUESTION, -3.5), View("preference_1", FULL, 3.0))
    views = (*views, View("preference_2", third, 1.5))
    both: Tokens = (9, 9, 9, 9, 2)
    query = Query(prompt=both, views=views, lam=3.0, ratios=(1.0, 0.5))
    outcome, usage = run(CFG(), query=query, sampling=GREEDY)
    model, tokens = hashed_bigrams(seed=5), outcome.ranked[0].tokens
    for t, token in enumerate(tokens):
        raw = np.stack([model(p + tokens[:t]) for p in (QUESTION, FULL, third)])
        assert token == combine(raw, (-3.5, 3.0, 1.5)).argmax()
    assert set(usage.guided) == {"question", "preference_1", "preference_2"}


def test_a_mask_looks_at_the_prompt_that_answers_are_drawn_from():
    """Of several preferences that is one more view, which weighs nothing."""
    query = toy_query(3.0, prompt=(9, 9, 9, 9, 2))
    search = CFG(mask_top_p=0.5)
    outcome, usage = run(search, query=query, sampling=GREEDY)
    model, tokens = hashed_bigrams(seed=5), outcome.ranked[0].tokens
    changed = 0
    for t, token in enumerate(tokens):
        raw = np.stack([model(p + tokens[:t]) for p in (QUESTION, FULL)])
        inside = filtered(model(query.prompt + tokens[:t]), Sampling(top_p=0.5))
        guided = combine(raw, (-2, 3))
        assert token == np.where(np.isfinite(inside), guided, -np.inf).argmax()
        changed += token != guided.argmax()
    assert changed
    assert usage.guided["generation"] == usage.sampled


def test_progress_tells_of_guided_responses():
    seen: list[Progress] = []
    run(CFG(n=2), on_progress=seen.append)
    assert [progress.phase for progress in seen] == ["sampling", "scoring"]
    assert len(seen[-1].candidates) == 2


@dataclass(slots=True)
class SamplesOnly(Engine):
    """A real engine's interface without guiding: the toy engine, passed on."""

    inner: ToyEngine = field(default_factory=lambda: ToyEngine(hashed_bigrams(seed=5)))
    asked: int = 0

    @property
    def info(self) -> EngineInfo:
        return replace(sampling_alone(self.inner.info), name="plain-engine")

    async def sample(self, requests):
        self.asked += 1
        return await self.inner.sample(requests)

    async def score(self, requests):
        self.asked += 1
        return await self.inner.score(requests)

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("search", [CFG(), LinearAlignment(), Amulet(), ARGS()])
def test_an_engine_that_cannot_guide_is_refused_before_the_first_token(search):
    engine = SamplesOnly()
    with pytest.raises(BadInput, match=r"plain-engine cannot choose token by token.*best-of-n"):
        run(search, engine)
    assert engine.asked == 0


def test_such_an_engine_still_does_every_other_search():
    outcome, _ = run(BestOfN(n=2), SamplesOnly())
    assert len(outcome.ranked) == 2


async def maths(responses: Sequence[Tokens]) -> list[float | None]:
    """A reward for the token 2."""
    return [float(sum(token == 2 for token in response)) for response in responses]


async def nothing(responses: Sequence[Tokens]) -> list[float | None]:
    return [0.0] * len(responses)


def test_args_takes_the_best_of_logprob_plus_reward_over_the_shortlist():
    search = ARGS(weight=0.8, shortlist=4)
    outcome, usage = run(search, sampling=GREEDY, trajectory=maths)
    model, tokens = hashed_bigrams(seed=5), outcome.ranked[0].tokens
    for t, token in enumerate(tokens):
        raw = model(FULL + tokens[:t])
        shortlist = np.argsort(-raw)[:4]
        value = {v: raw[v] + 0.8 * (*tokens[:t], int(v)).count(2) for v in shortlist}
        assert token == max(value, key=value.__getitem__)
    assert usage.guided == {"full": len(tokens), "reward": 4 * len(tokens)}
    assert tokens.count(2) > run(Greedy())[0].ranked[0].tokens.count(2)


def test_args_without_a_reward_over_the_whole_vocabulary_is_plain_sampling():
    plain, _ = run(Sample(), sampling=Sampling(temperature=0.8))
    search = ARGS(weight=1.0, shortlist=12)
    args, _ = run(search, sampling=Sampling(temperature=0.8), trajectory=nothing)
    assert args.ranked[0].tokens == plain.ranked[0].tokens
    np.testing.assert_allclose(args.ranked[0].logprobs, plain.ranked[0].logprobs)


def test_args_with_a_shortlist_of_one_is_greedy():
    args, _ = run(ARGS(shortlist=1, weight=5.0), trajectory=maths)
    assert args.ranked[0].tokens == run(Greedy())[0].ranked[0].tokens


def test_a_token_without_a_reward_is_not_chosen():
    async def silent(responses: Sequence[Tokens]) -> list[float | None]:
        return [None if response[-1] != 4 else 0.0 for response in responses]

    outcome, _ = run(ARGS(shortlist=12), trajectory=silent, max_tokens=3)
    assert outcome.ranked[0].tokens == (4, 4, 4)


@pytest.mark.parametrize(
    ("given", "words"), [(None, "no score for any"), (float("nan"), "NaN or infinity")]
)
def test_rewards_that_cannot_be_used_are_refused(given: float | None, words: str):
    async def useless(responses: Sequence[Tokens]) -> list[float | None]:
        return [given] * len(responses)

    with pytest.raises(EngineError, match=words):
        run(ARGS(), trajectory=useless)


def test_args_without_a_reward_model_is_refused_with_the_remedy():
    with pytest.raises(BadInput, match="--reward-model SPEC"):
        run(ARGS())


class Unscored(ToyEngine):
    """The toy, as an engine that guides and does not score."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, unscored="start it otherwise")

    async def score(self, requests: Sequence[ScoreRequest]) -> list[np.ndarray]:
        raise AssertionError("nothing is scored")


def test_where_nothing_is_scored_guided_answers_bring_their_log_probs_along():
    engine = Unscored(hashed_bigrams(seed=5))
    outcome, usage = run(CFG(n=2), engine, lam=3.0)
    want, _ = run(CFG(n=2), lam=3.0)
    assert [one.tokens for one in outcome.ranked] == [one.tokens for one in want.ranked]
    assert usage.scored == {}


@pytest.mark.parametrize(("search", "lam"), [(BestOfN(n=2), 3.0), (CFG(), 1.0), (CFG(), 0.0)])
def test_where_nothing_is_scored_what_needs_it_is_refused_before_a_token(search, lam: float):
    engine = Unscored(hashed_bigrams(seed=5))
    with pytest.raises(BadInput, match=r"needs log-probs of given tokens.*start it otherwise"):
        run(search, engine, lam=lam)
