"""The bundled model as a GGUF file, and engines on it; for the tests that run llama.cpp itself (marker ``servers``).

Packages that only those tests need are imported inside the fixtures: the other tests here run without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from preftilt.engines.base import Engine
from preftilt.engines.llamacpp import LlamaCppEngine, LlamaCppTuning, open_llamacpp
from preftilt.engines.models import demo_folder
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions

Exported = Callable[[str], str]
Opens = Callable[..., LlamaCppEngine]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The bundled model as a GGUF file of a type of weights: f32, f16 or q8_0."""
    from tools.to_gguf import export_gguf

    folder, made = tmp_path_factory.mktemp("gguf"), set[str]()

    def file(kind: str) -> str:
        path = folder / f"demo-{kind}.gguf"
        if kind not in made:
            export_gguf(Path(demo_folder()), path, kind)  # pyright: ignore[reportArgumentType]
            made.add(kind)
        return str(path)

    return file


@pytest.fixture
def opens(exported: Exported) -> Iterator[Opens]:
    """Opens an engine on the bundled model, with any options and tuning; closes it when the test is over."""
    with _opening(exported) as opens:
        yield opens


@pytest.fixture(scope="class")
def opens_for_class(exported: Exported) -> Iterator[Opens]:
    """Likewise; closes it when the tests of a class are over."""
    with _opening(exported) as opens:
        yield opens


@contextmanager
def _opening(exported: Exported) -> Iterator[Opens]:
    engines: list[LlamaCppEngine] = []

    def engine(
        kind: str = "f32",
        options: EngineOptions | None = None,
        tuning: LlamaCppTuning | None = None,
    ) -> LlamaCppEngine:
        engines.append(open_llamacpp(exported(kind), options, tuning))
        return engines[-1]

    yield engine
    for opened in engines:
        opened.close()


@pytest.fixture(scope="session")
def llamacpp(exported: Exported) -> Iterator[Engine]:
    """One engine with the options as they come, opened by its name."""
    engine = open_engine(f"llamacpp:{exported('f32')}")
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def reference() -> Iterator[Engine]:
    """The embedded engine: what llama.cpp is held to."""
    engine = open_engine("demo")
    yield engine
    engine.close()
