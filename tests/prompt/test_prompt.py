"""Prompt pairs: what each view reads, how much it weighs, and what is sampled from."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftilt.errors import BadInput, NoChatTemplate
from preftilt.messages import Message
from preftilt.prompt import (
    ACKNOWLEDGEMENT,
    ChatTokenizer,
    PromptSettings,
    build_query,
)
from preftilt.types import Placement, Preference, Query, Tokens, View


class Spelled(ChatTokenizer):
    """A tokenizer whose tokens are characters: every prompt can be read back."""

    def render(self, messages: Sequence[Message]) -> Tokens:
        turns = [f"[{message.role}]{message.content}" for message in messages]
        return tuple(map(ord, "".join(turns) + "[assistant]"))

    def encode(self, text: str) -> Tokens:
        return tuple(map(ord, text))

    def encode_response(self, text: str, after: str = "") -> Tokens:
        return self.encode(text)

    def decode(self, tokens: Tokens) -> str:
        return "".join(map(chr, tokens))

    def pieces(self, tokens: Tokens) -> list[str]:
        return [chr(token) for token in tokens]

    def spell_bytes(self, tokens: Tokens) -> list[bytes | None]:
        return [chr(token).encode() for token in tokens]

    def encode_raw(self, text: str) -> Tokens:
        return self.encode(text)


class LastTurnOnly(Spelled):
    """Its template ignores whatever comes before the last turn."""

    def render(self, messages: Sequence[Message]) -> Tokens:
        return super().render(messages[-1:])


class Mute(Spelled):
    """Its template shows no text at all."""

    def render(self, messages: Sequence[Message]) -> Tokens:
        return (1, 2, 3)


class Headless(Spelled):
    """Its template ends with the user's own words."""

    def render(self, messages: Sequence[Message]) -> Tokens:
        return tuple(ord(character) for message in messages for character in message.content)


USER = Message("user", "What now?")
LONG = [Message("user", "Hello."), Message("assistant", "Hi."), USER]
OWN = [Message("system", "Be kind."), *LONG]
TEA, WALKS = Preference("I like tea."), Preference("No walks.")
PLACEMENTS: list[Placement] = ["system", "user", "history"]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = texts.filter(lambda text: bool(text.strip()))
strengths = st.floats(-1e6, 1e6)


def query(
    *preferences: Preference,
    messages: Sequence[Message] = (USER,),
    lam: float = 20.0,
    tokenizer: Spelled | None = None,
    **settings: Any,
) -> Query:
    return build_query(
        tokenizer or Spelled(), messages, preferences, lam=lam, settings=PromptSettings(**settings)
    )


def read(tokens: Tokens) -> str:
    return Spelled().decode(tokens)


def prompts(result: Query) -> dict[str, str]:
    return {view.name: read(view.prompt) for view in result.views}


# What the views read


def test_a_preference_is_the_system_message_by_default() -> None:
    assert prompts(query(TEA)) == {
        "question": "[user]What now?[assistant]",
        "full": "[system]I like tea.[user]What now?[assistant]",
    }


def test_a_preference_follows_the_conversations_own_system_message() -> None:
    expected = {
        "question": "[system]Be kind.[user]Hello.[assistant]Hi.[user]What now?[assistant]",
        "full": (
            "[system]Be kind.\n\nI like tea.[user]Hello.[assistant]Hi.[user]What now?[assistant]"
        ),
    }
    assert prompts(query(TEA, messages=OWN)) == expected
    assert prompts(query(TEA, messages=LONG, system="Be kind.")) == expected


def test_a_preference_in_the_user_turn_follows_the_last_question() -> None:
    assert prompts(query(TEA, messages=OWN, placement="user")) == {
        "question": "[system]Be kind.[user]Hello.[assistant]Hi.[user]What now?[assistant]",
        "full": (
            "[system]Be kind.[user]Hello.[assistant]Hi.[user]What now?\n\nI like tea.[assistant]"
        ),
    }


def test_a_preference_in_the_history_is_a_first_exchange() -> None:
    assert prompts(query(TEA, messages=OWN, placement="history")) == {
        "question": "[system]Be kind.[user]Hello.[assistant]Hi.[user]What now?[assistant]",
        "full": (
            f"[system]Be kind.[user]I like tea.[assistant]{ACKNOWLEDGEMENT}"
            "[user]Hello.[assistant]Hi.[user]What now?[assistant]"
        ),
    }


def test_a_preference_is_used_as_written_but_for_outer_white_space() -> None:
    assert "[system]a  b\n\tc[user]" in prompts(query(Preference("\n a  b\n\tc \n")))["full"]


