"""Messages and preferences become the token prompts that the views are read under.

A request is a conversation, one or several preferences, and a strength λ_i for each. Its score is

    S = question + Σ_i λ_i (p_i − question)

where ``question`` is the log-prob of the response after the conversation without any preference and
p_i its log-prob after the conversation with preference i alone (REAR, arXiv 2606.30339, eq. 9, for
one preference). A request may name a contrast, which then stands in ``question`` where a preference
stands in the others. Text ends here: everything behind this module speaks token ids.

The date and time that chat templates show are chosen here, too: which one a prompt sees, and what it shows of it.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from preftilt.declare import check_settings, setting
from preftilt.errors import BadInput, NoChatTemplate
from preftilt.messages import Message, check_encodable, check_messages
from preftilt.types import GenerateWith, Placement, Preference, Query, Tokens, View

History = Literal["both", "preference"]
"""What earlier turns are: part of every view, or themselves the (implicit) preference."""

ACKNOWLEDGEMENT = "Thank you, I will keep that in mind."
"""What the assistant answers to a preference stated with ``placement="history"``."""

_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_NOT_FINITE = r"[+-]?(?:[nN][aA][nN]|[iI][nN][fF](?:[iI][nN][iI][tT][yY])?)"
_STRENGTH = re.compile(rf"=\s*({_NUMBER}|{_NOT_FINITE})\s*\Z")

REASONING_TAGS = ("<think>", "</think>")
"""Around a model's thoughts. They are words of its response, which templates look for, and no ends of turns."""


class ChatTokenizer(ABC):
    """A model's chat template and vocabulary."""

    __slots__ = ()

    @abstractmethod
    def render(self, messages: Sequence[Message]) -> Tokens:
        """Token ids of the conversation up to where the assistant's next answer begins, as a
        :class:`~preftilt.messages.Prompt` where a chat server may have to draw from them.

        Raises :class:`~preftilt.errors.NoChatTemplate` if the model has no template or the template
        lacks a role, and :class:`~preftilt.errors.BadInput` for images where the model sees none.
        """

    @abstractmethod
    def encode(self, text: str) -> Tokens:
        """Token ids of a text as it stands, special tokens that it spells too; none are added."""

    @abstractmethod
    def encode_response(self, text: str, after: str = "") -> Tokens:
        """Token ids of a response's text as the model draws them behind a rendered prompt.

        ``after`` is what the response begins with, whose ids are not asked for. No special token is among the ids,
        even if the text spells one. Raises :class:`~preftilt.errors.BadInput` where that cannot be.
        """

    @abstractmethod
    def decode(self, tokens: Tokens) -> str:
        """The text of a response, special tokens left out."""

    @abstractmethod
    def pieces(self, tokens: Tokens) -> list[str]:
        """The text of each token by itself, for display."""

    @abstractmethod
    def spell_bytes(self, tokens: Tokens) -> list[bytes | None]:
        """The bytes of each token of a response; None for the tokens that :meth:`decode` leaves out.

        They join to the UTF-8 of what :meth:`decode` reads. A token may hold a part of a character.
        """

    @abstractmethod
    def encode_raw(self, text: str) -> Tokens:
        """Token ids of a prompt that is no conversation: special tokens are read where the text has them, and put in
        front where the model's tokenizer does so."""

    @property
    def opens_thoughts(self) -> bool:
        """Whether prompts end within thoughts, so that every response begins with some."""
        return False

    def thoughts(self, tokens: Tokens) -> int:
        """How many tokens of a response are thoughts, with the tag that ends them; all, if it is still to come."""
        return 0

    @property
    def moment(self) -> Moment | None:
        """What prompts show of the moment now; None if the template shows nothing of it."""
        return None


