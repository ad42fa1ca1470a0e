"""Everything that is written or read is what its JSON Schema says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftilt.records.schemas import RECORDS, ROWS
from tests.cli.conftest import Cli, Opener, records, row, validator
from tests.cli.test_run import BAD_ROWS

Write = Callable[..., Path]


@pytest.mark.parametrize("name", [*RECORDS, *ROWS])
def test_the_command_prints_every_schema(name: str, cli: Cli) -> None:
    said = cli("schema", name)
    assert said.code == 0
    assert said.object["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    validator(name)


def test_an_unknown_schema_is_refused(cli: Cli) -> None:
    said = cli("schema", "nothing")
    assert said.code == 2
    assert "realigned, scores, text, error, influence, row, score-row" in said.err


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--search", "dvts", "--subtrees", 2, "--width", 2),
        ("--search", "sample"),
        ("--example", "draw"),
        ("--search", "greedy"),
        ("-p", "puns=-3", "--reduction", "mean", "--gamma", 0.9),
        (
            "--lambda",
            "-2",
            "--eos",
            "exclude",
            "--reduction",
            "centred",
            "--cut-off",
            "as-is",
            "--max-tokens",
            1,
        ),
    ],
)
def test_what_ask_prints_is_a_realigned_object(flags: tuple[object, ...], cli: Cli) -> None:
    said = cli("ask", "Q?", "-p", "No games.", "--json", "--max-tokens", 20, *flags)
    validator("realigned").validate(said.object)


def test_what_run_writes_is_a_realigned_or_an_error_object(
    cli: Cli, rows: Write, tmp_path: Path, opener: Opener
) -> None:
    opener.engine.fails = frozenset({"b"})
    cli("run", rows(row("a"), row("b")), "-o", tmp_path / "out", "--max-tokens", 20)
    found = {one["id"]: one for one in records(tmp_path / "out")}
    validator("realigned").validate(found["a"])
    validator("error").validate(found["b"])
    assert not validator("realigned").is_valid(found["b"])


def test_what_score_writes_is_a_realigned_object_with_scores(cli: Cli, rows: Write) -> None:
    said = cli("score", rows(row(responses=["draw", "read"])), "--lambda", "1,5")
    assert "scores" in said.object
    validator("realigned").validate(said.object)


GOOD_ROWS: list[dict[str, Any]] = [
    row(),
    row(7),
    row("a", settings={"lambda": 3, "search": {"name": "dvts", "width": 2}, "system": "x"}),
    {"question": "Q?", "preferences": ["x", {"text": "y", "strength": -1.5}]},
    {"messages": [{"role": "user", "content": "Q?"}], "preference": {"text": "y"}},
    {"conversations": [{"from": "human", "value": "Q?"}], "preference": "y", "settings": None},
]


@pytest.mark.parametrize("good", GOOD_ROWS)
def test_a_row_that_is_read_is_valid(good: dict[str, Any], cli: Cli, rows: Write) -> None:
    validator("row").validate(good)
    assert cli("run", rows(good), "-o", "-", "--max-tokens", 5, "--n", 1).code == 0


@pytest.mark.parametrize(
    "name",
    [
        *("an empty question", "an empty preference", "an unknown field", "an unknown setting"),
        *("an unknown search setting", "a wrong type", "gamma 0", "an empty id", "no question"),
    ],
)
def test_a_row_that_is_refused_for_its_form_is_invalid(name: str) -> None:
    assert not validator("row").is_valid(BAD_ROWS[name][0])


def test_responses_belong_to_score_rows_only() -> None:
    assert validator("score-row").is_valid(row(responses=["x"]))
    assert not validator("row").is_valid(row(responses=["x"]))
