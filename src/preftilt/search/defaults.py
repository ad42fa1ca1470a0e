"""What a request that does not say λ gets: one value a search, because the two uses of λ have different scales.

A search that draws responses and scores them compares sums over whole responses; one that guides decoding mixes the
distributions of every token.
"""

from __future__ import annotations

from collections.abc import Mapping

from preftilt.search.base import Search

OF_SCORES = 20.0
"""Where λ ranks whole responses: the paper's value for best-of-N."""

OF_TOKENS: Mapping[str, float] = {"cfg": 2.0}
"""Where λ is that of every token, by the search's name."""


def default_lam(search: Search) -> float:
    """λ of a request that names none, under ``search``."""
    return OF_TOKENS.get(search.name, OF_SCORES)
