"""A class is known by its name: no two of them in the package share one."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "preftilt"


def classes() -> dict[str, list[str]]:
    """The files, below the package, that define each class at their top."""
    places: dict[str, list[str]] = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.relative_to(SOURCE).as_posix())
    return places


def test_no_class_has_a_namesake():
    assert {name: places for name, places in classes().items() if len(places) > 1} == {}
