"""A conversation and its response as a reward model was trained to read them: in the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from preftilt.engines.control_tokens import HfControlTokens, stand_ins
from preftilt.errors import BadInput, NoChatTemplate, PromptTooLong
from preftilt.messages import Message
from preftilt.prompt import REASONING_TAGS

_FAILURES = (TemplateError, TypeError, ValueError, LookupError, AttributeError)
"""What a template can raise: Jinja's errors, and Python's where it computes with what is missing."""


@dataclass(frozen=True, slots=True)
class RewardTemplate:
    """``tokenizer`` is one of transformers; ``context`` the most tokens that the model reads.

    The template's text is tokenised with the special tokens that the tokenizer adds by itself, as model cards of
    reward models do it, and a BOS that then stands twice is left out once. Control tokens that the conversation or the
    response spells are encoded as characters.
    """

    name: str
    tokenizer: Any
    context: int
    control: HfControlTokens = field(init=False)

    def __post_init__(self) -> None:
        skeleton = ""
        if self.tokenizer.chat_template:
            with suppress(BadInput):
                skeleton = self._text([Message("user", "?")], "-")
        object.__setattr__(self, "control", HfControlTokens(self.tokenizer, skeleton))

    def check(self, messages: Sequence[Message]) -> None:
        """Raises :class:`~preftilt.errors.BadInput` if the template cannot say ``messages``, or they are too long."""
        if not self.tokenizer.chat_template:
            raise NoChatTemplate(
                f"the reward model {self.name} has no chat template; use one that brings its own, or a scorer of yours"
                " (--reward-model MODULE:FUNCTION)"
            )
        if any(message.images for message in messages):
            raise BadInput(
                f"the reward model {self.name} is read as a model of text, and a message has an image; pick by another"
                " method"
            )
        text = self._text(messages, "-")
        for message in messages:
            if message.content.rpartition(REASONING_TAGS[1])[2].strip() not in text:
                remedy = (
                    "put the preference into the user turn (--preference-in user)"
                    if message.role == "system"
                    else "use another reward model, or ask without earlier turns"
                )
                raise NoChatTemplate(
                    f"the chat template of the reward model {self.name} leaves out the {message.role} message; {remedy}"
                )
        shortest = len(self.tokens(messages, "-"))
        if shortest > self.context:
            raise PromptTooLong(
                f"the conversation has {shortest} tokens for the reward model {self.name}, and its context has"
                f" {self.context}: shorten the conversation, or use another reward model"
            )

    def tokens(self, messages: Sequence[Message], response: str) -> list[int]:
        """The whole conversation's token ids, the response last."""
        turns = [*messages, Message("assistant", response)]
        spelled = stand_ins([turn.content for turn in turns], self.control.texts())
        if spelled.spelled:
            *messages, last = (spelled.hide_in(turn) for turn in turns)
            text = self._text(messages, last.content)
            ids = [*self.control.encode(text, spelled, added=True)]
        else:
            ids = self.tokenizer(self._text(messages, response), verbose=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids

    def _text(self, messages: Sequence[Message], response: str) -> str:
        turns = [*messages, Message("assistant", response)]
        try:
            return self.tokenizer.apply_chat_template(
                [{"role": turn.role, "content": turn.content} for turn in turns],
                tokenize=False,
                add_generation_prompt=False,
            )
        except _FAILURES as error:
            hint = (
                "; it may take no system message: put the preference into the user turn (--preference-in user)"
                if messages[0].role == "system"
                else ""
            )
            raise BadInput(
                f"the chat template of the reward model {self.name} refuses this conversation: {error}{hint}"
            ) from error
