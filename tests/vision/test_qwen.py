"""Positions in three dimensions (M-RoPE): what the engine's paths give is what the model's own plain forward gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftilt.api import Realigner
from preftilt.engines.base import Engine, SampleRequest, ScoreRequest
from preftilt.engines.transformers import (
    TransformersEngine,
    image_embedding,
)
from preftilt.engines.vocabulary import FIRST_IMAGE_TOKEN
from preftilt.errors import BadInput, EngineError
from preftilt.messages import Message, load_image
from preftilt.search import CFG, DVTS, BestOfN
from preftilt.settings import Settings
from preftilt.testing.contract import EngineLaws
from preftilt.types import Preference, Sampling, Stream, Tokens
from tests.engine.asking import draw, score
from tests.vision.conftest import Opened, opening
from tests.vision.qwen import FAMILY, QwenOracle, grid, qwen_picture, save_qwen

pytestmark = pytest.mark.model

PATHS = ("auto", "expanded")

Shown = Callable[..., list[Message]]


@pytest.fixture(scope="session", params=FAMILY)
def qwen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model of the family."""
    return save_qwen(tmp_path_factory.mktemp("models") / request.param, request.param)


@pytest.fixture(scope="session")
def alone(qwen: str) -> QwenOracle:
    """The model by itself."""
    return QwenOracle(qwen)


@pytest.fixture
def opens(qwen: str) -> Iterator[Opened]:
    """Opens an engine on the model, with any options; closes it when the test is over."""
    with opening(qwen) as opens:
        yield opens


@pytest.fixture
def show(tmp_path: Path) -> Shown:
    """A conversation about the pictures of these seeds, which stand before the question."""

    def conversation(*seeds: int, text: str = "What is it?", system: str | None = None):
        images = tuple(load_image(qwen_picture(tmp_path, seed)) for seed in seeds)
        first = [] if system is None else [Message("system", system)]
        return [*first, Message("user", text, images)]

    return conversation


def equal(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", PATHS)
@pytest.mark.parametrize("seeds", [(1,), (2, 1), (3, 3), ()], ids=str)
async def test_scores_and_sampled_logprobs_equal_plain_forwards(
    attention: str, seeds: tuple[int, ...], opens: Opened, show: Shown, alone: QwenOracle
):
    engine, asked = opens(attention=attention), show(*seeds, system="Be brief.")
    assert engine.path == ("shared prefix" if attention == "auto" else "expanded")
    prompt = engine.tokenizer.render(asked)
    assert sum(one >= FIRST_IMAGE_TOKEN for one in prompt) == sum(
        np.prod(grid(seed)) for seed in seeds
    )
    drawn = {one.tokens: one for one in await draw(engine, prompt, 4, 12)}
    responses = alone.readable(drawn)
    for one, scored in zip(responses, await score(engine, prompt, *responses), strict=True):
        expected = alone(asked, one)
        equal(scored, expected)
        equal(drawn[one].logprobs, expected)


class TestPicturesInThePrompt(EngineLaws):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, qwen: str) -> Iterator[Engine]:
        with opening(qwen) as opens:
            yield opens()

    @pytest.fixture
    def prompts(self, engine: Engine, show: Shown) -> list[Tokens]:
        render = engine.tokenizer.render
        return [render(show(1)), render(show(2, 3, text="And?"))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prefill_tokens": 7, "score_tokens": 5},
        {"cache_bytes": 10_000},
        {"max_rows": 2},
        {"attention": "expanded"},
    ],
    ids=str,
)
async def test_one_response_after_prompts_of_all_lengths_at_once(
    options: dict[str, Any], opens: Opened, show: Shown, alone: QwenOracle
):
    """Every sequence of a batch has a shift of its own: pictures take fewer positions than tokens."""
    engine = opens(**options)
    asked = [show(1), show(2), show(1, 2), show(1, text="Why so?"), show(), show(3, system="Hm.")]
    prompts = [engine.tokenizer.render(one) for one in asked]
    response, *_ = alone.readable(one.tokens for one in await draw(engine, prompts[0], 4, 6))
    for found in (
        await engine.score([ScoreRequest(prompt=one, completion=response) for one in prompts]),
        await asyncio.gather(*(_only(engine, one, response) for one in prompts)),
    ):
        for one, scored in zip(asked, found, strict=True):
            equal(scored, alone(one, response))
    requests = [
        SampleRequest(prompt=one, slots=(0, 1), stream=Stream(5), sampling=Sampling(), max_tokens=7)
        for one in prompts
    ]
    for messages, answers in zip(asked, await engine.sample(requests), strict=True):
        drawn = {one.tokens: one for one in answers}
        for one in alone.readable(drawn):
            equal(drawn[one].logprobs, alone(messages, one))


