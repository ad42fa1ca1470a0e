"""The command line on a toy engine, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from preftilt.cli import configure, main
from preftilt.engines.options import EngineOptions
from preftilt.records.schemas import schema_text
from tests.cli.toys import Slow


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def object(self) -> dict[str, Any]:
        return json.loads(self.out)


Cli = Callable[..., Said]


@dataclass(slots=True)
class Opener:
    """Stands in for ``open_engine``; remembers what it was asked for and hands out ``engine``."""

    engine: Slow
    asked: list[tuple[str, EngineOptions]]

    def __call__(self, spec: str, options: EngineOptions) -> Slow:
        self.asked.append((spec, options))
        return self.engine


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> Opener:
    opener = Opener(Slow(), [])
    monkeypatch.setattr(configure, "open_engine", opener)
    return opener


OPENING = (
    "ask",
    "influence",
    "run",
    "score",
    "verify",
    "sweep",
    "policy-accuracy",
    "behaviour",
    "reproduce",
)
"""Commands that open a model."""


@pytest.fixture
def cli(opener: Opener, real_cli: Cli) -> Cli:
    """Run a command on the toy engine, which is called demo unless the command names a model."""

    def run(*arguments: object) -> Said:
        opens = bool(arguments) and arguments[0] in OPENING
        names = bool({"-m", "--model"} & {*map(str, arguments)})
        return real_cli(*arguments, *(("--model", "demo") if opens and not names else ()))

    return run


@pytest.fixture
def real_cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process; its output is captured down to the file descriptors."""

    def run(*arguments: object) -> Said:
        with pytest.raises(SystemExit) as end:
            main([str(one) for one in arguments])
        out, err = capfd.readouterr()
        code = end.value.code
        assert isinstance(code, int)
        return Said(code, out, err)

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., Path]:
    """Write an input file: objects become JSON lines, strings stand as they are."""

    def write(*lines: object, name: str = "in.jsonl") -> Path:
        path = tmp_path / name
        texts = (one if isinstance(one, str) else json.dumps(one) for one in lines)
        path.write_text("".join(one + "\n" for one in texts), encoding="utf-8")
        return path

    return write


def row(id: str | int | None = None, **more: Any) -> dict[str, Any]:
    """A good row."""
    named = {} if id is None else {"id": id}
    return named | {"question": "How do I study maths?", "preference": "No games."} | more


def records(path: Path) -> list[dict[str, Any]]:
    """Every line of an output file; each must be a whole record."""
    text = path.read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def validator(name: str) -> Draft202012Validator:
    """Of the JSON Schema called ``name``."""
    schema = json.loads(schema_text(name))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
