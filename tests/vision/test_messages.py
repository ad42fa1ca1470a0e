"""Images in messages: where they may come from, how they are read, and what is refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from preftilt.errors import BadInput
from preftilt.messages import Message, check_messages, load_image, read_messages
from preftilt.records.rows import read_items
from preftilt.settings import Settings
from tests.vision.models import picture


@pytest.fixture
def path(tmp_path: Path) -> str:
    return picture(tmp_path, 1)


def data_url(path: str) -> str:
    return f"data:image/png;base64,{base64.b64encode(Path(path).read_bytes()).decode()}"


def shown(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(*parts: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_parts_keep_their_order_and_texts_that_follow_each_other_stand_on_lines(path: str) -> None:
    [message] = read_messages(user(said("a"), said("b"), shown(path), said("c"), shown(path)))
    image = load_image(path, at=3)
    assert message.content == "a\nbc"
    assert message.parts() == ["a\nb", image, "c", load_image(path, at=4)]
    assert read_messages(user(said("a"))) == [Message("user", "a")]


def test_a_file_and_its_data_url_are_the_same_picture(path: str) -> None:
    file, url = load_image(path), load_image(data_url(path))
    assert file.digest == url.digest
    assert file.read() == url.read()
    assert file.data_url() == url.data_url() == data_url(path)


def test_a_file_that_changed_is_not_taken_for_the_one_that_was_read(path: str) -> None:
    image = load_image(path)
    Path(path).write_bytes(Path(path).read_bytes() + b"x")
    with pytest.raises(BadInput, match="has changed since it was first read"):
        image.read()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://example.org/a.png", "is a web address, and preftilt fetches nothing"),
        ("nowhere.png", r"nowhere\.png cannot be read \(No such file"),
        ("data:image/png,abc", "must be a data: URL in base64"),
        ("data:image/png;base64,a", "broken base64"),
        ("data:image/png;base64,aGVsbG8=", "is no picture"),
    ],
)
def test_what_is_no_picture_is_refused_by_its_place(url: str, problem: str) -> None:
    where = r"messages\[0\]\.content\[1\]\.image_url\.url"
    with pytest.raises(BadInput, match=f"{where}.*{problem}"):
        read_messages(user(said("What?"), shown(url)))


def test_a_detail_that_nobody_would_heed_is_refused(path: str) -> None:
    with pytest.raises(BadInput, match=r"image_url has an unknown field 'detail'"):
        read_messages(user(said("What?"), shown(path, detail="high")))


def test_only_the_user_shows_images(path: str) -> None:
    turns = [Message("assistant", "Look.", (load_image(path),)), Message("user", "What?")]
    with pytest.raises(BadInput, match=r"messages\[0\] is the assistant's and has an image"):
        check_messages(turns)


def test_rows_have_images_and_another_picture_is_another_row(tmp_path: Path) -> None:
    rows = []
    for seed in (1, 2):
        messages = user(said("What?"), shown(picture(tmp_path, seed)))
        rows.append(json.dumps({"messages": messages, "preference": "No cats."}).encode())
    first, second = read_items(rows, source="rows", base=Settings())
    assert len(first.messages[0].images) == 1
    assert first.fingerprint({}) != second.fingerprint({})
