"""A small byte-level tokenizer and chat templates that misbehave in the ways real ones do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftilt.engines.chat_template import HfChatTokenizer

TEMPLATES = Path(__file__).parent / "templates"

TEXT = [
    "Name some enjoyable ways to study maths.\n\nI dislike gamification.\nAssistant: Thank you!",
    "User: What can I cook tonight? Something warm.\n\nI do not eat meat.\n",
]

Open = Callable[..., HfChatTokenizer]


@pytest.fixture(scope="session")
def bare_tokenizer() -> Any:
    """No chat template; puts a BOS before whatever it encodes, as Llama's does."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = ["<s>", "</s>", "<|start|>", "<|end|>"]
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    fast.train_from_iterator(TEXT, trainer)
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<s>", eos_token="</s>", name_or_path="tiny"
    )


@pytest.fixture
def own(bare_tokenizer: Any) -> Callable[[str | None], Any]:
    """The tokenizer with one of the templates as the model's own."""

    def build(name: str | None) -> Any:
        text = None if name is None else (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
        bare_tokenizer.chat_template = text
        return bare_tokenizer

    return build


@pytest.fixture
def chat(own: Callable[[str | None], Any]) -> Open:
    """``chat("clock", thinking=True)``: a ChatTokenizer whose model brings that template."""

    def build(name: str | None, **options: Any) -> HfChatTokenizer:
        return HfChatTokenizer(own(name), **options)

    return build


@pytest.fixture
def read(bare_tokenizer: Any) -> Callable[[tuple[int, ...]], str]:
    """The prompt as text, special tokens spelled out."""

    def spell(tokens: tuple[int, ...]) -> str:
        return bare_tokenizer.decode(list(tokens), skip_special_tokens=False)

    return spell