def answer_text(tokenizer: ChatTokenizer, tokens: Tokens) -> str:
    """The text of a response without its thoughts."""
    return tokenizer.decode(tokens[tokenizer.thoughts(tokens) :])


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSettings:
    """The layout of the prompts.

    Attributes:
        placement: where the preference stands. ``system``: it is the system message, after the conversation's own one
            if there is any. ``user``: after the last user turn. ``history``: in a first exchange, which the assistant
            acknowledges. Several preferences in one prompt stand on a line each.
        system: a system message of the conversation itself. It stands in every view. ``""`` is an empty system
            message, which keeps a template from putting in its default one.
        question_system: the system message where the preference is left out. It is the question view's alone. None
            leaves it to the template: none, or the template's default system prompt.
        against: a wish to compare the preference with, instead of with the question alone: for what to avoid, "Use
            puns" against the preference "No puns". The question view states this contrast as the others state a
            preference, so that the gain is what the preference adds to *that*: both views name what is to be avoided,
            and naming it cancels. None: the question view states nothing.
        generate_with: the prompt that answers are drawn from: with the preference, or without. ``full``: the
            conversation with all preferences whose strength is not negative; if there is none, and with ``question``,
            the conversation alone.
        history: earlier turns stand in every prompt, or are themselves the preference. ``preference`` takes them for
            the preference itself, as in PrefEval's implicit tasks: the ``full`` view is the whole conversation, the
            question view its last user turn alone (a system message stands in both); no preference may be stated, and
            ``placement`` has no effect.
        preference_turns: with history ``preference``: how many of the earlier turns, from the first on, are it. The
            others stand in both views. None: all of them.

    Raises:
        BadInput: for settings that contradict each other.
    """

    placement: Placement = "system"
    system: str | None = None
    question_system: str | None = None
    against: str | None = setting(None, visible=True)
    generate_with: GenerateWith = "full"
    history: History = "both"
    preference_turns: int | None = setting(None, least=1, told="all of them")

    def __post_init__(self) -> None:
        check_settings(self)
        if self.preference_turns is not None and self.history != "preference":
            raise BadInput(
                'preference_turns says which turns are the preference; it needs history "preference"'
            )
        self._check_contrast()
        if self.question_system is None:
            return
        if self.history == "preference" or self.placement != "system":
            raise BadInput(
                "question_system stands in for a preference in the system message; leave it out,"
                ' or use placement "system" and history "both"'
            )

    def _check_contrast(self) -> None:
        if self.against is None:
            return
        if self.history == "preference":
            raise BadInput(
                'a contrast (against) stands in the place of a stated preference; with history "preference" none is'
                " stated"
            )
        if self.question_system is not None and self.placement == "system":
            raise BadInput(
                "question_system and the contrast (against) both fill the question view's system message; give one"
            )


def build_query(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message],
    preferences: Sequence[Preference],
    *,
    lam: float = 1.0,
    settings: PromptSettings,
) -> Query:
    """The prompts and weights of a request.

    The first view is ``question``, and the only one of a request without preferences, where λ is 1. Then comes
    ``full`` for one preference, or ``preference_1`` … ``preference_k`` for several, each with that preference alone.
    ``lam`` is the strength of every preference without its own. ``Query.lam`` is the strength of largest magnitude,
    first among equals, and ``Query.ratios`` are the strengths divided by it (all 1 if every strength is 0).
    ``Query.prompt`` is, id for id, one of the views' prompts unless several preferences are stated together in it.

    Raises :class:`~preftilt.errors.BadInput` for a request that cannot be served as asked, and
    :class:`~preftilt.errors.NoChatTemplate` if the template cannot say what has to be said.
    """
    check_messages(messages)
    check_contrast(preferences, settings)
    system, turns = split_system(messages, settings)
    if not preferences and settings.history == "both":
        question = _conversation(settings.question_system if system is None else system, turns)
        return plain_query(tokenizer.render(question))
    strengths = _strengths(preferences, lam, settings)
    texts = _texts(preferences)
    if settings.history == "preference":
        question = _conversation(system, _without_preference(turns, settings.preference_turns))
        conversations = [_conversation(system, turns)]
    else:
        question = _conversation(settings.question_system if system is None else system, turns)
        conversations = [_with_preference(system, turns, text, settings) for text in texts]
    alone = question
    if settings.against is not None:
        question = _with_preference(system, turns, _contrast(settings.against, texts), settings)
    prompts = [tokenizer.render(conversation) for conversation in (question, *conversations)]
    check_prompts(prompts, settings)

    stated = [i for i, strength in enumerate(strengths) if strength >= 0]
    if settings.generate_with == "question" or not stated:
        prompt = prompts[0] if settings.against is None else tokenizer.render(alone)
    elif len(stated) == 1:
        prompt = prompts[1 + stated[0]]
    else:
        together = "\n".join(texts[i] for i in stated)
        prompt = tokenizer.render(_with_preference(system, turns, together, settings))
    return _query(prompt, prompts, strengths)


def plain_query(prompt: Tokens) -> Query:
    """The query of a prompt that states no preference: one view, the prompt itself, at λ = 1."""
    return Query(prompt=prompt, views=(View("question", prompt, 1.0),), lam=1.0, ratios=())


