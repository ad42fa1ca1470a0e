"""Sequences of llama.cpp, with exact reference counts of the cache cells that they share.

llama.cpp keeps the key and value of a token in a *cell*, which any number of sequences may share; copying a prefix
costs nothing, and a cell is free again when no sequence holds it. llama.cpp does not report how many cells are free, so
every copy and removal is counted here: no batch is ever sent that would not fit.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from preftilt.engines.llamacpp.bindings import LlamaContext
from preftilt.engines.prefixes import PrefixTree
from preftilt.types import Tokens


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


class SequenceCache:
    """Caches sequences that hold at most ``limit`` cells together.

    pinned: tokens of sequences that stay whatever is added; nothing is evicted in their place but others.

    Every held cell makes all forwards a little slower (llama.cpp attends over all cells under a mask), so the limit is
    well below what would fit.
    """

    def __init__(self, pool: SequencePool, limit: int) -> None:
        self._pool = pool
        self._limit = limit
        self.pinned: frozenset[Tokens] = frozenset()
        self._items: OrderedDict[Tokens, LlamaSequence] = OrderedDict()
        self._tree: PrefixTree[LlamaSequence] = PrefixTree()
        self._held_by_cache = np.zeros_like(pool.holders)

    def find_exact(self, tokens: Tokens) -> LlamaSequence | None:
        """The sequence of exactly these tokens, if the logits after them are known."""
        sequence = self._items.get(tokens)
        if sequence is None or sequence.logits is None:
            return None
        self._items.move_to_end(tokens)
        return sequence

    def longest_prefix(self, tokens: Tokens) -> tuple[LlamaSequence | None, int]:
        """The sequence with the longest common prefix, and the prefix's length; the last token is always computed."""
        shared, sequence = self._tree.nearest(tokens[:-1])
        if sequence is not None:
            self._items.move_to_end(tuple(sequence.tokens))
        return sequence, shared

    def add(self, sequence: LlamaSequence) -> None:
        """Cache a sequence; one without logits whose tokens are cached already is removed."""
        key = tuple(sequence.tokens)
        cached = self._items.get(key)
        if cached is not None and sequence.logits is None:
            self._items.move_to_end(key)
            self._pool.drop(sequence)
            return
        if cached is not None:
            self._evict(key)
        self._items[key] = sequence
        self._tree.add(key, sequence)
        self._held_by_cache[sequence.cells] += 1
        while np.count_nonzero(self._held_by_cache) > self._limit:
            oldest = next(
                (other for other in self._items if other not in {key, *self.pinned}), None
            )
            if oldest is None:
                return
            self._evict(oldest)

    def make_room(self, cells: int, seq_ids: int, protected: Collection[LlamaSequence]) -> bool:
        """Evict sequences other than ``protected`` and pinned ones until so many cells and ids are free.

        Returns False, and evicts nothing, if that is impossible.
        """
        pool = self._pool
        kept = [
            sequence
            for key, sequence in self._items.items()
            if key in self.pinned or sequence in protected
        ]
        evictable = [sequence for sequence in self._items.values() if sequence not in kept]
        if len(pool.free_seq_ids) + len(evictable) < seq_ids:
            return False
        if len(pool.free_cells) + self._freeable_cells(kept) < cells:
            return False
        for sequence in evictable:
            if len(pool.free_cells) >= cells and len(pool.free_seq_ids) >= seq_ids:
                break
            self._evict(tuple(sequence.tokens))
        return True

    def clear(self) -> None:
        """Evict everything."""
        for key in [*self._items]:
            self._evict(key)

    def reset(self) -> None:
        """Forget all entries after the pool was reset."""
        self._items.clear()
        self._tree.clear()
        self._held_by_cache[:] = 0

    def _freeable_cells(self, kept: Collection[LlamaSequence]) -> int:
        """Number of cells that only cached sequences other than ``kept`` hold."""
        held_by_cache = self._held_by_cache
        if kept:
            held_by_cache = held_by_cache.copy()
            for sequence in kept:
                held_by_cache[sequence.cells] = 0
        return int(np.count_nonzero((held_by_cache > 0) & (held_by_cache == self._pool.holders)))

    def _evict(self, key: Tokens) -> None:
        sequence = self._items.pop(key)
        self._tree.remove(key)
        self._held_by_cache[sequence.cells] -= 1
        self._pool.drop(sequence)
