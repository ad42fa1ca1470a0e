"""Flags: what their help promises is what settings accept, and every setting has a flag."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import get_args

import pytest
from typer.main import get_command

from preftilt.cli.app import COMMANDS, command_line
from preftilt.cli.configure import unescape
from preftilt.cli.options import setting_flags
from preftilt.declare import Declared
from preftilt.errors import BadInput
from preftilt.records.patch import MethodPatch, SearchPatch, SettingsPatch
from preftilt.search import PRESETS, SEARCHES
from tests.cli.conftest import Cli


def settings() -> dict[str, Declared]:
    """What the flags of the settings are made of."""
    flags = setting_flags("lambda", "draw", "method", "score", "prompt").flags
    return {flag.setting.alias: flag.setting for flag in flags}


def test_the_searches_in_the_help_are_those_there_are() -> None:
    search = settings()["search"]
    assert search.facts.metavar == "|".join(SEARCHES)
    assert get_args(get_args(SearchPatch.model_fields["name"].annotation)[0]) == (
        *SEARCHES,
        *PRESETS,
    )
    assert all(name in search.words for name in PRESETS)
    assert [kind().name for kind in SEARCHES.values()] == [*SEARCHES]


def test_every_setting_has_its_flag_and_every_flag_its_setting() -> None:
    patches = (SettingsPatch, SearchPatch, MethodPatch)
    settable = {
        field.alias or name for patch in patches for name, field in patch.model_fields.items()
    }
    assert settings().keys() == settable - {"name", "arm"}


def test_every_flag_of_a_setting_says_what_it_does_and_its_default() -> None:
    without = {"system", "question_system", "against"}  # They are not there unless they are given.
    for name, setting in settings().items():
        assert setting.words, name
        assert setting.default is not None or setting.facts.told or name in without, name
    assert settings()["n"].facts.told == "16; guided, 1"
    for told, kinds in (("16", {"best-of-n"}), ("1", {"cfg", "arm"})):
        assert {asdict(SEARCHES[kind]())["n"] for kind in kinds} == {int(told)}


@pytest.mark.parametrize("command", ["ask", "run", "score", "schema"])
def test_every_command_has_help(command: str, cli: Cli) -> None:
    said = cli(command, "--help")
    assert said.code == 0
    assert "Usage: preftilt" in said.out


def test_the_version_and_the_bare_command(cli: Cli) -> None:
    assert cli("--version").out.startswith("preftilt 0.")
    panels = re.split(r"^╭─ (.*?) ─*╮$", cli().out, flags=re.MULTILINE)
    assert panels[1::2] == ["Options", "Commands to begin with", "Evaluation", "Training", "Tools"]
    first = re.findall(r"^│ (\S+)", panels[4], re.MULTILINE)
    assert first == ["ask", "run", "score", "serve", "calibrate", "train"]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_flag_of_a_command_is_declared_twice(command: str) -> None:
    program = get_command(command_line(command))
    parameters = program.commands[command].params  # type: ignore[attr-defined]
    names = [name for parameter in parameters for name in parameter.opts]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(r"\n", "\n"), (r"\n\n", "\n\n"), (r"\\n", r"\n"), (". ", ". "), ("\n", "\n")],
)
def test_escapes_in_a_delimiter(typed: str, meant: str) -> None:
    assert unescape(typed) == meant


@pytest.mark.parametrize("typed", ["\\", r"\x", "a\\"])
def test_unknown_escapes_are_refused(typed: str) -> None:
    with pytest.raises(BadInput, match="--delimiter"):
        unescape(typed)
