"""preftilt: make a language model follow this user's preference more strongly, at test time, without training.

``import preftilt as pt`` is light: names are imported when first used, and engines bring their packages when opened.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from preftilt.ablation import Influence, SentenceInfluence, influence, measure_influence
    from preftilt.api import Realigner, Settings, realign, run_sync
    from preftilt.engines.base import Engine
    from preftilt.engines.open import open_engine
    from preftilt.engines.options import EngineOptions
    from preftilt.errors import PreftiltError
    from preftilt.example import lambda_from_example
    from preftilt.messages import Message
    from preftilt.prompt import PromptSettings
    from preftilt.result import Realigned, ScoredCandidate
    from preftilt.reward import Reward
    from preftilt.run import Progress
    from preftilt.search import (
        ARGS,
        CFG,
        DVTS,
        Amulet,
        ArmGuided,
        AutoSearch,
        BestOfN,
        Greedy,
        LinearAlignment,
        Sample,
    )
    from preftilt.settings import ArmSettings
    from preftilt.types import Preference, Sampling

_HOMES = {
    "preftilt.ablation": ("Influence", "SentenceInfluence", "influence", "measure_influence"),
    "preftilt.api": ("Realigner", "Settings", "realign", "run_sync"),
    "preftilt.engines.base": ("Engine",),
    "preftilt.engines.open": ("open_engine",),
    "preftilt.engines.options": ("EngineOptions",),
    "preftilt.errors": ("PreftiltError",),
    "preftilt.example": ("lambda_from_example",),
    "preftilt.messages": ("Message",),
    "preftilt.prompt": ("PromptSettings",),
    "preftilt.result": ("Realigned", "ScoredCandidate"),
    "preftilt.settings": ("ArmSettings",),
    "preftilt.reward": ("Reward",),
    "preftilt.run": ("Progress",),
    "preftilt.search": (
        "ARGS",
        "CFG",
        "DVTS",
        "Amulet",
        "ArmGuided",
        "AutoSearch",
        "BestOfN",
        "Greedy",
        "LinearAlignment",
        "Sample",
    ),
    "preftilt.types": ("Preference", "Sampling"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ARGS",
    "CFG",
    "DVTS",
    "Amulet",
    "ArmGuided",
    "ArmSettings",
    "AutoSearch",
    "BestOfN",
    "Engine",
    "EngineOptions",
    "Greedy",
    "Influence",
    "LinearAlignment",
    "Message",
    "Preference",
    "PreftiltError",
    "Progress",
    "PromptSettings",
    "Realigned",
    "Realigner",
    "Reward",
    "Sample",
    "Sampling",
    "ScoredCandidate",
    "SentenceInfluence",
    "Settings",
    "__version__",
    "influence",
    "lambda_from_example",
    "measure_influence",
    "open_engine",
    "realign",
    "run_sync",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'preftilt' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