def test_an_empty_system_message_stands_in_the_question_view() -> None:
    both = prompts(query(TEA, system=""))
    assert both["question"].startswith("[system][user]")
    assert both["full"].startswith("[system]I like tea.[user]")


def test_a_question_system_message_fills_an_empty_slot_of_the_question_view_only() -> None:
    both = prompts(query(TEA, question_system="Hm."))
    assert both["question"] == "[system]Hm.[user]What now?[assistant]"
    assert both["full"] == "[system]I like tea.[user]What now?[assistant]"


def test_a_question_system_message_gives_way_to_the_conversations_own() -> None:
    assert query(TEA, messages=OWN, question_system="Hm.") == query(TEA, messages=OWN)


@pytest.mark.parametrize(
    "settings", [{"placement": "user"}, {"placement": "history"}, {"history": "preference"}]
)
def test_a_question_system_message_needs_a_slot_that_the_preference_leaves(
    settings: dict[str, Any],
) -> None:
    with pytest.raises(
        BadInput, match=r'question_system .* leave it out, or use placement "system"'
    ):
        PromptSettings(question_system="Hm.", **settings)


def test_each_of_several_preferences_has_a_view_of_its_own() -> None:
    assert prompts(query(TEA, WALKS)) == {
        "question": "[user]What now?[assistant]",
        "preference_1": "[system]I like tea.[user]What now?[assistant]",
        "preference_2": "[system]No walks.[user]What now?[assistant]",
    }


@given(words, words, st.sampled_from(PLACEMENTS), st.none() | words)
def test_the_full_prompt_without_the_preference_is_the_question_prompt(
    question: str, preference: str, placement: Placement, system: str | None
) -> None:
    result = query(
        Preference(preference),
        messages=[Message("user", question)],
        placement=placement,
        system=system,
    )
    plain, full = prompts(result).values()
    text = preference.strip()
    stated = {
        "system": f"[system]{text}[user]" if system is None else f"\n\n{text}[user]",
        "user": f"\n\n{text}[assistant]",
        "history": f"[user]{text}[assistant]{ACKNOWLEDGEMENT}[user]",
    }[placement]
    start = full.rindex(stated) if placement == "user" else full.index(stated)
    end = {"system": "[user]", "user": "[assistant]", "history": "[user]"}[placement]
    assert full[:start] + end + full[start + len(stated) :] == plain


@given(
    st.lists(words, min_size=1, max_size=4),
    st.sampled_from(PLACEMENTS),
    st.sampled_from([[USER], LONG, OWN]),
)
def test_all_prompts_end_where_the_answer_begins(
    preferences: list[str], placement: Placement, messages: list[Message]
) -> None:
    result = query(*map(Preference, preferences), messages=messages, placement=placement)
    for prompt in (result.prompt, *(view.prompt for view in result.views)):
        assert read(prompt).endswith("[assistant]")


# Strengths


def test_one_preference_weighs_the_views_with_lambda() -> None:
    result = query(TEA, lam=20.0)
    assert [(view.name, view.weight) for view in result.views] == [
        ("question", -19.0),
        ("full", 20.0),
    ]
    assert (result.lam, result.ratios) == (20.0, (1.0,))


def test_a_preferences_own_strength_comes_before_lambda() -> None:
    result = query(replace(TEA, strength=-4.0), WALKS, lam=2.0)
    assert [view.weight for view in result.views] == [3.0, -4.0, 2.0]
    assert (result.lam, result.ratios) == (-4.0, (1.0, -0.5))


def test_the_first_of_equal_strengths_is_the_reference() -> None:
    result = query(replace(TEA, strength=3.0), replace(WALKS, strength=-3.0))
    assert (result.lam, result.ratios) == (3.0, (1.0, -1.0))


def test_no_strength_at_all_is_lambda_nought_with_equal_ratios() -> None:
    result = query(TEA, WALKS, lam=0.0)
    assert (result.lam, result.ratios) == (0.0, (1.0, 1.0))
    assert [view.weight for view in result.views] == [1.0, 0.0, 0.0]


@given(st.lists(strengths, min_size=1, max_size=5), st.data())
def test_lambda_and_ratios_say_the_same_as_the_weights(given_: list[float], data: Any) -> None:
    preferences = [Preference(f"like {i}", one) for i, one in enumerate(given_)]
    result = query(*preferences, lam=1.0)
    logprobs = data.draw(
        st.lists(st.floats(-50, 0), min_size=len(given_) + 1, max_size=len(given_) + 1)
    )
    weighted = [view.weight * x for view, x in zip(result.views, logprobs, strict=True)]
    gain = sum(r * (p - logprobs[0]) for r, p in zip(result.ratios, logprobs[1:], strict=True))
    size = 1 + sum(map(abs, given_))
    assert math.isclose(
        sum(weighted), logprobs[0] + result.lam * gain, rel_tol=0, abs_tol=1e-10 * size
    )
    assert max(map(abs, result.ratios)) == 1.0
    assert [view.weight for view in result.views[1:]] == given_


