"""Strands kept for later calls: token ids are the handle, the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from preftilt.engines.llamacpp.sequences import LlamaSequence, SequencePool
from preftilt.engines.prefixes import PrefixTree
from preftilt.types import Tokens


class SequenceCache:
    """A store of strands that hold at most ``limit`` cells together.

    Every cell that is held makes all forwards a little slower (llama.cpp reads the whole store under a mask), so the
    limit is well below what would fit.
    """

    def __init__(self, strands: SequencePool, limit: int) -> None:
        self._strands = strands
        self._limit = limit
        self._items: OrderedDict[Tokens, LlamaSequence] = OrderedDict()
        self._tree: PrefixTree[LlamaSequence] = PrefixTree()
        self._shares = np.zeros_like(strands.holders)

    def anchor(self, tokens: Tokens) -> LlamaSequence | None:
        """The strand of exactly these tokens, if the logits after them are known."""
        sequence = self._items.get(tokens)
        if sequence is None or sequence.logits is None:
            return None
        self._items.move_to_end(tokens)
        return sequence

    def nearest(self, tokens: Tokens) -> tuple[LlamaSequence | None, int]:
        """The strand with the longest common beginning, short of the last token: its logits are needed."""
        shared, best = self._tree.nearest(tokens[:-1])
        if best is not None:
            self._items.move_to_end(tuple(best.tokens))
        return best, shared

    def add(self, strand: LlamaSequence) -> None:
        """Take a strand over; one without logits that is known already is dropped."""
        key = tuple(strand.tokens)
        known = self._items.get(key)
        if known is not None and strand.logits is None:
            self._items.move_to_end(key)
            self._strands.drop(strand)
            return
        if known is not None:
            self._forget(key)
        self._items[key] = strand
        self._tree.add(key, strand)
        self._shares[strand.cells] += 1
        while len(self._items) > 1 and np.count_nonzero(self._shares) > self._limit:
            self._forget(next(iter(self._items)))

    def make_room(self, cells: int, numbers: int, spare: LlamaSequence | None) -> bool:
        """Let go of strands, ``spare`` apart, until so many cells and ids are free; False if that cannot be.

        In that case nothing is let go.
        """
        strands = self._strands
        others = [strand for strand in self._items.values() if strand is not spare]
        if len(strands.free_numbers) + len(others) < numbers:
            return False
        if len(strands.free_cells) + self._loose(spare) < cells:
            return False
        for strand in others:
            if len(strands.free_cells) >= cells and len(strands.free_numbers) >= numbers:
                break
            self._forget(tuple(strand.tokens))
        return True

    def clear(self) -> None:
        """Let go of everything."""
        for key in [*self._items]:
            self._forget(key)

    def reset(self) -> None:
        """After the strands were reset: there is nothing left to let go of."""
        self._items.clear()
        self._tree.clear()
        self._shares[:] = 0

    def _loose(self, spare: LlamaSequence | None) -> int:
        """Cells that nobody but kept strands other than ``spare`` holds."""
        shares = self._shares
        if spare is not None:
            shares = shares.copy()
            shares[spare.cells] = 0
        return int(np.count_nonzero((shares > 0) & (shares == self._strands.holders)))

    def _forget(self, key: Tokens) -> None:
        strand = self._items.pop(key)
        self._tree.remove(key)
        self._shares[strand.cells] -= 1
        self._strands.drop(strand)
