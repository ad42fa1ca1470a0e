"""PingPong: settings file, personas, dialogues as others read them, ratings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftilt.errors import BadInput
from preftilt.eval.benchmarks.pingpong import (
    FILE,
    TurnRatings,
    asking_the_user,
    interrogator_settings,
    judge_settings,
    load_items,
    load_roles,
    opening,
    persona,
    rate,
    read_utterance,
    reader,
    request_for,
    rules_for,
    turns_for_judge,
)
from preftilt.messages import Message
from tests.eval.pingpong_file import settings_v2, write_settings

PAPER = rules_for("rear-paper", None)


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_settings(tmp_path, settings_v2())


def test_every_character_meets_every_situation(data: str) -> None:
    items = load_items(data, "en")
    assert len(items) == 64
    assert [one.id for one in items[:2]] == ["en/0/0", "en/0/1"]
    assert (items[63].character.name, items[63].situation.turns) == ("Guard 7", 8)
    assert load_items(data, "ru")[0].character.name == "Страж 0"
    assert load_items(str(Path(data) / "ping_pong_bench"), "en") == items


def without(field: str, *path: str | int) -> dict[str, Any]:
    whole = settings_v2()
    inner: Any = whole
    for one in path:
        inner = inner[one]
    del inner[field]
    return whole


@pytest.mark.parametrize(
    ("whole", "message"),
    [
        (without("en"), r'settings_v2\.json, row 0: field "en" is missing'),
        (without("interrogator_system_prompt_path", "en"), r'"en\.interrogator_system_prompt_path'),
        (without("summary", "en", "characters", 3), r'"en\.characters\[3\]\.summary" is missing'),
        (without("num_turns", "en", "situations", 2), r'en\.situations\[2\]\.num_turns" must be'),
    ],
)
def test_a_file_of_another_version_is_named_by_field(
    tmp_path: Path, whole: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        load_items(write_settings(tmp_path, whole), "en")


def test_a_missing_character_is_counted(tmp_path: Path) -> None:
    whole = settings_v2()
    whole["en"]["characters"].pop()
    with pytest.raises(BadInput, match=r'"en\.characters" has 7 entries, not 8'):
        load_items(write_settings(tmp_path, whole), "en")


def test_no_file_and_no_hub_are_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"cannot read .*{FILE}"):
        load_items(str(tmp_path), "en")
    with pytest.raises(BadInput, match="is on no hub"):
        load_items("hub:some/where", "en")


def test_only_the_field_that_the_published_code_reads_greets_unless_all_may(data: str) -> None:
    first, second = load_items(data, "en")[0], load_items(data, "en")[8]
    everyone = rules_for("rear-paper", {"greetings": "all"})
    assert (PAPER.greeting(first.character), PAPER.greeting(second.character)) == ("Halt!", None)
    assert everyone.greeting(second.character) == "Who goes there?"
    assert opening(first.character, PAPER) == (Message("assistant", "Halt!"),)
    assert opening(first.character, rules_for("pingpong", None)) == ()


def test_a_persona_has_only_the_sections_that_there_is_text_for(data: str) -> None:
    roles = load_roles("en", None)
    whole = persona(load_items(data, "en")[0].character, PAPER, roles)
    bare = persona(load_items(data, "en")[8].character, PAPER, roles)
    assert whole.startswith("Guard 0's persona: You guard gate 0.")
    assert "User: hi\nGuard: halt" in whole
    assert "Halt!" in whole
    assert "talks:" not in bare
    assert "{" not in bare
    assert "Персонаж Страж 0" in persona(
        load_items(data, "ru")[0].character, PAPER, load_roles("ru", None)
    )


def test_the_persona_is_the_preference_and_the_history_the_question(data: str) -> None:
    item = load_items(data, "en")[0]
    said = [Message("assistant", "Halt!"), Message("user", "Why?")]
    request = request_for(item, said, PAPER, load_roles("en", None))
    assert request.messages == tuple(said)
    assert request.conversation()[0].role == "system"
    official = rules_for("rear-official", None)
    drawn_from = request_for(item, said, official, load_roles("en", None)).conversation()
    assert drawn_from == said


def test_the_interrogator_knows_the_summary_alone(data: str) -> None:
    item = load_items(data, "en")[0]
    system, user = asking_the_user(
        item, [Message("assistant", "Halt!"), Message("user", "Why?")], load_roles("en", None)
    )
    assert "a guard" in system.content
    assert "Do thing 0." in system.content
    assert '{"next_utterance"' in system.content
    assert "You guard gate 0." not in system.content + user.content
    assert "Character: Halt!\nUser: Why?" in user.content


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('Sure: {"next_utterance": " hm {so} "} ok', "hm {so}"),
        ('{"next_utterance": "  "}', None),
        ('{"next": "hm"}', None),
        ("hm", None),
        ("} {", None),
    ],
)
def test_the_users_words_are_cut_out_of_the_json(text: str, read: str | None) -> None:
    assert read_utterance(text) == read


def test_the_judge_reads_the_chat_by_turns() -> None:
    said = [
        Message("assistant", "Halt!"),
        Message("user", "Why?"),
        Message("assistant", "Rules."),
        Message("user", "Oh."),
        Message("assistant", "Yes."),
    ]
    assert turns_for_judge(said) == (
        "Player (greeting, not to be rated): Halt!\n\nTurn 1\nUser: Why?\nPlayer: Rules.\n\n"
        "Turn 2\nUser: Oh.\nPlayer: Yes."
    )


def entry(a: object, b: object, c: object, *, refusal: bool = False) -> dict[str, Any]:
    scores = {"in_character_score": a, "entertaining_score": b, "fluency_score": c}
    return {"is_refusal": refusal, **scores}


def test_a_judgement_needs_every_turn_and_numbers_from_one_to_five() -> None:
    good = json.dumps({"scores": [entry(1, 2, 3), entry(5, 4, 3, refusal=True)]})
    assert reader(2)(f"Here: {good}!") == (
        TurnRatings((1.0, 2.0, 3.0), refusal=False),
        TurnRatings((5.0, 4.0, 3.0), refusal=True),
    )
    assert reader(3)(good) is None
    for wrong in (entry(0, 2, 3), entry(1, 6, 3), entry(1, 2, "3"), entry(1, 2, True), {}, 7):
        assert reader(1)(json.dumps({"scores": [wrong]})) is None
    for text in ("", "no", "[1]", '{"scores": 3}'):
        assert reader(1)(text) is None


def test_a_dialogue_is_scored_with_the_mean_of_three_means() -> None:
    rated = [
        TurnRatings((1.0, 2.0, 3.0), refusal=False),
        TurnRatings((5.0, 4.0, 3.0), refusal=False),
    ]
    assert rate(rated, "rated") == {
        "in_character": 3.0,
        "entertaining": 3.0,
        "fluency": 3.0,
        "score": 3.0,
        "refused": 0.0,
    }
    assert set(rate(None, "rated").values()) == {None}


def test_a_refusal_is_rated_or_takes_the_dialogue_out() -> None:
    rated = [TurnRatings((1.0, 2.0, 3.0), refusal=True)]
    assert rate(rated, "rated")["score"] == 2.0
    excluded = rate(rated, "excluded")
    assert (excluded["score"], excluded["refused"]) == (None, 1.0)


def test_presets_differ_where_paper_code_and_benchmark_do() -> None:
    own = rules_for("pingpong", None)
    assert (PAPER.turns, own.turns, own.refusals) == (4, None, "excluded")
    assert rules_for("rear-official", None).generate_with == "question"
    assert interrogator_settings(PAPER)["search"] == {"name": "greedy"}
    assert interrogator_settings(own)["temperature"] == 0.8
    assert (judge_settings("rear-paper").max_tokens, judge_settings("pingpong").max_tokens) == (
        2048,
        4096,
    )
    with pytest.raises(BadInput, match="turns must be a whole number of at least 1, not 0"):
        rules_for("rear-paper", {"turns": 0})