async def _only(engine: TransformersEngine, prompt: Tokens, completion: Tokens) -> np.ndarray:
    [found] = await score(engine, prompt, completion)
    return found


@pytest.mark.parametrize("attention", PATHS)
async def test_responses_in_pieces_equal_plain_forwards(
    attention: str, opens: Opened, show: Shown, alone: QwenOracle
):
    """A piece goes on after a stored tail, or after a prefix that nothing is stored of, where its prompt left off."""
    asked = show(3, 1)
    engine = opens(attention=attention)
    prompt = engine.tokenizer.render(asked)
    whole = [one.tokens for one in await draw(engine, prompt, 8, 12)]
    slot = whole.index(alone.readable(one for one in whole if len(one) > 6)[0])
    expected = alone(asked, whole[slot])
    for at in (1, 5):
        head, rest = whole[slot][:at], whole[slot][at:]
        [drawn] = await draw(engine, prompt, [slot], 12 - at, prefix=head)
        assert drawn.tokens == rest
        equal(drawn.logprobs, expected[at:])
        for keep in (True, False):
            [scored] = await score(engine, prompt, rest, prefix=head, keep=keep)
            equal(scored, expected[at:])
    fresh = opens(attention=attention)
    [scored] = await score(fresh, fresh.tokenizer.render(asked), rest, prefix=head)
    equal(scored, expected[at:])


async def test_prompts_that_begin_alike_share_what_they_have_in_common(
    opens: Opened, show: Shown, alone: QwenOracle
):
    engine = opens()
    for asked in (show(1, text="What do you see there?"), show(1, text="What do you see here?")):
        [scored] = await score(engine, engine.tokenizer.render(asked), (1, 2, 3))
        equal(scored, alone(asked, (1, 2, 3)))
    assert engine.stats.shared_tokens >= np.prod(grid(1))


@pytest.mark.parametrize(
    "search",
    [BestOfN(n=3), DVTS(subtrees=2, width=2, delimiter="a"), CFG()],
    ids=lambda search: search.name,
)
async def test_both_views_see_the_picture(search, opens: Opened, show: Shown, alone: QwenOracle):
    """A preference makes the prompt longer, so that the picture stands elsewhere in the two views."""
    settings = Settings(lam=3.0, max_tokens=8, search=search)
    result = await Realigner(opens(), settings).realign(show(2), [Preference("No cats.")])
    found = {one.tokens: one for one in result.candidates}
    for tokens in alone.readable(found):
        question = alone(show(2), tokens).sum()
        full = alone(show(2, system="No cats."), tokens).sum()
        assert found[tokens].question_logprob == pytest.approx(question, abs=1e-3)
        assert found[tokens].preference_gain == pytest.approx(full - question, abs=1e-3)


async def test_a_text_after_a_picture_is_read_as_if_there_had_been_none(
    opens: Opened, show: Shown, alone: QwenOracle
):
    """The model remembers the shift of what it was shown last; the engine must not go by it."""
    for attention in PATHS:
        engine = opens(attention=attention)
        for asked in (show(2), show(text="Hm?"), show(1)):
            [scored] = await score(engine, engine.tokenizer.render(asked), (5, 6, 7))
            equal(scored, alone(asked, (5, 6, 7)))


async def test_without_its_positions_the_model_refuses_pictures_and_reads_text(
    opens: Opened, show: Shown, alone: QwenOracle, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(image_embedding.ImageEmbedder, "shifts", lambda self, tokens: None)
    engine = opens()
    with pytest.raises(BadInput, match="places images in a way that preftilt does not follow"):
        engine.tokenizer.render(show(1))
    [scored] = await score(engine, engine.tokenizer.render(show()), (1, 2))
    equal(scored, alone(show(), (1, 2)))


@pytest.mark.parametrize("attention", PATHS)
async def test_a_picture_that_is_no_longer_held_fails_its_own_request_alone(
    attention: str, opens: Opened, show: Shown
):
    engine = opens(attention=attention)
    tokenizer: Any = engine.tokenizer
    tokenizer.embedder.capacity = 1
    gone, held = tokenizer.render(show(1)), tokenizer.render(show(2))
    first, second = await asyncio.gather(
        _only(engine, gone, (1, 2)), _only(engine, held, (1, 2)), return_exceptions=True
    )
    assert isinstance(first, EngineError)
    assert "no longer held" in str(first)
    assert isinstance(second, np.ndarray)
