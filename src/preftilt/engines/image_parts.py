"""Message content for chat templates of vision-language models: a list of parts, or text with image tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from preftilt.engines.template_files import load_template
from preftilt.messages import ROLES, Message

PROBE = "preftilt"
"""A text that is searched for in rendered prompts."""


def content_for(
    tokenizer: Any, image_token: str, chat_template: str | None
) -> Callable[[Message], object]:
    """A function from a message to the content that the template expects: a list of parts, or text with image tokens.

    Templates for images iterate over the parts of a message, some of them for some roles only; each role is tested.
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
    """Whether the template renders a message's parts as their text."""
    said = {"role": role, "content": [{"type": "text", "text": PROBE}]}
    other = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    turns = {"system": [said, other], "user": [said], "assistant": [other, said]}
    try:
        text = tokenizer.apply_chat_template(turns[role], chat_template=template, tokenize=False)
    except Exception:  # Whatever a template raises here, it does not take parts.
        return False
    return PROBE in text and "'type'" not in text