def check_contrast(preferences: Sequence[Preference], settings: PromptSettings) -> None:
    """Raises :class:`~preftilt.errors.BadInput` for a contrast that no preference is compared with."""
    if settings.against is not None and not preferences:
        raise BadInput(
            "a contrast (against) does nothing without a preference that is compared with it; state one or leave it out"
        )


def with_preferences(
    messages: Sequence[Message], preferences: Sequence[Preference], settings: PromptSettings
) -> list[Message]:
    """The conversation with all its preferences in their place: what a judge of the answer has to read.

    Without preferences it is the conversation itself, with the system message that the settings give it.
    """
    system, turns = split_system(messages, settings)
    if not preferences:
        return _conversation(system, turns)
    return _with_preference(system, turns, "\n".join(_texts(preferences)), settings)


def before_end(text: str, tokenizer: ChatTokenizer, ends: Collection[int]) -> str:
    """A response's text up to the first token of ``ends`` that it spells, as texts of servers and files may do."""
    spelled = [end for end in tokenizer.pieces(tuple(ends)) if end.strip()]
    return text[: min((place for end in spelled if (place := text.find(end)) >= 0), default=None)]


def check_unended(text: str, tokenizer: ChatTokenizer, ends: Collection[int]) -> None:
    """Raises :class:`~preftilt.errors.BadInput` for a response that spells a token of ``ends`` as its end.

    Every response is closed with one, and the spelled one would be read as characters.
    """
    whole = text.rstrip()
    for end in tokenizer.pieces(tuple(ends)):
        if end.strip() and whole.endswith(end):
            raise BadInput(
                f"it ends with {end!r}, and the end of its turn is added to every response: take it out"
            )


def parse_preference(argument: str) -> Preference:
    """``TEXT`` or ``TEXT=NUMBER``: a preference as the command line takes it.

    A number after the last ``=`` is the preference's own strength: ``no gamification=20``,
    ``puns=-1.5``. Anything else behind a ``=`` is text. A text that must end in ``=5`` keeps it if
    a full stop or a strength follows: ``take x=5.`` or ``take x=5=20``.
    """
    match = _STRENGTH.search(argument)
    if match is None:
        text, strength = argument.strip(), None
    else:
        text, strength = argument[: match.start()].strip(), float(match.group(1))
    if not text:
        raise BadInput(f"the preference {argument!r} has no text; write TEXT or TEXT=NUMBER")
    if strength is not None and not math.isfinite(strength):
        raise BadInput(
            f"the preference {argument!r} has the strength {strength}; it must be a finite number"
            " (if it belongs to the text, end the text with a full stop)"
        )
    return Preference(text, strength)


def split_system(
    messages: Sequence[Message], settings: PromptSettings
) -> tuple[str | None, Sequence[Message]]:
    """The conversation's own system message, wherever it was given, and its turns.

    Raises :class:`~preftilt.errors.BadInput` if it was given twice; ``messages`` are not empty.
    """
    for name, text in (("system", settings.system), ("question_system", settings.question_system)):
        if text is not None:
            check_encodable(text, name)
    if messages[0].role != "system":
        return settings.system, messages
    if settings.system is not None:
        raise BadInput(
            "there are two system messages: one in messages and one in the system setting"
            " (--system); leave one of them out"
        )
    return messages[0].content, messages[1:]


def _conversation(system: str | None, turns: Sequence[Message]) -> list[Message]:
    return [*turns] if system is None else [Message("system", system), *turns]


def _with_preference(
    system: str | None, turns: Sequence[Message], text: str, settings: PromptSettings
) -> list[Message]:
    """The conversation with a preference, or the lines of several, in its place."""
    if settings.placement == "system":
        return _conversation(f"{system}\n\n{text}" if system else text, turns)
    if settings.placement == "user":
        last = replace(turns[-1], content=f"{turns[-1].content}\n\n{text}")
        return _conversation(system, [*turns[:-1], last])
    exchange = [Message("user", text), Message("assistant", ACKNOWLEDGEMENT)]
    return _conversation(system, [*exchange, *turns])


def _without_preference(turns: Sequence[Message], first: int | None) -> Sequence[Message]:
    """The turns behind the ``first`` ones, which are the preference; the last turn is the question."""
    earlier = len(turns) - 1
    if not earlier:
        raise BadInput(
            'history "preference" takes the earlier turns for the preference, and there are none;'
            " give a conversation of several turns, or state a preference"
        )
    first = earlier if first is None else first
    if not 1 <= first <= earlier:
        raise BadInput(
            f"preference_turns is {first}; of this conversation's {earlier} earlier turns at least 1"
            f" and at most {earlier} can be the preference"
        )
    return turns[first:]


