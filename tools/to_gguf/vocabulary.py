"""A byte-level BPE tokenizer of transformers, as GGUF describes one: tokens, their kinds, and how text is cut first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType  # pyright: ignore[reportMissingImports]

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

CUTS = {
    rf"{_WORDS}|\p{{N}}{_REST}": ("qwen2", False),
    rf"{_WORDS}|\p{{N}}{{1,3}}{_REST}": ("llama-bpe", True),
}
"""The expression that cuts text before merging → llama.cpp's name for it, and whether it takes whole words that are
tokens without merging them (``ignore_merges``)."""


class CannotExport(ValueError):
    """The model is of a kind that this tool does not write; says what to use instead."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``tokens`` and ``kinds`` by id; ``cut`` is llama.cpp's name of the pre-tokenizer."""

    tokens: list[str]
    kinds: list[Any]
    cut: str


def read_vocabulary(folder: Path, size: int) -> Vocabulary:
    """The tokenizer in ``folder`` for a model with ``size`` output rows.

    Rows that no token stands behind become unused tokens, as llama.cpp's own converter has it. Raises
    :class:`CannotExport` for a tokenizer that llama.cpp would read differently.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CannotExport(f"{folder} has no tokenizer.json; use llama.cpp's convert_hf_to_gguf.py")
    table = json.loads(path.read_text(encoding="utf-8"))
    cut = _cut(table)
    tokens = [f"[PAD{number}]" for number in range(size)]
    kinds: list[Any] = [TokenType.UNUSED] * size
    for text, number in table["model"]["vocab"].items():
        if number < size:
            tokens[number], kinds[number] = text, TokenType.NORMAL
    for added in table["added_tokens"]:
        if added["lstrip"] or added["rstrip"] or added["single_word"]:
            raise _unknown(f"the added token {added['content']!r}, which takes in its surroundings")
        if added["id"] < size:
            kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
            tokens[added["id"]], kinds[added["id"]] = added["content"], kind
    return Vocabulary(tokens, kinds, cut)


def _cut(table: dict[str, Any]) -> str:
    """llama.cpp's name for how this tokenizer cuts text before it merges."""
    model, normalizer = table["model"], table["normalizer"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise _unknown(f"a {model['type']} tokenizer that is not byte-level")
    if normalizer is not None and normalizer["type"] != "NFC":
        # llama.cpp leaves text as it is; for text that is in NFC already, as nearly all is, that is the same.
        raise _unknown(f"the normalizer {normalizer['type']}")
    steps = table["pre_tokenizer"] or {"type": "none"}
    steps = steps["pretokenizers"] if steps["type"] == "Sequence" else [steps]
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            cut, whole_words = "gpt-2", False
        case [
            {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if expression in CUTS:
            cut, whole_words = CUTS[expression]
        case _:
            raise _unknown("a pre-tokenizer that llama.cpp may have no name for")
    if bool(model.get("ignore_merges")) != whole_words:
        raise _unknown(f"the pre-tokenizer {cut} with another treatment of whole words")
    return cut


def _unknown(what: str) -> CannotExport:
    return CannotExport(
        f"the tokenizer has {what}; this tool could write it wrongly, so use llama.cpp's convert_hf_to_gguf.py"
    )
