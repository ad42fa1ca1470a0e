"""What is asked: both views by preset and form, inserted turns by both countings, the prompting baselines."""

from __future__ import annotations

import pytest

from preftilt.errors import BadInput
from preftilt.eval.benchmarks.prefeval import (
    PROMPTINGS,
    PrefEvalRules,
    inserted,
    method_protocol,
    own_text,
    question_text,
    read_choice,
    request_for,
    rules_for,
    shuffled,
)
from preftilt.eval.benchmarks.prefeval_data import FORMS, Form, PrefEvalItem
from preftilt.eval.harness.benchmark import BenchmarkRequest, read_request
from preftilt.messages import Message
from preftilt.prompt import build_query
from preftilt.search import DVTS, Greedy
from tests.prompt.test_prompt import Spelled

SAID = (Message("user", "No boats."), Message("assistant", "Fine."))
FILLER = tuple(Message(("user", "assistant")[i % 2], f"F{i}") for i in range(8))
ITEM = PrefEvalItem(id="t/0", topic="t", preference="No boats, please.", question="Where to?")
TALKED = PrefEvalItem(
    id="t/1", topic="t", preference="No boats, please.", question="Where to?", history=SAID
)
CHOICE = PrefEvalItem(
    id="t/2", topic="t", preference="P", question="Which?", options=("fit", "b", "c", "d")
)


def views(request: BenchmarkRequest) -> dict[str, str]:
    """What each view reads, and what is drawn from, as text."""
    query = build_query(
        Spelled(), request.messages, request.preferences, lam=3.0, settings=request.prompt
    )
    read = {one.name: "".join(map(chr, one.prompt)) for one in query.views}
    return read | {"drawn": "".join(map(chr, query.prompt))}


def asked(form: Form, preset: str, filler: int = 0, **switches: object) -> dict[str, str]:
    rules = rules_for(preset, form, switches)
    item = ITEM if form == "explicit" else TALKED
    acknowledgement = "Noted." if form == "explicit" and rules.preference_as == "history" else None
    return views(request_for(item, rules, "Where to?", FILLER[:filler], acknowledgement))


def test_the_papers_explicit_task_states_the_preference_as_system_message() -> None:
    read = asked("explicit", "rear-paper")
    assert read["full"] == "[system]No boats, please.[user]Where to?[assistant]"
    assert read["question"] == "[user]Where to?[assistant]"
    assert read["drawn"] == read["full"]


def test_inserted_turns_stand_behind_the_preference_in_both_views() -> None:
    read = asked("choice", "rear-paper", filler=2)
    turns = "[user]No boats.[assistant]Fine.[user]F0[assistant]F1[user]Where to?[assistant]"
    assert read["question"] == turns
    assert read["full"] == "[system]No boats, please." + turns


def test_the_official_code_draws_from_the_question_where_the_preference_is_implicit() -> None:
    assert rules_for("rear-official", "explicit", None).generate_with == "full"
    for form in ("choice", "persona"):
        read = asked(form, "rear-official")
        assert read["drawn"] == read["question"]


def test_the_history_can_be_the_preference() -> None:
    read = asked("persona", "rear-paper", filler=2, preference_as="history")
    assert read["question"] == "[user]F0[assistant]F1[user]Where to?[assistant]"
    assert read["full"] == "[user]No boats.[assistant]Fine." + read["question"]


def test_the_benchmark_states_the_preference_in_a_turn_that_the_model_acknowledges() -> None:
    read = asked("explicit", "prefeval", filler=2)
    after = "[user]F0[assistant]F1[user]Where to?[assistant]"
    system = "[system]You are a helpful assistant."
    assert read["question"] == system + after
    assert read["full"] == f"{system}[user]No boats, please.[assistant]Noted.{after}"


def test_the_question_view_can_have_a_system_message_of_its_own() -> None:
    read = asked("explicit", "rear-paper", question_system="Be brief.")
    assert read["question"] == "[system]Be brief.[user]Where to?[assistant]"


def test_turns_are_counted_as_messages_or_as_pairs() -> None:
    assert inserted(FILLER, 3, "messages") == FILLER[:3]
    assert inserted(FILLER, 3, "pairs") == FILLER[:6]
    assert inserted(FILLER, 0, "pairs") == ()
    assert rules_for("rear-paper", "explicit", None).counting == "messages"
    assert rules_for("prefeval", "explicit", None).counting == "pairs"


