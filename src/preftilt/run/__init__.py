"""How a request is answered: prepared once, then driven through its search.

The driver is the only place where a search meets an engine, and where tokens and seconds are counted.
"""

from preftilt.run.driver import OnProgress, Progress, Run
from preftilt.run.guiding import check_guided
from preftilt.run.prepare import (
    DEFAULT_MAX_TOKENS,
    Prepared,
    fit_max_tokens,
    given_completions,
    is_long,
    plain_completion,
    prepare,
)

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "OnProgress",
    "Prepared",
    "Progress",
    "Run",
    "check_guided",
    "fit_max_tokens",
    "given_completions",
    "is_long",
    "plain_completion",
    "prepare",
]
