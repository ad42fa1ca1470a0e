"""Importing preftilt is light: no torch, no engine, and nothing else that takes long."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "matplotlib", "typer", "rich", "pydantic")

LOADED = """
import sys
import preftilt as pt
pt.Realigner, pt.Settings, pt.BestOfN, pt.open_engine
print(*[name for name in {heavy!r} if name in sys.modules])
"""

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None  # as if they were not installed
import preftilt as pt
pt.realign, pt.Realigner
try:
    pt.open_engine("demo")
except pt.PreftiltError as error:
    print(type(error).__name__, error)
"""

WITHOUT_INSPECT = """
import sys
sys.modules["inspect_ai"] = None
from preftilt.eval.benchmarks import open_benchmarks, pingpong
from preftilt.eval.harness.benchmark import Opening
[benchmark] = open_benchmarks(["demo-world"], Opening(limit=1))
print(pingpong.pingpong.__name__, len(benchmark.test(0)))
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_core_imports_nothing_heavy():
    assert run(LOADED.format(heavy=HEAVY)).split() == []


def test_without_torch_opening_a_model_names_the_extra_to_install():
    said = run(WITHOUT_TORCH)
    assert said.startswith("MissingPackage")
    assert 'pip install "preftilt[transformers]"' in said


def test_benchmarks_are_opened_without_inspect_though_their_tasks_are_in_the_same_files():
    assert run(WITHOUT_INSPECT).split() == ["pingpong", "1"]


def test_every_public_name_exists_and_is_documented():
    import preftilt as pt

    for name in pt.__all__:
        assert name == "__version__" or getattr(pt, name).__doc__
    assert set(dir(pt)) == set(pt.__all__)
