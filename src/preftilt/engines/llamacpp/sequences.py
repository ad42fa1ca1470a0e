"""Sequences of llama.cpp, and an exact account of the cells they share.

llama.cpp keeps the key and value of a token in a *cell*, which any number of sequences may share; copying a beginning
costs nothing, and a cell is free again when no sequence holds it. It does not tell how many cells are free, so the
account here follows every copy and removal: nothing is ever sent that would not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from preftilt.engines.llamacpp.bindings import LlamaContext


@dataclass(eq=False, slots=True)
class LlamaSequence:
    """One sequence: its id, the tokens whose cells it holds, and those cells by number.

    ``logits`` [V] follow the last token, where they were asked for (float32).
    """

    number: int
    tokens: list[int]
    cells: Int[np.ndarray, "T"]
    logits: Float[np.ndarray, "V"] | None = None

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass(slots=True)
class SequencePool:
    """All sequences of a context. ``holders`` counts, for every cell, the strands that hold it."""

    context: LlamaContext
    holders: Int[np.ndarray, "C"] = field(init=False)
    free_cells: list[int] = field(init=False)
    free_numbers: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget every sequence."""
        settings = self.context.settings
        self.context.clear()
        self.holders = np.zeros(settings.cells, np.int32)
        self.free_cells = list(range(settings.cells))
        self.free_numbers = list(range(settings.sequences))

    def fork(self, source: LlamaSequence | None, length: int) -> LlamaSequence:
        """A new strand with the first ``length`` tokens of ``source``; none of them is forwarded again."""
        number = self.free_numbers.pop()
        if source is None or not length:
            return LlamaSequence(number, [], np.empty(0, np.int64))
        self.context.copy(source.number, number, length)
        cells = source.cells[:length].copy()
        self.holders[cells] += 1
        return LlamaSequence(number, source.tokens[:length], cells)

    def extend(self, strand: LlamaSequence, tokens: Sequence[int]) -> None:
        """Note that ``tokens`` were forwarded at the end of a strand."""
        taken = np.array([self.free_cells.pop() for _ in tokens], dtype=np.int64)
        self.holders[taken] += 1
        strand.tokens.extend(tokens)
        strand.cells = np.concatenate([strand.cells, taken])

    def drop(self, strand: LlamaSequence) -> None:
        """Forget a strand; cells that nobody shares with it are free again."""
        self.context.remove(strand.number)
        self.free_numbers.append(strand.number)
        self.holders[strand.cells] -= 1
        self.free_cells.extend(strand.cells[self.holders[strand.cells] == 0].tolist())
