"""Small tokenizers of the families that models have, all with the same control tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from preftilt.engines.chat_template import HfChatTokenizer

Family = Literal["bytes", "metaspace", "prepend", "unigram"]

CONTROL = ("<s>", "</s>", "<|start|>", "<|end|>")

HEADERS = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
"""The generation prompt ends in a line break."""

MARKERS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:<|start|>{% endif %}"
)
"""The generation prompt ends in a control token."""

DIALOGUE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}assistant:"
"""No control token at all."""

TEMPLATES = {"headers": HEADERS, "markers": MARKERS, "dialogue": DIALOGUE}

WORDS = (
    "▁Once",
    "▁Hi",
    "Hi",
    "▁the",
    "re",
    "\n\n",
    "\n",
    "▁▁",
    "<|",
    "|>",
    "end",
    "ing",
    "▁a",
    ":",
)


def chat_tokenizer(family: Family, template: str, folder: Path) -> HfChatTokenizer:
    """Of the family; its chat template is one of :data:`TEMPLATES`, written to a file in ``folder``."""
    file = folder / f"{template}.jinja"
    file.write_text(TEMPLATES[template], encoding="utf-8")
    return HfChatTokenizer(tokenizer_of(family), chat_template=str(file))


def tokenizer_of(family: Family, *, special: bool = True) -> Any:
    """A tokenizer of transformers; not ``special``: its turns are marked by added tokens that are not called so."""
    fast = _byte_level() if family == "bytes" else _sentencepiece(family)
    fast.add_special_tokens(["<s>", "</s>"])
    fast.add_tokens([AddedToken(one, special=special, normalized=False) for one in CONTROL[2:]])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<s>", eos_token="</s>", name_or_path=family
    )


def _byte_level() -> Tokenizer:
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("Ċ", "Ċ"), ("H", "i"), ("Ġ", "Hi"), (":", "Ċ"), ("<", "|"), ("|", ">")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    fast = Tokenizer(models.BPE(vocabulary, merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    return fast


def _sentencepiece(family: Family) -> Tokenizer:
    """As SentencePiece makes them: a space before the first word, bytes for what is in no piece."""
    letters = sorted({letter for word in WORDS for letter in word} | set("abcxyz.st"))
    pieces = ["<unk>", *CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    pieces += [word for word in WORDS if len(word) > 1]
    if family == "unigram":
        # SentencePiece's control pieces have the score 0, the best of all.
        scores = [(one, 0.0 if one in CONTROL else -9.0 / len(one)) for one in pieces]
        fast = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    else:
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        merges = [
            (word[:cut], word[cut:])
            for word in WORDS
            for cut in range(1, len(word))
            if word[:cut] in vocabulary and word[cut:] in vocabulary
        ]
        fast = Tokenizer(
            models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
        )
    if family == "prepend":  # Behind every control token, too, as in the first tokenizers of Llama.
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        fast.normalizer = normalizers.Sequence(steps)
    else:
        fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return fast
