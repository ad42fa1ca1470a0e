"""What Inspect finds by the entry point ``inspect_ai``: the model ``preftilt``, solvers and tasks.

Inspect loads this module when ``preftilt/…`` is first named; nothing in preftilt does. The class of the model is behind
a function, as in Inspect's own providers.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from preftilt.eval.harness.solver import answer
from preftilt.eval.maths.scorers import maths_answers
from preftilt.eval.maths.solvers import maths_answer
from preftilt.eval.maths.tasks import aime24, amc23, math500
from preftilt.eval.mmhal.scorers import mmhal_ratings
from preftilt.eval.mmhal.tasks import mmhal
from preftilt.eval.multifaceted.scorers import multifaceted_rubrics
from preftilt.eval.multifaceted.tasks import multifaceted
from preftilt.eval.pingpong.scorers import pingpong_ratings
from preftilt.eval.pingpong.tasks import pingpong
from preftilt.eval.prefeval.scorers import prefeval_checks, prefeval_choice_made
from preftilt.eval.prefeval.tasks import (
    prefeval_choice,
    prefeval_explicit,
    prefeval_mcq,
    prefeval_persona,
)
from preftilt.eval.provider import PreftiltAPI
from preftilt.eval.sys_ifeval.tasks import constraints_met, sys_ifeval
from preftilt.eval.world.tasks import demo_world, world_check

__all__ = [
    "aime24",
    "amc23",
    "answer",
    "constraints_met",
    "demo_world",
    "math500",
    "maths_answer",
    "maths_answers",
    "mmhal",
    "mmhal_ratings",
    "multifaceted",
    "multifaceted_rubrics",
    "pingpong",
    "pingpong_ratings",
    "prefeval_checks",
    "prefeval_choice",
    "prefeval_choice_made",
    "prefeval_explicit",
    "prefeval_mcq",
    "prefeval_persona",
    "preftilt",
    "sys_ifeval",
    "world_check",
]


@modelapi(name="preftilt")
def preftilt() -> type[ModelAPI]:
    """``--model preftilt/ENGINE``."""
    return PreftiltAPI
