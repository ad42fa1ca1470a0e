"""What a request takes where it says nothing, shared by settings, flags, page and schema; the default search is in
``search/defaults.py``.

It imports nothing, so that ``preftilt --help`` can tell them at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

LAMBDA: Final = 20.0
"""λ where it ranks whole responses: the paper's value for best-of-N."""

LAMBDA_OF_TOKENS: Final[Mapping[str, float]] = {"cfg": 3.0}
"""λ where it is that of every token, by the search's name."""

REDUCTION: Final = "sum"
"""How token scores become one number (:class:`~preftilt.reward.Reward`): the paper's equation 10."""

CUT_OFF: Final = "last"
"""What is done with answers that were cut off (:mod:`preftilt.reward`)."""
