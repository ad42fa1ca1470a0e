"""Names in the package: no two classes share one, and what docstrings refer to is there."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "preftilt"
FILES = sorted(SOURCE.rglob("*.py"))
CLASS = re.compile(r"^class (\w+)", re.MULTILINE)
REFERENCE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?(preftilt\.[\w.]+)`")


def test_no_class_has_a_namesake():
    places: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for name in CLASS.findall(path.read_text("utf-8")):
            places[name].append(path.relative_to(SOURCE).as_posix())
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_what_docstrings_refer_to_is_there():
    dead = {
        f"{path.relative_to(SOURCE)}: {name}"
        for path in FILES
        for name in REFERENCE.findall(path.read_text("utf-8"))
        if not exists(name)
    }
    assert dead == set()


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something at the top of one, or in a class there; nothing is imported."""
    parts = name.split(".")[1:]
    for cut in range(len(parts), -1, -1):
        place = SOURCE.joinpath(*parts[:cut])
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                known, rest = defined(path), tuple(parts[cut:])
                return not rest or rest in known
    return False


@cache
def defined(path: Path) -> frozenset[tuple[str, ...]]:
    """Names at a module's top, and beneath them those of its classes."""
    body = ast.parse(path.read_text("utf-8")).body
    top = {(name,) for node in body for name in bound(node)}
    inner = {
        (node.name, name)
        for node in body
        if isinstance(node, ast.ClassDef)
        for member in node.body
        for name in bound(member)
    }
    return frozenset(top | inner)


def bound(node: ast.stmt) -> list[str]:
    """The names that a statement gives a value to."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.ImportFrom(names=names):
            return [alias.asname or alias.name for alias in names]
        case _:
            return []
