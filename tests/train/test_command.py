"""``preftilt train``: the command reads its flags, trains, and says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftilt.cli.app import main

pytestmark = pytest.mark.model


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["train", *arguments])
    code = ended.value.code
    assert isinstance(code, int)
    return code


def test_flags_become_settings_and_the_summary_names_every_objective(
    model, pairs, tmp_path, capsys
):
    out = tmp_path / "out"
    code = run(
        *("--method", "uniarm", "--model", model, "--data", pairs, "--out", str(out)),
        *("--objective", "brief=Short and dry.", "--objective", "kind", "--beta", "0.3"),
        *("--beta", "kind=0.7", "--epochs", "2", "--batch-size", "4", "--validation", pairs),
        *("--modulation", "full", "--global-weight", "0.5", "--target", "q_proj", "--rank", "2"),
    )
    said = capsys.readouterr()
    assert (code, said.err) == (0, f"written to {out}\n")
    assert "validation accuracy, brief:" in said.out
    record = json.loads((out / "training.json").read_text("utf-8"))
    assert record["objectives"] == [
        {"name": "brief", "description": "Short and dry.", "beta": 0.3},
        {"name": "kind", "description": "kind", "beta": 0.7},
    ]
    told = record["settings"]
    assert (told["modulation"], told["global_weight"], told["rank"]) == ("full", 0.5, 2)
    assert told["targets"] == ["q_proj"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--beta", "much"), "--beta much: 'much' is not a number"),
        (("--beta", "1", "--beta", "2"), "--beta is given twice; give it once"),
        (("--beta", "kind=1"), "--beta names kind, which no --objective does"),
        (("--objective", "two words"), "cannot name an objective"),
        (("--validation", "1.5"), "validation must be at least 0 and below 1, not 1.5"),
        (("--epochs", "0"), "epochs must be a whole number of at least 1, not 0"),
        ((), "the data have kind, brief; choose one (--objective kind)"),
    ],
)
def test_mistakes_are_told_in_one_line(flags, told, model, pairs, tmp_path: Path, capsys):
    common = ("--method", "genarm", "--model", model, "--data", pairs, "--out")
    assert run(*common, str(tmp_path / "out"), *flags) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert said.out == ""
