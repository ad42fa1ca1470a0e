"""Lines of files: Unicode's other line breaks are text, and gzip is unpacked."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftilt.errors import BadInput
from preftilt.records import file_lines, json_line, read_records

BREAKS = "a\x85b\u2028c\u2029d\x0b\x0c\x1c\x1d\x1e\r\n"


def test_a_record_is_one_line_for_readers_that_know_every_line_break() -> None:
    line = json_line({"text": BREAKS})
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == {"text": BREAKS}


@given(st.text(st.characters()))  # Half surrogate pairs, too.
def test_any_text_survives_a_line(text: str) -> None:
    assert json.loads(json_line([text])) == [text]


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
