"""Images on the embedded engine: the laws with a picture in the prompt, and plain forwards as the oracle."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest

from preftilt.api import Realigner
from preftilt.engines.base import Engine, ScoreRequest
from preftilt.engines.transformers import image_embedding, image_prompts, open_transformers
from preftilt.engines.transformers.image_prompts import ImageTokenizer
from preftilt.engines.vocabulary import FIRST_IMAGE_TOKEN
from preftilt.errors import BadInput, EngineError
from preftilt.messages import Message
from preftilt.prompt import PromptSettings, build_query
from preftilt.search import CFG, DVTS, BestOfN
from preftilt.settings import Settings
from preftilt.testing.contract import EngineLaws
from preftilt.types import Preference, Tokens
from tests.engine.asking import draw, score
from tests.engine.models import TEMPLATE as TEXT_TEMPLATE
from tests.vision.conftest import Ask, Opened, Oracle, plain_forward
from tests.vision.models import IMAGE, IMAGE_TOKENS, save_idefics3, save_llava

pytestmark = pytest.mark.model

PATHS = ("auto", "expanded")


def of_images(prompt: Tokens) -> list[int]:
    return [token for token in prompt if token >= FIRST_IMAGE_TOKEN]


class TestImagesInThePrompt(EngineLaws):
    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, opened_for_class: Opened) -> Engine:
        engine = opened_for_class()
        assert engine.path == "shared prefix"
        return engine

    @pytest.fixture
    def prompts(self, engine: Engine, ask: Ask) -> list[Tokens]:
        render = engine.tokenizer.render
        return [render(ask(1)), render(ask(2, 3, text="And?"))]


@pytest.mark.parametrize("attention", PATHS)
@pytest.mark.parametrize("seeds", [(1,), (2, 1), ()])
async def test_scores_and_sampled_logprobs_equal_plain_forwards(
    attention: str, seeds: tuple[int, ...], opened: Opened, ask: Ask, oracle: Oracle
):
    engine, asked = opened(attention=attention), ask(*seeds, system="Be brief.")
    prompt = engine.tokenizer.render(asked)
    assert len(of_images(prompt)) == IMAGE_TOKENS * len(seeds)
    drawn = await draw(engine, prompt, 4, 12)
    scores = await score(engine, prompt, *(one.tokens for one in drawn))
    for one, scored in zip(drawn, scores, strict=True):
        expected = oracle(asked, one.tokens)
        np.testing.assert_allclose(scored, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(one.logprobs, expected, rtol=0, atol=1e-4)


async def test_a_picture_cut_into_tiles_is_seen_whole(tmp_path: Path, ask: Ask):
    folder = save_idefics3(tmp_path / "idefics3")
    engine, oracle = open_transformers(folder), plain_forward(folder)
    try:
        for asked in (ask(1), ask(2, 1, system="Be brief."), ask()):
            prompt = engine.tokenizer.render(asked)
            drawn = await draw(engine, prompt, 3, 8)
            for one in drawn:
                [scored] = await score(engine, prompt, one.tokens)
                expected = oracle(asked, one.tokens)
                np.testing.assert_allclose(scored, expected, rtol=0, atol=1e-4)
                np.testing.assert_allclose(one.logprobs, expected, rtol=0, atol=1e-4)
    finally:
        engine.close()


async def test_images_are_seen_in_bfloat16_as_far_as_rounding_lets_them(
    opened: Opened, ask: Ask, oracle: Oracle
):
    engine = opened(dtype="bfloat16", sampler_logprobs="off")
    response = engine.tokenizer.encode("A cat.")
    [scored] = await score(engine, engine.tokenizer.render(ask(1)), response)
    np.testing.assert_allclose(scored, oracle(ask(1), response), rtol=0, atol=0.5)


async def test_a_model_that_places_images_otherwise_reads_text_and_refuses_them(
    llava: str, ask: Ask, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
):
    front = image_embedding.ImageEmbedder._embed
    monkeypatch.setattr(
        image_embedding.ImageEmbedder, "_embed", lambda self, shown: front(self, shown).roll(1, 0)
    )
    engine = open_transformers(llava)
    try:
        with pytest.raises(BadInput, match="places images in a way that preftilt does not follow"):
            engine.tokenizer.render(ask(1))
        prompt, response = engine.tokenizer.render(ask()), engine.tokenizer.encode("cat")
        [scored] = await score(engine, prompt, response)
        np.testing.assert_allclose(scored, oracle(ask(), response), rtol=0, atol=1e-4)
    finally:
        engine.close()


def test_a_processor_that_is_missing_is_said(llava: str, tmp_path: Path):
    folder = tmp_path / "bare"
    shutil.copytree(llava, folder)
    (folder / "processor_config.json").unlink()
    with pytest.raises(BadInput, match="vision-language model"):
        open_transformers(str(folder))


@pytest.mark.parametrize(
    "options",
    [{"prefill_tokens": 7, "score_tokens": 5}, {"cache_bytes": 10_000}, {"max_rows": 2}],
    ids=str,
)
async def test_a_crowd_of_images_in_pieces_equals_plain_forwards(
    options: dict[str, int], opened: Opened, ask: Ask, oracle: Oracle
):
    engine = opened(**options)
    asked = [ask(1), ask(2), ask(1, 2), ask(1, text="Why so?"), ask(), ask(2, system="Hm.")]

    async def gap(messages: list[Message]) -> float:
        prompt = engine.tokenizer.render(messages)
        [drawn] = await draw(engine, prompt, 1, 6)
        [scored] = await score(engine, prompt, drawn.tokens)
        return float(np.abs(scored - oracle(messages, drawn.tokens)).max())

    assert max(await asyncio.gather(*map(gap, asked))) < 1e-4


async def test_other_pictures_give_other_logprobs_and_equal_ones_equal(opened: Opened, ask: Ask):
    engine = opened()
    response = engine.tokenizer.encode("A cat.")
    prompts = [engine.tokenizer.render(ask(seed)) for seed in (1, 1, 2)]
    assert prompts[0] == prompts[1] != prompts[2]
    first, again, other = [(await score(engine, one, response))[0] for one in prompts]
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.05


async def test_the_same_image_is_in_both_views_and_is_looked_at_once(
    opened: Opened, ask: Ask, monkeypatch: pytest.MonkeyPatch
):
    looks: list[int] = []
    front = image_embedding.ImageEmbedder._embed
    monkeypatch.setattr(
        image_embedding.ImageEmbedder,
        "_embed",
        lambda self, shown: (looks.append(1), front(self, shown))[1],
    )
    engine = opened()
    looks.clear()
    for placement in ("system", "user", "history"):
        settings = PromptSettings(placement=placement)
        query = build_query(
            engine.tokenizer, ask(1), [Preference("No cats.")], lam=3.0, settings=settings
        )
        question, full = (view.prompt for view in query.views)
        assert of_images(question) == of_images(full) != []
        assert question[-1] == full[-1]
    result = await Realigner(engine, Settings(lam=3.0, max_tokens=8, search=BestOfN())).realign(
        ask(1), [Preference("No cats.")]
    )
    assert len(result.candidates) == BestOfN().candidates
    assert len(looks) == 1


async def test_a_realigned_record_adds_up_by_plain_forwards(
    opened: Opened, ask: Ask, oracle: Oracle
):
    """Every λ weighs the log-probs of two views, and both see the picture."""
    engine, wish = opened(), Preference("No cats.")
    settings = Settings(lam=3.0, max_tokens=6, search=BestOfN(n=3))
    result = await Realigner(engine, settings).realign(ask(4), [wish])
    for one in result.candidates:
        question = oracle(ask(4), one.tokens).sum()
        full = oracle(ask(4, system="No cats."), one.tokens).sum()
        assert one.question_logprob == pytest.approx(question, abs=1e-3)
        assert one.preference_gain == pytest.approx(full - question, abs=1e-3)
        assert one.score == pytest.approx(question + 3 * (full - question), abs=5e-3)


@pytest.mark.parametrize("search", [DVTS(subtrees=2, width=2, delimiter="a"), CFG()])
async def test_tree_search_and_guided_decoding_see_images(search, opened: Opened, ask: Ask):
    settings = Settings(lam=3.0, max_tokens=8, search=search)
    result = await Realigner(opened(), settings).realign(ask(1), [Preference("No cats.")])
    assert result.text is not None
    assert result.candidates


async def test_images_stand_where_they_stood_in_the_message(
    opened: Opened, ask: Ask, oracle: Oracle
):
    engine = opened()
    [before] = ask(1, text="ab")
    [image] = before.images
    prompts = []
    for at in (0, 1, 2):
        moved = [Message("user", "ab", (type(image)(image.url, image.digest, at),))]
        prompts.append(engine.tokenizer.render(moved))
        response = engine.tokenizer.encode("cat")
        [scored] = await score(engine, prompts[-1], response)
        np.testing.assert_allclose(scored, oracle(moved, response), rtol=0, atol=1e-4)
    assert len(set(prompts)) == 3


async def test_an_image_that_is_no_longer_held_is_said_and_not_guessed(opened: Opened, ask: Ask):
    engine = opened()
    assert isinstance(engine.tokenizer, ImageTokenizer)
    engine.tokenizer.embedder.capacity = 1
    first = engine.tokenizer.render(ask(1))
    engine.tokenizer.render(ask(2))
    with pytest.raises(EngineError, match=r"no longer held.*fewer requests at a time"):
        await engine.score([ScoreRequest(prompt=first, completion=(1, 2))])


def test_images_that_share_token_ids_by_chance_are_not_mixed_up(
    opened: Opened, ask: Ask, monkeypatch: pytest.MonkeyPatch
):
    engine = opened()
    monkeypatch.setattr(
        image_prompts, "image_tokens", lambda images, count: (FIRST_IMAGE_TOKEN,) * count
    )
    engine.tokenizer.render(ask(1))
    with pytest.raises(EngineError, match="two different images got the same token ids"):
        engine.tokenizer.render(ask(2))


def test_a_picture_that_cannot_be_decoded_is_refused(opened: Opened, tmp_path: Path):
    from preftilt.messages import load_image

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(BadInput, match=r"broken\.png cannot be decoded"):
        opened().tokenizer.render([Message("user", "What?", (load_image(str(broken)),))])


def test_a_text_that_spells_the_images_token_is_refused_beside_an_image(opened: Opened, ask: Ask):
    with pytest.raises(BadInput, match=r"the text spells '<image>', .* write it differently"):
        opened().tokenizer.render(ask(1, text=f"What is {IMAGE}?"))


def test_a_template_of_text_gets_the_images_token(tmp_path: Path, ask: Ask):
    engine = open_transformers(save_llava(tmp_path / "plain", template=TEXT_TEMPLATE))
    try:
        assert len(of_images(engine.tokenizer.render(ask(1)))) == IMAGE_TOKENS
    finally:
        engine.close()


def test_a_template_without_pictures_is_refused_before_the_first_token(tmp_path: Path, ask: Ask):
    blind = "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}{{ 'a:' }}"
    engine = open_transformers(save_llava(tmp_path / "blind", template=blind))
    try:
        with pytest.raises(BadInput, match="template"):
            engine.tokenizer.render(ask(1))
    finally:
        engine.close()


def test_a_model_of_text_refuses_images_with_the_remedy(ask: Ask):
    engine = open_transformers("demo")
    try:
        with pytest.raises(
            BadInput, match="use a vision-language model on the transformers engine"
        ):
            engine.tokenizer.render(ask(1))
    finally:
        engine.close()


async def test_reward_models_beside_a_model_that_sees_are_refused(llava: str):
    from preftilt.engines.options import EngineOptions

    with pytest.raises(BadInput, match=r"reward models \(--arm\) read text alone"):
        open_transformers(llava, EngineOptions(arms={"kind": "nowhere"}))
