"""What ``/v1/models`` says of the knob under a model's name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from preftilt.engines.base import Capabilities
from preftilt.server.names import SUFFIXES
from preftilt.server.resolve import ServerConfig, defaults_of


def knob_card(name: str, config: ServerConfig, capabilities: Capabilities) -> dict[str, Any]:
    """The ``preftilt`` object of the model ``name``: the search and λ of requests that name none, and what its
    engine can do.

    The served model's own name may be followed by a suffix, and has one of every kind. Reward models that requests
    may name stand beside them, with their objectives. Raises a 404 for a name that is none.
    """
    settings = defaults_of(name, config, guides=capabilities.guides)
    card: dict[str, Any] = {
        "search": asdict(settings.search),
        "lambda": settings.lam,
        "guides": capabilities.guides,
        "alternatives": capabilities.proposes,
    }
    if name == config.model:
        card["suffixes"] = [f"{name}:{suffix}" for suffix in SUFFIXES]
    arms = {arm.name: [goal.name for goal in arm.objectives] for arm in capabilities.arms}
    return card | ({"arms": arms} if arms else {})
