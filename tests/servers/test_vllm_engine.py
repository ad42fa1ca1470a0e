"""vLLM in this process: the laws, the cache that scoring shares, and every way a sequence can end.

vLLM is imported inside the tests, since these files are collected where it is not installed too.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput, EngineError, UnknownModel
from preftilt.testing.contract import EngineLaws
from preftilt.types import Completion, Sampling, Step, Stream, Tokens

if TYPE_CHECKING:
    from preftilt.engines.vllm import VllmEngine
    from preftilt.engines.vllm.sequences import ScoreSequence


class TestInProcess(EngineLaws):
    @pytest.fixture
    def engine(self, vllm_engine: Engine) -> Engine:
        return vllm_engine


def test_it_says_what_it_is_and_measures_what_it_can(vllm_engine: Engine):
    assert vllm_engine.name == "vllm:demo"
    assert vllm_engine.versions["dtype"] == "float32"
    assert vllm_engine.versions["scoring"] == "shared prefix"
    assert vllm_engine.capabilities.sampler_logprobs
    assert not vllm_engine.capabilities.keyed_streams
    assert vllm_engine.capabilities.max_context == 2559


async def test_scoring_reads_the_prompt_from_the_cache_and_only_there(vllm_engine: VllmEngine):
    """A candidate that is itself in the cache has no log-probs there: they are computed again."""
    prompt = _ids(100, 3)
    [first] = await _read(vllm_engine, prompt, _ids(8, 5))
    [second] = await _read(vllm_engine, prompt, _ids(8, 7))
    assert first.cached < 96
    assert second.cached == 96
    assert isinstance(second.future.result(), np.ndarray)

    long = _ids(64, 11)
    await _read(vllm_engine, prompt, long)
    [again] = await _read(vllm_engine, prompt, long)
    assert again.cached > 100
    assert not isinstance(again.future.result(), np.ndarray)
    requests = [ScoreRequest(prompt=prompt, completion=long)]
    [scored] = await vllm_engine.score(requests)
    np.testing.assert_allclose(scored, await _plain(vllm_engine, prompt, long), atol=1e-4)


async def test_candidates_that_arrive_together_share_one_reading_of_their_prompt(
    vllm_engine: VllmEngine,
):
    prompt = _ids(130, 13)
    readings = await _read(vllm_engine, prompt, *(_ids(8, step) for step in range(17, 25)))
    assert sorted(one.cached for one in readings) == [0] + [128] * 7


async def test_a_prompt_that_fills_its_last_block_is_shared_too(vllm_engine: VllmEngine):
    """The first token's log-prob then comes from the cached part, and is had in another way."""
    prompt, completions = _ids(128, 13), [_ids(9, step) for step in (3, 5, 7)]
    requests = [ScoreRequest(prompt=prompt, completion=one) for one in completions]
    await vllm_engine.score(requests[:1])
    scored = await vllm_engine.score(requests[1:])
    for one, got in zip(completions[1:], scored, strict=True):
        np.testing.assert_allclose(got, await _plain(vllm_engine, prompt, one), atol=1e-4)


async def test_more_prompts_than_a_step_takes_are_drawn_from_with_seeds(vllm_engine: Engine):
    """vLLM 0.32 on a CPU ends at a seed whose prompt it divides: here no prompt is divided."""
    requests = [_request(_ids(300, step), slots=1) for step in range(3, 33)]
    drawn, again = [await vllm_engine.sample(requests) for _ in range(2)]
    assert [[completion.tokens for completion in row] for row in drawn] == [
        [completion.tokens for completion in row] for row in again
    ]


async def test_the_same_request_draws_the_same_tokens(vllm_engine: Engine, prompts):
    first, again = [await _draw(vllm_engine, prompts[0], slots=6) for _ in range(2)]
    assert [one.tokens for one in first] == [one.tokens for one in again]
    assert len({one.tokens for one in first}) > 1
    other = await _draw(vllm_engine, prompts[0], slots=6, seed=8)
    assert [one.tokens for one in other] != [one.tokens for one in first]


async def test_a_slot_draws_the_same_whatever_its_neighbours_are(vllm_engine: Engine, prompts):
    """Not promised (sums round otherwise in another batch), but each slot has its own seed."""
    few, many = [await _draw(vllm_engine, prompts[0], slots=n) for n in (2, 6)]
    assert [one.tokens for one in few] == [one.tokens for one in many][:2]


async def test_steps_end_at_the_delimiter_and_go_on_from_there(vllm_engine: Engine, prompts):
    for delimiter in (". ", ".", "e"):
        step = Step(delimiter)
        for one in await _draw(vllm_engine, prompts[0], slots=8, max_tokens=40, step=step):
            text = "".join(vllm_engine.tokenizer.pieces(one.tokens))
            before = "".join(vllm_engine.tokenizer.pieces(one.tokens[:-1]))
            assert (one.finish == "step") == (delimiter in text.lstrip() and one.finish != "eos")
            assert delimiter not in before.lstrip()
            assert len(one.logprobs) == len(one.tokens)


