"""Tokenizers as they come: ids that nobody uses, special tokens that only the tokenizer's own table knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken

from preftilt.engines.transformers import TransformersTuning, open_transformers
from tests.engine.asking import draw, prompt
from tests.engine.models import build, byte_tokenizer

pytestmark = pytest.mark.model


@pytest.mark.parametrize("attention", ["auto", "expanded"])
async def test_an_unused_id_is_neither_drawn_nor_a_reason_to_refuse(tmp_path: Path, attention):
    byte_tokenizer().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    hole = saved["model"]["vocab"].pop(".Ċ")
    saved["model"]["merges"].remove([".", "Ċ"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(saved), "utf-8")
    build("qwen2").save_pretrained(tmp_path)
    engine = open_transformers(str(tmp_path), tuning=TransformersTuning(attention=attention))
    assert engine.versions["attention"] == (
        "expanded" if attention == "expanded" else "shared prefix"
    )
    drawn = await draw(engine, prompt(20), 16, 40)
    assert all(hole not in one.tokens for one in drawn)
    assert all(np.isfinite(one.logprobs).all() for one in drawn)
    engine.close()


def test_an_added_special_token_that_closes_a_turn_ends_a_response(tmp_path: Path):
    """Though it stands in no special-tokens map: only in the tokenizer's own table."""
    turns = "{% for m in messages %}{{ m['content'] }}<|turn|>{% endfor %}"
    tokenizer = byte_tokenizer(template=turns)
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    tokenizer.save_pretrained(tmp_path)
    build("qwen2", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    engine = open_transformers(str(tmp_path))
    assert engine.capabilities.turn_end == tokenizer.convert_tokens_to_ids("<|turn|>")
    engine.close()
