"""Images in messages: where one comes from, and a digest that names it. Nothing here decodes a picture."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

from preftilt.errors import BadInput

DATA = "data:"
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


T = TypeVar("T")

_CACHE: ContextVar[dict[Any, Any] | None] = ContextVar("image cache", default=None)


@contextmanager
def image_cache() -> Iterator[None]:
    """Within this context an image is read and decoded once, however many prompts of a request hold it."""
    if _CACHE.get() is not None:
        yield
        return
    token = _CACHE.set({})
    try:
        yield
    finally:
        _CACHE.reset(token)


def kept(key: object, make: Callable[[], T]) -> T:
    """The value of ``make()``; within :func:`image_cache` it is computed once for each ``key``."""
    cache = _CACHE.get()
    if cache is None:
        return make()
    if key not in cache:
        cache[key] = make()
    return cache[key]


@dataclass(frozen=True, slots=True)
class Image:
    """A picture in a message.

    url: a ``data:`` URL, or the absolute path of a file, which is read whenever it is needed. digest: of its bytes, so
    that another picture under the same path is noticed. at: it stands before this character of the message's text.
    Made by :func:`load_image`.
    """

    url: str
    digest: str
    at: int = 0

    @property
    def label(self) -> str:
        """What errors call it; none of its data."""
        return "in a data: URL" if self.url.startswith(DATA) else self.url

    def read(self) -> bytes:
        """The file's bytes.

        Raises :class:`~preftilt.errors.BadInput` if they cannot be read, or are not those that were first read.
        """
        return kept((Image.read, self.url, self.digest), self._read)

    def _read(self) -> bytes:
        data = _bytes(self.url, "the image")
        if _digest(data) != self.digest:
            raise BadInput(f"the image {self.label} has changed since it was first read; ask again")
        return data

    def data_url(self) -> str:
        """The picture within a URL, as servers take it."""
        if self.url.startswith(DATA):
            return self.url
        data = self.read()
        return f"data:{kind_of(data)};base64,{base64.b64encode(data).decode()}"


def load_image(source: str, *, at: int = 0, where: str = "the image") -> Image:
    """An image from a ``data:`` URL or a file's path; ``where`` names it in errors.

    Raises :class:`~preftilt.errors.BadInput` if it is neither, cannot be read or holds no picture.
    """
    if "://" in source:
        raise BadInput(
            f"{where} is a web address, and preftilt fetches nothing; give a file's path or a data: URL"
        )
    url = source if source.startswith(DATA) else str(Path(source).expanduser().absolute())
    data = _bytes(url, where)
    if kind_of(data) is None:
        raise BadInput(f"{where} is no picture (PNG, JPEG, WebP, GIF, BMP or TIFF)")
    return Image(url, _digest(data), at)


def _bytes(url: str, where: str) -> bytes:
    if not url.startswith(DATA):
        try:
            return Path(url).read_bytes()
        except OSError as error:
            raise BadInput(f"{where}: {url} cannot be read ({error.strerror})") from error
    head, comma, body = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise BadInput(f"{where} must be a data: URL in base64 (data:image/png;base64,…)")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise BadInput(f"{where} is a data: URL with broken base64 ({error})") from error


def kind_of(data: bytes) -> str | None:
    """The picture's media type, by its first bytes."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
