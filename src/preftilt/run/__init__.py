"""The driver: the only place where a search meets an engine, and where tokens and seconds are counted."""

from preftilt.run.driver import DEFAULT_MAX_TOKENS, Run, fit_max_tokens
from preftilt.run.guiding import check_guided
from preftilt.run.watch import OnProgress, Progress

__all__ = ["DEFAULT_MAX_TOKENS", "OnProgress", "Progress", "Run", "check_guided", "fit_max_tokens"]