# What is sampled from


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("lam", [0.0, 0.5, 20.0])
def test_candidates_come_from_the_full_prompt_id_for_id(placement: Placement, lam: float) -> None:
    result = query(TEA, placement=placement, lam=lam)
    assert result.prompt == result.views[1].prompt


def test_candidates_come_from_the_question_prompt_on_request() -> None:
    result = query(TEA, generate_with="question", question_system="Hm.")
    assert result.prompt == result.views[0].prompt


def test_candidates_of_a_shunned_preference_come_from_the_question_prompt() -> None:
    result = query(TEA, lam=-1.0)
    assert result.prompt == result.views[0].prompt


def test_candidates_are_drawn_under_all_preferences_that_are_not_shunned() -> None:
    shunned, ignored = Preference("I like noise.", -1.0), Preference("Be late.", 0.0)
    result = query(TEA, shunned, WALKS, ignored)
    assert read(result.prompt) == (
        "[system]I like tea.\nNo walks.\nBe late.[user]What now?[assistant]"
    )


def test_a_single_preference_that_is_not_shunned_is_drawn_from_its_own_view() -> None:
    result = query(replace(TEA, strength=-1.0), WALKS)
    assert result.prompt == result.views[2].prompt


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("user", "[user]What now?\n\nI like tea.\nNo walks.[assistant]"),
        (
            "history",
            f"[user]I like tea.\nNo walks.[assistant]{ACKNOWLEDGEMENT}[user]What now?[assistant]",
        ),
    ],
)
def test_several_preferences_stand_together_on_a_line_each(
    placement: Placement, expected: str
) -> None:
    assert read(query(TEA, WALKS, placement=placement).prompt) == expected


# The history as the preference


def test_the_history_can_be_the_preference() -> None:
    result = query(messages=OWN, history="preference", lam=3.0)
    assert prompts(result) == {
        "question": "[system]Be kind.[user]What now?[assistant]",
        "full": "[system]Be kind.[user]Hello.[assistant]Hi.[user]What now?[assistant]",
    }
    assert [view.weight for view in result.views] == [-2.0, 3.0]
    assert (result.lam, result.ratios) == (3.0, (1.0,))
    assert result.prompt == result.views[1].prompt


def test_a_history_that_is_the_preference_needs_earlier_turns() -> None:
    with pytest.raises(BadInput, match=r"there are none; give a conversation of several turns"):
        query(messages=[OWN[0], USER], history="preference")


def test_the_first_turns_can_be_the_preference_and_the_others_stand_in_both_views() -> None:
    turns = [Message("user", "I like tea."), Message("assistant", "Noted."), *LONG]
    both = prompts(query(messages=turns, history="preference", preference_turns=2))
    assert both["full"] == "[user]I like tea.[assistant]Noted." + both["question"]
    assert both["question"] == "[user]Hello.[assistant]Hi.[user]What now?[assistant]"


def test_turns_that_are_the_preference_are_earlier_turns() -> None:
    with pytest.raises(BadInput, match="preference_turns must be a whole number of at least 1"):
        query(messages=LONG, history="preference", preference_turns=0)
    with pytest.raises(BadInput, match="preference_turns is 3; of this conversation's 2 "):
        query(messages=LONG, history="preference", preference_turns=3)


def test_turns_are_the_preference_only_where_the_history_is() -> None:
    with pytest.raises(BadInput, match='it needs history "preference"'):
        PromptSettings(preference_turns=2)


def test_a_history_that_is_the_preference_takes_no_other() -> None:
    with pytest.raises(BadInput, match=r'state none beside them, or use history "both"'):
        query(TEA, messages=LONG, history="preference")


def test_a_template_that_ignores_the_history_cannot_take_it_for_the_preference() -> None:
    with pytest.raises(NoChatTemplate, match=r"ignores earlier turns; .*--chat-template FILE"):
        query(messages=LONG, history="preference", tokenizer=LastTurnOnly())


# What is refused


def test_a_request_without_a_preference_is_its_question_at_lambda_1() -> None:
    prompt = Spelled().render([USER])
    assert query() == Query(
        prompt=prompt, views=(View("question", prompt, 1.0),), lam=1.0, ratios=()
    )


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_preference_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="preference 2 is empty: say what is preferred"):
        query(TEA, Preference(text))


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_question_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="the question is empty: the last user turn needs some text"):
        query(TEA, messages=[*LONG[:-1], Message("user", text)])


