"""Images in prompts: content for the chat templates of vision-language models, and token ids that name a picture.

A prompt with images has as many image tokens as the model has embeddings for them. Plain placeholders would be the same
for all images, so they get ids of their own, above every vocabulary: a digest of the prompt's images, and the token's
number among them. So prompts are plain token ids, and two prompts are equal only if their images are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

from preftilt.engines.template_files import load_template
from preftilt.errors import BadInput
from preftilt.messages import ROLES, Image, Message
from preftilt.types import Tokens

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


FIRST = 1 << 52
"""The lowest id of an image's token; with all of them below 2^53, JSON readers keep them exact."""

SPREAD = 1 << 16
"""Tokens of one prompt's images at most; a token's number is its id modulo this."""


def image_tokens(images: Sequence[Image], count: int) -> Tokens:
    """The ids of ``count`` tokens for a prompt's images, in order."""
    if count > SPREAD:
        raise BadInput(
            f"the images of a prompt have {count} tokens and may have {SPREAD}; show fewer or smaller ones"
        )
    digests = "/".join(image.digest for image in images).encode()
    name = int.from_bytes(blake2b(digests, digest_size=8).digest()) % (FIRST // SPREAD)
    start = FIRST + name * SPREAD
    return tuple(range(start, start + count))


def without_images(tokens: Tokens) -> Tokens:
    """The tokens without image tokens, all of which must be in the vocabulary."""
    return tuple(token for token in tokens if token < FIRST)
