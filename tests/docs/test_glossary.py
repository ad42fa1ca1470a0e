"""The glossary names what there is: every identifier in it can be imported."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

GLOSSARY = Path(__file__).parents[2] / "docs" / "reference" / "glossary.md"
NAMES = sorted(set(re.findall(r"`(preftilt(?:\.\w+)+)`", GLOSSARY.read_text("utf-8"))))


def resolved(name: str) -> Any:
    """What a dotted name stands for; a field without a default stands for its annotation."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            fields = getattr(value, "__annotations__", {})
            value = getattr(value, part) if hasattr(value, part) else fields[part]
        return value
    raise LookupError(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_the_glossary_is_one_in_the_code(name):
    assert resolved(name) is not None


def test_every_row_of_the_glossary_says_what_the_term_means():
    rows = re.findall(r"^\|(?! term|-)(.*)\|$", GLOSSARY.read_text("utf-8"), re.MULTILINE)
    assert rows
    for row in rows:
        term, meaning, code, _ = map(str.strip, row.split("|"))
        assert term
        assert meaning.endswith(".")
        assert code
