"""A prefix tree over token ids: finds the longest prefix shared with a stored sequence, in linear time.

It is a radix tree, as in the prefix caches of inference servers: every edge carries a run of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from preftilt.types import Tokens

V = TypeVar("V")


@dataclass(eq=False, slots=True)
class _Node(Generic[V]):
    """``run`` leads to it from its parent; ``value`` is what is stored for exactly the tokens down to here, if any."""

    run: Tokens = ()
    value: V | None = None
    children: dict[int, _Node[V]] = field(default_factory=dict)


class PrefixTree(Generic[V]):
    """Values by their tokens."""

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()

    def add(self, tokens: Tokens, value: V) -> None:
        """Store ``value`` under ``tokens``, in place of what was there."""
        node, rest = self._root, tokens
        while rest:
            child = node.children.get(rest[0])
            if child is None:
                child = node.children[rest[0]] = _Node(rest)
            shared = common_length(child.run, rest)
            if shared < len(child.run):
                child = node.children[rest[0]] = _split(child, shared)
            node, rest = child, rest[shared:]
        node.value = value

    def remove(self, tokens: Tokens) -> None:
        """Forget what is stored under ``tokens``; raises KeyError if that is nothing."""
        path = [self._root]
        rest = tokens
        while rest:
            child = path[-1].children.get(rest[0])
            if child is None or rest[: len(child.run)] != child.run:
                raise KeyError(tokens)
            path.append(child)
            rest = rest[len(child.run) :]
        if path[-1].value is None:
            raise KeyError(tokens)
        path[-1].value = None
        while len(path) > 1 and path[-1].value is None and len(path[-1].children) < 2:
            node, parent = path.pop(), path[-1]
            if node.children:
                [below] = node.children.values()
                below.run = node.run + below.run
                parent.children[node.run[0]] = below
                return
            del parent.children[node.run[0]]

    def nearest(self, tokens: Tokens) -> tuple[int, V | None]:
        """How many of its first ``tokens`` anything stored shares at most, and its value; (0, None) if none does."""
        node, length = self._root, 0
        while length < len(tokens):
            child = node.children.get(tokens[length])
            if child is None:
                break
            shared = common_length(child.run, tokens[length:])
            node, length = child, length + shared
            if shared < len(child.run):
                break
        if not length:
            return 0, None
        while node.value is None:
            node = next(iter(node.children.values()))
        return length, node.value

    @property
    def empty(self) -> bool:
        """Whether nothing is stored."""
        return self._root.value is None and not self._root.children

    def clear(self) -> None:
        """Forget everything."""
        self._root = _Node()


def common_length(first: Tokens, second: Tokens) -> int:
    """The length of the common beginning."""
    low, high = 0, min(len(first), len(second))
    if first[:high] == second[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _split(node: _Node[V], length: int) -> _Node[V]:
    """A node in place of ``node`` that ends after the first ``length`` tokens of its run, with the rest below."""
    above: _Node[V] = _Node(node.run[:length])
    node.run = node.run[length:]
    above.children[node.run[0]] = node
    return above
