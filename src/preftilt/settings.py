"""Everything that shapes a request besides its words."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from preftilt.errors import BadInput
from preftilt.prompt import PromptSettings
from preftilt.readers import ArmSettings
from preftilt.reward import Reward
from preftilt.rivals import ByLogprob, Method, check_search
from preftilt.search import AutoSearch, Search, default_lam, default_search
from preftilt.types import Sampling, check_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that shapes a request besides its words; immutable, and recorded in the result.

    Attributes:
        lam: strength λ of every preference without its own; 1 is the model as it is. None takes the default of the
            search in use: 3 where every token is guided (:class:`~preftilt.search.CFG`), else 20. The result says
            which it was.
        search: how candidates come about. The default leaves it to the engine (:class:`~preftilt.search.AutoSearch`).
        method: how the answer is picked among the candidates; REAR's score by default.
        sampling: temperature and filters of drawing.
        reward: how per-token log-probs become a score.
        prompt: where preferences stand in the prompt.
        arms: trained reward models that take part in the score.
        max_tokens: of a response. None takes 512 or what the context leaves, whichever is less.
        seed: the same seed gives the same answer.

    Raises:
        BadInput: for a value out of range, and for a method that does not go with the search.
    """

    lam: float | None = None
    search: Search = field(default_factory=AutoSearch)
    method: Method = field(default_factory=ByLogprob)
    sampling: Sampling = field(default_factory=Sampling)
    reward: Reward = field(default_factory=Reward)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    arms: ArmSettings = field(default_factory=ArmSettings)
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.lam is not None and not math.isfinite(self.lam):
            raise BadInput(f"lambda must be a finite number, not {self.lam}")
        if self.max_tokens is not None:
            check_whole("max_tokens", self.max_tokens, 1)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise BadInput(f"seed must be a whole number, not {self.seed!r}")
        check_search(self.method, self.search)

    @property
    def strength(self) -> float:
        """λ of a preference without its own: ``lam``, or the search's default."""
        return default_lam(self.search) if self.lam is None else self.lam


def settled(settings: Settings, guides: bool, *, several: bool = False) -> Settings:
    """``settings`` with the search and λ decided that they leave open; ``guides`` as in :func:`default_search`.

    several: the request wants several answers, each a search of its own.
    """
    if isinstance(settings.search, AutoSearch):
        picks = settings.method != ByLogprob()  # It needs answers to pick from.
        draws = several or settings.sampling != Sampling()
        search = default_search(guides and not picks, settings.search.n, draws=draws)
        settings = replace(settings, search=search)
    return replace(settings, lam=settings.strength)
