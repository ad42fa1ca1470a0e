"""Key/value caches kept between calls: prompts, and the responses that grow from them.

Keys are token ids. A prompt is cached once, at batch size 1, with the logits after its last token, so the first token
of any number of rows needs no further forward. A *tail* is the key/value cache of response tokens after a prompt. Both
are in one LRU cache bounded in bytes; what is in use stays alive by reference after it was evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from preftilt.engines.prefixes import PrefixTree
from preftilt.types import Reader, Tokens

Layers = dict[int, tuple[Tensor, Tensor]]
"""Layer index → keys [Hkv, T, D] and values [Hkv, T, Dv]."""

CacheKey = tuple[Reader | None, Tokens, Tokens]
"""Reader, prompt, and the response prefix after it, which is empty for the prompt's own cache."""

SHORTEST_SHARED = 16
"""A common prefix of fewer tokens than this is computed again: copying it costs more."""


@dataclass(eq=False, slots=True)
class CachedPrompt:
    """A prefilled prompt: its key/value cache under ``reader``, and the float32 logits [V] after its last token.

    shift: position id minus index, for all tokens that follow (``ImageEmbedder.shifts``).
    """

    tokens: Tokens
    layers: Layers
    logits: Tensor
    reader: Reader | None = None
    shift: int = 0
    tails: dict[Tokens, CachedTail] = field(default_factory=dict)

    def key(self, tail: Tokens = ()) -> CacheKey:
        """The cache key of the prompt, or of one of its tails."""
        return self.reader, self.tokens, tail

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def shifts(self) -> Tensor | None:
        """``shift`` [3, 1] as :class:`ExtendSegment` takes it."""
        return torch.full((3, 1), self.shift) if self.shift else None


@dataclass(eq=False, slots=True)
class CachedTail:
    """The key/value cache of response tokens after a prompt.

    ``logits`` [V] (float32) follow the last of them; a tail that was copied out of a running batch has none.
    """

    tokens: Tokens
    layers: Layers
    logits: Tensor | None = None


def layers_bytes(layers: Layers) -> int:
    """Bytes of a key/value cache."""
    return sum(t.numel() * t.element_size() for pair in layers.values() for t in pair)


class PrefixCache:
    """LRU cache of prompts and tails; entries of different readers are never shared."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.bytes = 0
        self._items: OrderedDict[CacheKey, CachedPrompt | CachedTail] = OrderedDict()
        self._prompts: dict[Reader | None, PrefixTree[CachedPrompt]] = {}

    def prompt(self, tokens: Tokens, reader: Reader | None = None) -> CachedPrompt | None:
        """The prompt with exactly these tokens."""
        cached = self._items.get((reader, tokens, ()))
        if cached is not None:
            self._items.move_to_end((reader, tokens, ()))
        return cached if isinstance(cached, CachedPrompt) else None

    def longest_shared(self, tokens: Tokens, reader: Reader | None = None) -> tuple[int, Layers]:
        """The longest prefix of ``tokens``, without the last token, that a cached prompt shares.

        The last token is always computed, because its logits are needed. Returns the length (0 if none) and that
        prompt's layers.
        """
        tree = self._prompts.get(reader)
        shared, prompt = (0, None) if tree is None else tree.nearest(tokens[:-1])
        if prompt is None or shared < SHORTEST_SHARED:
            return 0, {}
        return shared, prompt.layers

    def longest_tail(self, prompt: CachedPrompt, tokens: Tokens) -> CachedTail | None:
        """The longest tail of ``prompt`` that is a prefix of ``tokens``."""
        for length in sorted(
            {len(known) for known in prompt.tails if len(known) <= len(tokens)}, reverse=True
        ):
            tail = prompt.tails.get(tokens[:length])
            if tail is not None:
                if prompt.key(tail.tokens) in self._items:
                    self._items.move_to_end(prompt.key(tail.tokens))
                return tail
        return None

    def add_prompt(self, prompt: CachedPrompt) -> None:
        self._add(prompt.key(), prompt)

    def add_tail(self, prompt: CachedPrompt, tail: CachedTail) -> None:
        """Cache a tail, unless it is empty, already cached with its logits, or its prompt has been evicted."""
        known = prompt.tails.get(tail.tokens)
        if known is not None and known.logits is None and tail.logits is not None:
            self._evict(prompt.key(tail.tokens))
            known = None
        if tail.tokens and known is None and self._items.get(prompt.key()) is prompt:
            prompt.tails[tail.tokens] = tail
            self._items.move_to_end(prompt.key())
            self._add(prompt.key(tail.tokens), tail)

    def evict_tail(self, prompt: CachedPrompt, tokens: Tokens) -> None:
        """Evict the tail of exactly these tokens, if it is cached."""
        if prompt.key(tokens) in self._items and tokens:
            self._evict(prompt.key(tokens))

    def clear(self) -> None:
        self._items.clear()
        self._prompts.clear()
        self.bytes = 0

    def _add(self, key: CacheKey, item: CachedPrompt | CachedTail) -> None:
        if key in self._items:
            self._evict(key)
        self._items[key] = item
        if isinstance(item, CachedPrompt):
            self._prompts.setdefault(item.reader, PrefixTree()).add(item.tokens, item)
        self.bytes += layers_bytes(item.layers)
        while self.bytes > self.capacity and len(self._items) > 1:
            self._evict(next(iter(self._items)))

    def _evict(self, key: CacheKey) -> None:
        item = self._items.pop(key)
        self.bytes -= layers_bytes(item.layers)
        if isinstance(item, CachedPrompt):
            tree = self._prompts[item.reader]
            tree.remove(item.tokens)
            if (
                tree.empty
            ):  # Preference vectors come with requests, so there may be any number of readers.
                del self._prompts[item.reader]
            for tokens in item.tails:
                tail = self._items.pop(item.key(tokens))
                self.bytes -= layers_bytes(tail.layers)
            item.tails.clear()
        else:
            prompt = self._items.get((*key[:2], ()))
            if isinstance(prompt, CachedPrompt):
                prompt.tails.pop(item.tokens, None)


def concat_layers(first: Layers, second: Layers) -> Layers:
    """Concatenate two key/value caches along the tokens."""
    if not first:
        return second
    return {
        layer: (torch.cat([first[layer][0], k], dim=1), torch.cat([first[layer][1], v], dim=1))
        for layer, (k, v) in second.items()
    }
