"""The built wheel, installed outside the repository, does the main job."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a fresh environment that holds our wheel; its dependencies are those tested here."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(place)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    [wheel] = place.glob("preftilt-*.whl")
    environment = place / "env"
    venv.create(environment, with_pip=True)
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    [site] = environment.glob("lib/python*/site-packages")
    # Plain path lines only add a folder: an editable install over there stays out of sight.
    (site / "tested-dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return environment / "bin"


@pytest.mark.slow
def test_the_wheel_s_command_answers_with_the_bundled_model(installed: Path, tmp_path: Path):
    asked = subprocess.run(
        [
            installed / "preftilt",
            "ask",
            "What are some enjoyable ways to study maths?",
            "--preference",
            "I dislike gamification.",
            *("--model", "demo", "--search", "best-of-n", "--n", "4", "--max-tokens", "24"),
            "--json",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    record = json.loads(asked.stdout)
    assert record["schema"] == "preftilt.realigned/1"
    assert len(record["candidates"]) == 4
    assert record["text"] == record["candidates"][0]["text"] != ""


@pytest.mark.slow
def test_the_wheel_s_library_is_the_installed_one(installed: Path, tmp_path: Path):
    said = subprocess.run(
        [installed / "python", "-c", "import preftilt; print(preftilt.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(said.stdout.strip()).is_relative_to(installed.parent)
