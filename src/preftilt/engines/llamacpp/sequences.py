"""Sequences of llama.cpp, with exact reference counts of the cache cells that they share.

llama.cpp keeps the key and value of a token in a *cell*, which any number of sequences may share; copying a prefix
costs nothing, and a cell is free again when no sequence holds it. llama.cpp does not report how many cells are free, so
every copy and removal is counted here: no batch is ever sent that would not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from preftilt.engines.llamacpp.bindings import LlamaContext


@dataclass(eq=False, slots=True)
class LlamaSequence:
    """One sequence: its id, its tokens, and the indices of their cells.

    ``logits`` [V] (float32) follow the last token, where they were requested.
    """

    seq_id: int
    tokens: list[int]
    cells: Int[np.ndarray, "T"]
    logits: Float[np.ndarray, "V"] | None = None

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass(slots=True)
class SequencePool:
    """All sequences of a context. ``holders`` [C]: the reference count of every cell."""

    context: LlamaContext
    holders: Int[np.ndarray, "C"] = field(init=False)
    free_cells: list[int] = field(init=False)
    free_seq_ids: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Remove every sequence."""
        settings = self.context.settings
        self.context.clear()
        self.holders = np.zeros(settings.cells, np.int32)
        self.free_cells = list(range(settings.cells))
        self.free_seq_ids = list(range(settings.sequences))

    def fork(self, source: LlamaSequence | None, length: int) -> LlamaSequence:
        """A new sequence that shares the cells of the first ``length`` tokens of ``source``."""
        seq_id = self.free_seq_ids.pop()
        if source is None or not length:
            return LlamaSequence(seq_id, [], np.empty(0, np.int64))
        self.context.copy(source.seq_id, seq_id, length)
        cells = source.cells[:length].copy()
        self.holders[cells] += 1
        return LlamaSequence(seq_id, source.tokens[:length], cells)

    def extend(self, sequence: LlamaSequence, tokens: Sequence[int]) -> None:
        """Record that ``tokens`` were forwarded at the end of a sequence."""
        new_cells = np.array([self.free_cells.pop() for _ in tokens], dtype=np.int64)
        self.holders[new_cells] += 1
        sequence.tokens.extend(tokens)
        sequence.cells = np.concatenate([sequence.cells, new_cells])

    def drop(self, sequence: LlamaSequence) -> None:
        """Remove a sequence; cells that no other sequence shares are free again."""
        self.context.remove(sequence.seq_id)
        self.free_seq_ids.append(sequence.seq_id)
        self.holders[sequence.cells] -= 1
        self.free_cells.extend(sequence.cells[self.holders[sequence.cells] == 0].tolist())
