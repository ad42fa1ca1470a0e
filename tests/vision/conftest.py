"""A tiny vision-language model, built once; engines on it; and the oracle: plain forwards with pixel values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from preftilt.engines.options import EngineOptions
from preftilt.engines.transformers import TransformersEngine, TransformersTuning, open_transformers
from preftilt.messages import Message, load_image
from preftilt.types import Tokens
from tests.engine.models import calm
from tests.vision.models import picture, save_llava

Opened = Callable[..., TransformersEngine]
Ask = Callable[..., list[Message]]
Oracle = Callable[[Sequence[Message], Tokens], np.ndarray]


@pytest.fixture(scope="session", autouse=True)
def _calm() -> Iterator[None]:
    with calm():
        yield


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model's folder."""
    return save_llava(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture
def opened(llava: str) -> Iterator[Opened]:
    """Opens an engine on the model, with any options; closes it when the test is over."""
    with opening(llava) as opened:
        yield opened


@pytest.fixture(scope="class")
def opened_for_class(llava: str) -> Iterator[Opened]:
    """Likewise; closes it when the tests of a class are over."""
    with opening(llava) as opened:
        yield opened


@contextmanager
def opening(folder: str) -> Iterator[Opened]:
    """Opens engines on the model of a folder; closes them at the end."""
    engines: list[TransformersEngine] = []

    def engine(**given: Any) -> TransformersEngine:
        tuning = {
            setting.name: given.pop(setting.name)
            for setting in fields(TransformersTuning)
            if setting.name in given
        }
        engines.append(
            open_transformers(folder, EngineOptions(**given), TransformersTuning(**tuning))
        )
        return engines[-1]

    yield engine
    for opened in engines:
        opened.close()


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """A conversation about the pictures of these seeds, which stand before the question."""

    def conversation(*seeds: int, text: str = "What is it?", system: str | None = None):
        images = tuple(load_image(picture(tmp_path, seed)) for seed in seeds)
        first = [] if system is None else [Message("system", system)]
        return [*first, Message("user", text, images)]

    return conversation


@pytest.fixture(scope="session")
def oracle(llava: str) -> Oracle:
    """Log-probs of a response by transformers alone."""
    return plain_forward(llava)


def plain_forward(folder: str) -> Oracle:
    """The model's processor, its template, one plain forward."""
    processor: Any = transformers.AutoProcessor.from_pretrained(folder)
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()

    def logprobs(messages: Sequence[Message], response: Tokens) -> np.ndarray:
        turns = [{"role": one.role, "content": _parts(one)} for one in messages]
        text = processor.apply_chat_template(turns, add_generation_prompt=True)
        shown = [image.url for one in messages for image in one.images]
        made = processor(
            text=text,
            images=[transformers.image_utils.load_image(one) for one in shown] or None,
            return_tensors="pt",
        )
        prompt = torch.as_tensor(made.pop("input_ids"))
        del made["attention_mask"]
        ids = torch.cat([prompt, torch.tensor([response])], dim=1)
        with torch.inference_mode():
            logits = model(input_ids=ids, **made).logits[0, prompt.shape[1] - 1 : -1]
        chosen = torch.log_softmax(logits.double(), dim=-1).gather(1, torch.tensor([response]).T)
        return chosen[:, 0].numpy()

    return logprobs


def _parts(message: Message) -> list[dict[str, str]]:
    return [
        {"type": "text", "text": one} if isinstance(one, str) else {"type": "image"}
        for one in message.parts()
    ]
