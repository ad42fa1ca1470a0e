"""Pictures in messages: what a part of a message is, and a data: URL as an image, within bounds.

Nothing is fetched, and no file is opened: a picture comes within the request, or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from preftilt.errors import BadInput
from preftilt.messages import DATA, Image, Message, kind_of, load_image, message_of
from preftilt.records.patch import Strict
from preftilt.server.failures import ApiError

MAX_BYTES = 20 << 20
"""Of one picture. All that a request holds is bounded by ``--max-body``."""

MAX_PIXELS = 50_000_000
"""Of all pictures of a request, before they are unpacked."""

HEAD = re.compile(r"data:(image/(?:png|jpe?g|webp|gif));base64")
URL = r"^data:image/(png|jpe?g|webp|gif);base64,[A-Za-z0-9+/]+={0,2}$"
"""What the OpenAPI document says of a picture's URL."""


class ImageUrl(Strict):
    """OpenAI's ``image_url``; of URLs, ``data:`` alone."""

    url: str = Field(
        description="A data: URL of a PNG, JPEG, WebP or GIF, in base64; no address is fetched.",
        json_schema_extra={"pattern": URL},
    )
    detail: Literal["auto"] | None = Field(
        default=None, description='Not implemented; only "auto" is accepted.'
    )


def _one_kind(kind: str, holds: str, other: str) -> JsonDict:
    """The schema of a part that is of ``kind``, which ``holds`` a JSON type, and so is of no ``other`` one."""
    return {
        "properties": {"type": {"const": kind}, kind: {"type": holds}, other: {"type": "null"}},
        "required": [kind],
    }


class Part(Strict):
    """A part of a message: a text, or a picture in a user's turn."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                _one_kind("text", "string", "image_url"),
                _one_kind("image_url", "object", "text"),
            ]
        }
    )

    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None
    cache_control: dict[str, Any] | None = Field(
        default=None, description="Accepted, without effect: prefixes are cached by themselves."
    )

    @model_validator(mode="after")
    def _one(self) -> Part:
        contents = {"text": self.text, "image_url": self.image_url}
        if contents.pop(self.type) is None:
            raise ValueError(f"is of type {self.type} and needs {self.type}")
        [other] = contents
        if contents[other] is not None:
            raise ValueError(f"is of type {self.type} and has {other}, too")
        return self


def read_turns(turns: Sequence[tuple[str, Sequence[Part]]], most: int) -> tuple[Message, ...]:
    """The conversation of roles and parts, with ``most`` images; raises a 400 that names the part at fault."""
    count = sum(part.image_url is not None for _, parts in turns for part in parts)
    if count > most:
        raise ApiError(
            400,
            f"the request has {count} images, and this server takes {most} at most",
            param="messages",
        )
    images: dict[tuple[int, int], Image] = {}
    pixels = 0
    for turn, (role, parts) in enumerate(turns):
        for place, part in enumerate(parts):
            if part.image_url is None:
                continue
            where = f"messages.{turn}.content.{place}"
            if role != "user":
                raise ApiError(400, f"the {role} shows no images; only users do", param=where)
            images[turn, place] = _image(part.image_url.url, f"{where}.image_url.url")
            pixels += _pixels(images[turn, place], f"{where}.image_url.url")
            if pixels > MAX_PIXELS:
                raise ApiError(
                    400,
                    f"the images of a request may have {MAX_PIXELS} pixels together; make them smaller",
                    param=f"{where}.image_url.url",
                )
    return tuple(
        message_of(role, [images.get((turn, i), part.text or "") for i, part in enumerate(parts)])
        for turn, (role, parts) in enumerate(turns)
    )


def _image(url: str, param: str) -> Image:
    if not url.startswith(DATA):
        raise ApiError(
            400,
            "this server fetches no images; send it as a data: URL (data:image/png;base64,…)",
            param=param,
        )
    head, _, body = url.partition(",")
    declared = HEAD.fullmatch(head)
    if declared is None:
        raise ApiError(
            400,
            "an image must be a PNG, JPEG, WebP or GIF in base64 (data:image/png;base64,…)",
            param=param,
        )
    if len(body) // 4 * 3 > MAX_BYTES:
        raise ApiError(
            400, f"an image may have {MAX_BYTES >> 20} MiB; send a smaller one", param=param
        )
    try:
        image = load_image(url)
    except BadInput as failure:
        raise ApiError(400, str(failure), param=param) from failure
    kind, declared_kind = kind_of(image.read()), declared[1].replace("jpg", "jpeg")
    if kind != declared_kind:
        raise ApiError(400, f"the URL says {declared_kind}, and the image is {kind}", param=param)
    return image


def _pixels(image: Image, param: str) -> int:
    """The number of pixels by the picture's header; nothing is decoded."""
    if find_spec("PIL") is None:
        return 0  # A model that sees needs Pillow: the one here sees none, and will say so.
    import PIL.Image

    try:
        with PIL.Image.open(BytesIO(image.read())) as opened:
            return opened.width * opened.height
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as failure:
        raise ApiError(400, f"the image is too large ({failure})", param=param) from failure
    except (OSError, SyntaxError, ValueError) as failure:
        raise ApiError(400, "the image cannot be decoded", param=param) from failure
