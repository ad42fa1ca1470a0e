"""The bundled model as a GGUF file, a cache folder of the test's own, and SmolLM2 where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftilt.engines.models import demo_folder


@pytest.fixture(scope="session")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in one GGUF file, float32, alone in its folder."""
    from tools.to_gguf import export_gguf

    path = tmp_path_factory.mktemp("demo") / "demo.gguf"
    export_gguf(Path(demo_folder()), path, "f32")
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; what is converted is kept in its folder ``gguf``."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PREFTILT_CACHE", str(folder))
    monkeypatch.delenv("PREFTILT_CACHE_GIB", raising=False)
    return folder
