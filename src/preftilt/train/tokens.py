"""Tokenised pairs, and the batches they are trained in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preftilt.arm.spec import Objective
from preftilt.errors import BadInput
from preftilt.prompt import ChatTokenizer, check_unended
from preftilt.train.pairs import PreferencePair
from preftilt.types import Tokens

POOL = 16
"""Batches that are sorted by length together: enough for rows of a batch to be alike, few enough to stay shuffled."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """``signs`` has +1 for each objective that prefers response 0, −1 for 1, 0 for no verdict.

    Both responses end with the token that ends an assistant's turn. ``reference`` is log π(y₀|x) − log π(y₁|x) under
    the base, for ``dpo``; 0 elsewhere.
    """

    prompt: Tokens
    responses: tuple[Tokens, Tokens]
    signs: tuple[int, ...]
    reference: float = 0.0

    @property
    def length(self) -> int:
        """Of the longer of the two, with the prompt."""
        return len(self.prompt) + max(map(len, self.responses))


def tokenise(
    pairs: Sequence[PreferencePair],
    chat: ChatTokenizer,
    end: int,
    objectives: Sequence[Objective],
    longest: int,
    *,
    drop: bool,
) -> list[TokenPair]:
    """The pairs that have a verdict on one of ``objectives``, in tokens; ``end`` is the id that ends a turn.

    Raises :class:`~preftilt.errors.BadInput`, naming file and row, for one of more than ``longest`` tokens,
    or whose response spells its end, unless ``drop`` leaves it out; and if nothing is left.
    """
    tokenised: list[TokenPair] = []
    for pair in pairs:
        signs = tuple(_sign(pair.preferred.get(objective.name)) for objective in objectives)
        if not any(signs):
            continue
        try:
            for text in pair.responses:
                check_unended(text, chat, (end,))
            first, second = ((*chat.encode_response(text), end) for text in pair.responses)
            made = TokenPair(chat.render(pair.messages), (first, second), signs)
        except BadInput as failure:
            if drop:
                continue
            raise BadInput(f"{pair.where}: {failure}") from failure
        if made.length <= longest:
            tokenised.append(made)
        elif not drop:
            raise BadInput(
                f"{pair.where}: prompt and response are {made.length} tokens, and {longest} fit; shorten them, or"
                " leave such pairs out (--bad-rows drop)"
            )
    if not tokenised:
        names = ", ".join(objective.name for objective in objectives)
        raise BadInput(f"no pair is left that has a verdict on {names} and fits {longest} tokens")
    return tokenised


def _sign(preferred: int | None) -> int:
    return 0 if preferred is None else 1 - 2 * preferred


def epoch_batches(pairs: Sequence[TokenPair], size: int, seed: int, epoch: int) -> list[list[int]]:
    """The pairs of an epoch, by number, in batches whose members are about equally long.

    Shuffled by (seed, epoch) alone. The last batch may be smaller.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(pairs)).tolist()
    batches: list[list[int]] = []
    for pool in _cut(order, size * POOL):
        batches += _cut(sorted(pool, key=lambda number: pairs[number].length), size)
    return [batches[place] for place in rng.permutation(len(batches))]


def sorted_batches(pairs: Sequence[TokenPair], size: int) -> list[list[int]]:
    """All pairs, shortest first, in batches: for evaluation."""
    return _cut(sorted(range(len(pairs)), key=lambda number: pairs[number].length), size)


def _cut(items: list[int], size: int) -> list[list[int]]:
    places = [*range(0, len(items), size), len(items)]
    return [items[a:b] for a, b in pairwise(places)]


@dataclass(frozen=True, slots=True)
class PairBatch:
    """2 P sequences, left-padded: response 0 of every pair, then response 1 of every pair.

    ids, mask, positions [2P, T]; targets [2P, R] are the last R ids, scored [2P, R] whether they belong to a response.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    targets: Tensor
    scored: Tensor


def make_batch(pairs: Sequence[TokenPair], device: Any) -> PairBatch:
    """The sequences of a batch; one forward reads them all."""
    sides = [(pair.prompt, pair.responses[side]) for side in (0, 1) for pair in pairs]
    width = max(len(prompt) + len(response) for prompt, response in sides)
    last = max(len(response) for _, response in sides)
    ids = np.zeros((len(sides), width), dtype=np.int64)
    mask = np.zeros((len(sides), width), dtype=np.int64)
    scored = np.zeros((len(sides), last), dtype=bool)
    for row, (prompt, response) in enumerate(sides):
        whole = (*prompt, *response)
        ids[row, width - len(whole) :] = whole
        mask[row, width - len(whole) :] = 1
        scored[row, last - len(response) :] = True
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    made = [torch.from_numpy(array).to(device) for array in (ids, mask, positions, scored)]
    return PairBatch(made[0], made[1], made[2], made[0][:, -last:], made[3])
