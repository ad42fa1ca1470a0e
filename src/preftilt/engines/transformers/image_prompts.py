"""Renders conversations with images to token prompts, by the model's chat template and processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.options import load_template
from preftilt.engines.transformers.image_embedding import ImageEmbedder, PromptImages
from preftilt.engines.vocabulary import image_tokens
from preftilt.errors import BadInput, UnseenImage
from preftilt.messages import ROLES, Image, Message, Prompt, kept
from preftilt.prompt import ChatTokenizer, Moment
from preftilt.types import Tokens

MOST_PIXELS = 50_000_000
"""Larger images are refused before they are decoded."""


@dataclass(frozen=True, slots=True)
class ImageTokenizer(ChatTokenizer):
    """A :class:`~preftilt.prompt.ChatTokenizer` of a vision-language model.

    ``processor`` is one of transformers; its outputs for images are cached in ``embedder``. refusal: why images cannot
    be used after all, if they cannot.
    """

    chat: HfChatTokenizer
    processor: Any
    embedder: ImageEmbedder
    refusal: str | None = None

    @property
    def template(self) -> str:
        """As :attr:`~preftilt.engines.chat_template.HfChatTokenizer.template`."""
        return self.chat.template

    def render(self, messages: Sequence[Message]) -> Prompt:
        """As the chat tokenizer's; an image has as many ids as the model has embeddings for it.

        Raises :class:`~preftilt.errors.UnseenImage` for an image that cannot be read or shown.
        """
        images = [image for message in messages for image in message.images]
        if images and self.refusal is not None:
            raise UnseenImage(f"{self.refusal}; leave the image out, or use another model")
        if not images:
            return self.chat.render(messages)
        return Prompt(self._with_images(self.chat.spell(messages), images), messages)

    @property
    def moment(self) -> Moment | None:
        return self.chat.moment

    def encode(self, text: str) -> Tokens:
        return self.chat.encode(text)

    def encode_response(self, text: str, after: str = "") -> Tokens:
        return self.chat.encode_response(text, after)

    def decode(self, tokens: Tokens) -> str:
        return self.chat.decode(tokens)

    @property
    def opens_thoughts(self) -> bool:
        return self.chat.opens_thoughts

    def thoughts(self, tokens: Tokens) -> int:
        return self.chat.thoughts(tokens)

    def pieces(self, tokens: Tokens) -> list[str]:
        return self.chat.pieces(tokens)

    def spell_bytes(self, tokens: Tokens) -> list[bytes | None]:
        return self.chat.spell_bytes(tokens)

    def encode_raw(self, text: str) -> Tokens:
        return self.chat.encode_raw(text)

    def _with_images(self, text: str, images: Sequence[Image]) -> Tokens:
        decoded = [kept((_decoded, image.digest), partial(_decoded, image)) for image in images]
        try:
            processed: dict[str, Any] = dict(
                self.processor(
                    text=[text], images=[decoded], add_special_tokens=False, return_tensors="pt"
                )
            )
        except (ValueError, TypeError, IndexError, KeyError, StopIteration) as error:
            raise UnseenImage(
                f"the model's processor does not take this conversation ({error}); its template may leave images out,"
                f" or the text may contain {self.processor.image_token!r}, which stands for one"
            ) from error
        ids: list[int] = processed.pop("input_ids")[0].tolist()
        processed.pop("attention_mask", None)
        places = tuple(place for place, token in enumerate(ids) if token == self.embedder.token)
        if not places:
            raise UnseenImage(
                "the chat template leaves images out; give another one (--chat-template FILE)"
            )
        image_ids = image_tokens(images, len(places))
        token_inputs = {
            name: tensor for name, tensor in processed.items() if tensor.shape == (1, len(ids))
        }
        inputs = {name: tensor for name, tensor in processed.items() if name not in token_inputs}
        digests = tuple(image.digest for image in images)
        self.embedder.add(image_ids[0], PromptImages(digests, inputs, places, token_inputs))
        next_ids = iter(image_ids)
        return tuple(next(next_ids) if token == self.embedder.token else token for token in ids)


def image_tokenizer(model: Any, processor: Any, chat: HfChatTokenizer) -> ImageTokenizer:
    """The tokenizer of a loaded vision-language model."""
    token = getattr(model.config, "image_token_id", None)
    if token is None:
        token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    return ImageTokenizer(chat, processor, ImageEmbedder(model, token))


def _decoded(image: Image) -> Any:
    """The decoded image, in RGB, rotated as its EXIF data says."""
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(BytesIO(image.read())) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise UnseenImage(
                    f"the image {image.label} has {picture.width} × {picture.height} pixels; make it smaller"
                )
            return PIL.ImageOps.exif_transpose(picture).convert("RGB")
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