@pytest.mark.parametrize("lam", [math.nan, math.inf, -math.inf])
def test_a_lambda_that_is_not_finite_is_refused(lam: float) -> None:
    with pytest.raises(BadInput, match=r"it must be a finite number \(--lambda\)"):
        query(TEA, lam=lam)
    with pytest.raises(BadInput, match=r"preference 2 has the strength .*; it must be finite"):
        query(TEA, replace(WALKS, strength=lam))


def test_strengths_that_overflow_together_are_refused() -> None:
    with pytest.raises(BadInput, match="too large to add up; use smaller ones"):
        query(TEA, WALKS, lam=1.7e308)


def test_two_system_messages_are_refused() -> None:
    with pytest.raises(BadInput, match=r"two system messages.*\(--system\); leave one of them out"):
        query(TEA, messages=OWN, system="Be brief.")


@pytest.mark.parametrize("name", ["placement", "generate_with", "history"])
def test_an_unknown_setting_is_refused_with_the_known_ones(name: str) -> None:
    unknown: dict[str, Any] = {name: "top"}
    with pytest.raises(BadInput, match=rf"{name} must be \w+(, \w+)? or \w+, not 'top'"):
        PromptSettings(**unknown)


@pytest.mark.parametrize(
    ("placement", "tokenizer", "message"),
    [
        ("system", LastTurnOnly(), r"ignores system messages .*\(--placement user\)"),
        ("history", LastTurnOnly(), r"ignores earlier turns; .*\(--placement user\)"),
        ("user", Mute(), r"ignores the end of the user turn; .*\(--chat-template FILE\)"),
    ],
)
def test_a_preference_that_leaves_no_trace_is_refused(
    placement: Placement, tokenizer: Spelled, message: str
) -> None:
    with pytest.raises(NoChatTemplate, match=message):
        query(TEA, placement=placement, tokenizer=tokenizer)


def test_views_that_end_in_different_places_are_refused() -> None:
    with pytest.raises(NoChatTemplate, match=r"do not end in the same token.*--placement system"):
        query(TEA, placement="user", tokenizer=Headless())


def test_half_a_surrogate_pair_is_refused_wherever_it_hides() -> None:
    half = "a\ud800"
    with pytest.raises(BadInput, match=r"messages\[0\]\.content is not valid Unicode .*; mend"):
        query(TEA, messages=[Message("user", half)])
    with pytest.raises(BadInput, match="preference 1 is not valid Unicode"):
        query(Preference(half))
    with pytest.raises(BadInput, match="question_system is not valid Unicode"):
        query(TEA, question_system=half)


def test_importing_the_module_brings_no_model_library() -> None:
    code = (
        "import sys, preftilt.prompt; print({'torch', 'transformers', 'jinja2'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# A contrast


PUNS = "Use many puns."


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_contrast_stands_where_the_preference_stands(placement: Placement) -> None:
    built = query(TEA, against=f" {PUNS} ", placement=placement, messages=OWN)
    assert read(built.views[0].prompt) == read(built.views[1].prompt).replace(TEA.text, PUNS)
    assert built.prompt == built.views[1].prompt
    assert [view.weight for view in built.views] == [-19.0, 20.0]


def test_several_preferences_have_one_contrast() -> None:
    built = prompts(query(TEA, WALKS, against=PUNS, lam=2.0))
    assert built == prompts(query(TEA, WALKS, lam=2.0)) | {
        "question": f"[system]{PUNS}[user]What now?[assistant]"
    }


@pytest.mark.parametrize(
    "asked", [{"generate_with": "question"}, {"lam": -2.0}], ids=["by the question", "turned away"]
)
def test_answers_are_never_drawn_from_the_contrast(asked: dict[str, Any]) -> None:
    assert read(query(TEA, against=PUNS, **asked).prompt) == "[user]What now?[assistant]"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"against": " "}, "against must be a text that is not empty"),
        ({"against": "I like tea. "}, "is the preference itself"),
        ({"against": PUNS, "history": "preference"}, "none is stated"),
        ({"against": PUNS, "question_system": "Be kind."}, "give one"),
    ],
)
def test_a_contrast_that_cannot_be_one_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        query(TEA, **settings)


def test_a_contrast_without_a_preference_is_refused() -> None:
    with pytest.raises(BadInput, match="without a preference"):
        query(against=PUNS)


def test_a_template_that_ignores_the_place_of_contrast_and_preference_is_refused() -> None:
    with pytest.raises(NoChatTemplate, match="--placement user"):
        query(TEA, against=PUNS, tokenizer=LastTurnOnly())
