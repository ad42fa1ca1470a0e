"""``preftilt sweep``: every prompt under every preference vector, rated, resumed; refused before the first token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def length(pairs: Sequence[tuple[object, str]]) -> list[float]:
    """A reward model that can be checked by eye."""
    return [float(len(response)) for _, response in pairs]


def letters(pairs: Sequence[tuple[object, str]]) -> list[float]:
    """A cost."""
    return [float(sum(one.isalpha() for one in response)) for _, response in pairs]


RATERS = [
    "--reward", f"long={__name__}:length", "--cost", f"wordy={__name__}:letters", "--max-tokens", "4",
    "--search", "greedy",
]  # fmt: skip


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [{"id": "one", "question": "How?"}, {"id": "two", "question": "Why?"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_model_alone_is_answered_once_and_stands_under_every_vector(
    cli: Cli, prompts: Path, tmp_path: Path
):
    out = tmp_path / "rewards.jsonl"
    done = cli("sweep", str(prompts), "-o", str(out), *RATERS)
    assert done.code == 0, done.err
    found = records(out)
    assert len(found) == 2 * 11
    assert sorted({row["alpha"]["long"] for row in found}) == [step / 10 for step in range(11)]
    for row in found:
        assert row["rewards"] == {
            "long": len(row["text"]),
            "wordy": -sum(one.isalpha() for one in row["text"]),
        }
    ranges = ["--range", "long=0:100", "--range", "wordy=-100:0", "--reference", "0,0"]
    measured = cli("fronts", str(out), *ranges)
    assert measured.code == 0, measured.err
    assert "| demo | " in measured.out


def test_a_sweep_goes_on_where_it_was_stopped(cli: Cli, prompts: Path, tmp_path: Path):
    out = tmp_path / "rewards.jsonl"
    cli("sweep", str(prompts), "-o", str(out), *RATERS)
    whole = records(out)
    out.write_text("".join(json.dumps(row) + "\n" for row in whole[:13]) + '{"id": "torn', "utf-8")
    again = cli("sweep", str(prompts), "-o", str(out), *RATERS)
    assert again.code == 0, again.err
    key = lambda row: row["id"]  # noqa: E731
    assert sorted(records(out), key=key) == sorted(whole, key=key)
    other = cli("sweep", str(prompts), "-o", str(out), *RATERS[:-3], "5", "--search", "greedy")
    assert other.code == 2
    assert "was made otherwise" in other.err


def failing(pairs: Sequence[tuple[object, str]]) -> list[float]:
    """A reward model that breaks."""
    raise RuntimeError("out of quota")


def test_an_answer_that_cannot_be_rated_is_a_record_and_the_exit_code_says_so(
    cli: Cli, prompts: Path, tmp_path: Path
):
    out = tmp_path / "rewards.jsonl"
    raters = ["--reward", f"long={__name__}:failing", *RATERS[2:]]
    done = cli("sweep", str(prompts), "-o", str(out), *raters, "--steps", "1")
    assert done.code == 1
    assert all("out of quota" in row["error"]["message"] for row in records(out))
    refused = cli(
        "fronts", str(out), "--range", "long=0:1", "--range", "wordy=-1:0", "--reference", "0,0"
    )
    assert refused.code == 2
    assert "failed" in refused.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (RATERS[:2], "at least two objectives"),
        ([*RATERS, "--reward", f"long={__name__}:length"], "named twice"),
        ([*RATERS, "--reward", "short"], "OBJECTIVE=SPEC"),
        ([*RATERS, "--steps", "0"], "one step"),
    ],
)
def test_what_makes_no_sweep_is_refused(
    cli: Cli, prompts: Path, tmp_path: Path, flags: list[str], words: str
):
    done = cli("sweep", str(prompts), "-o", str(tmp_path / "r.jsonl"), *flags)
    assert done.code == 2
    assert words in done.err
    assert not (tmp_path / "r.jsonl").exists()
