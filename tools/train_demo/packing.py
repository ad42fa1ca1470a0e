"""Conversations packed into rows of one length, several to a row, without attention across them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from preftilt.demo.world.conversations import Mix, conversation
from tools.train_demo.vocabulary import encode

_TYPICAL = 110
"""About the length of a conversation, in tokens."""

_POOL = 256
"""Conversations drawn ahead, from which the rows of a batch are filled."""


Encoded = tuple[list[int], list[float]]
"""The tokens of a conversation and their weights."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of packed conversations, each tensor [rows, length]; see ``Network.forward``."""

    ids: Tensor
    positions: Tensor
    document: Tensor
    weight: Tensor


def batches(tokenizer: Tokenizer, seed: str, mix: Mix, rows: int, length: int) -> Iterator[Batch]:
    """Batches without end of new conversations; longer ones than a row are left out."""
    rng = random.Random(f"conversations {seed}")
    pool: list[Encoded] = []
    while True:
        while len(pool) < _POOL:
            drawn = encode(tokenizer, conversation(rng, mix))
            if len(drawn[0]) <= length:
                pool.append(drawn)
        yield _batch([_fill(pool, length) for _ in range(rows)], length)


def _fill(pool: list[Encoded], length: int) -> list[Encoded]:
    """Takes from the pool what fits into one row: the oldest first, then whatever fits best."""
    row: list[Encoded] = []
    room = length
    while True:
        fits = [index for index, (tokens, _) in enumerate(pool) if len(tokens) <= room]
        if not fits:
            return row
        # In order while there is room to spare; the last gap gets what fills it best.
        last = room < 2 * _TYPICAL
        best = max(fits, key=lambda index: len(pool[index][0])) if last else fits[0]
        row.append(pool.pop(best))
        room -= len(row[-1][0])


def _batch(rows: list[list[Encoded]], length: int) -> Batch:
    shape = (len(rows), length)
    ids = torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(shape, dtype=torch.long)
    document = torch.full(shape, -1, dtype=torch.long)
    weight = torch.zeros(shape)
    for number, row in enumerate(rows):
        at = 0
        for index, (tokens, weights) in enumerate(row):
            end = at + len(tokens)
            ids[number, at:end] = torch.tensor(tokens)
            positions[number, at:end] = torch.arange(len(tokens))
            document[number, at:end] = index
            weight[number, at:end] = torch.tensor(weights)
            at = end
    return Batch(ids, positions, document, weight)


def sample_texts(seed: str, mix: Mix, count: int = 20_000) -> Iterator[str]:
    """The texts of so many conversations, to train a tokenizer on."""
    rng = random.Random(seed)
    for _ in range(count):
        for message in conversation(rng, mix):
            yield message["content"]
