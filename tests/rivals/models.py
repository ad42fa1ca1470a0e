"""Random tiny reward models, written to disk; and the oracle: one plain forward a response, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from preftilt.messages import Message
from tests.engine.models import END, END_ID, VOCABULARY, byte_tokenizer

BOS = "<|begin|>"
TEMPLATE = BOS + "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}" + END + "{% endfor %}"
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + TEMPLATE
)
DEAF = BOS + "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}"


def save_reward_model(
    folder: Path, *, template: str | None = TEMPLATE, labels: int = 1, pad: int | None = None
) -> str:
    """A Llama with a scoring head and its tokenizer, which puts a BOS in front by itself; the folder's path."""
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY + 1,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=VOCABULARY,
        eos_token_id=END_ID,
        pad_token_id=pad,
    )
    config.num_labels = labels
    transformers.LlamaForSequenceClassification(config).eval().save_pretrained(folder)
    tokenizer_with_bos(template).save_pretrained(folder)
    return str(folder)


def tokenizer_with_bos(template: str | None) -> Any:
    tokenizer = byte_tokenizer(template=template)
    tokenizer.add_special_tokens({"bos_token": BOS})
    tokenizer.backend_tokenizer.post_processor = _bos_first(tokenizer)
    return tokenizer


def _bos_first(tokenizer: Any) -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.convert_tokens_to_ids(BOS))]
    )


def plain_score(folder: str, messages: Sequence[Message], response: str) -> float:
    """As a model card would have it: the chat template, one BOS, one sequence, one forward."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(
        [*turns, {"role": "assistant", "content": response}], tokenize=False
    )
    ids = tokenizer(text.removeprefix(BOS), return_tensors="pt")
    assert ids["input_ids"][0].tolist().count(VOCABULARY) == 1
    with torch.no_grad():
        return float(model(**ids).logits[0, 0])
