"""Lines of files: Unicode's other line breaks are text, and gzip is unpacked."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftilt.errors import BadInput, PreftiltError
from preftilt.records.lines import (
    file_lines,
    json_line,
    parse_json,
    read_records,
    write_json,
    write_text,
)

BREAKS = "a\x85b\u2028c\u2029d\x0b\x0c\x1c\x1d\x1e\r\n"


def test_a_record_is_one_line_for_readers_that_know_every_line_break() -> None:
    line = json_line({"text": BREAKS})
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == {"text": BREAKS}


@given(st.text(st.characters()))  # Half surrogate pairs, too.
def test_any_text_survives_a_line(text: str) -> None:
    assert json.loads(json_line([text])) == [text]


@given(st.text(st.characters()))
def test_json_that_people_wrote_says_any_text_but_half_a_surrogate_pair(text: str) -> None:
    for raw in (json.dumps({"a": [text]}), json.dumps({text: 0})):
        try:
            text.encode()
        except UnicodeEncodeError:
            with pytest.raises(BadInput, match="is not valid Unicode"):
                parse_json(raw.encode())
        else:
            assert parse_json(raw.encode()) == json.loads(raw)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ("\ud800", "the text"),
        ({"settings": {"names": ["a", "b\udfff"]}}, r"settings\.names\[1\]"),
        ({"id": "ok", "\ud83d": 1}, "the name of a field"),
        ({"a": {"\ud83d": 1}}, "the name of a field of a"),
    ],
)
def test_half_a_surrogate_pair_is_refused_with_its_place(value: object, place: str) -> None:
    with pytest.raises(BadInput, match=rf"^{place} is not valid Unicode \(half a surrogate pair"):
        parse_json(json.dumps(value).encode())


def test_a_report_is_written_whatever_it_says(tmp_path: Path) -> None:
    """A file's name may be no Unicode: it is half a surrogate pair in Python's text."""
    path = tmp_path / "report"
    write_json(path, {"source": "caf\udce9.jsonl", "words": BREAKS})
    assert json.loads(path.read_bytes()) == {"source": "caf\udce9.jsonl", "words": BREAKS}
    write_text(path, "caf\udce9\r\n")
    assert path.read_bytes() == b"caf\\udce9\r\n"
    with pytest.raises(PreftiltError, match="cannot write"):
        write_text(tmp_path / "nowhere" / "report", "")


def test_lines_end_at_line_feeds_alone(tmp_path: Path) -> None:
    path = tmp_path / "foreign.jsonl"
    rows = [{"text": BREAKS}, {"text": "next"}]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    assert [json.loads(line) for line in file_lines(path)] == rows
    assert list(read_records(path)) == rows


def test_gzip_is_unpacked_whatever_the_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(gzip.compress(b"one\ntwo"))
    assert list(file_lines(path)) == [b"one\n", b"two"]


def test_damaged_and_other_packed_files_are_refused_by_name(tmp_path: Path) -> None:
    whole = gzip.compress(b"one\n" * 99)
    for raw, words in (
        (whole[:-9], "cut off or damaged"),
        (whole[:15] + b"\xff\xff\xff" + whole[18:], "damaged"),
        (b"BZh91AY&SY", "packed with bzip2; unpack it, or use gzip"),
    ):
        path = tmp_path / "rows.gz"
        path.write_bytes(raw)
        with pytest.raises(BadInput, match=words) as refused:
            list(file_lines(path))
        assert str(path) in str(refused.value)
