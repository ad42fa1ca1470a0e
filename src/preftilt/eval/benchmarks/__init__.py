"""Benchmarks, one a file: what each asks, how its answers are judged, and its Inspect task; here they stand by name.

A package adds one by an entry point of the group ``preftilt.benchmarks`` that names such a function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from preftilt.errors import BadInput
from preftilt.eval.benchmarks.maths import open_maths
from preftilt.eval.benchmarks.mmhal import open_mmhal
from preftilt.eval.benchmarks.multifaceted import open_multifaceted
from preftilt.eval.benchmarks.prefeval import open_choice, open_judged
from preftilt.eval.benchmarks.prefeval_irrelevant import open_irrelevant
from preftilt.eval.benchmarks.sys_ifeval import open_sys_ifeval
from preftilt.eval.benchmarks.world import open_world
from preftilt.eval.harness.benchmark import Benchmark, Opening, one_of
from preftilt.plugins import Registry

OWN: dict[str, Callable[[Opening], Benchmark]] = {
    "demo-world": open_world,
    "sys-ifeval": open_sys_ifeval,
    "prefeval-explicit": partial(open_judged, "explicit"),
    "prefeval-choice": open_choice,
    "prefeval-persona": partial(open_judged, "persona"),
    "prefeval-irrelevant": open_irrelevant,
    "multifaceted": open_multifaceted,
    "mmhal": open_mmhal,
    "math500": partial(open_maths, "math500"),
    "aime24": partial(open_maths, "aime24"),
    "amc23": partial(open_maths, "amc23"),
}

BENCHMARKS = Registry("preftilt.benchmarks", OWN)

OFFLINE = ("demo-world",)
"""What is measured where no benchmark is named: it needs neither data nor a judge."""


def open_benchmarks(names: Sequence[str], opening: Opening) -> list[Benchmark]:
    """The benchmarks of these names; raises :class:`~preftilt.errors.BadInput` for what cannot be measured."""
    if not names:
        names = OFFLINE
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise BadInput(f"the benchmark {twice[0]} is named twice")
    for name in names:
        if name == "pingpong":
            raise BadInput(
                "a dialogue of PingPong is drawn turn by turn, so that methods cannot share its samples: run"
                " inspect eval preftilt/pingpong once for each (docs/how-to/benchmarks.md)"
            )
        one_of("benchmark", name, tuple(BENCHMARKS))
    opened = [BENCHMARKS[name](opening) for name in names]
    for benchmark in opened:
        if not benchmark.test(0):
            raise BadInput(
                f"{benchmark.name}: there is no item to measure; raise --limit, or give other data"
            )
    return opened
