"""Applies the chat template of a Hugging Face tokenizer: the ``ChatTokenizer`` that renders prompts.

Everything that a template could change between two views, or drop silently, is fixed or checked
here: the date, thinking mode, messages that the template leaves out. A template that cannot do what
is requested is refused, with the remedy in the message, before the first token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from preftilt.engines.control_tokens import (
    ControlTokens,
    HfControlTokens,
    KnowsControlTokens,
    StandIns,
    cannot_tell_apart,
    stand_ins,
)
from preftilt.engines.options import EngineOptions, load_template
from preftilt.engines.vocabulary import ByteVocabulary, TokenBytes, spell
from preftilt.errors import BadInput, NoChatTemplate, UnseenImage
from preftilt.messages import Message, Prompt
from preftilt.prompt import REASONING_TAGS, ChatTokenizer, Moment, requested_moment
from preftilt.types import Tokens

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

THINKING_SWITCHES = ("enable_thinking", "thinking")
"""Variables that turn thinking on and off in templates: Qwen3's; DeepSeek's and Granite's."""

PROBE = "preftilt"
"""A text that is searched for in rendered prompts."""

ANSWER = "certainly"
"""An assistant's answer in probes."""

MAX_OPENING_TOKENS = 16
"""Upper bound on the tokens of an opening thinking tag and white space before it."""

MAX_CACHED_ROLE_ORDERS = 1024
"""Size of the cache of role orders that a template is known to render completely."""

NEUTRAL = ("\n", ".", "a")
"""Contexts in which a response is tokenised if it would merge with the end of the prompt (two line breaks, say)."""

DATE_STRING = "%d %b %Y"
"""The date format of Llama 3.1 templates."""

_RESERVED = frozenset(
    {"messages", "add_generation_prompt", "strftime_now", "raise_exception"}
    | {"conversation", "chat_template", "tokenize", "tools", "documents", "tokenizer_kwargs"}
    | {"padding", "truncation", "max_length", "return_tensors", "return_dict"}
    | {"return_assistant_tokens_mask", "continue_final_message"}
)
"""Names used by ``render``, by functions of every template, and by ``apply_chat_template``."""


