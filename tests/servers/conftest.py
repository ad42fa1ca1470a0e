"""The bundled model behind every engine, each started for real and once a session; nothing here is a fake.

``make test-servers`` makes the environment that these tests need. In any other they fail where a package is missing;
they never skip.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.servers.launch import Server, start

from preftilt.engines.base import Engine
from preftilt.engines.models import demo_folder
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.messages import Message
from preftilt.types import Tokens


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is a test of servers, and what other packages warn of is theirs to mend."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.servers)
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def prompts(reference: Engine) -> tuple[Tokens, Tokens]:
    """The same question with and without a preference: two prompts of different lengths."""
    question = Message("user", "How can I make my evenings more fun?")
    preference = Message("system", "I dislike anything that is loud or crowded.")
    render = reference.tokenizer.render
    return render([preference, question]), render([question])


@pytest.fixture(scope="session")
def reference() -> Iterator[Engine]:
    """The embedded engine, in float32: what all others are held to."""
    engine = open_engine("demo")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[Engine]:
    """vLLM in this process."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    engine = open_engine("vllm:demo")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def logs() -> Path:
    """Where servers write what they have to say."""
    folder = Path(__file__).parents[2] / "out" / "servers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def vllm_server(logs: Path) -> Iterator[Server]:
    server = start("vllm", demo_folder(), logs / "vllm.log")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sglang_server(logs: Path) -> Iterator[Server]:
    raw = {"SGLANG_RETURN_ORIGINAL_LOGPROB": "1"}
    server = start("sglang", demo_folder(), logs / "sglang.log", environment=raw)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def vllm_over_http(vllm_server: Server) -> Iterator[Engine]:
    engine = open_engine(f"vllm+{vllm_server.url}", EngineOptions(tokenizer="demo"))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def openai_over_http(vllm_server: Server) -> Iterator[Engine]:
    """vLLM again, taken for a server of which nothing is known but its API."""
    engine = open_engine(f"openai+{vllm_server.url}", EngineOptions(tokenizer="demo"))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def sglang_over_http(sglang_server: Server) -> Iterator[Engine]:
    engine = open_engine(f"sglang+{sglang_server.url}", EngineOptions(tokenizer="demo"))
    yield engine
    engine.close()
