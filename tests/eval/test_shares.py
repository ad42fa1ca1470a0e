"""Items shared among processes: everything is measured once, whatever dies in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from preftilt.eval.runner import gather, in_shares, surveyed

IDS = [f"item {number}" for number in range(7)]


def measure(ids: Sequence[str], path: Path) -> None:
    """Stands for a measurement: says which process did it, and fails at an item that is named so."""
    for id in ids:
        if id == "fails":
            raise RuntimeError("this item cannot be measured")
        record = {"id": id, "process": os.getpid()}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def measure_together(ids: Sequence[str], path: Path) -> None:
    """As :func:`measure`, once another process has begun, too: one that is quick would do the work of both."""
    begun = path.parent.parent / "begun"
    begun.mkdir(exist_ok=True)
    (begun / str(os.getpid())).touch()
    while len(list(begun.iterdir())) < 2:
        time.sleep(0.01)
    measure(ids, path)


def sleep(ids: Sequence[str], path: Path) -> None:
    """Stands for a measurement that takes long."""
    path.with_suffix(".pid").write_text(str(os.getpid()), "utf-8")
    time.sleep(60)


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_item_is_measured_once_and_by_several_processes(tmp_path: Path):
    path, heard = tmp_path / "deep" / "records.jsonl", []
    in_shares(measure_together, IDS, path, 2, heard.append)
    found = records(path)
    assert sorted(str(one["id"]) for one in found) == IDS
    assert len({one["process"] for one in found}) == 2
    assert os.getpid() not in {one["process"] for one in found}
    assert heard[-1] == len(IDS)
    assert list(path.parent.iterdir()) == [path]


def test_one_process_does_the_work_itself(tmp_path: Path):
    path = tmp_path / "records.jsonl"
    in_shares(measure, IDS, path, 1)
    assert {one["process"] for one in records(path)} == {os.getpid()}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_started_them(tmp_path: Path, way: signal.Signals):
    code = (
        "from pathlib import Path; from preftilt.eval.runner import in_shares;"
        " from tests.eval.test_shares import IDS, sleep;"
        f" in_shares(sleep, IDS, Path({str(tmp_path / 'records.jsonl')!r}), 2)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    children: list[int] = []
    try:
        assert soon(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
        assert soon(lambda: all(one.read_text("utf-8") for one in tmp_path.glob("*.pid")))
        children = [int(one.read_text("utf-8")) for one in tmp_path.glob("*.pid")]
        assert all(map(alive, children))
    finally:
        parent.send_signal(way)
        parent.wait()
    assert soon(lambda: not any(map(alive, children)))


def alive(process: int) -> bool:
    """Whether there is such a process that has not ended."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def soon(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_what_a_killed_run_left_is_folded_in_and_only_the_rest_is_measured(tmp_path: Path):
    path = tmp_path / "records.jsonl"
    measure(IDS[:2], path)
    share = tmp_path / "records.share0.jsonl"
    measure(IDS[1:4], share)  # one of them is in the file already
    share.write_bytes(share.read_bytes() + b'{"id": "torn')
    before = len(records(path))
    in_shares(measure, IDS, path, 1)
    found = records(path)
    assert sorted(str(one["id"]) for one in found) == IDS
    assert [one["id"] for one in found[:4]] == IDS[:4]
    assert before == 2
    assert not share.exists()


def test_a_failure_is_raised_and_what_others_measured_stays(tmp_path: Path):
    path = tmp_path / "records.jsonl"
    with pytest.raises(RuntimeError, match="cannot be measured"):
        in_shares(measure, ["a", "fails", "b", "never reached", "c"], path, 2)
    gather(path)
    assert set(surveyed(path).done) == {"a", "b", "c"}
