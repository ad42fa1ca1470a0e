"""Tiny models with reward models of four kinds, made once a session; engines on them; the oracle beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from preftilt.engines.options import EngineOptions
from preftilt.engines.transformers import TransformersEngine, TransformersTuning, open_transformers
from tests.arms_decoding.made import Oracle, make_arms
from tests.engine.models import calm, save

Models = Callable[[str], str]
Arms = Callable[[str], dict[str, str]]
Oracles = Callable[[str], Oracle]
Opened = Callable[..., TransformersEngine]

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "bloom": {},
    "small": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1},
}


@pytest.fixture(scope="session", autouse=True)
def _calm() -> Iterator[None]:
    with calm():
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The folder of a random model; ``small`` is a smaller Llama of the same tokenizer."""
    root, found = tmp_path_factory.mktemp("models"), {}

    def folder(name: str) -> str:
        if name not in found:
            sizes = SIZES.get(name, {"hidden_size": 32, "intermediate_size": 48})
            found[name] = save(root / name, "llama" if name == "small" else name, **sizes)
        return found[name]

    return folder


@pytest.fixture(scope="session")
def arms(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Arms:
    """Folders of the reward models of a random model."""
    root, found = tmp_path_factory.mktemp("arms"), {}

    def folders(name: str) -> dict[str, str]:
        if name not in found:
            found[name] = make_arms(models(name), root / name)
        return found[name]

    return folders


@pytest.fixture(scope="session")
def oracles(models: Models, arms: Arms) -> Oracles:
    """What a model and its reward models say by plain forwards."""
    found: dict[str, Oracle] = {}

    def oracle(name: str) -> Oracle:
        if name not in found:
            found[name] = Oracle(models(name), arms(name))
        return found[name]

    return oracle


@pytest.fixture
def opened(models: Models, arms: Arms) -> Iterator[Opened]:
    """Opens an engine on a random model with its reward models, or those given; closes it when the test is over."""
    with _opening(models, arms) as opened:
        yield opened


@pytest.fixture(scope="class")
def opened_for_class(models: Models, arms: Arms) -> Iterator[Opened]:
    """Likewise; closes it when the tests of a class are over."""
    with _opening(models, arms) as opened:
        yield opened


@contextmanager
def _opening(models: Models, arms: Arms) -> Iterator[Opened]:
    engines: list[TransformersEngine] = []

    def engine(name: str = "llama", **given: Any) -> TransformersEngine:
        tuning = {
            setting.name: given.pop(setting.name)
            for setting in fields(TransformersTuning)
            if setting.name in given
        }
        options = EngineOptions(arms=given.pop("arms") if "arms" in given else arms(name), **given)
        engines.append(open_transformers(models(name), options, TransformersTuning(**tuning)))
        return engines[-1]

    yield engine
    for opened in engines:
        opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder."""
    return tmp_path
