"""Chat templates: what real ones do to a prompt pair, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.options import builtin_templates, load_template
from preftilt.errors import BadInput, NoChatTemplate
from preftilt.messages import Message
from preftilt.prompt import PromptSettings, build_query
from preftilt.types import Preference, Tokens

Open = Callable[..., HfChatTokenizer]
Read = Callable[[Tokens], str]

QUESTION = Message("user", "Name some ways to study maths.")
DIALOGUE = [
    Message("user", "Hello."),
    Message("assistant", "<think>\nA greeting.\n</think>\n\nHi!"),
    QUESTION,
]
TERSE = [Preference("I dislike gamification.")]
NOON = datetime(2030, 5, 17, 12)


def pair(chat: HfChatTokenizer, read: Read, **settings: Any) -> tuple[str, str]:
    query = build_query(chat, [QUESTION], TERSE, lam=2.0, settings=PromptSettings(**settings))
    question, full = query.views
    return read(question.prompt), read(full.prompt)


def test_a_default_system_prompt_stands_in_the_question_view_only(chat: Open, read: Read) -> None:
    question, full = pair(chat("default_system"), read)
    assert question.startswith("<|start|>system\nI am the default.<|end|>\n<|start|>user\n")
    assert full.startswith("<|start|>system\nI dislike gamification.<|end|>\n<|start|>user\n")


def test_a_question_system_message_takes_the_place_of_the_default(chat: Open, read: Read) -> None:
    question, full = pair(chat("default_system"), read, question_system="Be brief.")
    assert question.startswith("<|start|>system\nBe brief.<|end|>\n<|start|>user\n")
    assert "Be brief." not in full


def test_an_empty_system_message_keeps_the_default_out(chat: Open, read: Read) -> None:
    question, full = pair(chat("default_system"), read, system="")
    assert question.startswith("<|start|>system\n<|end|>\n")
    assert full.startswith("<|start|>system\nI dislike gamification.<|end|>\n")


def test_asking_for_the_default_system_prompt_itself_is_no_preference(chat: Open) -> None:
    with pytest.raises(NoChatTemplate, match=r"as its default\); .*--placement user"):
        build_query(
            chat("default_system"),
            [QUESTION],
            [Preference("I am the default.")],
            lam=1.0,
            settings=PromptSettings(),
        )


def test_the_default_text_may_be_given_as_the_system_message(chat: Open, read: Read) -> None:
    question, full = pair(chat("default_system"), read, system="I am the default.")
    assert question.startswith("<|start|>system\nI am the default.<|end|>")
    assert full.startswith("<|start|>system\nI am the default.\n\nI dislike gamification.<|end|>")


def test_a_template_that_refuses_system_messages_names_the_way_out(chat: Open, read: Read) -> None:
    with pytest.raises(NoChatTemplate, match=r"tiny.*no system role here.*--placement user"):
        pair(chat("no_system"), read)
    question, full = pair(chat("no_system"), read, placement="user")
    assert question == "<s><|start|>user\nName some ways to study maths.<|end|>\n<|start|>model\n"
    assert full == question.replace("maths.", "maths.\n\nI dislike gamification.")


def test_a_preference_in_the_history_keeps_strict_alternation(chat: Open, read: Read) -> None:
    question, full = pair(chat("no_system"), read, placement="history")
    assert full.count("<|start|>user") == question.count("<|start|>user") + 1
    assert full.startswith("<s><|start|>user\nI dislike gamification.<|end|>\n<|start|>model\n")


def test_a_template_that_wants_turns_in_order_says_so(chat: Open) -> None:
    with pytest.raises(BadInput, match=r"must alternate; check that user and assistant") as caught:
        chat("no_system").render([QUESTION, QUESTION])
    assert not isinstance(caught.value, NoChatTemplate)


def test_the_system_message_is_not_blamed_for_another_fault(chat: Open) -> None:
    with pytest.raises(BadInput, match="refuses this conversation: no system role here"):
        chat("no_system").render([Message("system", "Be brief."), QUESTION, QUESTION])


@pytest.mark.parametrize("settings", [{}, {"system": "Be brief.", "placement": "user"}])
def test_a_system_message_is_never_dropped_silently(
    chat: Open, read: Read, settings: dict[str, Any]
) -> None:
    with pytest.raises(NoChatTemplate, match=r"ignores system messages.*--placement user"):
        pair(chat("drops_system"), read, **settings)


def test_a_system_message_folded_into_the_user_turn_is_good(chat: Open, read: Read) -> None:
    question, full = pair(chat("folds_system"), read)
    assert full == question.replace("user\n", "user\nI dislike gamification.\n\n")


def test_a_template_that_forgets_the_history_cannot_hold_a_preference_there(
    chat: Open, read: Read
) -> None:
    with pytest.raises(NoChatTemplate, match=r"ignores earlier turns.*--placement user"):
        pair(chat("last_turn_only"), read, placement="history")
    pair(chat("last_turn_only"), read, placement="user")


def test_a_template_for_pictures_that_loses_the_question_is_refused(chat: Open) -> None:
    with pytest.raises(NoChatTemplate, match=r"leaves out the text.*--chat-template FILE"):
        chat("parts").render([QUESTION])


def test_a_template_without_a_place_for_the_answer_is_refused(chat: Open) -> None:
    with pytest.raises(NoChatTemplate, match=r"no generation prompt.*--chat-template FILE"):
        chat("no_header").render([QUESTION])
    with pytest.raises(NoChatTemplate, match=r"no generation prompt.*--chat-template FILE"):
        chat("no_generation_prompt").render([QUESTION])


@pytest.mark.parametrize("dropped", ["user", "assistant"])
def test_a_template_that_drops_a_turn_in_the_middle_is_refused(
    chat: Open, tmp_path: Path, dropped: str
) -> None:
    file = tmp_path / "drops.jinja"
    file.write_text(
        "{% for m in messages %}{% if loop.last or m.role != '" + dropped + "' %}"
        "<|start|>{{ m.role }}\n{{ m.content }}<|end|>{% endif %}{% endfor %}<|start|>assistant\n"
    )
    tokenizer = chat(None, chat_template=str(file))
    tokenizer.render([QUESTION])
    number = 1 if dropped == "user" else 2
    with pytest.raises(
        NoChatTemplate, match=rf"ignores earlier turns \(the {dropped}'s, message {number} of 3\)"
    ):
        tokenizer.render([QUESTION, Message("assistant", "Hi!"), QUESTION])


def test_a_template_is_looked_through_once_for_an_order_of_roles(chat: Open) -> None:
    tokenizer = chat("bare")
    tokenizer.render(DIALOGUE)
    rendered: list[Any] = []
    inner = tokenizer._tokenizer

    class Counted:
        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def __call__(self, *given: Any, **options: Any) -> Any:
            return inner(*given, **options)

        def apply_chat_template(self, *given: Any, **options: Any) -> str:
            rendered.append(inner.apply_chat_template(*given, **options))
            return rendered[-1]

    tokenizer._tokenizer = Counted()  # pyright: ignore[reportAttributeAccessIssue]
    for text in ("One?", "Two?"):
        tokenizer.render([*DIALOGUE[:-1], Message("user", text)])
    assert len(rendered) == 2


def test_both_views_see_one_moment(chat: Open, read: Read) -> None:
    question, full = pair(chat("clock"), read)
    assert question.split("\n")[0] == full.split("\n")[0]
    tokenizer = chat("clock")
    assert tokenizer.render([QUESTION]) == tokenizer.render([QUESTION])


def test_the_moment_can_be_chosen(chat: Open, read: Read) -> None:
    question, _ = pair(chat("clock", now=NOON), read)
    assert question.startswith("<s>Now: 17 May 2030 12:00:00.000000\n")


def test_a_date_string_is_the_templates_own_unless_a_moment_is_given(
    chat: Open, read: Read
) -> None:
    assert pair(chat("date_string"), read)[0].startswith("<s>Today: 01 Jan 2001\n")
    assert pair(chat("date_string", now=NOON), read)[0].startswith("<s>Today: 17 May 2030\n")
    given = chat("date_string", template_kwargs={"date_string": "now"}, now=NOON)
    assert pair(given, read)[0].startswith("<s>Today: now\n")


def test_thinking_is_off_unless_asked_for(chat: Open, read: Read) -> None:
    off = read(chat("thinking").render([QUESTION]))
    assert off.endswith("assistant\n<think>\n\n</think>\n\n")
    assert off == read(chat("thinking").render([QUESTION]))
    on = read(chat("thinking", thinking=True).render([QUESTION]))
    assert on == off.removesuffix("<think>\n\n</think>\n\n")


def test_the_switch_can_be_given_by_its_own_name(chat: Open) -> None:
    by_name = chat("thinking", template_kwargs={"enable_thinking": True})
    assert by_name.render([QUESTION]) == chat("thinking", thinking=True).render([QUESTION])


def test_a_switch_given_by_name_is_not_overruled_by_the_other_one(
    chat: Open, read: Read, tmp_path: Path
) -> None:
    file = tmp_path / "two_names.jinja"
    file.write_text(
        "{% if not thinking is defined %}{% set thinking = enable_thinking %}{% endif %}"
        "{{ messages[0].content }}{{ '<think>' if thinking else '</think>' }}"
    )
    given = chat(None, chat_template=str(file), template_kwargs={"enable_thinking": True})
    assert read(given.render([QUESTION])).endswith("<think>")
    assert read(chat(None, chat_template=str(file)).render([QUESTION])).endswith("</think>")


def test_thoughts_of_earlier_turns_are_stripped_in_every_view(chat: Open, read: Read) -> None:
    query = build_query(chat("thinking"), DIALOGUE, TERSE, lam=2.0, settings=PromptSettings())
    for view in query.views:
        assert "assistant\nHi!<|end|>" in read(view.prompt)
        assert "greeting" not in read(view.prompt)


def test_thinking_is_refused_where_the_template_has_no_switch(chat: Open) -> None:
    with pytest.raises(BadInput, match=r"no switch for thinking.*ask without thinking"):
        chat("bare", thinking=True)


def test_a_template_variable_that_nothing_reads_is_refused(chat: Open) -> None:
    with pytest.raises(BadInput, match=r"never reads the variable 'effort'; leave it out"):
        chat("bare", template_kwargs={"effort": "low"})


@pytest.mark.parametrize("name", ["messages", "tokenize", "strftime_now"])
def test_reserved_template_variables_are_refused(chat: Open, name: str) -> None:
    with pytest.raises(BadInput, match=f"'{name}' is preftilt's to set; leave it out"):
        chat("clock", template_kwargs={name: 1})


@pytest.mark.parametrize("name", ["clock", "bare"])
def test_the_template_alone_decides_about_bos(chat: Open, bare_tokenizer: Any, name: str) -> None:
    tokens = chat(name).render([QUESTION])
    assert tokens.count(bare_tokenizer.bos_token_id) == (1 if name == "clock" else 0)


def test_prompts_are_what_transformers_makes_of_them(chat: Open, own: Any) -> None:
    messages = [{"role": message.role, "content": message.content} for message in DIALOGUE]
    expected = own("default_system").apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert chat("default_system").render(DIALOGUE) == tuple(expected)


def test_a_model_without_a_template_names_both_ways_to_give_one(chat: Open) -> None:
    tokenizer = chat(None)
    with pytest.raises(NoChatTemplate, match=r"tiny.*--chat-template FILE.*--chat-template plain"):
        tokenizer.render([QUESTION])
    with pytest.raises(NoChatTemplate, match="--chat-template plain"):
        tokenizer.template  # noqa: B018


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_of_several_named_templates_the_default_is_used(
    bare_tokenizer: Any, kind: str, chat: Open
) -> None:
    named = {"tool_use": "{{ messages[0].tools }}", "default": "{{ messages[0].content }}?"}
    entries = [{"name": name, "template": text} for name, text in named.items()]
    bare_tokenizer.chat_template = named if kind == "dict" else entries
    assert HfChatTokenizer(bare_tokenizer).template == named["default"]
    bare_tokenizer.chat_template = {"tool_use": named["tool_use"]}
    with pytest.raises(NoChatTemplate, match="--chat-template FILE"):
        HfChatTokenizer(bare_tokenizer).render([QUESTION])


def test_plain_writes_a_dialogue_for_base_models(chat: Open, read: Read) -> None:
    tokenizer = chat(None, chat_template="plain")
    messages = [
        Message("system", "Be brief."),
        Message("user", "Hello."),
        Message("assistant", "Hi!"),
        QUESTION,
    ]
    assert read(tokenizer.render(messages)) == (
        "<s>Be brief.\n\nUser: Hello.\nAssistant: Hi!\n\n"
        "User: Name some ways to study maths.\nAssistant:"
    )
    assert read(tokenizer.render([QUESTION])).startswith("<s>User: Name")
    assert tokenizer.render([Message("system", ""), QUESTION]) == tokenizer.render([QUESTION])


def test_plain_needs_no_bos(bare_tokenizer: Any, chat: Open, read: Read) -> None:
    tokenizer = chat(None, chat_template="plain")
    bos, bare_tokenizer.bos_token = bare_tokenizer.bos_token, None
    try:
        assert read(tokenizer.render([QUESTION])).startswith("User: Name")
    finally:
        bare_tokenizer.bos_token = bos


@pytest.mark.parametrize("placement", ["system", "user", "history"])
def test_plain_takes_every_placement(chat: Open, read: Read, placement: str) -> None:
    question, full = pair(chat(None, chat_template="plain"), read, placement=placement)
    assert question.endswith("maths.\nAssistant:")
    assert full.endswith("\nAssistant:")


def test_a_template_from_a_file_takes_the_place_of_the_models(
    chat: Open, read: Read, tmp_path: Path
) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[-1].content }} Café:", encoding="utf-8")
    tokenizer = chat("bare", chat_template=str(file))
    assert read(tokenizer.render([QUESTION])) == "Name some ways to study maths. Café:"


def test_a_syntax_error_names_the_file_and_the_line(chat: Open) -> None:
    file = Path(__file__).parent / "templates" / "broken.jinja"
    with pytest.raises(BadInput, match=r"broken\.jinja is not valid Jinja: line 3: .*FILE"):
        chat("bare", chat_template=str(file))


def test_a_syntax_error_in_the_models_own_template_names_the_model(chat: Open) -> None:
    with pytest.raises(BadInput, match=r"template of tiny is not valid Jinja: .*FILE"):
        chat("broken")


def test_a_template_marked_up_for_training_is_read(chat: Open, read: Read, tmp_path: Path) -> None:
    file = tmp_path / "training.jinja"
    file.write_text(
        "{% for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}!",
        encoding="utf-8",
    )
    tokenizer = chat(None, chat_template=str(file))
    assert read(tokenizer.render([QUESTION])) == "Name some ways to study maths.!"


def test_a_template_that_computes_with_nothing_is_reported(chat: Open, tmp_path: Path) -> None:
    file = tmp_path / "wrong.jinja"
    file.write_text("{{ messages[0].content + 1 }}", encoding="utf-8")
    with pytest.raises(BadInput, match=r"wrong\.jinja refuses .*--chat-template FILE"):
        chat(None, chat_template=str(file)).render([QUESTION])


def test_a_name_that_is_neither_built_in_nor_a_file_is_refused() -> None:
    with pytest.raises(BadInput, match=r"--chat-template plane: no such file.*built in: plain"):
        load_template("plane")


def test_an_unreadable_or_empty_template_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(BadInput, match=r"cannot be read.*give a text file in Jinja"):
        load_template(str(file))
    file.write_text(" \n")
    with pytest.raises(BadInput, match="is empty; give a file"):
        load_template(str(file))


def test_every_built_in_template_is_in_the_package() -> None:
    assert builtin_templates() == ["plain"]
    assert "Assistant:" in load_template("plain")


def test_decoding_leaves_special_tokens_out_and_spaces_alone(
    chat: Open, bare_tokenizer: Any
) -> None:
    text = " What , can I cook ?\n\n"
    tokens = tuple(bare_tokenizer(text, add_special_tokens=False)["input_ids"])
    tokenizer = chat("bare")
    assert tokenizer.decode((*tokens, bare_tokenizer.eos_token_id)) == text
    assert tokenizer.decode(()) == ""


def test_pieces_join_to_the_text_and_spell_special_tokens_out(
    chat: Open, bare_tokenizer: Any
) -> None:
    text = " What can I cook tonight?\n"
    tokens = tuple(bare_tokenizer(text, add_special_tokens=False)["input_ids"])
    pieces = chat("bare").pieces((*tokens, bare_tokenizer.eos_token_id))
    assert len(pieces) == len(tokens) + 1
    assert "".join(pieces) == text + "</s>"


def test_a_part_of_a_character_is_shown_as_such(chat: Open, bare_tokenizer: Any) -> None:
    tokens = tuple(bare_tokenizer("é", add_special_tokens=False)["input_ids"])
    assert chat("bare").pieces(tokens) == ["\N{REPLACEMENT CHARACTER}"] * 2


def test_pieces_keep_the_space_that_sentencepiece_decoders_strip() -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models

    vocab = {"\u2581tea": 0, "pot": 1}
    fast = Tokenizer(models.WordLevel(vocab, unk_token="pot"))
    fast.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = HfChatTokenizer(transformers.PreTrainedTokenizerFast(tokenizer_object=fast))
    assert tokenizer.decode((0, 1, 0)) == "teapot tea"
    assert tokenizer.pieces((0, 1, 0)) == [" tea", "pot", " tea"]


def test_a_prompt_longer_than_the_model_is_left_to_the_engine_to_refuse(
    bare_tokenizer: Any, chat: Open, caplog: pytest.LogCaptureFixture
) -> None:
    length, bare_tokenizer.model_max_length = bare_tokenizer.model_max_length, 8
    try:
        assert len(chat("bare").render([QUESTION])) > 8
    finally:
        bare_tokenizer.model_max_length = length
    assert not caplog.records
