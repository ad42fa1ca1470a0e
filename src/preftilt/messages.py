"""Conversations: what a message is, how one is read from JSON, and its images; nothing here decodes a picture."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path
from typing import Any, Self, TypeVar

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


ROLES = ("system", "user", "assistant")

OTHER_ROLES = {"developer": "system"}
"""Newer names of roles, which clients and files use."""

WITHOUT_EFFECT = ("name", "annotations", "reasoning_content", "reasoning")
"""Fields of a message that clients send and chat templates do not show: who spoke, sources, earlier thinking."""

EMPTY_ONLY = ("refusal", "audio", "function_call", "tool_calls")
"""Fields of a message that would change the conversation; without a value they are as good as absent."""

PART_WITHOUT_EFFECT = ("cache_control",)
"""Fields of a part that say nothing to the model."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``. A system message comes first or not at all.
        content: the text of the turn.
        images: pictures of a user's turn, in the order of their places in ``content``.
    """

    role: str
    content: str
    images: tuple[Image, ...] = field(default=(), repr=False)

    def parts(self) -> list[str | Image]:
        """Text and images in their order; a message without either is one empty text."""
        parts: list[str | Image] = []
        done = 0
        for image in self.images:
            if image.at > done:
                parts.append(self.content[done : image.at])
            parts.append(image)
            done = image.at
        if self.content[done:] or not parts:
            parts.append(self.content[done:])
        return parts


class Prompt(tuple[int, ...]):
    """Token ids of a prompt, equal by them alone, and the conversation that they were made of.

    For servers that take messages and no tokens.
    """

    messages: tuple[Message, ...]

    def __new__(cls, tokens: Iterable[int], messages: Iterable[Message] = ()) -> Self:
        prompt = super().__new__(cls, tokens)
        prompt.messages = tuple(messages)
        return prompt


def message_of(role: str, parts: Sequence[str | Image]) -> Message:
    """A message of its parts in order; texts that follow each other are joined by a line break."""
    text = ""
    images: list[Image] = []
    after_text = False
    for part in parts:
        if isinstance(part, str):
            text += f"\n{part}" if after_text else part
        else:
            images.append(replace(part, at=len(text)))
        after_text = isinstance(part, str)
    return Message(role, text, tuple(images))


def read_messages(data: object) -> list[Message]:
    """A conversation from parsed JSON: a list of ``{"role": …, "content": …}`` objects.

    ``content`` is a text, or a list of OpenAI's parts: ``{"type": "text", "text": …}`` and ``{"type": "image_url",
    "image_url": {"url": …}}``, where the URL is a ``data:`` URL or a file's path. Texts that follow each other are
    joined by a line break. Null is the same as absent; an assistant's turn without content is empty. ``developer`` is
    another name of ``system``, and several system messages in front become one.

    Raises :class:`~preftilt.errors.BadInput` naming the message (counted from 0) and the field at
    fault.
    """
    if not isinstance(data, list):
        raise BadInput(
            f"messages must be a list of objects with role and content, not {_json_type(data)}"
        )
    messages = [read_message(message, f"messages[{index}]") for index, message in enumerate(data)]
    messages = join_leading_system(messages)
    check_messages(messages)
    return messages


SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
}
"""Who speaks in a conversation of ShareGPT's form."""


def read_sharegpt(data: object) -> list[Message]:
    """A conversation of ShareGPT's form, ``{"from": "human", "value": …}`` a turn; errors as :func:`read_messages`."""
    if not isinstance(data, list):
        raise BadInput(
            f"conversations must be a list of objects with from and value, not {_json_type(data)}"
        )
    turns: list[dict[str, Any]] = []
    for index, turn in enumerate(data):
        if not isinstance(turn, Mapping) or not {"from", "value"} <= turn.keys():
            raise BadInput(f"conversations[{index}] must be an object with from and value")
        if turn["from"] not in SHAREGPT_ROLES:
            known = ", ".join(SHAREGPT_ROLES)
            raise BadInput(
                f"conversations[{index}].from is {turn['from']!r}; it must be one of {known}"
            )
        turns.append({"role": SHAREGPT_ROLES[turn["from"]], "content": turn["value"]})
    return read_messages(turns)


def join_leading_system(messages: Sequence[Message]) -> list[Message]:
    """The conversation with the system messages that lead it as one, their texts a blank line apart."""
    leading = [*takewhile(lambda message: message.role == "system", messages)]
    if len(leading) < 2:
        return [*messages]
    text = "\n\n".join(message.content for message in leading if message.content)
    return [Message("system", text), *messages[len(leading) :]]


