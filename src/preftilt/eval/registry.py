"""What Inspect finds by the entry point ``inspect_ai``: the model ``preftilt``, solvers, scorers and tasks.

Inspect loads this module when ``preftilt/…`` is first named; nothing in preftilt does. The class of the model is behind
a function, as in Inspect's own providers.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from preftilt.eval.benchmarks import pingpong
from preftilt.eval.harness import lazy_inspect
from preftilt.eval.harness.solver import answer
from preftilt.eval.provider import PreftiltAPI

__all__ = ["answer", "pingpong", "preftilt"]  # PingPong is none of the benchmarks by name.

lazy_inspect.register()


@modelapi(name="preftilt")
def preftilt() -> type[ModelAPI]:
    """``--model preftilt/ENGINE``."""
    return PreftiltAPI
