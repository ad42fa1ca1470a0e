"""Bytes of tokens: they join to the text, also where one character is several tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.models import demo_folder
from tests.engine.models import byte_tokenizer

pytestmark = pytest.mark.model

BEASTS = "🦄🐉🧙 und dann\n"


def sentencepiece_tokenizer() -> Any:
    """As Llama 2 spells: ``▁`` is a space, unknown characters are bytes, and a text's first space is not its own."""
    letters = ["▁", *"abcdehnotu", "\n"]
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "▁t", "he"]
    model = Tokenizer(
        BPE(
            vocab={name: place for place, name in enumerate(names)},
            merges=[("▁", "t"), ("h", "e")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    model.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    model.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, eos_token="</s>")


def wordpiece_tokenizer() -> Any:
    from tokenizers.models import WordPiece

    names = ["[UNK]", "the", "cat", "##s", "##t"]
    model = Tokenizer(WordPiece(vocab={name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    model.decoder = decoders.WordPiece(cleanup=False)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, eos_token="[END]")


MADE: dict[str, Callable[[], Any]] = {
    "byte-level": byte_tokenizer,
    "sentencepiece": sentencepiece_tokenizer,
    "bundled": lambda: transformers.AutoTokenizer.from_pretrained(demo_folder()),
}


@pytest.fixture(scope="module", params=MADE)
def chat(request: pytest.FixtureRequest) -> HfChatTokenizer:
    return HfChatTokenizer(MADE[request.param]())


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_the_bytes_of_a_text_s_tokens_are_its_own(chat: HfChatTokenizer, text: str) -> None:
    for given_text in (text, BEASTS + text):
        tokens = chat.encode(given_text)
        pieces = chat.spell_bytes(tokens)
        assert len(pieces) == len(tokens)
        assert b"".join(piece or b"" for piece in pieces).decode() == chat.decode(tokens)


def test_a_character_is_spread_over_tokens_and_no_token_is_left_out(chat: HfChatTokenizer) -> None:
    pieces = chat.spell_bytes(chat.encode("t🦄"))
    assert None not in pieces
    assert [piece for piece in pieces if piece in (b"\xf0", b"\x9f", b"\xa6", b"\x84")]


@settings(max_examples=60, deadline=None)
@given(places=st.lists(st.floats(0, 1, exclude_max=True), max_size=12))
def test_any_tokens_are_spelled_one_by_one(chat: HfChatTokenizer, places: list[float]) -> None:
    size = len(chat._tokenizer)
    tokens = tuple(int(place * size) for place in places)
    pieces = chat.spell_bytes(tokens)
    assert len(pieces) == len(tokens)
    whole = b"".join(piece or b"" for piece in pieces)
    try:
        assert whole.decode() == chat.decode(tokens)
    except UnicodeDecodeError:  # Text cannot say what stands there.
        assert "\N{REPLACEMENT CHARACTER}" in chat.decode(tokens)


def test_the_end_of_a_turn_is_no_text(chat: HfChatTokenizer) -> None:
    end = chat._tokenizer.eos_token_id
    assert isinstance(end, int)
    assert chat.spell_bytes((end,)) == [None]


def test_tokenizers_of_other_kinds_are_spelled_by_what_a_token_adds() -> None:
    chat = HfChatTokenizer(wordpiece_tokenizer())
    tokens = chat.encode("the cats")
    assert chat.spell_bytes(tokens) == [b"the", b" cat", b"s"]
