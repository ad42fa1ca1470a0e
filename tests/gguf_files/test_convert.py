"""A GGUF file opens in the embedded engine as the model it was made of, and says what is wrong with it."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from preftilt.engines import gguf as convert
from preftilt.engines.base import ScoreRequest
from preftilt.engines.gguf import converted
from preftilt.engines.models import model_folder
from preftilt.engines.open import open_engine
from preftilt.errors import BadInput, MissingPackage, NoChatTemplate
from preftilt.messages import Message

pytestmark = pytest.mark.model

QUESTION = [Message("user", "How can I study maths?")]


async def test_a_gguf_file_is_the_model_it_was_made_of(demo_file: Path, cache: Path):
    ours, wanted = open_engine(str(demo_file)), open_engine("demo")
    prompt = wanted.tokenizer.render(QUESTION)
    assert ours.tokenizer.render(QUESTION) == prompt
    assert ours.capabilities == wanted.capabilities
    assert ours.name == f"transformers:{demo_file}"
    request = ScoreRequest(prompt=prompt, completion=wanted.tokenizer.encode(" Try puzzles."))
    [rows], [expected] = [await engine.score([request]) for engine in (ours, wanted)]
    np.testing.assert_array_equal(rows, expected)
    ours.close()
    wanted.close()


def test_a_folder_with_the_file_is_the_same_model_and_converted_once(
    demo_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    place = converted(demo_file)
    monkeypatch.setattr(convert, "_convert", None)
    assert model_folder(str(demo_file.parent)) == str(place)
    assert model_folder(str(demo_file)) == str(place)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_a_file_that_was_cut_off_says_so(kept: float, demo_file: Path, cache: Path, tmp_path: Path):
    data = demo_file.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(BadInput, match=r"cut\.gguf .*cut off on its way: get it again"):
        open_engine(str(path))


def written(path: Path, architecture: str, *, tokens: bool) -> Path:
    """A GGUF file with a header and one tensor."""
    writer = gguf.GGUFWriter(path, architecture)
    if tokens:
        writer.add_token_list(["a", "b"])
    writer.add_tensor("token_embd.weight", np.zeros((2, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_an_unknown_architecture_is_refused_and_llama_cpp_named(tmp_path: Path, cache: Path):
    path = written(tmp_path / "new.gguf", "abacus", tokens=True)
    with pytest.raises(BadInput, match=r"cannot read .*abacus.*llamacpp:.*new\.gguf"):
        open_engine(str(path))


def test_a_file_without_a_tokenizer_is_refused(tmp_path: Path, cache: Path):
    path = written(tmp_path / "mute.gguf", "llama", tokens=False)
    with pytest.raises(BadInput, match=r"mute\.gguf holds no tokenizer"):
        open_engine(str(path))


def test_a_file_without_a_template_is_refused_by_its_name(
    demo_file: Path, cache: Path, tmp_path: Path
):
    path = tmp_path / "base.gguf"
    path.write_bytes(
        demo_file.read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.no_template__")
    )
    with pytest.raises(NoChatTemplate, match=r"base\.gguf has no chat template.*--chat-template"):
        open_engine(str(path))


def test_a_package_that_is_missing_names_the_extra(
    demo_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(convert, "find_spec", lambda name: None if name == "gguf" else True)
    with pytest.raises(MissingPackage, match=r'pip install "preftilt\[transformers\]"'):
        open_engine(str(demo_file))
