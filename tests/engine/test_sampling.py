"""Drawing: keyed streams, filters, ends of steps; against the numpy reference."""

import numpy as np
import pytest
import torch

from preftilt.engines.transformers import sampler
from preftilt.guided import filtered
from preftilt.streams import draw as numpy_draw
from preftilt.streams import log_exponentials, mix64, position_key, stream_key
from preftilt.types import Sampling, Step, Stream
from tests.engine.asking import draw, prompt, request, tokens
from tests.engine.conftest import Opened
from tests.engine.models import END_ID, VOCABULARY

pytestmark = pytest.mark.model

KEYS = [0, 1, (1 << 64) - 1, 1 << 63, *(mix64(i) for i in range(2, 40))]
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


@pytest.fixture(params=["cpu", "gpu"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw as on either device; tensors are the CPU's."""
    monkeypatch.setattr(sampler, "on_cpu", lambda device: request.param == "cpu")


ON_EITHER = pytest.mark.usefixtures("device")


def test_uniforms_equal_numpys_bit_for_bit():
    keys = torch.tensor([sampler.signed(key) for key in KEYS])
    ours = sampler.uniforms(keys, 1000).numpy()
    for row, key in zip(ours, KEYS, strict=True):
        uniform = -np.expm1(-np.exp(log_exponentials(key, 1000)))
        np.testing.assert_allclose(row, uniform, rtol=1e-12)
        exact = [
            ((mix64((key + 0x9E3779B97F4A7C15 * v) % 2**64) >> 11) + 0.5) * 2.0**-53
            for v in (1, 2, 1000)
        ]
        assert [row[0], row[1], row[999]] == exact


def test_log_exponentials_equal_numpys():
    keys = torch.tensor([sampler.signed(key) for key in KEYS])
    ours = sampler.log_exponentials(keys, 500).numpy()
    np.testing.assert_allclose(
        ours, [log_exponentials(key, 500) for key in KEYS], rtol=1e-13, atol=1e-13
    )


@ON_EITHER
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_filters_equal_the_reference(settings: Sampling):
    logits = torch.log_softmax(
        3 * torch.randn(7, 300, generator=torch.Generator().manual_seed(1)), 1
    )
    ours = torch.log_softmax(sampler.filtered(logits, settings).double(), 1).numpy()
    for row, one in zip(ours, logits.double().numpy(), strict=True):
        wanted = filtered(one, settings)
        wanted -= np.logaddexp.reduce(wanted)
        assert np.array_equal(np.isfinite(row), np.isfinite(wanted))
        np.testing.assert_allclose(row, wanted, rtol=0, atol=1e-5)


@ON_EITHER
def test_the_nucleus_of_a_flat_distribution_needs_the_whole_vocabulary():
    logits = torch.zeros(2, 5000)
    kept = torch.isfinite(sampler.filtered(logits, Sampling(top_p=0.9))).sum(dim=1)
    assert kept.tolist() == [4500, 4500]


@ON_EITHER
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0, 9.0])
def test_the_nucleus_is_found_however_much_of_the_vocabulary_is_rare(spread: float):
    """Looking at likely tokens first must leave out none that belongs to it."""
    scores = spread * torch.randn(3, 4000, generator=torch.Generator().manual_seed(6))
    for top_p in (0.3, 0.9, 0.999):
        kept, order = sampler.nucleus(scores, top_p)
        for row, values, likely in zip(scores.double().numpy(), kept, order, strict=True):
            wanted = np.flatnonzero(np.isfinite(filtered(row, Sampling(top_p=top_p))))
            nucleus = likely[torch.isfinite(values)].tolist()
            assert sorted(nucleus) == wanted.tolist()
            assert np.array_equal(row[nucleus], np.sort(row[wanted])[::-1])


