"""The output file: whole records only, whatever happens to the process or the disk."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftilt.errors import BadInput, PreftiltError
from preftilt.records.journal import Journal, error_record, survey


def record(id: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "model": "toy", "seed": 0, "settings": {}, "fingerprint": "f"} | more


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def write(path: Path, *records: dict[str, Any]) -> None:
    journal = Journal.create(path)
    for record in records:
        journal.write(record)
    journal.close()


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]


def test_a_record_is_readable_as_soon_as_it_is_written(path: Path) -> None:
    journal = Journal.create(path)
    journal.write(record("a"))
    assert ids(path) == ["a"]
    journal.close()
    journal.close()


def test_any_text_survives(path: Path) -> None:
    text = "λ ↵\n\u2028 \ud800 \x00"
    write(path, record("a", text=text))
    [line] = path.read_bytes().decode("utf-8").split("\n")[:-1]
    assert json.loads(line)["text"] == text


def test_a_survey_tells_done_from_failed(path: Path) -> None:
    write(path, record("a"), error_record("b", ValueError("no"), "f"), record("c"))
    known = survey(path)
    assert (set(known.done), known.failed, known.torn) == ({"a", "c"}, {"b"}, False)
    assert known.sound == path.stat().st_size


@given(st.integers(min_value=0, max_value=400))
def test_a_file_cut_anywhere_resumes_with_its_whole_records(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "out.jsonl"
    write(path, record("a", text="é" * 9), record("b"), record("c"))
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    known = survey(path)
    kept = whole[:cut].count(b"\n")
    assert [*known.done] == ["a", "b", "c"][:kept]
    journal = Journal.resume(path, known, set())
    for one in ["a", "b", "c"][kept:]:
        journal.write(record(one, text="é" * 9) if one == "a" else record(one))
    journal.close()
    assert path.read_bytes() == whole


def test_resuming_drops_the_records_that_are_tried_again(path: Path) -> None:
    failed = [error_record(id, ValueError("no"), "f") for id in ("b", "d")]
    write(path, record("a"), failed[0], record("c"), failed[1])
    path.chmod(0o640)
    journal = Journal.resume(path, survey(path), {"b"})
    assert ids(path) == ["a", "c", "d"]
    journal.write(record("b"))
    journal.close()
    assert ids(path) == ["a", "c", "d", "b"]
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(path.parent) == [path.name]


def test_a_link_to_the_output_stays_a_link(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.jsonl"
    write(target, error_record("a", ValueError("no"), "f"))
    path.symlink_to(target)
    Journal.resume(path, survey(path), {"a"}).close()
    assert path.is_symlink()
    assert target.read_bytes() == b""


@pytest.mark.parametrize("line", ["{", "[]", '{"id": 3}', '"x"'])
def test_lines_that_are_no_records_are_refused_with_their_number(path: Path, line: str) -> None:
    write(path, record("a"))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(BadInput, match="line 2 is not a record"):
        survey(path)


def test_a_second_record_of_an_id_is_refused(path: Path) -> None:
    write(path, record("a"), error_record("a", ValueError("no"), "f"))
    with pytest.raises(BadInput, match='line 2: a second record with id "a"'):
        survey(path)


def test_a_file_that_grew_since_it_was_read_is_refused(path: Path) -> None:
    write(path, record("a"))
    known = survey(path)
    with path.open("a") as other:
        other.write(json.dumps(record("b")) + "\n")
    with pytest.raises(BadInput, match="has changed"):
        Journal.resume(path, known, set())
    assert ids(path) == ["a", "b"]


class Full:
    """A file on a disk with room for ``room`` more bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file = file
        self._room = room

    def write(self, data: memoryview) -> int:
        if self._room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self._file.write(data[: self._room])
        self._room -= written
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 1, 20])
def test_a_record_that_does_not_fit_leaves_no_trace(
    path: Path, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.create(path)
    journal.write(record("a"))
    before = path.read_bytes()
    monkeypatch.setattr(journal, "_file", Full(journal._file, room))
    with pytest.raises(
        PreftiltError, match="No space left on device; what was written before"
    ) as no:
        journal.write(record("b"))
    assert no.value.exit_code == 1
    assert path.read_bytes() == before
    journal.close()


def test_one_writer_at_a_time(path: Path) -> None:
    first = Journal.create(path)
    first.write(record("a"))
    with pytest.raises(BadInput, match="being written by another preftilt run"):
        Journal.create(path)
    assert ids(path) == ["a"]
    first.close()
    Journal.create(path).close()
    assert path.read_bytes() == b""


def test_a_place_that_cannot_be_opened_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot open"):
        Journal.create(tmp_path / "no" / "out")


def test_a_number_that_json_lacks_is_never_written(path: Path) -> None:
    journal = Journal.create(path)
    with pytest.raises(ValueError, match="JSON"):
        journal.write(record("a", score=float("nan")))
    assert path.read_bytes() == b""
    journal.close()
