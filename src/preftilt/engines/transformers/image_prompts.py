"""Conversations with images as token prompts: the model's template and processor, and a shelf for what they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.image_tokens import image_tokens
from preftilt.engines.transformers.image_embedding import ImageEmbedder, PromptImages
from preftilt.errors import BadInput, UnseenImage
from preftilt.images import Image, kept
from preftilt.messages import Message
from preftilt.prompt import Moment
from preftilt.types import Tokens

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
    sight: ImageEmbedder
    refusal: str | None = None

    @property
    def template(self) -> str:
        """As :attr:`~preftilt.engines.chat_template.HfChatTokenizer.template`."""
        return self.chat.template

    def render(self, messages: Sequence[Message]) -> Tokens:
        """As the chat tokenizer's; every image takes as many ids as the model reads embeddings of it.

        Raises :class:`~preftilt.errors.UnseenImage` for an image that cannot be read or shown.
        """
        images = [image for message in messages for image in message.images]
        if images and self.refusal is not None:
            raise UnseenImage(f"{self.refusal}; leave the image out, or use another model")
        return (
            self._show(self.chat.spell(messages), images) if images else self.chat.render(messages)
        )

    @property
    def moment(self) -> Moment | None:
        """See :class:`~preftilt.prompt.DatedTokenizer`."""
        return self.chat.moment

    def encode(self, text: str) -> Tokens:
        return self.chat.encode(text)

    def encode_response(self, text: str, after: str = "") -> Tokens:
        return self.chat.encode_response(text, after)

    def decode(self, tokens: Tokens) -> str:
        return self.chat.decode(tokens)

    @property
    def opens_thoughts(self) -> bool:
        """See :class:`~preftilt.prompt.ReasoningTokenizer`."""
        return self.chat.opens_thoughts

    def thoughts(self, tokens: Tokens) -> int:
        return self.chat.thoughts(tokens)

    def pieces(self, tokens: Tokens) -> list[str]:
        return self.chat.pieces(tokens)

    def spell_bytes(self, tokens: Tokens) -> list[bytes | None]:
        return self.chat.spell_bytes(tokens)

    def encode_raw(self, text: str) -> Tokens:
        return self.chat.encode_raw(text)

    def _show(self, text: str, images: Sequence[Image]) -> Tokens:
        pictures = [kept((_picture, image.digest), partial(_picture, image)) for image in images]
        try:
            made: dict[str, Any] = dict(
                self.processor(
                    text=[text], images=[pictures], add_special_tokens=False, return_tensors="pt"
                )
            )
        except (ValueError, TypeError, IndexError, KeyError, StopIteration) as error:
            raise UnseenImage(
                f"the model's processor does not take this conversation ({error}); its template may leave images out,"
                f" or the text may contain {self.processor.image_token!r}, which stands for one"
            ) from error
        ids: list[int] = made.pop("input_ids")[0].tolist()
        made.pop("attention_mask", None)
        places = tuple(place for place, token in enumerate(ids) if token == self.sight.token)
        if not places:
            raise UnseenImage(
                "the chat template leaves images out; give another one (--chat-template FILE)"
            )
        named = image_tokens(images, len(places))
        of_tokens = {name: tensor for name, tensor in made.items() if tensor.shape == (1, len(ids))}
        inputs = {name: tensor for name, tensor in made.items() if name not in of_tokens}
        digests = tuple(image.digest for image in images)
        self.sight.show(named[0], PromptImages(digests, inputs, places, of_tokens))
        numbers = iter(named)
        return tuple(next(numbers) if token == self.sight.token else token for token in ids)


def image_tokenizer(model: Any, processor: Any, chat: HfChatTokenizer) -> ImageTokenizer:
    """The tokenizer of a vision-language model that is in memory."""
    token = getattr(model.config, "image_token_id", None)
    if token is None:
        token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    return ImageTokenizer(chat, processor, ImageEmbedder(model, token))


def _picture(image: Image) -> Any:
    """The decoded picture, in RGB and upright as its camera was held."""
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(BytesIO(image.read())) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise UnseenImage(
                    f"the image {image.label} has {opened.width} × {opened.height} pixels; make it smaller"
                )
            return PIL.ImageOps.exif_transpose(opened).convert("RGB")
    except BadInput:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        PIL.Image.DecompressionBombError,
        PIL.Image.DecompressionBombWarning,
    ) as error:
        raise UnseenImage(f"the image {image.label} cannot be decoded ({error})") from error
