"""A model that sees, behind the server: the official client shows it pictures, and gets what the library gives."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import PIL.Image
import PIL.ImageOps
import pytest

from preftilt.api import Realigner, run_sync
from preftilt.engines.base import SampleRequest
from preftilt.engines.transformers import TransformersEngine, open_transformers
from preftilt.messages import Message, load_image
from preftilt.search import BestOfN
from preftilt.server.resolve import TEXT_BODY
from preftilt.settings import Settings
from preftilt.testing.toy import ToyEngine
from preftilt.types import Preference, Sampling, Stream
from tests.server.serving import Running, serving
from tests.vision.conftest import Oracle
from tests.vision.models import picture
from tests.vision.qwen import QwenOracle, qwen_picture, save_qwen

pytestmark = pytest.mark.model

SETTINGS = Settings(lam=3.0, max_tokens=8, search=BestOfN(n=3))
WISH = {"preftilt": {"preference": "No cats.", "details": True}}


@pytest.fixture
def engine(llava: str) -> TransformersEngine:
    return open_transformers(llava)


@pytest.fixture
def server(engine: TransformersEngine) -> Iterator[Running]:
    with serving(engine, model="eyes", settings=SETTINGS) as running:
        yield running


def conversation(path: str) -> Any:
    shown = {"type": "image_url", "image_url": {"url": load_image(path).data_url()}}
    return [{"role": "user", "content": [shown, {"type": "text", "text": "What is it?"}]}]


def create(server: Running, path: str, **more: Any) -> Any:
    with server.client() as client:
        given = client.chat.completions.create(
            model="eyes", messages=conversation(path), seed=4, **more
        )
        return list(given) if more.get("stream") else given


def test_an_answer_about_a_picture_is_the_library_s_and_its_scores_are_the_model_s(
    server: Running, engine: TransformersEngine, tmp_path: Path, oracle: Oracle
) -> None:
    path = picture(tmp_path, 1)
    said = create(server, path, extra_body=WISH)
    asked = [Message("user", "What is it?", (load_image(path),))]
    settings = Settings(lam=3.0, max_tokens=8, search=BestOfN(n=3), seed=4)
    whole = run_sync(Realigner(engine).realign(asked, [Preference("No cats.")], settings=settings))
    assert said.choices[0].message.content == whole.text
    assert said.preftilt["prompts"]["question"] == list(whole.prompts["question"])
    for one in said.preftilt["candidates"]:
        expected = oracle(asked, tuple(one["tokens"])).sum()
        assert one["question_logprob"] == pytest.approx(expected, abs=1e-3)
    other = create(server, picture(tmp_path, 2), extra_body=WISH)
    assert other.preftilt["candidates"] != said.preftilt["candidates"]


def test_a_picture_is_decoded_once_though_it_stands_in_every_prompt(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    upright = PIL.ImageOps.exif_transpose

    def noted(opened: Any) -> Any:
        decoded.append(opened)
        return upright(opened)

    monkeypatch.setattr(PIL.ImageOps, "exif_transpose", noted)
    assert create(server, picture(tmp_path, 1), extra_body=WISH).choices[0].message.content
    assert len(decoded) == 1


def test_streams_say_the_same(server: Running, tmp_path: Path) -> None:
    path = picture(tmp_path, 1)
    for more in ({"extra_body": WISH}, {}):
        whole = create(server, path, **more).choices[0].message.content
        pieces = create(server, path, stream=True, **more)
        told = [one.choices[0].delta.content or "" for one in pieces if one.choices]
        assert "".join(told) == whole


def test_a_plain_answer_is_drawn_by_the_model_s_own_log_probs(
    server: Running, tmp_path: Path, oracle: Oracle, engine: TransformersEngine
) -> None:
    path = picture(tmp_path, 3)
    said = create(server, path, logprobs=True)
    told = [one.logprob for one in said.choices[0].logprobs.content]
    asked = [Message("user", "What is it?", (load_image(path),))]
    request = SampleRequest(
        prompt=engine.tokenizer.render(asked),
        slots=(0,),
        stream=Stream(4),
        sampling=Sampling(),
        max_tokens=8,
    )
    [[drawn]] = run_sync(engine.sample([request]))
    assert said.choices[0].message.content == engine.tokenizer.decode(drawn.tokens)
    np.testing.assert_allclose(told, oracle(asked, drawn.tokens), rtol=0, atol=1e-4)


def test_a_broken_picture_is_the_client_s_fault_and_the_next_one_is_answered(
    server: Running, tmp_path: Path
) -> None:
    path = picture(tmp_path, 1)
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(path).read_bytes()[:60])
    with pytest.raises(openai.BadRequestError) as refused:
        create(server, str(broken), extra_body=WISH)
    assert refused.value.param == "messages"
    assert "cannot be decoded" in refused.value.message
    assert create(server, path, extra_body=WISH).choices[0].message.content


def test_a_photograph_is_larger_than_a_text_may_be(server: Running, tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (700, 700, 3)).astype(np.uint8)
    path = tmp_path / "photograph.png"
    PIL.Image.fromarray(noise).save(path)
    assert path.stat().st_size > TEXT_BODY
    assert create(server, str(path), extra_body=WISH).choices[0].message.content
    with serving(ToyEngine(), model="eyes", settings=SETTINGS) as of_text:
        with pytest.raises(openai.APIStatusError) as refused:
            create(of_text, str(path))
        assert refused.value.status_code == 413


def test_positions_in_three_dimensions_hold_behind_the_server(tmp_path: Path) -> None:
    folder = save_qwen(tmp_path / "qwen", "qwen2_5_vl")
    alone = QwenOracle(folder)
    path = qwen_picture(tmp_path, 3)
    asked = [Message("user", "What is it?", (load_image(path),))]
    with serving(open_transformers(folder), model="eyes", settings=SETTINGS) as server:
        said = create(server, path, extra_body=WISH)
    drawn = {tuple(one["tokens"]): one for one in said.preftilt["candidates"]}
    for tokens in alone.readable(drawn):
        expected = alone(asked, tokens).sum()
        assert drawn[tokens]["question_logprob"] == pytest.approx(expected, abs=1e-3)


def test_a_model_of_text_is_shown_no_pictures_and_says_so(tmp_path: Path) -> None:
    path = picture(tmp_path, 1)
    with serving(open_transformers("demo"), model="eyes", settings=SETTINGS) as server:
        for more in ({"extra_body": WISH}, {}):
            with pytest.raises(openai.BadRequestError) as refused:
                create(server, path, **more)
            assert refused.value.param == "messages"
            assert "a model of text" in refused.value.message


def test_pictures_of_many_clients_at_once_are_not_mixed_up(
    server: Running, tmp_path: Path, oracle: Oracle
) -> None:
    """Pictures are unpacked in threads of their own, two requests at a time."""
    paths = [picture(tmp_path, seed) for seed in (1, 2, 3)] * 4
    with ThreadPoolExecutor(len(paths)) as clients:
        replies = list(clients.map(lambda path: create(server, path, extra_body=WISH), paths))
    for path, said in zip(paths, replies, strict=True):
        asked = [Message("user", "What is it?", (load_image(path),))]
        for one in said.preftilt["candidates"]:
            expected = oracle(asked, tuple(one["tokens"])).sum()
            assert one["question_logprob"] == pytest.approx(expected, abs=1e-3)