class HfChatTokenizer(ChatTokenizer):
    """Renders conversations with a chat template; see :class:`~preftilt.prompt.ChatTokenizer`.

    tokenizer: any tokenizer of transformers. chat_template, thinking, template_kwargs, now: as in
    :class:`~preftilt.engines.options.EngineOptions`. content: converts a message to the content that the template
    expects; ``None`` is its text, and a message with images is refused.

    The built-in template ``plain`` renders the dialogue for a base model (``User: … Assistant:``), whose response ends
    at the end-of-text token or at its token budget. A template without a switch for thinking (``enable_thinking`` or
    ``thinking``) is refused if it is asked to think; a model that always thinks ignores it. A variable that the
    template does not read is refused. ``now`` is the same in every prompt of this object (``strftime_now``), and, if it
    is given, also the ``date_string`` of a template that reads one (Llama 3.1; without it such templates show a fixed
    date of their own); ``None`` takes the request's (:func:`~preftilt.prompt.rendered_at`), or the moment this is made.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        chat_template: str | None = None,
        thinking: bool = False,
        template_kwargs: Mapping[str, object] | None = None,
        now: datetime | None = None,
        content: Callable[[Message], object] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._content = content or self._text_alone
        self._pieces: dict[int, str] = {}
        known = isinstance(tokenizer, ByteVocabulary)
        self._bytes: ByteVocabulary = tokenizer if known else TokenBytes(tokenizer)
        self._fixed_moment, self._opened_at = now, datetime.now()
        self._complete_role_orders: set[tuple[tuple[str, bool], ...]] = set()
        self._label = f"the chat template of {tokenizer.name_or_path or 'the model'}"
        if chat_template is None:
            self._template = _own_template(tokenizer)
        else:
            self._template = load_template(chat_template)
            self._label = f"the chat template {chat_template}"
        self._variables = self._template_variables(thinking, template_kwargs or {}, now)

    @property
    def template(self) -> str:
        """The template in use, in Jinja.

        Raises :class:`~preftilt.errors.NoChatTemplate` if there is none: an engine can ask before
        it loads weights.
        """
        if self._template is None:
            name = self._tokenizer.name_or_path or "the model"
            raise NoChatTemplate(
                f"{name} has no chat template (it may be a base model); give one with"
                " --chat-template FILE, or use the built-in one for base models:"
                " --chat-template plain"
            )
        return self._template

    @property
    def template_or_none(self) -> str | None:
        """The template in use, if there is one."""
        return self._template

    @property
    def moment(self) -> Moment | None:
        shown = tuple(self._now.strftime(form) for form in self._date_forms)
        return Moment(self._now, shown) if shown else None

    @property
    def _now(self) -> datetime:
        return self._fixed_moment or requested_moment() or self._opened_at

    @cached_property
    def _date_forms(self) -> tuple[str, ...]:
        """The forms in which the template shows a date."""
        forms = [DATE_STRING] if "date_string" in self._variables and self._fixed_moment else []

        def strftime_now(form: str) -> str:
            forms.append(form)
            return self._now.strftime(form)

        for messages in (
            [Message("system", PROBE), Message("user", PROBE)],
            [Message("user", PROBE)],
        ):
            self._probe(messages, strftime_now=strftime_now)
        return tuple(dict.fromkeys(forms))

    def render(self, messages: Sequence[Message]) -> Prompt:
        """Token ids of the conversation up to where the assistant's next answer begins.

        The template alone decides about BOS; none is added. Control tokens are the template's alone, too: where the
        messages spell one, it is encoded as characters. Raises :class:`~preftilt.errors.NoChatTemplate` if there is
        no template, or it refuses or drops a message, and :class:`~preftilt.errors.BadInput` if it refuses the
        conversation otherwise, or the tokenizer cannot tell a control token from its spelling.
        """
        shown, spelled = self._without_control_tokens(messages)
        return Prompt(self._ids(self._render_checked(shown), spelled), messages)

    def spell(self, messages: Sequence[Message]) -> str:
        """The text that :meth:`render` makes token ids of, for who makes them himself; it raises the same errors.

        Messages that spell a control token are refused.
        """
        _, spelled = self._without_control_tokens(messages)
        if spelled.spelled:
            raise cannot_tell_apart(spelled.spelled.values())
        return self._render_checked(messages)

    def encode(self, text: str) -> Tokens:
        """Token ids of a text, control tokens that it spells included; nothing is added."""
        # Not verbose: the engine itself refuses prompts that are too long.
        encoded: Any = self._tokenizer(text, add_special_tokens=False, verbose=False)
        return tuple(int(token) for token in encoded["input_ids"])

    def encode_response(self, text: str, after: str = "") -> Tokens:
        """Token ids of a response's text after a prompt, as the model would draw them; ``after`` is its beginning.

        A text's first word often has other ids at the beginning of all text (SentencePiece puts a space before it).
        Control tokens that the text spells are encoded as plain characters.
        """
        spelled = stand_ins((text,), self._control_tokens.texts())
        hidden = spelled.hide(text)
        for before in (self._prompt_end + after, *NEUTRAL):
            head, whole = self.encode(before), self._ids(before + hidden, spelled)
            if whole[: len(head)] == head:
                return whole[len(head) :]
        return self._ids(hidden, spelled)

    def decode(self, tokens: Tokens) -> str:
        """The text of a response, special tokens left out, white space as the model wrote it.

        It is the inverse of :meth:`encode_response`: its first space is removed only if that method adds one.
        """
        before, added = self._first_space
        head, text = self._decode_text(before), self._decode_text((*before, *tokens))
        if not text.startswith(head):
            return self._decode_text(tokens)
        return text[len(head) :].removeprefix(added)

    @property
    def opens_thoughts(self) -> bool:
        opening, closing = (self._prompt_end.rfind(tag) for tag in REASONING_TAGS)
        return opening > closing

    def thoughts(self, tokens: Tokens) -> int:
        """See :class:`~preftilt.prompt.ChatTokenizer`; without one in the prompt, the tag must come first."""
        opening, closing = REASONING_TAGS
        begins = "".join(self.pieces(tokens[:MAX_OPENING_TOKENS])).lstrip().startswith(opening)
        if not (begins or self.opens_thoughts):
            return 0
        text = ""
        for count, piece in enumerate(self.pieces(tokens), start=1):
            text += piece
            if closing in text:
                return count
            text = text[-len(closing) :]
        return len(tokens)

    def pieces(self, tokens: Tokens) -> list[str]:
        """The text of each token by itself, special tokens too; part of a character shows as �."""
        return [self._piece(token) for token in tokens]

    def spell_bytes(self, tokens: Tokens) -> list[bytes | None]:
        """The bytes of each token; None for special tokens."""
        return spell(self._bytes, tokens, self.decode(tokens))

    def encode_raw(self, text: str) -> Tokens:
        """Token ids of a text with the special tokens that the tokenizer itself puts around it."""
        encoded: Any = self._tokenizer(text, add_special_tokens=True, verbose=False)
        return tuple(int(token) for token in encoded["input_ids"])

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            # Decoders of the SentencePiece kind strip the space in front of a text's first token;
            # so take what the token adds as the second of two.
            once, twice = self._decode_raw([token]), self._decode_raw([token, token])
            self._pieces[token] = twice[len(once) :] if twice.startswith(once) else once
        return self._pieces[token]

    def _decode_raw(self, tokens: list[int]) -> str:
        text: Any = self._tokenizer.decode(
            tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def _decode_text(self, tokens: Tokens) -> str:
        text: Any = self._tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    @cached_property
    def _control_tokens(self) -> ControlTokens:
        if isinstance(self._tokenizer, KnowsControlTokens):
            return self._tokenizer.control_tokens()
        turns = [Message("user", PROBE), Message("assistant", PROBE), Message("user", PROBE)]
        with_system = self._probe([Message("system", PROBE), *turns])
        return HfControlTokens(self._tokenizer, with_system or self._probe(turns))

    @cached_property
    def _prompt_end(self) -> str:
        """The end of a prompt, from its last control token on, which an answer's tokenisation depends on."""
        _, question, tail = self._probe([Message("user", PROBE)]).rpartition(PROBE)
        last = max((tail.rfind(token) for token in self._control_tokens.texts()), default=0)
        return tail[max(last, 0) :] if question else ""

    @cached_property
    def _first_space(self) -> tuple[Tokens, str]:
        """Tokens to put before a response so that the decoder keeps its first space, and the space that encoders add.

        SentencePiece decoders strip the first space of all text; encoders add it, some of them also after a prompt
        that ends with a control token.
        """
        letter = NEUTRAL[-1]
        before = self.encode(letter)
        if self._decode_text(before) != letter:
            return (), ""
        again = self._decode_text((*before, *self.encode_response(letter)))
        return before, " " if again == f"{letter} {letter}" else ""

    def _probe(self, messages: Sequence[Message], **variables: object) -> str:
        """Render a test conversation; empty if the template fails."""
        try:
            return self._render(messages, **variables)
        except (_TemplateFailed, NoChatTemplate):
            return ""

    def _ids(self, text: str, spelled: StandIns) -> Tokens:
        """Token ids of a rendered text with stand-ins for spelled control tokens."""
        return self._control_tokens.encode(text, spelled) if spelled.spelled else self.encode(text)

    def _without_control_tokens(
        self, messages: Sequence[Message]
    ) -> tuple[list[Message], StandIns]:
        """Replace control tokens that messages spell by stand-ins."""
        spelled = stand_ins([message.content for message in messages], self._control_tokens.texts())
        return [spelled.hide_in(message) for message in messages], spelled

    def _render_checked(self, messages: Sequence[Message]) -> str:
        """Render the conversation, and check that nothing was left out."""
        try:
            text = self._render(messages)
        except _TemplateFailed as failure:
            raise self._refusal(messages, failure) from failure.__cause__
        if not self._has_generation_prompt:
            raise NoChatTemplate(
                f"{self._label} has no generation prompt: it ends with the user's turn and writes no beginning of an"
                " answer; give one that does where add_generation_prompt is true (--chat-template FILE)"
            )
        self._check_nothing_dropped(messages, text)
        return text

    def _render(self, messages: Sequence[Message], **variables: object) -> str:
        template = self.template
        turns: Any = [
            {"role": message.role, "content": self._content(message)} for message in messages
        ]
        try:
            text: Any = self._tokenizer.apply_chat_template(
                turns,
                chat_template=template,
                tokenize=False,
                **{"add_generation_prompt": True, **self._variables, **variables},
            )
        except _FAILURES as error:
            raise _TemplateFailed(str(error)) from error
        return text

    def _text_alone(self, message: Message) -> str:
        if message.images:
            raise UnseenImage(
                f"{self._tokenizer.name_or_path or 'the model'} is read as a model of text here, and a message has"
                " an image; use a vision-language model on the transformers engine, or leave the image out"
            )
        return message.content

    def _template_variables(
        self, thinking: bool, kwargs: Mapping[str, object], now: datetime | None
    ) -> dict[str, Any]:
        """The template's variables besides the messages."""
        variables: dict[str, Any] = {"strftime_now": lambda form: self._now.strftime(form)}
        if self._template is None:
            return variables
        read = self._variables_read(self._template)
        switches = [name for name in THINKING_SWITCHES if name in read]
        if thinking and not switches:
            raise BadInput(
                f"{self._label} has no switch for thinking ({' or '.join(THINKING_SWITCHES)});"
                " ask without thinking, or set the template's own variable"
            )
        if kwargs.keys().isdisjoint(switches):
            variables |= dict.fromkeys(switches, thinking)
        if now is not None and "date_string" in read:
            variables["date_string"] = now.strftime(DATE_STRING)
        for name in kwargs:
            if name in _RESERVED:
                raise BadInput(f"the template variable {name!r} is preftilt's to set; leave it out")
            if name not in read:
                raise BadInput(f"{self._label} never reads the variable {name!r}; leave it out")
        return {**variables, **kwargs}

    def _variables_read(self, template: str) -> set[str]:
        """The variables that the template reads; checks its syntax, too."""
        try:
            return meta.find_undeclared_variables(_PARSER.parse(template))
        except TemplateSyntaxError as error:
            raise BadInput(
                f"{self._label} is not valid Jinja: line {error.lineno}: {error.message};"
                " mend it or give another one (--chat-template FILE)"
            ) from error

    def _refusal(self, messages: Sequence[Message], failure: _TemplateFailed) -> BadInput:
        """The reason why the template failed, found by leaving out the system message."""
        if messages[0].role == "system" and self._accepts(messages[1:]):
            return NoChatTemplate(
                f"{self._label} takes no system message ({failure}); state the preference in the"
                " user turn (--placement user) and leave out --system"
            )
        return BadInput(
            f"{self._label} refuses this conversation: {failure}; check that user and assistant take"
            " turns, or give another template (--chat-template FILE)"
        )

    def _accepts(self, messages: Sequence[Message]) -> bool:
        try:
            self._render(messages)
        except _TemplateFailed:
            return False
        return True

    def _check_nothing_dropped(self, messages: Sequence[Message], text: str) -> None:
        """Refuse templates that drop a system message, earlier turns, or text where they expect images.

        Checked once for every order of roles.
        """
        role_order = tuple((message.role, bool(message.images)) for message in messages)
        if role_order in self._complete_role_orders:
            return
        marked = [
            replace(message, content=f"{PROBE}{number}{PROBE}")
            for number, message in enumerate(messages)
        ]
        read = self._probe(marked)
        for index, message in enumerate(marked):
            if message.content not in read and self._is_ignored(messages, index, text):
                raise NoChatTemplate(self._dropped(messages, index))
        if len(self._complete_role_orders) >= MAX_CACHED_ROLE_ORDERS:
            self._complete_role_orders.clear()
        self._complete_role_orders.add(role_order)

    def _dropped(self, messages: Sequence[Message], index: int) -> str:
        """The error message for a message that the template drops."""
        if messages[index].role == "system":
            return (
                f"{self._label} ignores system messages; state the preference in the user turn"
                " (--placement user) and leave out --system"
            )
        if index == len(messages) - 1:
            return (
                f"{self._label} leaves out the text of the user's turn (it may be made for pictures);"
                " give another one (--chat-template FILE)"
            )
        return (
            f"{self._label} ignores earlier turns (the {messages[index].role}'s, message {index + 1} of"
            f" {len(messages)}); give another one (--chat-template FILE), or ask without them; a preference can stand"
            " in the user turn (--placement user)"
        )

    @cached_property
    def _has_generation_prompt(self) -> bool:
        """Whether a prompt ends where an answer begins, with the answer's header."""
        question = [Message("user", PROBE)]
        prompt = self._probe(question)
        whole = self._probe([*question, Message("assistant", ANSWER)], add_generation_prompt=False)
        if not prompt or not whole.startswith(prompt):
            return True  # A conversation is rendered differently from a prompt: this cannot be checked.
        header, answer, _ = whole[len(prompt) :].partition(ANSWER)
        ignored = prompt == self._probe(question, add_generation_prompt=False)
        return not (ignored and answer and header.strip())

    def _is_ignored(self, messages: Sequence[Message], index: int, text: str) -> bool:
        """Whether the prompt stays the same when one message changes."""
        other = [*messages]
        other[index] = replace(messages[index], content=messages[index].content + "x")
        return self._render(other) == text


def open_chat(
    tokenizer: Any, options: EngineOptions, content: Callable[[Message], object] | None = None
) -> HfChatTokenizer:
    """The chat tokenizer that the chat options ask for."""
    return HfChatTokenizer(
        tokenizer,
        chat_template=options.chat_template,
        thinking=options.thinking,
        template_kwargs=options.template_kwargs,
        now=options.now,
        content=content,
    )


class _TemplateFailed(Exception):
    """The template raised an error, with its message."""


_FAILURES = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
"""What rendering can raise: Jinja's errors, and Python's for undefined values."""


class _GenerationTag(Extension):
    """``{% generation %}`` marks answers in templates for training; only its body is rendered."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_PARSER = Environment(extensions=[_GenerationTag, "jinja2.ext.loopcontrols"])
"""Parses what transformers parses; transformers itself renders the template, in its sandbox."""


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The model's template; of several named ones, ``default``."""
    template: Any = tokenizer.chat_template
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    if isinstance(template, dict):
        template = template.get("default")
    return template or None
