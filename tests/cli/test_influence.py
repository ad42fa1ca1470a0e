"""``preftilt influence`` on a toy engine: what it prints, and what it refuses."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Cli, Opener, validator

WISH = ("influence", "How do I study maths?", "-p", "No games. I like music.")
GIVEN = (*WISH, "--response", "draw maths play")


@pytest.mark.parametrize("more", [(), ("--system", "Be kind."), ("-p", "Be brief.=3")])
def test_json_is_what_its_schema_says(cli: Cli, more: tuple[str, ...]) -> None:
    validator("influence").validate(cli(*GIVEN, *more, "--json").object)
    drawn = cli(*WISH, *more, "--json", "--max-tokens", 9).object
    validator("influence").validate(drawn)
    assert drawn["settings"]["search"]["name"] == "best-of-n"


def test_every_sentence_has_a_line_with_its_nats_and_tokens(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    record = cli(*GIVEN, "--json").object
    out = cli(*GIVEN).out
    assert out.startswith("Answer: draw maths play\n")
    for sentence in record["sentences"]:
        [line] = [line for line in out.splitlines() if sentence["text"] in line]
        assert f"{sentence['nats']:+.2f}".replace("-", "−") in line
        place = max(range(len(record["tokens"])), key=lambda t: abs(sentence["by_token"][t]))
        assert f"“{record['pieces'][place].strip()}” " in line
    assert "\x1b" not in out
    assert f"all of them together: {record['total']:+.2f}".replace("-", "−") in out


def test_dead_sentences_are_named(cli: Cli, opener: Opener) -> None:
    flat = opener.engine.inner.next_logprobs((1, 2, 3, 4))
    opener.engine.inner.next_logprobs = lambda context: flat
    out = cli(*GIVEN).out
    assert "2 of 2 sentences are dead" in out
    assert len([line for line in out.splitlines() if line.endswith(" dead")]) == 2


def test_a_system_message_needs_no_preference(cli: Cli) -> None:
    said = cli("influence", "Q?", "--system", "Be kind. Be brief.", "--response", "draw", "--json")
    assert [sentence["source"] for sentence in said.object["sentences"]] == ["system", "system"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--lambda", 3), "--lambda says how an answer is drawn"),
        (("--search", "greedy"), "--search says how an answer is drawn"),
        (("--seed", 3), "--seed says"),
        (("--against", "Games."), "--against says"),
        (("--method", "random"), "--method says"),
        (("--reduction", "mean"), "--reduction says"),
    ],
)
def test_a_flag_of_drawing_is_refused_beside_a_response(
    flags: tuple[object, ...], words: str, cli: Cli, opener: Opener
) -> None:
    said = cli(*GIVEN, *flags)
    assert said.code == 2
    assert words in said.err
    assert opener.asked == []


def test_nothing_to_leave_out_is_refused(cli: Cli) -> None:
    said = cli("influence", "Q?")
    assert said.code == 2
    assert "nothing to leave out: state a preference (--preference TEXT)" in said.err


def test_a_conversation_can_be_explained(cli: Cli, tmp_path) -> None:
    turns = [{"role": "system", "content": "Be kind. Be brief."}, {"role": "user", "content": "Q?"}]
    path = tmp_path / "turns.json"
    path.write_text(json.dumps(turns), encoding="utf-8")
    said = cli("influence", "--messages", path, "-p", "No games.", "--response", "read", "--json")
    sources = [sentence["source"] for sentence in said.object["sentences"]]
    assert sources == ["system", "system", "preference"]