def check_messages(messages: Sequence[Message]) -> None:
    """Raises :class:`~preftilt.errors.BadInput` unless the messages are a conversation that waits
    for an answer.

    Roles are known, a system message comes first or not at all, and the last turn is the user's and
    not blank. Whether user and assistant must take turns is for the model's template to say.
    """
    if not messages:
        raise BadInput("messages is empty: it needs at least one user turn")
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if message.role not in ROLES:
            raise BadInput(
                f"{where}.role is {message.role!r}; it must be one of {', '.join(ROLES)}"
            )
        if message.role == "system" and index > 0:
            raise BadInput(
                f"{where}.role: a system message can only come first; move it to the front, or join it with the one"
                " there"
            )
        check_encodable(message.content, f"{where}.content")
        if message.images and message.role != "user":
            raise BadInput(
                f"{where} is the {message.role}'s and has an image; only user turns may have some"
            )
    if messages[-1].role != "user":
        raise BadInput(
            f"messages[{len(messages) - 1}].role is {messages[-1].role}; the last message must be"
            " a user turn, the question to answer (take out an answer behind it)"
        )
    if not messages[-1].content.strip():
        raise BadInput("the question is empty: the last user turn needs some text")


def read_message(data: object, where: str) -> Message:
    """One message from parsed JSON; ``where`` names it in errors. See :func:`read_messages`."""
    if not isinstance(data, Mapping):
        raise BadInput(f"{where} must be an object with role and content, not {_json_type(data)}")
    fields = _present(data)
    for name, value in fields.items():
        if name in EMPTY_ONLY and value:
            raise BadInput(f"{where}.{name} is not implemented; leave it out")
        if name not in ("role", "content", *WITHOUT_EFFECT, *EMPTY_ONLY):
            raise BadInput(f"{where} has an unknown field {name!r}; only role and content are read")
    role = fields.get("role")
    if role is None:
        raise BadInput(f"{where} has no role; every message needs role and content")
    if not isinstance(role, str):
        raise BadInput(f"{where}.role must be a string, not {_json_type(role)}")
    role = OTHER_ROLES.get(role, role)
    content = fields.get("content", "" if role == "assistant" else None)
    if content is None:
        raise BadInput(f"{where} has no content; every message needs role and content")
    if isinstance(content, list):
        return _read_parts(role, content, f"{where}.content")
    if not isinstance(content, str):
        raise BadInput(
            f"{where}.content must be a string, or a list of parts, not {_json_type(content)}"
        )
    return Message(role, content)


def _read_parts(role: str, parts: Sequence[object], where: str) -> Message:
    read = [_read_part(part, f"{where}[{index}]") for index, part in enumerate(parts)]
    return message_of(role, read)


def _read_part(part: object, where: str) -> str | Image:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return _field(part, "text", str, where)
    if kind == "image_url":
        shown = _field(part, "image_url", Mapping, where)
        if shown.get("detail") == "auto":
            shown = {name: value for name, value in shown.items() if name != "detail"}
        url = _field(shown, "url", str, f"{where}.image_url")
        return load_image(url, where=f"{where}.image_url.url")
    raise BadInput(f"{where} must be a part of type text or image_url")


def _field(part: Any, name: str, kind: type, where: str) -> Any:
    """The one field that a part of a type has besides its type."""
    part = _present(part)
    extra = sorted(set(part) - {"type", name, *PART_WITHOUT_EFFECT})
    if extra:
        raise BadInput(f"{where} has an unknown field {extra[0]!r}; only {name} is read")
    if not isinstance(part.get(name), kind):
        expected = "a string" if kind is str else "an object"
        raise BadInput(f"{where}.{name} must be {expected}, not {_json_type(part.get(name))}")
    return part[name]


def _present(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are there: null is the same as absent."""
    return {name: value for name, value in data.items() if value is not None}


def _json_type(value: object) -> str:
    names = {"NoneType": "null", "str": "a string", "list": "a list", "dict": "an object"}
    numbers = {"bool": "a boolean", "int": "a number", "float": "a number"}
    return (names | numbers).get(type(value).__name__, type(value).__name__)


def check_encodable(text: str, where: str) -> None:
    """Raises :class:`~preftilt.errors.BadInput` for half a surrogate pair, which JSON can spell."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{where} is not valid Unicode (half a surrogate pair at character {error.start});"
            " mend the text"
        ) from error
