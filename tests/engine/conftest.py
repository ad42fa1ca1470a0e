"""Tiny models, built once a session; engines on them, closed afterwards; and the oracle: plain forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from preftilt.types import Tokens
from tests.engine.models import VOCABULARY, calm, save

Saved = Callable[[str], str]
Opened = Callable[..., TransformersEngine]
Oracle = Callable[[str, Tokens, Tokens], np.ndarray]


@pytest.fixture(scope="session", autouse=True)
def _calm() -> Iterator[None]:
    with calm():
        yield


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The folder of a random model of an architecture."""
    folders: dict[str, str] = {}
    root: Path = tmp_path_factory.mktemp("models")

    def folder(architecture: str) -> str:
        if architecture not in folders:
            folders[architecture] = save(root / architecture, architecture)
        return folders[architecture]

    return folder


@pytest.fixture
def opened(saved: Saved) -> Iterator[Opened]:
    """Opens an engine on a random model, with any options; closes it when the test is over."""
    with _opening(saved) as opened:
        yield opened


@pytest.fixture(scope="class")
def opened_for_class(saved: Saved) -> Iterator[Opened]:
    """Likewise; closes it when the tests of a class are over."""
    with _opening(saved) as opened:
        yield opened


@contextmanager
def _opening(saved: Saved) -> Iterator[Opened]:
    engines: list[TransformersEngine] = []

    def engine(architecture: str = "qwen2", **given: Any) -> TransformersEngine:
        tuning = {
            setting.name: given.pop(setting.name)
            for setting in fields(TransformersTuning)
            if setting.name in given
        }
        engines.append(
            open_transformers(
                saved(architecture), EngineOptions(**given), TransformersTuning(**tuning)
            )
        )
        return engines[-1]

    yield engine
    for opened in engines:
        opened.close()


@pytest.fixture(scope="session")
def oracle(saved: Saved) -> Oracle:
    """Log-probs of a completion by one plain forward of transformers over prompt and completion."""
    models: dict[str, Any] = {}

    def logprobs(architecture: str, prompt: Tokens, completion: Tokens) -> np.ndarray:
        if architecture not in models:
            models[architecture] = transformers.AutoModelForCausalLM.from_pretrained(
                saved(architecture),
                attn_implementation=None if architecture == "bloom" else "eager",
            ).eval()
        with torch.inference_mode():
            logits = models[architecture](torch.tensor([prompt + completion])).logits[
                0, :, :VOCABULARY
            ]
        table = torch.log_softmax(logits.double(), dim=-1).numpy()
        return table[
            np.arange(len(prompt) - 1, len(prompt) + len(completion) - 1), list(completion)
        ]

    return logprobs
