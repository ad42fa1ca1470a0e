"""``--method`` on the command line: every method's record, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from preftilt.rivals import METHODS
from preftilt.rivals.reward_models import Pair
from preftilt.testing.toy import ToyEngine, hashed_bigrams
from tests.cli.conftest import Cli, Opener, records, row
from tests.cli.test_schema import validator
from tests.rivals.conftest import SPELLED, toy

Write = Callable[..., Path]
LONGEST = "tests.cli.test_method:longest"


def longest(pairs: Sequence[Pair]) -> list[float]:
    return [float(len(response)) for _, response in pairs]


@pytest.fixture
def judging(opener: Opener) -> ToyEngine:
    """The command line's toy, with a vocabulary that can give verdicts."""
    opener.engine.inner = toy()
    return opener.engine.inner


@pytest.mark.usefixtures("judging")
@pytest.mark.parametrize("name", METHODS)
def test_every_method_writes_a_realigned_object(name: str, cli: Cli) -> None:
    model = ("--reward-model", LONGEST) if name == "reward-model" else ()
    said = cli(
        *("ask", "Q?", "-p", "No games.", "--json", "--max-tokens", 8, "--n", 4),
        *("--method", name, *model),
    )
    assert said.code == 0, said.err
    validator("realigned").validate(said.object)
    assert said.object["settings"]["method"]["name"] == name
    if name != "rear":
        assert said.object["method"]["name"] == name
        assert all("method" in one for one in said.object["candidates"])


def test_the_table_shows_the_method_s_score(cli: Cli) -> None:
    flags = ("--method", "reward-model", "--reward-model", LONGEST)
    said = cli("ask", "Q?", "-p", "No games.", "--max-tokens", 8, *flags)
    assert said.code == 0
    assert "reward-model" in said.out
    assert "The model alone" in said.out


@pytest.mark.usefixtures("judging")
def test_a_row_may_choose_its_own_method(cli: Cli, rows: Write, tmp_path: Path) -> None:
    cot = {"name": "generative-reward-model", "judge_mode": "cot", "judge_tokens": 4}
    out = tmp_path / "out.jsonl"
    said = cli(
        *("run", rows(row("a"), row("b", settings={"method": cot})), "-o", out),
        *("--max-tokens", 8, "--n", 2, "--method", "majority-vote", "--answers", "maths"),
    )
    assert said.code == 0, said.err
    found = {one["id"]: one for one in records(out)}
    assert found["a"]["settings"]["method"] == {"name": "majority-vote", "answers": "maths"}
    assert found["b"]["settings"]["method"] == cot | {"judge_temperature": 0.1}
    for one in found.values():
        validator("realigned").validate(one)


def test_given_responses_are_ranked_by_the_method(cli: Cli, rows: Write) -> None:
    given = row(responses=["draw", "read maths.", "win"])
    said = cli("score", rows(given), "--method", "reward-model", "--reward-model", LONGEST)
    assert said.code == 0, said.err
    validator("realigned").validate(said.object)
    assert [one["slot"] for one in said.object["candidates"]] == [1, 0, 2]


def test_the_judge_may_be_another_model(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from preftilt.cli import configure

    other = ToyEngine(hashed_bigrams(9, len(SPELLED)), tokenizer=toy().tokenizer, name="other")
    asked: list[str] = []

    def open_engine(spec: str, options: object) -> ToyEngine:
        asked.append(spec)
        return other if spec == "somebody/else" else toy()

    monkeypatch.setattr(configure, "open_engine", open_engine)
    flags = ("--method", "generative-reward-model", "--judge-model", "somebody/else")
    said = cli("ask", "Q?", "-p", "No games.", "--json", "--max-tokens", 8, *flags)
    assert said.code == 0, said.err
    assert asked == ["demo", "somebody/else"]
    assert said.object["method"]["model"] == "other"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--method", "vote"), '--method must be "rear"'),
        (("--method", "reward-model"), "--reward-model SPEC"),
        (("--reward-model", LONGEST), "--reward-model does nothing here"),
        (("--judge-model", "demo"), "--judge-model does nothing here"),
        (("--judge-mode", "cot"), "--judge-mode does not apply to --method rear"),
        (("--method", "random", "--answers", "maths"), "it belongs to majority-vote"),
        (("--method", "random", "--search", "greedy"), "picks among candidates"),
        (("--method", "majority-vote", "--answers", "words"), "--answers must be"),
        (("--reward-tokenizer", "x"), "--reward-tokenizer belongs to --reward-model"),
        (
            ("--method", "reward-model", "--reward-model", "no_such_module:f"),
            "cannot be imported",
        ),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    flags: tuple[str, ...], words: str, cli: Cli, opener: Opener
) -> None:
    said = cli("ask", "Q?", "-p", "No games.", *flags)
    assert said.code == 2
    assert words.replace('"', "'") in said.err.replace('"', "'")
    assert opener.engine.inner.counts["sampled"] == 0


def test_a_reward_model_that_no_row_asks_for_is_refused(cli: Cli, rows: Write) -> None:
    said = cli("run", rows(row()), "-o", "-", "--reward-model", LONGEST)
    assert said.code == 2
    assert "--reward-model does nothing here" in said.err


def test_methods_do_not_change_what_is_drawn(cli: Cli) -> None:
    asked = ("ask", "Q?", "-p", "No games.", "--json", "--max-tokens", 8)
    drawn = [
        {one["slot"]: one["tokens"] for one in cli(*asked, "--method", name).object["candidates"]}
        for name in ("rear", "random", "mean-logprob")
    ]
    assert drawn[0] == drawn[1] == drawn[2]
