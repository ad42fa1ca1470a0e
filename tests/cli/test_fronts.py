"""``preftilt fronts``: what it prints, writes, and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.fronts.test_records import two_methods, written


def test_the_command_prints_the_frame_and_the_table(cli: Cli, tmp_path: Path):
    path = written(tmp_path / "rewards.jsonl", two_methods())
    ranges = ["--range", "help=0:1", "--range", "brief=0:2"]
    done = cli("fronts", str(path), *ranges, "--reference", "0,0", "-o", str(tmp_path / "f.json"))
    assert done.code == 0, done.err
    assert "brief from 0 to 2); the reference point is (0, 0)" in done.out
    assert json.loads((tmp_path / "f.json").read_text())["prompts"] == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--range", "help", "--range", "brief=0:1", "--reference", "0,0"], "NAME=LOW:HIGH"),
        (["--range", "help=0:x", "--range", "brief=0:1", "--reference", "0,0"], '"x" is no number'),
        (["--range", "help=0:1", "--range", "brief=0:1", "--reference", "0"], "as many"),
    ],
)
def test_flags_that_make_no_frame_are_refused(cli: Cli, tmp_path: Path, flags: list, words: str):
    path = written(tmp_path / "rewards.jsonl", two_methods())
    done = cli("fronts", str(path), *flags)
    assert done.code == 2
    assert words in done.err