def _strengths(
    preferences: Sequence[Preference], lam: float, settings: PromptSettings
) -> list[float]:
    """λ_i of every view but the first, all finite."""
    if not math.isfinite(lam):
        raise BadInput(f"λ is {lam}; it must be a finite number (--lambda)")
    if settings.history == "preference":
        if preferences:
            raise BadInput(
                'with history "preference" the earlier turns are the preference;'
                ' state none beside them, or use history "both"'
            )
        return [float(lam)]
    strengths = [
        float(lam if preference.strength is None else preference.strength)
        for preference in preferences
    ]
    for number, strength in enumerate(strengths, start=1):
        if not math.isfinite(strength):
            raise BadInput(f"preference {number} has the strength {strength}; it must be finite")
    if not math.isfinite(1 - sum(strengths)):
        raise BadInput("the strengths of the preferences are too large to add up; use smaller ones")
    return strengths


def _texts(preferences: Sequence[Preference]) -> list[str]:
    """The preferences as their users wrote them, without outer white space."""
    for number, preference in enumerate(preferences, start=1):
        if not preference.text.strip():
            raise BadInput(f"preference {number} is empty: say what is preferred, or leave it out")
        check_encodable(preference.text, f"preference {number}")
    return [preference.text.strip() for preference in preferences]


def _contrast(text: str, preferences: Sequence[str]) -> str:
    """The contrast as it stands in a prompt, without outer white space."""
    check_encodable(text, "the contrast (against)")
    if text.strip() in preferences:
        raise BadInput(
            "the contrast (against) is the preference itself, so that nothing would be left of it; say the opposite"
        )
    return text.strip()


def _query(prompt: Tokens, prompts: Sequence[Tokens], strengths: Sequence[float]) -> Query:
    lam = max(strengths, key=abs)
    names = [f"preference_{number}" for number in range(1, len(strengths) + 1)]
    if len(strengths) == 1:
        names = ["full"]
    views = [View("question", prompts[0], 1 - sum(strengths))]
    views += [View(*view) for view in zip(names, prompts[1:], strengths, strict=True)]
    ratios = tuple(strength / lam if lam else 1.0 for strength in strengths)
    return Query(prompt=prompt, views=tuple(views), lam=lam, ratios=ratios)


def check_prompts(prompts: Sequence[Tokens], settings: PromptSettings) -> None:
    """Raise :class:`~preftilt.errors.NoChatTemplate` unless every other prompt differs from the first (the question's),
    and ends in the same token, the assistant's header."""
    question, *others = prompts
    for other in others:
        if other == question:
            raise NoChatTemplate(_ignored(settings))
        if not (question and other and question[-1] == other[-1]):
            raise NoChatTemplate(
                "the prompts with and without the preference do not end in the same token, so the"
                " chat template does not lead both to one place where the answer begins;"
                " try --placement system or give another template (--chat-template FILE)"
            )


def _ignored(settings: PromptSettings) -> str:
    """What to say, and to do, when the prompt with a preference is the prompt without it."""
    another = "give another template (--chat-template FILE)"
    move = "state the preference in the user turn instead (--placement user)"
    if settings.history == "preference":
        what, remedy = "earlier turns", another
    elif settings.placement == "system":
        what, remedy = "system messages (or has this very text as its default)", move
    elif settings.placement == "history":
        what, remedy = "earlier turns", move
    else:
        what, remedy = "the end of the user turn", another
    return (
        "the prompt with the preference equals the prompt without it: the chat template ignores"
        f" {what}; {remedy}"
    )


_REQUEST: ContextVar[datetime | None] = ContextVar("moment of the request", default=None)


@contextmanager
def rendered_at(moment: datetime) -> Iterator[None]:
    """Prompts made in this context see ``moment``, unless their engine was opened with another one (``now``)."""
    token = _REQUEST.set(moment)
    try:
        yield
    finally:
        _REQUEST.reset(token)


def requested_moment() -> datetime | None:
    """The moment of the nearest :func:`rendered_at`."""
    return _REQUEST.get()


def read_moment(text: str) -> datetime:
    """``2026-11-28`` or ``2026-11-28T18:30``; raises :class:`~preftilt.errors.BadInput` for anything else."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{text!r} is no moment; write 2026-11-28 or 2026-11-28T18:30") from None


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment that a chat template sees, and what it can show of it in a prompt."""

    now: datetime
    shown: tuple[str, ...]