@ON_EITHER
@pytest.mark.parametrize("finalists", [1, 16])
def test_a_race_is_won_by_the_token_that_wins_numpys(
    finalists: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one finalist the bounds never decide, and all tokens are computed in full."""
    monkeypatch.setattr(sampler, "FINALISTS", finalists)
    logits = 4 * torch.randn(len(KEYS), 5000, generator=torch.Generator().manual_seed(5))
    logits[0] = 0.0
    logits[1, 7:] = -torch.inf
    keys = torch.tensor([sampler.signed(key) for key in KEYS])
    winners = [numpy_draw(row, key) for row, key in zip(logits.double().numpy(), KEYS, strict=True)]
    assert sampler.gumbel_argmax(logits, keys).tolist() == winners


@ON_EITHER
def test_draws_equal_numpys_with_mixed_settings_in_one_batch():
    logits = torch.log_softmax(
        2 * torch.randn(16, 400, generator=torch.Generator().manual_seed(2)), 1
    )
    settings = [SETTINGS[i % len(SETTINGS)] for i in range(16)]
    tickets = [sampler.RowSampling(sampling, KEYS[i], (i,)) for i, sampling in enumerate(settings)]
    drawn, logprobs = sampler.draw(logits, tickets)
    rows = logits.double().numpy()
    expected = [
        numpy_draw(filtered(row, one), key)
        for row, one, key in zip(rows, settings, KEYS, strict=False)
    ]
    assert drawn == expected
    np.testing.assert_allclose(
        np.array(logprobs)[:, 0], rows[np.arange(16), drawn], rtol=0, atol=1e-5
    )


def test_frequencies_follow_the_distribution():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    keys = [position_key(stream_key(Stream(5), slot), 0) for slot in range(4000)]
    drawn, _ = sampler.draw(
        logits.expand(4000, 4),
        [sampler.RowSampling(Sampling(), key, (i,)) for i, key in enumerate(keys)],
    )
    np.testing.assert_allclose(np.bincount(drawn) / 4000, [0.5, 0.3, 0.15, 0.05], atol=0.025)


async def test_best_of_8_is_the_beginning_of_best_of_16(opened: Opened):
    engine, question = opened(), prompt(30)
    assert tokens(await draw(engine, question, 8)) == tokens(await draw(engine, question, 16))[:8]


async def test_slots_are_named_not_numbered_by_place(opened: Opened):
    engine, question = opened(), prompt(30)
    all_slots = tokens(await draw(engine, question, 6))
    assert tokens(await draw(engine, question, (5, 2))) == [all_slots[5], all_slots[2]]


async def test_seeds_and_items_make_different_streams(opened: Opened):
    engine, question = opened(), prompt(30)
    [[a], [b]] = await engine.sample([request(question, item="a"), request(question, item="b")])
    assert a.tokens != b.tokens


async def test_temperature_0_takes_the_likeliest_token(opened: Opened):
    engine, question = opened(), prompt(30)
    greedy = Sampling(temperature=0.0)
    one, two = await draw(engine, question, 2, 10, sampling=greedy)
    assert one.tokens == two.tokens
    [top_1] = await draw(engine, question, 1, 10, sampling=Sampling(top_k=1))
    assert top_1.tokens == one.tokens


async def test_a_response_ends_with_the_end_token_and_keeps_it(opened: Opened):
    engine = opened()
    drawn = await draw(engine, prompt(30), 64, 100)
    ended = [one for one in drawn if one.finish == "eos"]
    assert ended
    assert all(one.tokens[-1] == END_ID and END_ID not in one.tokens[:-1] for one in ended)


async def test_steps_end_at_the_delimiter_and_keep_it(opened: Opened):
    """Steps, one after another, are the whole response: the delimiter may be a part of a token or span two."""
    engine, question = opened(), prompt(30)
    for delimiter in ("\n", "\n\n", "an", "é"):
        for one in await draw(engine, question, 16, 60, step=Step(delimiter)):
            text = "".join(engine.tokenizer.pieces(one.tokens))
            before = "".join(engine.tokenizer.pieces(one.tokens[:-1]))
            assert (one.finish == "step") == (delimiter in text.lstrip() and one.finish != "eos")
            assert delimiter not in before.lstrip()


async def test_stepwise_drawing_is_drawing(opened: Opened):
    engine, question = opened(), prompt(30)
    [whole] = await draw(engine, question, 1, 60)
    pieces, finish = (), "step"
    while finish == "step":
        [one] = await draw(
            engine, question, 1, 60 - len(pieces), prefix=pieces, step=Step("an"), keep=True
        )
        pieces, finish = pieces + one.tokens, one.finish
    assert pieces == whole.tokens


async def test_ids_beyond_the_tokenizer_are_never_drawn(opened: Opened, tmp_path):
    """Padding rows of the output embedding take no probability: scores are normalised over real ids."""
    from preftilt.engines.base import ScoreRequest
    from preftilt.engines.transformers import open_transformers
    from tests.engine.models import save

    engine = open_transformers(save(tmp_path, "llama", vocab_size=VOCABULARY + 500))
    try:
        question = prompt(10)
        drawn = await draw(engine, question, 64, 5)
        assert max(token for one in drawn for token in one.tokens) < VOCABULARY
        requests = [
            ScoreRequest(prompt=question, completion=(token,)) for token in range(VOCABULARY)
        ]
        total = np.exp(np.concatenate(await engine.score(requests))).sum()
        assert total == pytest.approx(1, abs=1e-5)
    finally:
        engine.close()
