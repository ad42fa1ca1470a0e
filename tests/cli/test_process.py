"""What only a process of its own can show: kills, interrupts, full disks, broken pipes, terminals, start-up time."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import records, row

ROOT = Path(__file__).parents[2]
Write = Callable[..., Path]
FEW = ("--max-tokens", "20", "--n", "4")


class Toy:
    """Starts ``preftilt`` on a toy engine in processes of its own, and ends what a test leaves running."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: object, pause: float = 0.0, **more: Any) -> subprocess.Popen[bytes]:
        options: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        process = subprocess.Popen[bytes](
            [sys.executable, "-m", "tests.cli.toy_main", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ
            | {
                "TOY_PAUSE": str(pause),
                "TOY_LOG": str(self.log),
                "PYTHONPATH": "src",
                "COLUMNS": "80",
            },
            **options,
        )
        self._running.append(process)
        return process

    def finish(self, *arguments: object, **more: Any) -> tuple[int, str, str]:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=30)
        return process.returncode, (out or b"").decode(), (err or b"").decode()

    def drawn(self) -> Counter[str]:
        """How often every row was drawn."""
        return Counter(self.log.read_text().split())

    def close(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    toy = Toy(tmp_path)
    yield toy
    toy.close()


@pytest.fixture
def many(rows: Write) -> Path:
    return rows(*(row(f"r{i}") for i in range(40)))


def wait_for_lines(path: Path, lines: int) -> None:
    deadline = time.monotonic() + 20
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, "the run wrote nothing"
        time.sleep(0.01)


def test_after_kill_9_nothing_is_lost_and_nothing_done_twice(
    toy: Toy, many: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    run = ("run", many, *FEW, "--concurrency", 3)
    process = toy.start(*run, "-o", out, pause=0.02)
    wait_for_lines(out, 6)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    done = {one["id"] for one in map(json.loads, out.read_bytes().splitlines(keepends=True))}
    assert 6 <= len(done) < 40
    before = toy.drawn()

    code, _, err = toy.finish(*run, "-o", out, "--resume")
    assert code == 0
    assert f"{len(done)} were done before" in err
    again = toy.drawn() - before
    assert not done & set(again), "a row that was done was drawn again"
    assert sum(again.values()) == 40 - len(done)
    toy.finish(*run, "-o", whole)
    assert _by_id(out) == _by_id(whole)


def _by_id(path: Path) -> dict[str, dict[str, Any]]:
    found = records(path)
    assert len({one["id"] for one in found}) == len(found) == 40
    return {one.pop("id"): one | {"timing": None} for one in found}


def test_ctrl_c_leaves_valid_output_and_says_how_to_resume(
    toy: Toy, many: Path, tmp_path: Path
) -> None:
    out = tmp_path / "the output.jsonl"
    process = toy.start("run", many, "-o", out, *FEW, "--concurrency", 2, pause=0.05)
    wait_for_lines(out, 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    done = len(records(out))
    assert f"interrupted after {done} of 40 rows" in err.decode()
    assert f"go on with: preftilt run {many} -o '{out}'" in err.decode()
    assert err.decode().rstrip().endswith("--resume")
    assert b"Traceback" not in err
    assert toy.finish("run", many, "-o", out, *FEW, "--concurrency", 2, "--resume")[0] == 0
    assert len(_by_id(out)) == 40


def test_ctrl_c_during_one_question(toy: Toy) -> None:
    process = toy.start("ask", "Q?", "-p", "x", pause=30)
    deadline = time.monotonic() + 20
    while not toy.log.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == b""


def test_a_disk_that_fills_up_leaves_whole_records(toy: Toy, many: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    run = ("run", many, *FEW, "--concurrency", "1")
    assert toy.finish(*run, "-o", whole)[0] == 0
    room = whole.stat().st_size // 2

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    code, _, err = toy.finish(*run, "-o", out, preexec_fn=fill)
    assert code == 1
    assert f"preftilt: error: cannot write {out}: File too large" in err
    assert "what was written before stays valid" in err
    assert 0 < len(records(out)) < 40
    assert out.stat().st_size <= room
    assert toy.finish(*run, "-o", out, "--resume")[0] == 0
    assert _by_id(out) == _by_id(whole)


def test_two_runs_do_not_write_one_file(toy: Toy, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    toy.start("run", many, "-o", out, *FEW, "--concurrency", 1, pause=1.0)
    wait_for_lines(out, 1)
    for flag in ("--resume", "--force"):
        code, _, err = toy.finish("run", many, "-o", out, *FEW, "--concurrency", 1, flag)
        assert code == 2
        assert "is being written by another preftilt run" in err


@pytest.mark.parametrize("command", ["ask", "run"])
def test_a_closed_pipe_is_no_traceback(command: str, toy: Toy, many: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    arguments = ("run", many, "-o", "-", *FEW) if command == "run" else ("ask", "Q?", "-p", "x")
    process = toy.start(*arguments, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == b""


def test_a_file_that_cannot_be_written_takes_no_answer_away(toy: Toy) -> None:
    asked = ("ask", "Q?", "-p", "x", *FEW, "--explain-html", "/dev/full")
    code, out, err = toy.finish(*asked)
    assert code == 1
    assert err == "preftilt: error: cannot write /dev/full: No space left on device\n"
    assert "Realigned answer:" in out


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_closed_pipe_takes_no_file_away(form: tuple[str, ...], toy: Toy, tmp_path: Path) -> None:
    picture, page = tmp_path / "a.svg", tmp_path / "a.html"
    read, write = os.pipe()
    os.close(read)
    files = ("--plot", picture, "--explain-html", page)
    process = toy.start("ask", "Q?", "-p", "x", *FEW, *files, *form, stdout=write)
    os.close(write)
    _, err = process.communicate(timeout=30)
    assert err == b""
    assert picture.read_text(encoding="utf-8").rstrip().endswith("</svg>")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_without_any_standard_output_the_files_are_written(toy: Toy, tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    code, _, err = toy.finish(
        *("ask", "Q?", "-p", "x", *FEW, "--json", "--explain-html", page),
        preexec_fn=lambda: os.close(1),
    )
    assert (code, err) == (0, "")
    assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_a_full_standard_output_is_said_clearly(toy: Toy) -> None:
    with Path("/dev/full").open("wb") as full:
        code, _, err = toy.finish("ask", "Q?", "-p", "x", "--json", stdout=full)
    assert code == 1
    assert err == "preftilt: error: No space left on device: standard output\n"


def test_a_pipe_that_is_not_utf8_gets_escapes(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    ask = ("ask", "Q?", "-p", "x\u2026\xe9\U0001f600", *FEW)
    code, out, err = toy.finish(*ask, "--explain", "--no-compare")
    assert (code, err) == (0, "")
    assert r"\u03bb" in out
    code, out, err = toy.finish(*ask, "--json")
    assert (code, err) == (0, "")
    [preference] = json.loads(out)["settings"]["preferences"]
    assert preference["text"] == "x\u2026\xe9\U0001f600"
    code, _, err = toy.finish("ask", "Q?", "-p", "x", "--messages", "\u03bb")
    assert code == 2


def test_a_terminal_gets_colour_and_progress(toy: Toy, many: Path, tmp_path: Path) -> None:
    asked = _on_terminal(toy, "ask", "Q?", "-p", "x", "--explain", *FEW)
    assert "\x1b[" in asked
    assert "Realigned answer" in asked
    assert "tokens sampled" in asked
    assert "gain a token, in nats" in asked
    ran = _on_terminal(toy, "run", many, "-o", tmp_path / "o", *FEW, pause=0.02)
    assert "40/40" in ran
    assert "tokens/s" in ran


def test_no_color_takes_the_colour_away(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    asked = _on_terminal(toy, "ask", "Q?", "-p", "x", "--explain", *FEW)
    codes = {code for part in asked.split("\x1b[")[1:] for code in part.split("m")[0].split(";")}
    assert not {one for one in codes if one.isdigit() and int(one) >= 30}


def _on_terminal(toy: Toy, *arguments: object, pause: float = 0.0) -> str:
    """All that a command writes to a terminal of 80 columns, standard error included."""
    ours, theirs = pty.openpty()
    process = toy.start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, pause=pause)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait(30) == 0
    return said.decode()


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'pydantic', 'matplotlib'}"
    program = (
        "import sys; from preftilt.cli.app import command_line; command_line();"
        f" print(sys.modules.keys() & {heavy})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "src"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "set()\n"
