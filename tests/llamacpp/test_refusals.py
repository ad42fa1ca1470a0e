"""What is refused before llama.cpp is needed, each with its remedy."""

import sys
from pathlib import Path

import pytest

from preftilt.engines.llamacpp import bindings, open_llamacpp
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput, MissingPackage, UnknownModel


def test_a_file_that_is_not_there_is_an_unknown_model(tmp_path: Path):
    with pytest.raises(UnknownModel, match=r"no file .*missing\.gguf.*path of a GGUF file"):
        open_llamacpp(str(tmp_path / "missing.gguf"))


def test_a_folder_without_a_gguf_file_is_refused_and_the_file_asked_for(tmp_path: Path):
    with pytest.raises(UnknownModel, match=r"holds no GGUF file.*name a GGUF file"):
        open_llamacpp(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file", b"ggjt older format"])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"not a GGUF file.*convert_hf_to_gguf"):
        open_llamacpp(str(path))


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        (EngineOptions(tokenizer="demo"), "--tokenizer"),
        (EngineOptions(adapter="lora"), "--adapter"),
        (EngineOptions(trust_remote_code=True), "--trust-remote-code"),
        (EngineOptions(scorer="demo"), "--scorer"),
    ],
)
def test_options_of_other_engines_are_refused(options: EngineOptions, flag: str):
    with pytest.raises(BadInput, match=f"{flag} does not apply to llama.cpp"):
        open_llamacpp("model.gguf", options)


def test_a_type_that_the_cache_cannot_have_is_refused():
    with pytest.raises(BadInput, match=r"--dtype bfloat16.*keys and values.*float16"):
        open_llamacpp("model.gguf", EngineOptions(dtype="bfloat16"))


def test_without_llama_cpp_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF and more")
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    bindings.llama_bindings.cache_clear()
    with pytest.raises(MissingPackage, match=r'pip install "preftilt\[llamacpp\]"'):
        open_llamacpp(str(path))
    monkeypatch.setattr("preftilt.engines.open.find_spec", lambda _: None)
    with pytest.raises(MissingPackage, match=r'pip install "preftilt\[llamacpp\]"'):
        open_engine(f"llamacpp:{path.with_suffix('.other')}")
