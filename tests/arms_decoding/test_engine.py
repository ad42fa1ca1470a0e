"""The engine's rows with reward models: against plain forwards with the adapter attached, and counted."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from preftilt.api import Realigner, Settings
from preftilt.engines.base import Mixture, NormaliseRequest, ScoreRequest
from preftilt.errors import BadInput
from preftilt.guided import combine, filtered
from preftilt.messages import Message
from preftilt.search import DVTS, BestOfN
from preftilt.settings import ArmSettings
from preftilt.types import Preference, Reader, Sampling, Stream, Tokens
from tests.arms_decoding.asking import ANSWER, FIRST, SECOND, ask, by_hand, guide
from tests.arms_decoding.conftest import Opened, Oracles
from tests.arms_decoding.made import HELPFUL, PARM, READERS, SAFER, UNIARM
from tests.engine.asking import draw, prompt
from tests.engine.models import END_ID

pytestmark = pytest.mark.model


@pytest.mark.parametrize("attention", ["auto", "expanded"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "gemma2", "gpt2", "bloom"])
async def test_scores_of_every_reader_are_those_of_plain_forwards(
    name: str, attention: str, opened: Opened, oracles: Oracles
):
    engine = opened(name, attention=attention)
    asked = [(of, reader) for of in (FIRST, SECOND) for reader in READERS]
    found = await engine.score(
        [ScoreRequest(prompt=of, completion=ANSWER, reader=reader) for of, reader in asked]
    )
    for (of, reader), logprobs in zip(asked, found, strict=True):
        expected = oracles(name).score(of, ANSWER, reader)
        np.testing.assert_allclose(logprobs, expected, atol=1e-4)


def test_the_readers_of_the_tests_disagree(oracles: Oracles):
    rows = [oracles("llama").score(FIRST, ANSWER, reader) for reader in READERS]
    for i, one in enumerate(rows):
        for other in rows[i + 1 :]:
            assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("attention", ["auto", "expanded"])
async def test_readers_of_one_prompt_never_share_a_cache(
    attention: str, opened: Opened, oracles: Oracles
):
    engine = opened(attention=attention)
    more = (*FIRST, *prompt(6, 8))
    for of, prefix in ((FIRST, ()), (FIRST, ANSWER[:4]), (more, ()), (FIRST, ())):
        for reader in READERS:
            request = ScoreRequest(
                prompt=of, prefix=prefix, completion=ANSWER[4:], keep=True, reader=reader
            )
            [found] = await engine.score([request])
            whole = prefix + ANSWER[4:]
            expected = oracles("llama").score(of, whole, reader)[len(prefix) :]
            np.testing.assert_allclose(found, expected, atol=1e-4)


async def test_a_prompt_that_one_reader_knows_is_no_hit_of_another(opened: Opened):
    engine = opened()
    for reader in READERS:
        await engine.score([ScoreRequest(prompt=FIRST, completion=ANSWER, reader=reader)])
    assert engine.stats.prompt_hits == 0
    assert engine.stats.shared_tokens == 0
    assert engine.stats.prompt_tokens == len(READERS) * len(FIRST)
    await engine.score([ScoreRequest(prompt=FIRST, completion=ANSWER, reader=PARM)])
    assert engine.stats.prompt_hits == 1
    assert engine.stats.prompt_tokens == len(READERS) * len(FIRST)


CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"sampling": Sampling()},
    "filtered": {"sampling": Sampling(temperature=0.7, top_p=0.9, top_k=20)},
    "continued": {"prefix": prompt(5, 9)},
    "weighted": {"weights": (1.0, 2.5)},
    "turned away": {"weights": (1.0, -0.7)},
    "two kinds": {"readers": (None, UNIARM, HELPFUL), "weights": (1.0, 0.6, 0.4)},
    "one arm twice": {"readers": (PARM, Reader("parm", (0.0, 1.0))), "weights": (1.0, 0.5)},
}


@pytest.mark.parametrize("attention", ["auto", "expanded"])
@pytest.mark.parametrize("case", CASES)
async def test_guided_tokens_are_those_of_base_and_arms_by_plain_forwards(
    case: str, attention: str, opened: Opened, oracles: Oracles
):
    request = ask(**CASES[case])
    [drawn] = await guide(opened(attention=attention), request)
    assert drawn.tokens == by_hand(oracles("llama"), request)
    for row, view in zip(drawn.logprobs, request.views, strict=True):
        whole = request.prefix + drawn.tokens
        expected = oracles("llama").score(view.prompt, whole, view.reader)
        np.testing.assert_allclose(row, expected[len(request.prefix) :], atol=1e-4)


async def test_the_next_tokens_distribution_is_the_softmax_of_base_and_weighted_arm(
    opened: Opened, oracles: Oracles
):
    raw = [oracles("llama").after(FIRST, reader) for reader in (None, PARM)]
    expected = combine(np.stack(raw), (1.0, 1.5))
    reads = [
        ScoreRequest(prompt=FIRST, completion=(token,), reader=reader)
        for token in range(0, END_ID, 16)
        for reader in (None, PARM)
    ]
    requests = [
        NormaliseRequest(reads=tuple(reads[i : i + 2]), mixtures=(Mixture((1.0, 1.5)),))
        for i in range(0, len(reads), 2)
    ]
    found = await opened().normalise(requests)
    np.testing.assert_allclose(np.array(found)[:, 0, 0], expected[0:END_ID:16], atol=1e-4)


@pytest.mark.parametrize("search", [BestOfN(n=5), DVTS(subtrees=2, width=2, delimiter="a")])
async def test_searches_score_by_plain_forwards_of_base_and_arms(
    search: Any, opened: Opened, oracles: Oracles
):
    arms = ArmSettings(names=("uniarm", "safer"), alpha="help=0.2,safe=0.8", weight=0.5)
    settings = Settings(lam=3.0, search=search, arms=arms, max_tokens=14)
    realigner = Realigner(opened(), settings)
    result = await realigner.realign([Message("user", "Q?")], [Preference("No games.")])
    question, full = result.prompts["question"], result.prompts["full"]
    readers = ((question, None, -2.0), (full, None, 3.0), (full, UNIARM, 0.5), (full, SAFER, 0.5))
    for one in result.candidates:
        parts = [w * oracles("llama").score(of, one.tokens, by).sum() for of, by, w in readers]
        assert one.score == pytest.approx(sum(parts), abs=1e-3)


async def test_rows_of_all_kinds_share_their_forwards_and_draw_as_if_alone(opened: Opened):
    together, alone = opened(), opened()
    asked = [
        ask(slots=3, sampling=Sampling()),
        ask((None, HELPFUL, SAFER), (1.0, 0.5, 0.5), sampling=Sampling(), stream=Stream(5)),
        ask((UNIARM,), (1.0,), sampling=Sampling()),
    ]
    both = await asyncio.gather(together.guide(asked), draw(together, SECOND, 4))
    singly = [(await alone.guide([one]))[0] for one in asked]
    assert [[one.tokens for one in drawn] for drawn in both[0]] == [
        [one.tokens for one in drawn] for drawn in singly
    ]
    plain = await draw(alone, SECOND, 4)
    assert [one.tokens for one in both[1]] == [one.tokens for one in plain]
    assert together.stats.forwards < alone.stats.forwards / 2


async def test_chunked_drawing_is_one_shot_drawing(opened: Opened):
    engine = opened()
    [whole] = await guide(engine, ask(sampling=Sampling(), max_tokens=8))
    tokens: Tokens = ()
    while len(tokens) < len(whole.tokens):
        [piece] = await guide(
            engine, ask(sampling=Sampling(), prefix=tokens, max_tokens=3, keep=True)
        )
        tokens += piece.tokens
    assert tokens[: len(whole.tokens)] == whole.tokens


async def test_weights_divided_by_their_sum_need_the_temperature_of_its_inverse(opened: Opened):
    engine = opened()
    weights = (1.0, 0.6, 0.4)
    readers = (None, HELPFUL, SAFER)
    total = sum(weights)
    plain = ask(readers, weights, slots=4, sampling=Sampling())
    divided = ask(
        readers,
        tuple(one / total for one in weights),
        slots=4,
        sampling=Sampling(temperature=1 / total),
    )
    both = [[one.tokens for one in await guide(engine, request)] for request in (plain, divided)]
    assert both[0] == both[1]
    logprobs = np.log(np.random.default_rng(2).dirichlet(np.ones(30), size=3))
    exact = combine(logprobs, weights)
    mean = combine(logprobs, [one / total for one in weights])
    np.testing.assert_allclose(filtered(mean, Sampling(temperature=1 / total)), exact, atol=1e-12)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (Reader("nobody", (1.0,)), "no reward model 'nobody' open .it has parm"),
        (Reader("parm", (1.0,)), "alpha has 1 numbers; the objectives are help, safe"),
        (Reader("parm", (0.7, 0.4)), "alpha sums to 1.1; its numbers must sum to 1"),
        (Reader("uniarm", (float("nan"), 1.0)), "alpha of help is nan"),
    ],
)
async def test_readers_that_are_not_there_are_refused(reader: Reader, message: str, opened: Opened):
    engine = opened()
    with pytest.raises(BadInput, match=message):
        await engine.score([ScoreRequest(prompt=FIRST, completion=ANSWER, reader=reader)])
    with pytest.raises(BadInput, match=message):
        await engine.guide([ask((None, reader))])
