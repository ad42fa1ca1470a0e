"""``preftilt calibrate``: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Thirty items where λ = 5 picks the good one of two candidates and λ = 1 the other."""
    likely = {
        "question_logprob": -1, "preference_gain": 0, "length": 9, "finished": True, "quality": 0,
    }  # fmt: skip
    good = likely | {"question_logprob": -5, "preference_gain": 1, "quality": 1}
    path = tmp_path / "scores.jsonl"
    rows = [
        {"id": f"{split}{i}", "split": split, "candidates": [likely, good]}
        for split in ("validation", "test")
        for i in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_the_choice_is_printed_written_and_drawn(
    scores: Path, tmp_path: Path, real_cli: Cli
) -> None:
    out, picture = tmp_path / "choice.json", tmp_path / "choice.png"
    flags = ("--split", "validation", "--lambda", "1,5", "--reduction", "sum")
    said = real_cli("calibrate", scores, *flags, "-o", out, "--plot", picture)
    assert said.code == 0
    assert said.out.startswith("λ = 5, sum: chosen on 30 items with 2 candidates each.")
    assert "| **5** | sum | 1.000 [1.000, 1.000] | 100% |" in said.out
    assert said.err == "use it with: --lambda 5 --reduction sum\n"
    written = json.loads(out.read_text("utf-8"))
    assert (written["lambda"], written["reduction"], written["items"]) == (5, "sum", 30)
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "there are several splits (test, validation)"),
        (("--split", "dev"), "there is no item of the split 'dev'"),
        (("--split", "test", "--min-items", 31), "has 30 items, and choosing λ needs at least 31"),
        (("--split", "test", "--n", 3), "fewer than the 3 of --n"),
        (("--split", "test", "--lambda", "1,many"), "'many' is not a number"),
        (("--split", "test", "--reduction", "median"), "one of sum, mean, centred, all"),
        (("--split", "test", "--plot", "a.txt"), "must end in .png"),
    ],
)
def test_what_cannot_be_done_is_bad_input(
    flags: tuple[object, ...], says: str, scores: Path, real_cli: Cli
) -> None:
    said = real_cli("calibrate", scores, *flags)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("preftilt: error: ")
    assert says in said.err


def test_one_item_leaves_none_that_a_choice_could_be_measured_on(
    scores: Path, tmp_path: Path, real_cli: Cli
) -> None:
    alone = tmp_path / "alone.jsonl"
    alone.write_text(scores.read_text("utf-8").split("\n")[0] + "\n", "utf-8")
    said = real_cli("calibrate", alone, "--min-items", 1)
    assert said.code == 2
    assert "has 1 items, and choosing λ needs at least 2" in said.err


RECORDS = [
    {
        "id": "a",
        "candidates": [{"text": "draw"}, {"text": "read"}],
        "path": [
            {"from": 0.0, "to": 4.0, "candidate": 1},
            {"from": 4.0, "to": None, "candidate": 0},
        ],
    },
    {
        "id": "b",
        "candidates": [{"text": " draw "}, {"text": "sleep"}, {"text": "not"}],
        "path": [
            {"from": 0.0, "to": 1.0, "candidate": 2},
            {"from": 1.0, "to": 6.0, "candidate": 0},
            {"from": 6.0, "to": None, "candidate": 1},
        ],
    },
]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), "utf-8")
    return path


def test_an_example_is_looked_up_on_the_path_of_every_record_that_has_it(
    real_cli: Cli, stored: Path
) -> None:
    said = real_cli("calibrate", stored, "--example", "draw")
    assert said.code == 0
    assert "| a | from 4 |\n| b | 1 – 6 |\n" in said.out
    assert said.out.endswith("all of them: 4 – 6\n")


def test_several_examples_have_the_lambdas_in_common(real_cli: Cli, stored: Path) -> None:
    said = real_cli("calibrate", stored, "--example", "read", "--example", "sleep").out
    assert "| a | 0 – 4 |\n| b | from 6 |\n" in said
    assert said.endswith("all of them: no λ chooses every one\n")


def test_an_example_that_is_in_no_record_is_refused_and_so_are_flags_that_choose(
    real_cli: Cli, stored: Path
) -> None:
    said = real_cli("calibrate", stored, "--example", "win")
    assert said.code == 2
    assert "preftilt ask QUESTION --preference TEXT --example TEXT" in said.err
    for flags in (("--n", 2), ("--reduction", "sum"), ("--lambda", 3)):
        said = real_cli("calibrate", stored, "--example", "draw", *flags)
        assert (said.code, "of calibrate's other flags it takes none" in said.err) == (2, True)
