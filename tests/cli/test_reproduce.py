"""``preftilt reproduce`` on a toy engine: files, figures alone, and what is refused before a model is opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftilt.eval.reproduce import collecting
from tests.cli.conftest import Cli, Opener

FEW = ("--limit", 3, "--n", 4, "--settings", '{"max_tokens": 9}', "--tree-lambdas", "3,20")


@pytest.fixture
def toy(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> Opener:
    monkeypatch.setattr(collecting, "open_engine", opener)
    return opener


def test_a_run_writes_its_report_and_figures_and_draws_them_again_without_a_model(
    toy: Opener, tmp_path: Path, real_cli: Cli
) -> None:
    out = tmp_path / "out"
    said = real_cli("reproduce", "fig2", "fig4", *FEW, "--processes", 1, "-o", out)
    assert said.code == 0, said.err
    names = {one.name for one in out.iterdir()}
    figures = {"demo-world-fig2-lambda.png", "demo-world-fig4-samples.png"}
    assert names == figures | {"report.json", "report.md", "report.html", "records"}
    assert said.out == (out / "report.md").read_text("utf-8")
    assert json.loads((out / "report.json").read_text("utf-8"))["experiments"] == ["fig2", "fig4"]
    opened = len(toy.asked)
    for name in figures:
        (out / name).unlink()
    again = real_cli("reproduce", "all", "--figures-only", "-o", out)
    assert (again.code, again.out) == (0, said.out)
    assert all((out / name).stat().st_size > 10_000 for name in figures)
    assert len(toy.asked) == opened


def test_a_budget_ends_in_order_and_the_same_command_with_a_higher_one_goes_on(
    toy: Opener, tmp_path: Path, real_cli: Cli
) -> None:
    out = tmp_path / "out"
    common = ("reproduce", "fig4", *FEW, "--processes", 1, "-o", out, "--max-tokens-total")
    said = real_cli(*common, 20)
    assert said.code == 0, said.err
    assert "the budget of tokens is spent: the report is partial" in said.err
    assert "**This report is partial**: of a budget of 20 tokens" in said.out
    said = real_cli(*common, 100_000)
    assert said.code == 0, said.err
    assert "partial" not in said.err + said.out
    nothing = real_cli(*common[:-2], tmp_path / "other", "--max-tokens-total", 0)
    assert (nothing.code, nothing.out) == (2, "")
    assert "--max-tokens-total" in nothing.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("fig9",), "there is no experiment 'fig9'"),
        (("fig2", "--benchmark", "mmlu"), "benchmark is 'mmlu'"),
        (("fig2", "--benchmark", "prefeval-explicit"), "needs its data"),
        (("fig2", "--settings", '{"lamda": 3}'), 'unknown field "lamda"'),
        (("fig2", "--preset", "mine"), "preset"),
        (("fig2", "--reference", "chance"), "must be one of greedy, lambda-1"),
        (("fig2", "--tree-lambdas", "3,x"), "--tree-lambdas: 'x'"),
        (("fig5", "--inserted", "9999"), "messages to insert, fewer than 9999"),
        (("fig4", "--pool", 8), "--pool is 8, less than the 16"),
        (("fig2", "--figures-only"), "there is no report in"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_model_is_opened(
    arguments: tuple[object, ...], says: str, toy: Opener, tmp_path: Path, real_cli: Cli
) -> None:
    said = real_cli("reproduce", *arguments, "-o", tmp_path / "out")
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert toy.asked == []
