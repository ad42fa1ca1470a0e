"""The cache of conversions: whole or not there, bounded, told, and refused with a remedy."""

import logging
import os
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from preftilt.engines import gguf as caching
from preftilt.engines.gguf import (
    GIB,
    Conversion,
    cache_bound,
    find_conversion,
    make_conversion,
)
from preftilt.errors import BadInput

LONG_AGO = 1_000_000_000


def writes(text: str) -> Callable[[Path], None]:
    """A conversion that leaves one file."""

    def convert(folder: Path) -> None:
        folder.mkdir()
        (folder / "weights").write_text(text)

    return convert


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_text("first")
    return path


def of(source: Path, version: str = "1") -> Conversion:
    return Conversion(source=source, version=version)


def test_a_conversion_is_made_once_and_found_again(source: Path, cache: Path):
    assert find_conversion(of(source)) is None
    place = make_conversion(of(source), 1, writes("first"))
    assert find_conversion(of(source)) == place
    assert make_conversion(of(source), 1, writes("never")) == place
    assert (place / "weights").read_text() == "first"
    assert place.parent == cache / "gguf"


def test_the_first_conversion_says_where_it_is_kept(
    source: Path, cache: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        make_conversion(of(source), 1, writes("first"))
        make_conversion(of(source), 1, writes("first"))
    assert [record.message.count(str(cache / "gguf")) for record in caplog.records] == [1]


def test_a_file_that_changed_is_converted_again_and_its_old_conversion_removed(
    source: Path, cache: Path
):
    old = make_conversion(of(source), 1, writes("first"))
    source.write_text("second")
    assert find_conversion(of(source)) is None
    new = make_conversion(of(source), 1, writes("second"))
    assert not old.exists()
    assert (new / "weights").read_text() == "second"


def test_conversions_of_another_version_stay(source: Path, cache: Path):
    old = make_conversion(of(source, "1"), 1, writes("old"))
    new = make_conversion(of(source, "2"), 1, writes("new"))
    assert old.exists()
    assert new != old


def test_what_was_used_longest_ago_makes_room(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(caching, "cache_bound", lambda: 30)
    sources = [tmp_path / f"{name}.gguf" for name in "abcd"]
    for path in sources:
        path.touch()
    a, b, c, d = map(of, sources)
    for conversion, when in ((a, 2), (b, 1), (c, 3)):
        place = make_conversion(conversion, 10, writes("x" * 10))
        os.utime(place, (LONG_AGO + when, LONG_AGO + when))
    make_conversion(d, 10, writes("x" * 10))
    assert [find_conversion(conversion) is not None for conversion in (a, b, c, d)] == [
        True,
        False,
        True,
        True,
    ]


def test_what_was_used_just_now_is_not_removed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(caching, "cache_bound", lambda: 10)
    for name in "ab":
        (tmp_path / name).touch()
        make_conversion(of(tmp_path / name), 10, writes("x" * 10))
    assert find_conversion(of(tmp_path / "a")) is not None


def test_a_conversion_that_failed_leaves_nothing_and_can_be_tried_again(source: Path, cache: Path):
    def fails(folder: Path) -> None:
        writes("half")(folder)
        raise BadInput("cannot be read")

    with pytest.raises(BadInput, match="cannot be read"):
        make_conversion(of(source), 1, fails)
    assert [path.name for path in (cache / "gguf").iterdir()] == [".lock"]
    assert make_conversion(of(source), 1, writes("whole")).is_dir()


def test_what_a_killed_process_left_is_removed(source: Path, cache: Path):
    left = cache / "gguf" / "model-0-0-1.partial"
    left.mkdir(parents=True)
    make_conversion(of(source), 1, writes("whole"))
    assert not left.exists()


def test_of_two_at_once_one_converts_and_the_other_waits_for_it(
    source: Path, cache: Path, caplog: pytest.LogCaptureFixture
):
    begun, waits, calls = threading.Event(), threading.Event(), []

    def convert(folder: Path) -> None:
        calls.append(folder)
        begun.set()
        assert waits.wait(20)
        writes("whole")(folder)

    class Waiting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "waiting for another process" in record.getMessage():
                waits.set()

    handler = Waiting()
    caching.LOG.addHandler(handler)
    threads = [
        threading.Thread(target=make_conversion, args=(of(source), 1, convert)) for _ in range(2)
    ]
    try:
        threads[0].start()
        assert begun.wait(20)
        threads[1].start()
        for thread in threads:
            thread.join()
    finally:
        caching.LOG.removeHandler(handler)
    assert len(calls) == 1


def test_a_folder_that_cannot_be_written_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PREFTILT_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match=r"cannot be written .*environment variable PREFTILT_CACHE"):
        make_conversion(of(source), 1, writes("never"))


def test_a_disk_that_is_full_is_refused_before_and_while_it_is_written(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(folder: Path) -> None:
        writes("half")(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(BadInput, match=r"No space left on device.*PREFTILT_CACHE"):
        make_conversion(of(source), 1, full)
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(caching.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(BadInput, match=r"has 0\.0 GB free.*PREFTILT_CACHE"):
        make_conversion(of(source), 2, writes("never"))
    assert [path.name for path in (cache / "gguf").iterdir()] == [".lock"]


def test_a_model_larger_than_the_bound_is_refused(source: Path, cache: Path):
    with pytest.raises(BadInput, match=r"30\.0 GB.*PREFTILT_CACHE_GIB \(now 20\).*llamacpp:"):
        make_conversion(of(source), 30_000_000_000, writes("never"))


@pytest.mark.parametrize("value", ["much", "0", "-1", "inf", "nan"])
def test_a_bound_that_is_no_size_is_refused(value: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFTILT_CACHE_GIB", value)
    with pytest.raises(BadInput, match="PREFTILT_CACHE_GIB is"):
        cache_bound()


def test_the_bound_can_be_changed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PREFTILT_CACHE_GIB", "1.5")
    assert cache_bound() == 3 * GIB // 2
