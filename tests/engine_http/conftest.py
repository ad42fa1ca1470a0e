"""One stand-in server a session, well behaved again before every test; engines on it, closed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers

from preftilt.engines.base import Engine
from preftilt.engines.http import connection
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from tests.engine.models import byte_tokenizer, save
from tests.engine_http.stand_in import Manners, Seen, StandIn, served

Opened = Callable[..., Engine]


@dataclass(frozen=True, slots=True)
class Running:
    """The server, and where it is."""

    app: StandIn
    url: str

    @property
    def manners(self) -> Manners:
        return self.app.manners

    @property
    def seen(self) -> Seen:
        return self.app.seen


@contextmanager
def stand_in_engine(kind: str, manners: dict[str, Any], **options: Any) -> Iterator[Engine]:
    """An engine on a stand-in of its own, with these manners."""
    app = StandIn(byte_tokenizer())
    app.manners = Manners(**manners)
    with served(app) as url:
        engine = open_engine(f"{kind}+{url}", EngineOptions(**options))
        yield engine
        engine.close()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def scorer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with the same tokenizer, to score what another one draws."""
    transformers.utils.logging.disable_progress_bar()
    return save(Path(tmp_path_factory.mktemp("scorer")), "qwen2")


@pytest.fixture(scope="session")
def _running() -> Iterator[Running]:
    app = StandIn(byte_tokenizer())
    with served(app) as url:
        yield Running(app, url)


@pytest.fixture
def server(_running: Running, monkeypatch: pytest.MonkeyPatch) -> Running:
    _running.app.reset()
    monkeypatch.delenv("PREFTILT_API_KEY", raising=False)
    monkeypatch.setattr(connection, "BACK_OFF", lambda state: 0.01)
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 60.0)  # On a machine that does other things.
    return _running


@pytest.fixture
def opened(server: Running, tokenizer_folder: str) -> Iterator[Opened]:
    """Opens an engine on the stand-in, ``vllm`` or another kind, with any options."""
    engines: list[Engine] = []

    def engine(kind: str = "vllm", **options: Any) -> Engine:
        chosen = EngineOptions(**{"tokenizer": tokenizer_folder, **options})
        engines.append(open_engine(f"{kind}+{server.url}", chosen))
        return engines[-1]

    yield engine
    for one in engines:
        one.close()
