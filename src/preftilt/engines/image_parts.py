"""What chat templates of vision-language models take for a message: parts, or a text with the image's token in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from preftilt.engines.chat_template import load_template
from preftilt.messages import ROLES, Message

PROBE = "preftilt"
"""A text that is looked for in what a template makes of it."""


def content_for(
    tokenizer: Any, image_token: str, chat_template: str | None
) -> Callable[[Message], object]:
    """What the template takes for a message's content: a list of parts, or a text with the image's token in it.

    Templates for pictures go through the parts of a message, some of them for some roles only; which ones is tried.
    image_token: its text in the vocabulary. chat_template: as in
    :class:`~preftilt.engines.chat_template.HfChatTokenizer`.
    """
    template = None if chat_template is None else load_template(chat_template)
    parted = {role for role in ROLES if _takes_parts(tokenizer, template, role)}

    def content(message: Message) -> object:
        if message.role in parted:
            return [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in message.parts()
            ]
        return "".join(
            part if isinstance(part, str) else f"{image_token}\n" for part in message.parts()
        )

    return content


def _takes_parts(tokenizer: Any, template: str | None, role: str) -> bool:
    """Whether a message's parts come out of the template as their text."""
    said = {"role": role, "content": [{"type": "text", "text": PROBE}]}
    other = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    turns = {"system": [said, other], "user": [said], "assistant": [other, said]}
    try:
        text = tokenizer.apply_chat_template(turns[role], chat_template=template, tokenize=False)
    except Exception:  # What a template raises here, it says of parts: no.
        return False
    return PROBE in text and "'type'" not in text
