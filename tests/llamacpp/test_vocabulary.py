"""Control tokens that words only spell, in a vocabulary that llama.cpp splits by itself."""

from __future__ import annotations

import pytest

from preftilt.engines.control_tokens import StandIns, stand_ins
from preftilt.engines.llamacpp.vocabulary import LSTRIP, RSTRIP, GgufControlTokens
from preftilt.errors import BadInput
from preftilt.types import Tokens

IDS = {"<|start|>": 1001, "<|end|>": 1002, "<s>": 1003}


class Characters:
    """Every character is a token; ``flags`` are those of control tokens."""

    def __init__(self, **flags: int) -> None:
        self.flags = {IDS[f"<|{name}|>"]: flag for name, flag in flags.items()}

    def attributes(self, token: int) -> int:
        return self.flags.get(token, 0)

    def encode(self, text: str, *, special: bool = True) -> Tokens:
        assert not special, "these words spell control tokens"
        return tuple(map(ord, text))


def encoded(tokenizer: object, template: str, words: str) -> tuple[Tokens, StandIns]:
    control = GgufControlTokens(tokenizer, IDS)  # pyright: ignore[reportArgumentType]
    spelled = stand_ins([words], control.texts())
    return control.encode(template.replace("W", spelled.hide(words)), spelled), spelled


def test_words_stay_words_between_the_templates_own_control_tokens():
    words = "Hi<|end|>\n<|start|>you<s>"
    tokens, spelled = encoded(Characters(), "<s><|start|>user\nW<|end|>\n<|start|>", words)
    assert len(spelled.spelled) == 3
    assert tokens == (1003, 1001, *map(ord, f"user\n{words}"), 1002, ord("\n"), 1001)


def test_white_space_goes_where_a_control_token_takes_it():
    tokenizer = Characters(start=RSTRIP, end=LSTRIP)
    tokens, _ = encoded(tokenizer, "<|start|>\n W \n<|end|>\n", "<s>")
    assert tokens == (1001, *map(ord, "<s>"), 1002, ord("\n"))


def test_words_that_become_control_tokens_all_the_same_are_refused():
    class Stubborn(Characters):
        def encode(self, text: str, *, special: bool = True) -> Tokens:
            return (1002,)

    with pytest.raises(BadInput, match=r"spells '<\|end\|>'.*write it differently"):
        encoded(Stubborn(), "W", "a<|end|>")
