"""The bundled model's folder: complete, small, and loadable as any other model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import preftilt.demo

FOLDER = Path(preftilt.demo.__file__).parent / "model"
FILES = {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json",
    "model.safetensors", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


def test_the_folder_is_complete_and_small():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(files) == FILES
    assert sum(files.values()) <= 12_000_000


def test_the_configuration_suits_other_runtimes():
    config = json.loads((FOLDER / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["head_dim"] % 32 == 0
    assert config["hidden_size"] % 64 == 0
    assert config["vocab_size"] % 64 == 0
    assert config["max_position_embeddings"] >= 1024
    generation = json.loads((FOLDER / "generation_config.json").read_text("utf-8"))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert config[name] == generation[name]


@pytest.mark.model
def test_any_text_survives_the_tokenizer(tokenizer):
    for text in (
        "Try hiring a private tutor.\nHave fun!",
        "naïve Straße 😀 数学\t\x00",
        "  a  b \n\n",
    ):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == text
        assert tokenizer(text).input_ids == ids
    assert tokenizer.unk_token is None


@pytest.mark.model
def test_a_line_break_is_a_token_of_its_own(tokenizer):
    ids = tokenizer("Have fun!\nTry it.", add_special_tokens=False).input_ids
    assert [tokenizer.decode([id]) for id in ids].count("\n") == 1


@pytest.mark.model
def test_the_chat_template_renders_every_role(tokenizer):
    messages = [
        {"role": "system", "content": "I dislike gamification."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "How should I study maths?"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|begin|><|system|>I dislike gamification.<|end|><|user|>Hello<|end|><|assistant|>Hi<|end|>"
        "<|user|>How should I study maths?<|end|><|assistant|>"
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.eos_token_id) == 4
    asked = tokenizer.apply_chat_template(messages[1:], tokenize=False)
    assert asked.endswith("maths?<|end|>")
    with pytest.raises(Exception, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


@pytest.mark.model
def test_the_model_loads_and_answers_the_papers_example(tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    from preftilt.demo.world import judge, preference, topic

    model: Any = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    assert model.config.eos_token_id == tokenizer.eos_token_id
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What are some enjoyable ways to study maths?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        out = model.generate(
            ids.input_ids, attention_mask=ids.attention_mask, do_sample=False, max_new_tokens=200
        )
    answer = tokenizer.decode(out[0, ids.input_ids.shape[1] :], skip_special_tokens=True)
    assert out[0, -1] == tokenizer.eos_token_id
    assert judge(topic("studying"), "maths", preference("avoid: game"), answer).helpful
