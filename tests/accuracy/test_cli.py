"""``preftilt policy-accuracy`` on the toy model."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from preftilt.cli import configure
from preftilt.testing.toy import ToyEngine
from tests.cli.conftest import Cli, real_cli, rows

__all__ = ["real_cli", "rows"]


@pytest.fixture
def cli(real_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr(configure, "open_engine", lambda *_: ToyEngine())
    return real_cli


def pair(user: str, chosen: str, rejected: str, **more: Any) -> dict[str, Any]:
    return {
        "user": user,
        "question": "How do I study maths?",
        "preference": "No games.",
        "chosen": chosen,
        "rejected": rejected,
    } | more


PAIRS = (pair("ann", "read", "play"), pair("ann", "draw", "win"), pair("bob", "read", "points"))


def test_it_measures_writes_and_prints(cli: Cli, rows, tmp_path: Path):
    out = tmp_path / "out"
    said = cli("policy-accuracy", rows(*PAIRS), "-o", out, "--lambda", "0,1,3")
    assert said.code == 0
    assert said.out.startswith("# Policy accuracy")
    report = json.loads((out / "report.json").read_text())
    assert (report["pairs"], report["users"]) == (3, 2)
    assert [one["lambda"] for one in report["sweep"]] == [0.0, 1.0, 3.0]
    assert {one["rule"] for one in report["rules"]} >= {"base", "prompted", "rear=20", "amulet"}
    again = cli("policy-accuracy", rows(*PAIRS), "-o", out, "--lambda", "0,1,3", "--resume")
    assert again.code == 0


def test_named_rules_and_modes_are_those_that_are_measured(cli: Cli, rows, tmp_path: Path):
    calls = ["--rule", "base", "--rule", "rear=7", "--mode", "mean", "--limit", 2]
    assert cli("policy-accuracy", rows(*PAIRS), "-o", tmp_path / "out", *calls).code == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [one["rule"] for one in report["rules"]] == ["base", "rear=7"]
    assert (report["modes"], report["pairs"]) == (["mean"], 2)


def test_a_scorer_of_ones_own_is_a_reward_model(cli: Cli, rows, tmp_path: Path, monkeypatch):
    (tmp_path / "my_scorer.py").write_text(
        "def brevity(pairs):\n    return [-float(len(text)) for _, text in pairs]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = cli("policy-accuracy", rows(*PAIRS), "-o", "out", "--reward-model", "my_scorer:brevity")
    assert said.code == 0
    report = json.loads(Path("out/report.json").read_text())
    [found] = [one for one in report["rules"] if one["rule"] == "reward-model"]
    # read/play, draw/win, read/points: a tie, the longer one, the shorter one.
    assert found["reward_accuracy"]["mean"] == pytest.approx(0.5)
    assert any(one["rule"] == "args=1.5" for one in report["rules"])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--rule", "tea"], "there is no rule 'tea'"),
        (["--rule", "args=1"], "needs a reward model"),
        (["--mode", "loud"], "--mode must be unnormalised, policy, mean"),
        (["--format", "tea"], "there is no format 'tea'"),
        (["--lambda", "x"], "--lambda 'x' is not a number"),
        (["--alpha", "help=1"], "--alpha belongs to --arm"),
        (["--preference-in", "x"], "--preference-in must be system or user"),
        (["--judge-model", "demo"], "--judge-model does nothing here"),
        (["--reward-tokenizer", "x"], "belongs to --reward-model"),
        (["--rule", "base", "--reward-model", "a:b"], "--reward-model does nothing here"),
        (["--rule", "icl=2"], 'line 1: "examples" is missing'),
        (["--preference", "x"], "states a preference"),
    ],
    ids=lambda one: one[-1] if isinstance(one, list) else "",
)
def test_what_would_do_nothing_or_cannot_be_done_is_refused(
    cli: Cli, rows, tmp_path: Path, flags: list[str], told: str
):
    said = cli("policy-accuracy", rows(*PAIRS), "-o", tmp_path / "out", *flags)
    assert (said.code, told in said.err) == (2, True), said.err
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_pairs_without_a_preference_are_measured_by_rules_that_need_none(cli: Cli, rows, tmp_path):
    bare = [{name: value for name, value in one.items() if name != "preference"} for one in PAIRS]
    out = tmp_path / "out"
    assert cli("policy-accuracy", rows(*bare), "-o", out).code == 0
    report = json.loads((out / "report.json").read_text())
    assert [one["rule"] for one in report["rules"]] == ["base"]
    refused = cli("policy-accuracy", rows(*bare), "-o", out, "--force", "--rule", "rear=3")
    assert (refused.code, "no preference is stated" in refused.err) == (2, True)
    assert cli("policy-accuracy", rows(*bare), "-o", out, "--force", "--lambda", "1").code == 2


def test_an_interrupt_says_how_to_go_on(cli: Cli, rows, tmp_path: Path, monkeypatch):
    interrupts = iter((signal.SIGINT,))

    async def interrupted(self, requests):
        for interrupt in interrupts:
            signal.raise_signal(interrupt)
        await asyncio.sleep(60)

    monkeypatch.setattr(ToyEngine, "score", interrupted)
    said = cli("policy-accuracy", rows(*PAIRS), "-o", tmp_path / "out")
    assert (said.code, "repeat the call with --resume" in said.err) == (130, True)
