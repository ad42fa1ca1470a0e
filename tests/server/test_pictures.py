"""Pictures in requests: data: URLs within bounds; the rest is refused by name. The toy engine tells them apart."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from typing import Any

import PIL.Image
import pytest

from preftilt.api import Realigner, run_sync
from preftilt.messages import Message, load_image
from preftilt.server import pictures
from preftilt.testing.toy import ToyEngine
from preftilt.types import Preference
from tests.server.serving import Running, ask, server_config, serving


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def drawn(colour: int = 0, *, size: tuple[int, int] = (8, 8), form: str = "PNG") -> bytes:
    held = io.BytesIO()
    PIL.Image.new("L", size, colour).save(held, format=form)
    return held.getvalue()


def claims(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and is all but empty."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"")
    chunks = [head, body, b"IEND"]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks
    )


def shown(url: Any, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} | more}


def turn(*parts: Any, role: str = "user") -> list[dict[str, Any]]:
    text = {"type": "text", "text": "What is it?"}
    return [{"role": role, "content": [*parts, text]}]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_is_shown_to_the_model(form: str, server: Running) -> None:
    given = url(drawn(form=form), f"image/{form.lower()}")
    said = ask(server, messages=turn(shown(given)))
    assert said.status_code == 200, said.text
    message = Message("user", "What is it?", (load_image(given),))
    whole = run_sync(
        Realigner(ToyEngine()).realign(
            [message], [Preference("No games.")], settings=server_config().settings
        )
    )
    assert said.json()["choices"][0]["message"]["content"] == whole.text


def test_another_picture_is_another_question(server: Running) -> None:
    wish = {"preference": "No games.", "details": True}
    replies = [ask(server, messages=turn(shown(url(drawn(i)))), preftilt=wish) for i in (1, 2, 1)]
    one, other, again = (reply.json()["preftilt"]["prompts"]["question"] for reply in replies)
    assert one == again != other


URL = "messages.0.content.0.image_url.url"
REFUSED: dict[str, tuple[Any, str, str]] = {
    "a web address": (shown("https://example.org/a.png"), URL, "send it as a data: URL"),
    "a file": (shown("/etc/hostname"), URL, "send it as a data: URL"),
    "a file's address": (shown("file:///etc/hostname"), URL, "send it as a data: URL"),
    "no base64": (shown("data:image/png,abc"), URL, "in base64"),
    "broken base64": (shown("data:image/png;base64,a"), URL, "broken base64"),
    "letters that are none": (shown("data:image/png;base64,%%%%"), URL, "broken base64"),
    "an empty picture": (shown("data:image/png;base64,"), URL, "no picture"),
    "a text": (shown(url(b"hello")), URL, "no picture"),
    "a drawing": (shown(url(b"<svg/>", "image/svg+xml")), URL, "PNG, JPEG, WebP or GIF"),
    "another kind": (shown(url(drawn(), "image/gif")), URL, "says image/gif"),
    "half a picture": (shown(url(drawn()[:20])), URL, "cannot be decoded"),
    "a bomb": (shown(url(claims(30_000, 30_000))), URL, "too large"),
    "too many pixels": (shown(url(claims(9000, 9000))), URL, "50000000 pixels"),
    "no URL": ({"type": "image_url"}, "messages.0.content.0", "needs image_url"),
    "a null": ({"type": "image_url", "image_url": None}, "messages.0.content.0", "needs image_url"),
    "two in one": (
        {"type": "text", "text": "a", "image_url": {"url": "data:"}},
        "messages.0.content.0",
        "has image_url, too",
    ),
    "a number": (shown(3), URL, "string"),
    "a detail": (
        shown(url(drawn()), detail="high"),
        "messages.0.content.0.image_url.detail",
        "auto",
    ),
    "a sound": ({"type": "input_audio"}, "messages.0.content.0.type", "image_url"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("stream", [False, True])
def test_it_refuses(name: str, stream: bool, server: Running) -> None:
    part, param, words = REFUSED[name]
    said = ask(server, messages=turn(part), stream=stream)
    assert said.status_code == 400, said.text
    error = said.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert words in error["message"], error
    assert "base64,iVBOR" not in error["message"]


def test_what_changes_nothing_is_accepted(server: Running) -> None:
    given = url(drawn())
    for part in (shown(given, detail="auto"), shown(given, detail=None), shown(given)):
        assert ask(server, messages=turn(part | {"text": None})).status_code == 200


def test_only_the_user_shows_pictures(server: Running) -> None:
    for role in ("system", "assistant"):
        said = ask(server, messages=[*turn(shown(url(drawn())), role=role), *turn()])
        assert said.status_code == 400
        assert said.json()["error"]["param"] == "messages.0.content.0"


def test_pictures_are_limited_in_number_in_bytes_and_in_pixels_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = [shown(url(drawn(i, size=(60, 50)))) for i in range(3)]
    with serving(max_images=2) as server:
        said = ask(server, messages=turn(*parts)).json()["error"]
        assert "3 images, and this server takes 2" in said["message"]
        assert said["param"] == "messages"
        assert ask(server, messages=turn(*parts[:2])).status_code == 200
        monkeypatch.setattr(pictures, "MAX_PIXELS", 5999)
        said = ask(server, messages=turn(*parts[:2])).json()["error"]
        assert said["param"] == "messages.0.content.1.image_url.url"
        monkeypatch.setattr(pictures, "MAX_BYTES", 50)
        said = ask(server, messages=turn(*parts[:1])).json()["error"]
        assert said["param"] == URL
        assert "send a smaller one" in said["message"]
    with serving(max_images=0) as server:
        assert ask(server, messages=turn(parts[0])).status_code == 400


@pytest.mark.parametrize("words", [False, True])
def test_the_log_never_has_a_picture(words: bool, log: io.StringIO) -> None:
    given = url(drawn(7))
    with serving(log_words=words) as server:
        assert ask(server, messages=turn(shown(given))).status_code == 200
        assert ask(server, messages=turn(shown(given[:-8] + "!"))).status_code == 400
    assert given[22:60] not in log.getvalue()
    assert (load_image(given).digest in log.getvalue()) is words


def test_the_document_says_which_pictures_are_taken(server: Running) -> None:
    from jsonschema import Draft202012Validator

    with server.http as http:
        schemas = http.get("/openapi.json").json()["components"]
    validator = Draft202012Validator({"$ref": "#/components/schemas/Part", "components": schemas})
    assert validator.is_valid(shown(url(drawn())))
    assert validator.is_valid({"type": "text", "text": "a", "image_url": None})
    for name in ("a web address", "no URL", "a null", "two in one", "a number", "a detail"):
        assert not validator.is_valid(REFUSED[name][0]), name
    assert json.dumps(schemas).count("input_audio") == 0
