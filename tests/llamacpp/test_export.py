"""``tools/to_gguf``: other models than the bundled one, read back by llama.cpp; and what it refuses to write."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftilt.engines.base import SampleRequest, ScoreRequest
from preftilt.engines.llamacpp import open_llamacpp
from preftilt.errors import NoChatTemplate
from preftilt.messages import Message
from preftilt.types import Sampling, Stream

pytestmark = pytest.mark.servers

QWEN_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def saved(folder: Path, architecture: str, *, cut: str = "gpt-2", **changed: Any) -> Path:
    """A random model of an architecture with a tokenizer that cuts text like GPT-2 or Qwen2."""
    from tests.engine.models import save

    save(folder, architecture, **changed)
    path = folder / "tokenizer.json"
    table = json.loads(path.read_text("utf-8"))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    split = {"type": "Split", "pattern": {"Regex": QWEN_CUT}, "behavior": "Isolated"}
    table["pre_tokenizer"] = {
        "gpt-2": {**byte_level, "use_regex": True},
        "qwen2": {
            "type": "Sequence",
            "pretokenizers": [{**split, "invert": False}, {**byte_level, "use_regex": False}],
        },
        "none": None,
    }[cut]
    path.write_text(json.dumps(table), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("architecture", "cut", "changed"),
    [
        ("llama", "gpt-2", {"vocab_size": 300}),
        ("llama", "qwen2", {"attention_bias": True}),
        (
            "llama",
            "gpt-2",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 10000.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
        ),
        ("qwen2", "qwen2", {}),
    ],
)
def test_a_random_model_gives_the_same_log_probs_and_tokens(
    architecture: str, cut: str, changed: dict, tmp_path: Path
):
    """Padding rows (300 for 260 tokens) take no probability, as in the embedded engine."""
    from tools.to_gguf import export_gguf

    from preftilt.engines.transformers import open_transformers

    folder = saved(tmp_path / "model", architecture, cut=cut, **changed)
    export_gguf(folder, tmp_path / "model.gguf")
    ours, wanted = open_llamacpp(str(tmp_path / "model.gguf")), open_transformers(str(folder))
    try:
        text = "an apple.\n\nTwo  pears, 12345 plums isn't it? naïve 🙂"
        tokens = wanted.tokenizer.encode(text)
        assert ours.tokenizer.encode(text) == tokens
        assert ours.capabilities.eos == wanted.capabilities.eos
        assert ours.capabilities.max_context == wanted.capabilities.max_context
        messages = [Message("user", "?")]
        assert ours.tokenizer.render(messages) == wanted.tokenizer.render(messages)
        requests = [ScoreRequest(prompt=tokens, completion=tokens * 2)]
        [found] = asyncio.run(ours.score(requests))
        [exact] = asyncio.run(wanted.score(requests))
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-3)
        sampling = SampleRequest(
            prompt=tokens,
            slots=tuple(range(8)),
            stream=Stream(1),
            sampling=Sampling(temperature=3.0),
            max_tokens=30,
        )
        [drawn] = asyncio.run(ours.sample([sampling]))
        known = set(range(ours.tokenizer.encode("<|end|>")[0] + 1))
        assert {token for one in drawn for token in one.tokens} <= known
    finally:
        ours.close()
        wanted.close()


def test_the_token_that_the_template_closes_an_answer_with_ends_a_response(tmp_path: Path):
    """Though nothing else in the file says so."""
    from tools.to_gguf import export_gguf

    from tests.engine.models import build, byte_tokenizer

    template = "{% for m in messages %}{{ m['content'] }}<|over|>\n{% endfor %}"
    tokenizer = byte_tokenizer(template=template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|over|>"]})
    tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    table = json.loads(path.read_text("utf-8"))
    table["pre_tokenizer"]["use_regex"] = True
    path.write_text(json.dumps(table), "utf-8")
    build("qwen2", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    export_gguf(tmp_path, tmp_path / "model.gguf")
    engine = open_llamacpp(str(tmp_path / "model.gguf"))
    try:
        over, end = tokenizer.convert_tokens_to_ids(["<|over|>", "<|end|>"])
        assert engine.capabilities.turn_end == over
        assert engine.capabilities.eos == {over, end}
    finally:
        engine.close()


def test_a_base_model_opens_and_names_the_flag_when_asked_to_chat(tmp_path: Path):
    from tools.to_gguf import export_gguf

    folder = saved(tmp_path / "model", "llama", template=None)
    export_gguf(folder, tmp_path / "model.gguf")
    engine = open_llamacpp(str(tmp_path / "model.gguf"))
    try:
        with pytest.raises(NoChatTemplate, match="--chat-template"):
            engine.tokenizer.render([Message("user", "hello")])
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("architecture", "cut", "changed", "reason"),
    [
        ("gpt2", "gpt-2", {}, "gpt2 model"),
        ("llama", "none", {}, "pre-tokenizer"),
        (
            "qwen2",
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8},
            "sliding window",
        ),
    ],
)
def test_what_it_could_write_wrongly_it_refuses(
    architecture: str, cut: str, changed: dict, reason: str, tmp_path: Path
):
    from tools.to_gguf import CannotExport, export_gguf

    folder = saved(tmp_path / "model", architecture, cut=cut, **changed)
    with pytest.raises(CannotExport, match=rf"{reason}.*convert_hf_to_gguf\.py"):
        export_gguf(folder, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()
