"""Searches: frozen settings, pure plans. They know no engine and no model."""

from preftilt.search.base import Plan, Score, Search, best, rank
from preftilt.search.best_of_n import BestOfN
from preftilt.search.dvts import DVTS
from preftilt.search.single import Greedy, Sample

__all__ = ["DVTS", "BestOfN", "Greedy", "Plan", "Sample", "Score", "Search", "best", "rank"]
