"""Opening: names, options, and every way it can go wrong, each with its remedy."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from preftilt.engines import open as opening
from preftilt.engines.models import demo_folder
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.engines.transformers import TransformersTuning, open_transformers, probe
from preftilt.errors import BadInput, MissingPackage, NoChatTemplate, PromptTooLong, UnknownModel
from preftilt.messages import Message
from tests.engine.asking import draw, prompt, request, score
from tests.engine.conftest import Opened, Saved
from tests.engine.models import END_ID, build, byte_tokenizer, save

pytestmark = pytest.mark.model


@pytest.mark.parametrize("scheme", ["", "transformers:"])
def test_a_path_opens_with_and_without_its_scheme(scheme: str, saved: Saved):
    engine = open_engine(scheme + saved("qwen2"))
    assert engine.name == f"transformers:{saved('qwen2')}"
    assert engine.model == saved("qwen2")
    assert engine.capabilities.max_context == 256
    assert engine.capabilities.sampler_logprobs
    assert engine.versions["torch"] == torch.__version__
    assert engine.versions["dtype"] == "float32"
    engine.close()


def test_demo_is_the_bundled_model():
    engine = open_engine("demo")
    assert engine.model == "demo"
    assert engine.tokenizer.render([Message("user", "How can I study maths?")])
    engine.close()
    assert Path(demo_folder(), "config.json").is_file()


@pytest.mark.parametrize(
    "name", ["", "  ", "transformers:", "abacus:some/model", "http://127.0.0.1:8000"]
)
def test_a_name_that_cannot_be_meant_is_refused(name: str):
    with pytest.raises(BadInput, match=r"no model is named|no engine|which kind of server"):
        open_engine(name)


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch):
    find = opening.find_spec
    monkeypatch.setattr(opening, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(MissingPackage, match=r'pip install "preftilt\[transformers\]"'):
        open_engine("demo")


def test_an_unknown_model_without_a_hub_says_so_and_names_demo(monkeypatch: pytest.MonkeyPatch):
    # The hub's library reads HF_HUB_OFFLINE when it is imported; this is what it makes of it.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnknownModel, match=r"^nobody/no-such-model.*hub cannot be reached.*demo"):
        open_engine("nobody/no-such-model")


def test_a_folder_without_a_model_is_unknown(tmp_path: Path):
    with pytest.raises(UnknownModel, match=r"no config\.json.*demo"):
        open_transformers(str(tmp_path))


def test_pickled_weights_are_refused_unless_allowed(tmp_path: Path):
    folder = Path(save(tmp_path, "qwen2"))
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="--allow-pickle"):
        open_transformers(str(folder))
    open_transformers(str(folder), EngineOptions(allow_pickle=True)).close()


def test_a_slow_path_is_told_once_with_the_reason(
    saved: Saved, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def broken(*_: Any) -> Any:
        raise NotImplementedError("linear\nattention")

    monkeypatch.setattr(probe, "_prefill", broken)
    engine = open_transformers(saved("qwen2"))
    engine.close()
    assert engine.path == "expanded"
    [told] = caplog.messages
    assert "several times as long: NotImplementedError: linear attention" in told
    caplog.clear()
    open_transformers(saved("qwen2"), tuning=TransformersTuning(attention="expanded")).close()
    monkeypatch.undo()
    open_transformers(saved("qwen2")).close()
    assert caplog.messages == []


def test_a_folder_without_weights_says_so(tmp_path: Path):
    folder = Path(save(tmp_path, "qwen2"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="no weights"):
        open_transformers(str(folder))


def test_a_weight_file_that_was_cut_off_says_so(tmp_path: Path):
    folder = Path(save(tmp_path, "qwen2"))
    weights = folder / "model.safetensors"
    for kept in (weights.stat().st_size // 2, 4):
        weights.write_bytes(weights.read_bytes()[:kept])
        with pytest.raises(BadInput, match="damaged weight file"):
            open_transformers(str(folder))


def test_a_model_that_does_not_fit_its_device_says_so(
    saved: Saved, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("transformers.PreTrainedModel.to", full)
    with pytest.raises(BadInput, match="does not fit into the memory"):
        open_transformers(saved("qwen2"))


def test_a_model_with_code_of_its_own_needs_the_flag(tmp_path: Path):
    folder = Path(save(tmp_path, "qwen2"))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "homemade"
    config["auto_map"] = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="--trust-remote-code"):
        open_transformers(str(folder))


def test_a_model_that_is_no_language_model_is_refused(tmp_path: Path):
    folder = Path(save(tmp_path, "qwen2"))
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "vit"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="causal language model"):
        open_transformers(str(folder))


def test_unknown_devices_and_types_are_refused(saved: Saved):
    with pytest.raises(BadInput, match="--device"):
        open_transformers(saved("qwen2"), EngineOptions(device="abacus"))
    with pytest.raises(BadInput, match="--dtype"):
        open_transformers(saved("qwen2"), EngineOptions(dtype="int3"))


def test_a_base_model_is_refused_before_its_weights_are_read(tmp_path: Path):
    """They are damaged here: whoever reads them, finds out."""
    folder = save(tmp_path, "gpt2", template=None)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"no weights")
    with pytest.raises(NoChatTemplate, match="--chat-template plain"):
        open_transformers(folder)
    with pytest.raises(BadInput, match="damaged weight file"):
        open_transformers(folder, EngineOptions(chat_template="plain"))


def test_a_base_model_opens_with_a_template(tmp_path: Path):
    folder = save(tmp_path, "gpt2", template=None)
    engine = open_transformers(folder, EngineOptions(chat_template="plain"))
    assert engine.tokenizer.render([Message("user", "hello")])
    engine.close()


def test_a_device_without_float64_is_refused_before_anything_is_read(tmp_path: Path):
    with pytest.raises(BadInput, match=r"--device mps cannot be used.*float64.*use cpu"):
        open_transformers(str(tmp_path / "nothing"), EngineOptions(device="mps"))


def test_the_special_token_after_the_assistants_words_ends_a_response(tmp_path: Path):
    """Though no config says so."""
    turns = "{% for m in messages %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    tokenizer = byte_tokenizer(template=turns)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.save_pretrained(tmp_path)
    build("qwen2", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    engine = open_transformers(str(tmp_path))
    assert engine.capabilities.turn_end == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert engine.capabilities.eos == {engine.capabilities.turn_end, END_ID}
    engine.close()


def test_sampler_logprobs_can_be_switched(opened: Opened):
    assert not opened(sampler_logprobs="off").capabilities.sampler_logprobs
    assert opened(dtype="bfloat16", sampler_logprobs="on").capabilities.sampler_logprobs


async def test_a_prompt_over_the_context_says_by_how_much(opened: Opened):
    engine = opened()
    with pytest.raises(PromptTooLong, match="257 tokens, 1 more than the 256"):
        await draw(engine, prompt(256), 1, 5)
    with pytest.raises(PromptTooLong, match="3 more than the 256"):
        await score(engine, prompt(250), prompt(9, 1))
    assert engine.stats.forwards == 0


async def test_a_response_stops_where_the_context_does(opened: Opened):
    for architecture in ("qwen2", "gpt2"):
        for one in await draw(opened(architecture), prompt(250), 16, 50):
            assert len(one.tokens) <= 6
            assert one.finish in ("eos", "length")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"prefix": (99999,)}, "token 99999"),
    ],
)
async def test_impossible_requests_are_refused(bad: dict, message: str, opened: Opened):
    engine = opened()
    with pytest.raises(BadInput, match=message):
        await engine.sample([request(prompt(5), **bad)])


async def test_an_empty_prompt_is_refused(opened: Opened):
    engine = opened()
    with pytest.raises(BadInput, match="no tokens"):
        await draw(engine, ())
    with pytest.raises(BadInput, match="no tokens"):
        await score(engine, (), (1,))


async def test_nothing_asked_is_nothing_done(opened: Opened):
    engine = opened()
    assert await engine.sample([]) == []
    assert await draw(engine, prompt(5), 0) == []
    [nothing] = await draw(engine, prompt(5), 1, 0)
    assert nothing.tokens == ()
    assert nothing.finish == "length"
    assert engine.stats.forwards == 0