@pytest.mark.parametrize(("turns", "problem"), [(5, "there are 4"), (-1, "give 0 or more")])
def test_more_turns_than_there_are_are_refused(turns: int, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        inserted(FILLER, turns, "pairs")


def test_every_prompting_baseline_asks_differently_but_for_the_self_critic() -> None:
    rules = rules_for("rear-paper", "explicit", None)
    texts = {one: question_text(ITEM, rules, one, None) for one in PROMPTINGS}
    assert texts["zero-shot"] == texts["self-critic"] == "Where to?"
    assert texts["reminder"] == f"Where to? {own_text('prefeval', 'reminder.txt')}"
    assert texts["cot"].endswith("Where to?")
    assert texts["cot"].count("Preference:") == texts["cot"].count("Answer:") == 5


def test_the_word_limit_is_the_benchmarks_alone() -> None:
    limited = question_text(ITEM, rules_for("prefeval", "explicit", None), "zero-shot", None)
    assert limited == f"Where to? {own_text('prefeval', 'word_limit.txt')}"


def test_options_are_shuffled_by_seed_and_item_alone() -> None:
    first = shuffled(CHOICE, 0)
    assert first == shuffled(CHOICE, 0)
    assert sorted(first.shown) == sorted(CHOICE.options)
    assert first.shown["ABCD".index(first.fitting)] == "fit"
    fitting = {shuffled(CHOICE, seed).fitting for seed in range(40)}
    assert fitting == {"A", "B", "C", "D"}


def test_a_multiple_choice_question_shows_lettered_options_and_asks_for_a_tag() -> None:
    options = shuffled(CHOICE, 0)
    styles = {}
    for preset in ("rear-paper", "prefeval"):
        rules = rules_for(preset, "choice", None)
        styles[preset] = question_text(CHOICE, rules, "zero-shot", options)
        assert f"{options.fitting}. fit" in styles[preset]
        assert "<choice>X</choice>" in styles[preset]
    assert "explain" in styles["rear-paper"]
    assert "explain" not in styles["prefeval"]
    assert read_choice(styles["rear-paper"]) is None


def test_a_further_exchange_leaves_what_the_preference_is() -> None:
    rules = rules_for("rear-paper", "persona", {"preference_as": "history"})
    request = request_for(TALKED, rules, "Where to?", ())
    read = views(request.going_on("There.", "Again?"))
    assert read["question"] == "[user]Where to?[assistant]There.[user]Again?[assistant]"
    assert read["full"] == "[user]No boats.[assistant]Fine." + read["question"]


@pytest.mark.parametrize("form", FORMS)
def test_a_request_survives_the_way_through_a_log(form: Form) -> None:
    item = ITEM if form == "explicit" else TALKED
    request = request_for(item, rules_for("rear-official", form, None), "Where to?", FILLER[:2])
    assert read_request(request.to_json()) == request


@pytest.mark.parametrize("preset", ["rear-paper", "rear-official"])
@pytest.mark.parametrize("form", FORMS)
def test_the_conversation_for_other_models_is_what_candidates_are_drawn_from(
    form: Form, preset: str
) -> None:
    item = ITEM if form == "explicit" else TALKED
    request = request_for(item, rules_for(preset, form, None), "Where to?", FILLER[:2])
    drawn = "".join(map(chr, Spelled().render(request.conversation())))
    assert drawn == views(request)["drawn"]


def test_presets_differ_where_their_table_says_so() -> None:
    trees = {}
    for preset in ("rear-paper", "rear-official"):
        protocol = method_protocol(rules_for(preset, "explicit", None), mcq=False)
        trees[preset] = (protocol.settings["reduction"], DVTS(**protocol.searches["dvts"]))
    assert trees["rear-paper"] == ("sum", DVTS(subtrees=4, width=4, delimiter="\n"))
    assert trees["rear-official"] == ("mean", DVTS(subtrees=4, width=4, delimiter="\n\n"))
    own = method_protocol(rules_for("prefeval", "explicit", None), mcq=False)
    assert own.search == Greedy().name
    assert own.settings["max_tokens"] == 300


@pytest.mark.parametrize(
    ("preset", "switches", "problem"),
    [
        ("rear", None, "preset is 'rear'; it must be one of rear-paper, rear-official, prefeval"),
        ("rear-paper", {"delimiter": "x"}, "there is no switch 'delimiter'"),
        ("rear-paper", '{"counting": "turns"}', "counting must be messages or pairs, not 'turns'"),
        ("rear-paper", "[]", "switches must be a JSON object"),
    ],
)
def test_a_protocol_that_there_is_not_is_refused(
    preset: str, switches: object, problem: str
) -> None:
    with pytest.raises(BadInput, match=problem):
        rules_for(preset, "explicit", switches)  # pyright: ignore[reportArgumentType]


def test_every_switch_is_in_the_log() -> None:
    logged = rules_for("rear-official", "choice", {"system": "Hm."}).to_json()
    assert logged["preset"] == "rear-official"
    assert logged["system"] == "Hm."
    assert set(logged) == set(PrefEvalRules.__dataclass_fields__)
