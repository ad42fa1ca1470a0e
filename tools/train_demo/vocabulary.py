"""The tokenizer: a byte-level BPE trained on the world's conversations, and its chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from preftilt.demo.world.checking import mentions

PAD, BOS, END = "<|pad|>", "<|begin|>", "<|end|>"
SPECIAL = (PAD, BOS, END, "<|system|>", "<|user|>", "<|assistant|>")

PROMPT_WEIGHT = 0.1
"""The weight of tokens that the assistant does not write."""

NAMED_WEIGHT = 4.0
"""The weight of the words that name a recommendation. The rest of what the assistant writes has 1: most of it could as
well have been worded otherwise, and there is little to learn from it."""

CHAT_TEMPLATE = (
    "{{- bos_token -}}\n"
    "{%- for message in messages -%}\n"
    "    {%- if message['role'] not in ['system', 'user', 'assistant'] -%}\n"
    "        {{- raise_exception('unknown role: ' + message['role']) -}}\n"
    "    {%- endif -%}\n"
    "    {{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "    {{- '<|assistant|>' -}}\n"
    "{%- endif -%}\n"
)


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE with ``size`` entries: any text can be written in it, none is unknown."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[AddedToken(special, special=True, normalized=False) for special in SPECIAL],
        initial_alphabet=ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": list(SPECIAL[3:]),
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "padding_side": "left",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, "utf-8")


def encode(
    tokenizer: Tokenizer, conversation: list[dict[str, str]]
) -> tuple[list[int], list[float]]:
    """Token ids as the chat template renders them, and how much it matters to predict each.

    The ``<|end|>`` after an answer is the assistant's too.
    """
    end = special_id(tokenizer, END)
    ids, weights = [special_id(tokenizer, BOS)], [0.0]
    for message in conversation:
        body = tokenizer.encode(message["content"])
        ids += [special_id(tokenizer, f"<|{message['role']}|>"), *body.ids, end]
        if message["role"] == "assistant":
            weights += [PROMPT_WEIGHT, *_answer_weights(message["content"], body.offsets), 1.0]
        else:
            weights += [PROMPT_WEIGHT] * (len(body.ids) + 2)
    return ids, weights


def _answer_weights(text: str, offsets: Sequence[tuple[int, int]]) -> list[float]:
    named = bytearray(len(text))
    for _, start, end in mentions(text):
        named[start:end] = bytes([1]) * (end - start)
    return [NAMED_WEIGHT if any(named[start:end]) else 1.0 for start, end in offsets]


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a special token; ``KeyError`` if the vocabulary lacks it."""
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise KeyError(token)
    return token_id
