"""Batches, and the log-probs read from them: what padding, order and batch size must not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from preftilt.arm.spec import Objective
from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.errors import BadInput
from preftilt.messages import Message
from preftilt.train.assembly import find_base
from preftilt.train.losses import causal_lm, response_logprobs
from preftilt.train.pairs import PreferencePair
from preftilt.train.settings import TrainSettings
from preftilt.train.tokens import TokenPair, epoch_batches, make_batch, sorted_batches, tokenise
from tests.engine.models import VOCABULARY, build, byte_tokenizer
from tests.prompt.tokenizers import chat_tokenizer

pytestmark = pytest.mark.model

PAIRS = [
    TokenPair((5, 6, 7), ((1, 2, 258), (9, 258)), (1,)),
    TokenPair((8,), ((30, 31, 32, 33, 258), (40, 258)), (-1,)),
    TokenPair((9, 9, 9, 9, 9, 9), ((3, 258), (4, 4, 4, 258)), (1,)),
]


CHAT = HfChatTokenizer(byte_tokenizer(template="{{ messages[0]['content'] }}"))
"""A real tokenizer of bytes, with a template that adds nothing."""


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma2", "gpt2", "bloom"])
def test_log_probs_are_those_of_each_response_alone(architecture):
    model = build(architecture)
    batched = response_logprobs(causal_lm(model, VOCABULARY, ()), make_batch(PAIRS, "cpu"))
    alone = []
    for side in (0, 1):
        for pair in PAIRS:
            prompt, response = pair.prompt, pair.responses[side]
            table = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
            places = np.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
            alone.append(table[places, list(response)].sum())
    torch.testing.assert_close(batched, torch.stack(alone), atol=2e-3, rtol=1e-4)


def test_the_mean_is_the_sum_over_the_length_with_the_end():
    model, rows = build("llama"), make_batch(PAIRS, "cpu")
    total = response_logprobs(causal_lm(model, VOCABULARY, ()), rows)
    mean = response_logprobs(causal_lm(model, VOCABULARY, (), "mean"), rows)
    torch.testing.assert_close(mean * torch.tensor([3, 5, 2, 2, 2, 4]), total)


def test_ids_that_no_text_has_take_no_probability():
    model = build("llama")
    rows = make_batch(PAIRS, "cpu")
    whole = response_logprobs(causal_lm(model, VOCABULARY, ()), rows)
    fewer = response_logprobs(causal_lm(model, VOCABULARY, (100, 101)), rows)
    assert (fewer > whole).all()


def test_an_epoch_has_every_pair_once_in_an_order_of_its_own():
    many = [TokenPair((1,) * (n % 7 + 1), ((2,), (3,)), (1,)) for n in range(50)]
    first = epoch_batches(many, 8, seed=0, epoch=0)
    assert sorted(number for batch in first for number in batch) == list(range(50))
    assert first == epoch_batches(many, 8, seed=0, epoch=0)
    assert first != epoch_batches(many, 8, seed=0, epoch=1)
    assert first != epoch_batches(many, 8, seed=1, epoch=0)
    assert max(len(batch) for batch in first) == 8


def test_members_of_a_batch_are_about_equally_long():
    rng = np.random.default_rng(0)
    many = [TokenPair((1,) * int(n), ((2,), (3,)), (1,)) for n in rng.integers(1, 100, 256)]
    for batches in (epoch_batches(many, 8, 0, 0), sorted_batches(many, 8)):
        spans = [max(many[i].length for i in b) - min(many[i].length for i in b) for b in batches]
        assert np.mean(spans) < 15


def pair(prompt: str, first: str, second: str, **preferred: int) -> PreferencePair:
    return PreferencePair(
        (Message("user", prompt),), (first, second), preferred, "pairs.jsonl, row 4"
    )


OBJECTIVES = (Objective("help", "", 1.0), Objective("safe", "", 1.0))


def test_responses_end_with_the_end_of_a_turn_and_verdicts_become_signs():
    [made] = tokenise([pair("q", "a", "bc", safe=1)], CHAT, 258, OBJECTIVES, 9, drop=False)
    q, a, b, c = (CHAT.encode(letter)[0] for letter in "qabc")
    assert made == TokenPair((q,), ((a, 258), (b, c, 258)), (0, -1))
    assert made.length == 4


def test_responses_are_trained_on_in_the_ids_that_they_have_behind_the_prompt(tmp_path: Path):
    chat = chat_tokenizer("metaspace", "headers", tmp_path)
    [made] = tokenise([pair("q", "Hi", " Hi", safe=1)], chat, 258, OBJECTIVES, 99, drop=False)
    assert chat.pieces(made.responses[0][:-1]) == ["Hi"]
    assert chat.pieces(made.responses[1][:-1]) == [" Hi"]


def test_a_response_that_spells_its_end_is_named():
    ended = pair("q", "a", "b<|end|>", help=0)
    end = CHAT.encode("<|end|>")[0]
    with pytest.raises(BadInput, match=r"pairs\.jsonl, row 4: it ends with '<\|end\|>'"):
        tokenise([ended], CHAT, end, OBJECTIVES, 9, drop=False)
    pairs = [ended, pair("q", "a", "b", help=0)]
    assert len(tokenise(pairs, CHAT, end, OBJECTIVES, 9, drop=True)) == 1


def test_a_pair_that_is_too_long_is_named_or_left_out():
    pairs = [pair("q", "a", "b", help=0), pair("q", "a" * 9, "b", help=0)]
    with pytest.raises(BadInput, match=r"pairs\.jsonl, row 4: .* 11 tokens, and 10 fit"):
        tokenise(pairs, CHAT, 258, OBJECTIVES, 10, drop=False)
    assert len(tokenise(pairs, CHAT, 258, OBJECTIVES, 10, drop=True)) == 1
    with pytest.raises(BadInput, match="no pair is left"):
        tokenise(pairs, CHAT, 258, OBJECTIVES, 2, drop=True)


def test_a_template_with_a_date_needs_one_for_good(tmp_path: Path):
    template = tmp_path / "dated.jinja"
    template.write_text("{{ strftime_now('%d %b %Y') }}: {{ messages[0]['content'] }}")
    settings = TrainSettings(method="genarm", model="demo", chat_template=str(template))
    with pytest.raises(BadInput, match=r"shows the date .* --now \d{4}-\d\d-\d\d"):
        find_base(settings)
    files = find_base(replace(settings, now="2026-11-28"))
    assert files.chat.spell([Message("user", "Hi")]) == "28 Nov 2026: Hi"
