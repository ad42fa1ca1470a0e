"""What pip cannot install is asked for before anything is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools.chromium import NoChromium, chromium

ROOT = Path(__file__).parents[2]


def make_test_servers(place: Path, **variables: str) -> tuple[str, list[str]]:
    """What ``make test-servers`` complains of, and the modules that Python ran until then; nothing is installed."""
    python, log = place / "python", place / "log"
    python.write_text(
        f'#!/bin/sh\necho "$2" >> {log}\n[ "$2" = tools.chromium ] && exec {sys.executable} "$@"\nexit 1\n'
    )
    python.chmod(0o755)
    venvs = [f"{name}={place / name}" for name in ("VENV", "SERVERS_VENV", "CLIENTS_VENV")]
    made = subprocess.run(
        ["make", "test-servers", f"PYTHON={python}", *venvs],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode != 0
    return made.stderr, log.read_text().split() if log.exists() else []


@pytest.mark.parametrize(
    ("variables", "asked", "remedy"),
    [
        ({"CXX": "true", "CHROMIUM": "/nowhere"}, ["tools.chromium"], "apt-get install chromium"),
        ({"CXX": "/nowhere", "CHROMIUM": "true"}, [], "apt-get install g++"),
        ({"CXX": "true", "CHROMIUM": "true"}, ["tools.chromium", "venv"], ""),
    ],
)
def test_a_browser_and_a_compiler_are_asked_for_first(
    variables: dict[str, str], asked: list[str], remedy: str, tmp_path: Path
) -> None:
    complaint, modules = make_test_servers(tmp_path, **variables)
    assert remedy in complaint
    assert modules == asked


def test_a_chromium_is_found_where_it_is_named_or_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tmp_path / "google-chrome"
    found.write_text("")
    found.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert chromium() == str(found)
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "mine"))
    with pytest.raises(NoChromium, match="mine, which cannot be run: on Debian"):
        chromium()
