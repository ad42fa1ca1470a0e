"""Thoughts before an answer: where they end, and that a tokenizer knows whether a prompt opens them."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.prompt import answer_text
from tests.prompt.tokenizers import HEADERS, tokenizer_of

OPENED = HEADERS.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
CLOSED = OPENED.replace("<think>\n", "<think>\n\n</think>\n\n")


def chat(template: str, folder: Path, *, added: bool = True) -> HfChatTokenizer:
    """``added``: the tags are tokens of their own, as Qwen3 has them."""
    file = folder / "template.jinja"
    file.write_text(template)
    tokenizer = tokenizer_of("bytes")
    if added:
        tokenizer.add_tokens(["<think>", "</think>"])
    return HfChatTokenizer(tokenizer, chat_template=str(file))


def parts(tokenizer: HfChatTokenizer, text: str) -> tuple[str, str]:
    tokens = tokenizer.encode_response(text)
    thoughts = tokenizer.thoughts(tokens)
    return tokenizer.decode(tokens[:thoughts]), answer_text(tokenizer, tokens)


@pytest.mark.parametrize("added", [True, False])
def test_thoughts_end_with_their_tag(tmp_path: Path, added: bool) -> None:
    tokenizer = chat(HEADERS, tmp_path, added=added)
    assert not tokenizer.opens_thoughts
    assert parts(tokenizer, "<think>\nso</think>\n\nHi") == ("<think>\nso</think>", "\n\nHi")
    assert parts(tokenizer, "\n<think></think>Hi") == ("\n<think></think>", "Hi")
    assert parts(tokenizer, "<think>so") == ("<think>so", "")
    assert parts(tokenizer, "Hi <think>so</think>") == ("", "Hi <think>so</think>")
    assert parts(tokenizer, "so</think>Hi") == ("", "so</think>Hi")


@pytest.mark.parametrize("added", [True, False])
def test_thoughts_that_the_prompt_has_opened_need_no_tag_of_their_own(
    tmp_path: Path, added: bool
) -> None:
    tokenizer = chat(OPENED, tmp_path, added=added)
    assert tokenizer.opens_thoughts
    assert parts(tokenizer, "so</think>Hi") == ("so</think>", "Hi")
    assert parts(tokenizer, "so") == ("so", "")


def test_thoughts_that_the_prompt_has_closed_again_are_over(tmp_path: Path) -> None:
    tokenizer = chat(CLOSED, tmp_path)
    assert not tokenizer.opens_thoughts
    assert parts(tokenizer, "so</think>Hi") == ("", "so</think>Hi")
