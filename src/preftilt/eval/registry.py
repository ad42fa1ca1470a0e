"""What Inspect finds by the entry point ``inspect_ai``: the model ``preftilt``, solvers and tasks.

Inspect loads this module when ``preftilt/…`` is first named; nothing in preftilt does. The class of the model is behind
a function, as in Inspect's own providers.
"""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from preftilt.eval.benchmarks.maths_task import aime24, amc23, math500, maths_answer, maths_answers
from preftilt.eval.benchmarks.mmhal_task import mmhal, mmhal_ratings
from preftilt.eval.benchmarks.multifaceted_task import multifaceted, multifaceted_rubrics
from preftilt.eval.benchmarks.pingpong_task import pingpong, pingpong_ratings
from preftilt.eval.benchmarks.prefeval_task import (
    prefeval_checks,
    prefeval_choice,
    prefeval_choice_made,
    prefeval_explicit,
    prefeval_mcq,
    prefeval_persona,
)
from preftilt.eval.benchmarks.sys_ifeval_task import constraints_met, sys_ifeval
from preftilt.eval.benchmarks.world_task import demo_world, world_check
from preftilt.eval.harness.solver import answer
from preftilt.eval.provider import PreftiltAPI

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
