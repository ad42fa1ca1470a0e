"""A tiny random model and eight pairs that it can learn, made once a session."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.models import calm, save

SIZES = {"hidden_size": 32, "intermediate_size": 48, "initializer_range": 0.1}


@pytest.fixture(scope="session", autouse=True)
def _calm() -> Iterator[None]:
    with calm():
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random Llama of hidden size 32 that reads bytes, 256 at most."""
    return save(tmp_path_factory.mktemp("models") / "tiny", "llama", **SIZES)


def rows() -> list[dict[str, Any]]:
    """Eight pairs with verdicts of two objectives, which disagree on half of them."""
    found = []
    for number, word in enumerate(["tea", "sun", "oak", "sea", "jam", "fox", "owl", "ice"]):
        found.append(
            {
                "prompt": f"{word}?",
                "responses": [f"yes, {word}!", "no."],
                "preferred": {"kind": 0, "brief": number % 2},
            }
        )
    return found


def write(path: Path, given: list[dict[str, Any]]) -> str:
    """A JSONL file; its path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in given), "utf-8")
    return str(path)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """The file of the eight pairs."""
    return write(tmp_path / "pairs.jsonl", rows())
