"""Conversations with images as token prompts: the model's template and processor, and a shelf for what they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from preftilt.engines.chat import HfChatTokenizer, load_template
from preftilt.engines.image_tokens import image_tokens
from preftilt.engines.transformers.seeing import Shown, Sight
from preftilt.errors import BadInput
from preftilt.images import Image
from preftilt.messages import ROLES, Message
from preftilt.types import Tokens

PROBE = "preftilt"

MOST_PIXELS = 50_000_000
"""Pictures with more are refused before they are unpacked."""


@dataclass(frozen=True, slots=True)
class ImageTokenizer:
    """A :class:`~preftilt.prompt.ChatTokenizer` of a vision-language model.

    ``processor`` is one of transformers; what it makes of images goes to ``sight``. refusal: why images cannot be
    taken after all, if they cannot.
    """

    chat: HfChatTokenizer
    processor: Any
    sight: Sight
    refusal: str | None = None

    @property
    def template(self) -> str:
        """As :attr:`~preftilt.engines.chat.HfChatTokenizer.template`."""
        return self.chat.template

    def render(self, messages: Sequence[Message]) -> Tokens:
        """As the chat tokenizer's; every image takes as many ids as the model reads embeddings of it.

        Raises :class:`~preftilt.errors.BadInput` for an image that cannot be read or shown.
        """
        images = [image for one in messages for image in one.images]
        if images and self.refusal is not None:
            raise BadInput(f"{self.refusal}; leave the image out, or use another model")
        text = self.chat.spell(messages)
        return self._show(text, images) if images else self.chat.encode(text)

    def encode(self, text: str) -> Tokens:
        return self.chat.encode(text)

    def decode(self, tokens: Tokens) -> str:
        return self.chat.decode(tokens)

    def pieces(self, tokens: Tokens) -> list[str]:
        return self.chat.pieces(tokens)

    def _show(self, text: str, images: Sequence[Image]) -> Tokens:
        pictures = [_picture(one) for one in images]
        try:
            made: dict[str, Any] = dict(
                self.processor(
                    text=[text], images=[pictures], add_special_tokens=False, return_tensors="pt"
                )
            )
        except (ValueError, TypeError, IndexError, KeyError, StopIteration) as error:
            raise BadInput(
                f"the model's processor does not take this conversation ({error}); its template may leave images out,"
                f" or the text may contain {self.processor.image_token!r}, which stands for one"
            ) from error
        ids: list[int] = made.pop("input_ids")[0].tolist()
        made.pop("attention_mask", None)
        places = tuple(place for place, one in enumerate(ids) if one == self.sight.token)
        if not places:
            raise BadInput(
                "the chat template leaves images out; give another one (--chat-template FILE)"
            )
        named = image_tokens(images, len(places))
        of_tokens = {name: one for name, one in made.items() if one.shape == (1, len(ids))}
        inputs = {name: one for name, one in made.items() if name not in of_tokens}
        digests = tuple(one.digest for one in images)
        self.sight.show(named[0], Shown(digests, inputs, places, of_tokens))
        numbers = iter(named)
        return tuple(next(numbers) if one == self.sight.token else one for one in ids)


def image_tokenizer(model: Any, processor: Any, chat: HfChatTokenizer) -> ImageTokenizer:
    """The tokenizer of a vision-language model that is in memory."""
    token = getattr(model.config, "image_token_id", None)
    if token is None:
        token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    return ImageTokenizer(chat, processor, Sight(model, token))


def content_for(processor: Any, chat_template: str | None) -> Callable[[Message], object]:
    """What the template takes for a message's content: a list of parts, or a text with the image's token in it.

    Templates for pictures go through the parts of a message, some of them for some roles only; which ones is tried.
    chat_template: as in :class:`~preftilt.engines.chat.HfChatTokenizer`.
    """
    tokenizer, image_token = processor.tokenizer, processor.image_token
    template = None if chat_template is None else load_template(chat_template)
    parted = {role for role in ROLES if _takes_parts(tokenizer, template, role)}

    def content(message: Message) -> object:
        if message.role in parted:
            return [
                {"type": "text", "text": one} if isinstance(one, str) else {"type": "image"}
                for one in message.parts()
            ]
        return "".join(
            one if isinstance(one, str) else f"{image_token}\n" for one in message.parts()
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


def _picture(image: Image) -> Any:
    """The decoded picture, in RGB and upright as its camera was held."""
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(BytesIO(image.read())) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise BadInput(
                    f"the image {image.url[:80]} has {opened.width} × {opened.height} pixels; make it smaller"
                )
            return PIL.ImageOps.exif_transpose(opened).convert("RGB")
    except BadInput:
        raise
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise BadInput(f"the image {image.url[:80]} cannot be decoded ({error})") from error
