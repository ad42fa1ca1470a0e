"""Random tiny models of several architectures, written to disk and opened for real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

END = "<|end|>"
MERGES = (("Ċ", "Ċ"), (".", "Ċ"), ("a", "n"))
"""As byte-level BPE spells them: two newlines, a full stop and a newline, and a plain pair of letters."""
VOCABULARY = 256 + len(MERGES) + 1
END_ID = VOCABULARY - 1
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}"
    + END
    + "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_tokenizer(*, template: str | None = TEMPLATE) -> Any:
    """All bytes, a few merges and an end token: every id below :data:`VOCABULARY` exists."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for merge in MERGES:
        vocabulary["".join(merge)] = len(vocabulary)
    model = Tokenizer(BPE(vocab=vocabulary, merges=list(MERGES)))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=model, eos_token=END)
    made.chat_template = template
    return made


def _sizes(**changed: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": None,
        "eos_token_id": END_ID,
        "pad_token_id": None,
        **changed,
    }


def build(architecture: str, **changed: Any) -> Any:
    """A random model. Every one differs from the others in how it attends."""
    torch.manual_seed(11)
    match architecture:
        case "llama":
            config = transformers.LlamaConfig(**_sizes(num_key_value_heads=4, **changed))
        case "qwen2":
            config = transformers.Qwen2Config(
                **_sizes(num_key_value_heads=2, tie_word_embeddings=True, **changed)
            )
        case "mistral":
            config = transformers.MistralConfig(
                **_sizes(num_key_value_heads=2, sliding_window=9, **changed)
            )
        case "gemma2":
            config = transformers.Gemma2Config(
                **_sizes(
                    num_key_value_heads=2,
                    head_dim=16,
                    sliding_window=9,
                    query_pre_attn_scalar=16,
                    **changed,
                )
            )
        case "gpt2":
            config = transformers.GPT2Config(
                vocab_size=VOCABULARY,
                n_embd=48,
                n_layer=2,
                n_head=4,
                n_positions=256,
                initializer_range=0.2,
                bos_token_id=None,
                eos_token_id=END_ID,
                **changed,
            )
        case "bloom":
            config = transformers.BloomConfig(
                vocab_size=VOCABULARY,
                hidden_size=48,
                n_layer=2,
                n_head=4,
                initializer_range=0.2,
                bos_token_id=None,
                eos_token_id=END_ID,
                pad_token_id=None,
            )
        case _:
            raise ValueError(architecture)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def save(
    folder: Path, architecture: str, *, template: str | None = TEMPLATE, **changed: Any
) -> str:
    """Write a random model and its tokenizer; the folder's path."""
    folder.mkdir(parents=True, exist_ok=True)
    model = build(architecture, **changed)
    model.save_pretrained(folder)
    byte_tokenizer(template=template).save_pretrained(folder)
    return str(folder)


@contextmanager
def calm() -> Iterator[None]:
    """No progress bars, and one thread: two only wait for each other on models so small, adding up in another order."""
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