def test_every_slot_and_every_piece_of_a_response_has_its_own_seed(vllm_engine: VllmEngine):
    """Were the seed the slot's alone, every step of a search would begin with the same random numbers."""
    from preftilt.engines.vllm.sequences import SampleSequence

    whole = _request((3, 4), slots=2)
    later = _request((3, 4), slots=2, prefix=(5, 6))
    drawings = [
        SampleSequence(request, slot, vllm_engine._vocabulary)
        for request in (whole, later)
        for slot in (0, 1)
    ]
    seeds = [one.params.seed for one in drawings]
    assert len({*seeds}) == 4
    assert seeds == [one.params.seed for one in drawings]


async def test_a_cancelled_call_leaves_nothing_running(vllm_engine: VllmEngine, prompts):
    from preftilt.engines.vllm.worker import VllmWorker

    task = asyncio.ensure_future(_draw(vllm_engine, prompts[0], slots=8, max_tokens=1000))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await _draw(vllm_engine, prompts[0], slots=1, max_tokens=1)
    assert isinstance(vllm_engine._worker, VllmWorker)
    assert vllm_engine._worker._running == {}


@pytest.mark.parametrize("temperature", [0.001, 2.5])
async def test_temperatures_that_vllm_cannot_draw_at_are_refused(
    temperature: float, vllm_engine: Engine, prompts
):
    with pytest.raises(BadInput, match=rf"temperature is {temperature}.*from 0\.01 to 2\.0"):
        await _draw(vllm_engine, prompts[0], slots=1, sampling=Sampling(temperature=temperature))


async def test_what_vllm_refuses_fails_the_call_and_no_other(vllm_engine: VllmEngine):
    from preftilt.engines.vllm.sequences import ScoreSequence

    bad = ScoreSequence((10**9,), (1,), shared=False)
    good = ScoreSequence((3, 4, 5), (6, 7), shared=False)
    vllm_engine._worker.submit([bad, good])
    with pytest.raises(EngineError, match="vLLM refused"):
        await asyncio.wrap_future(bad.future)
    assert isinstance(await asyncio.wrap_future(good.future), np.ndarray)


def test_options_it_cannot_honour_are_refused():
    with pytest.raises(BadInput, match=r"--device.*vllm"):
        open_engine("vllm:demo", EngineOptions(device="cuda:1"))


def test_an_adapter_is_refused_with_what_to_do_instead(tmp_path: Path):
    with pytest.raises(BadInput, match=r"merge .* into the model.*or leave out vllm:"):
        open_engine("vllm:demo", EngineOptions(adapter=str(tmp_path)))


async def test_progress_can_be_watched_and_changes_nothing(vllm_engine: VllmEngine, prompts):
    asked = _request(prompts[0], slots=4, max_tokens=64)
    seen: list[int] = []
    drawing = asyncio.ensure_future(vllm_engine.sample([asked]))
    while not drawing.done():
        await asyncio.sleep(0.002)
        seen.append(vllm_engine.progress(asked))
    [drawn] = drawing.result()
    total = sum(len(one.tokens) for one in drawn)
    assert vllm_engine.progress(asked) == 0
    assert any(0 < one < total for one in seen)
    rising = [one for one in seen if one]
    assert rising == sorted(rising)
    again = await _draw(vllm_engine, prompts[0], slots=4, max_tokens=64)
    assert [one.tokens for one in again] == [one.tokens for one in drawn]


def test_a_model_that_is_not_there_is_unknown(tmp_path: Path):
    with pytest.raises(UnknownModel, match="neither a local folder"):
        open_engine(f"vllm:{tmp_path}")


def _ids(length: int, step: int) -> Tokens:
    return tuple((step * i + 7 * step) % 2000 + 8 for i in range(length))


async def _read(
    engine: VllmEngine, before: Tokens, *completions: Tokens, shared: bool = True
) -> list[ScoreSequence]:
    from preftilt.engines.vllm.sequences import ScoreSequence

    readings = [ScoreSequence(before, completion, shared) for completion in completions]
    engine._worker.submit(readings)
    await asyncio.gather(*(asyncio.wrap_future(one.future) for one in readings))
    return readings


async def _plain(engine: VllmEngine, before: Tokens, completion: Tokens) -> np.ndarray:
    """Log-probs without any use of the cache."""
    [reading] = await _read(engine, before, completion, shared=False)
    row = reading.future.result()
    assert isinstance(row, np.ndarray)
    return row


def _request(
    prompt: Tokens,
    *,
    slots: int,
    max_tokens: int = 16,
    sampling: Sampling | None = None,
    step: Step | None = None,
    prefix: Tokens = (),
    seed: int = 3,
) -> SampleRequest:
    return SampleRequest(
        prompt=prompt,
        prefix=prefix,
        slots=tuple(range(slots)),
        stream=Stream(seed),
        sampling=sampling or Sampling(),
        max_tokens=max_tokens,
        step=step,
    )


async def _draw(engine: Engine, prompt: Tokens, **asked: Any) -> list[Completion]:
    [drawn] = await engine.sample([_request(prompt, **asked)])
    return drawn
