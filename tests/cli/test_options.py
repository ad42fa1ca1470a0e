"""Flags: what their help promises is what settings accept, and every setting has a flag."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest

from preftilt.api import Settings
from preftilt.cli.configure import unescape
from preftilt.cli.model_options import ModelFlags
from preftilt.cli.options import (
    ClusterFlags,
    DrawFlags,
    FileFlags,
    PromptFlags,
    ScoreFlags,
    ShowFlags,
)
from preftilt.errors import BadInput
from preftilt.records import SEARCHES, SearchPatch, SettingsPatch
from preftilt.search import PRESETS
from tests.cli.conftest import Cli

GROUPS = (DrawFlags, ScoreFlags, PromptFlags, ModelFlags, ShowFlags, FileFlags, ClusterFlags)
SETTINGS = (DrawFlags, ScoreFlags, PromptFlags)


def options() -> dict[str, Any]:
    """The typer option of every flag of the settings."""
    hints = {}
    for group in SETTINGS:
        hints |= get_type_hints(group, include_extras=True)
    return {name: get_args(hint)[1] for name, hint in hints.items()}


def literals(annotation: Any) -> tuple[str, ...]:
    """The choices of a field such as ``Literal["a", "b"] | None``."""
    found = [one for arg in get_args(annotation) for one in get_args(arg) if isinstance(one, str)]
    return tuple(found)


@pytest.mark.parametrize("name", ["reduction", "eos", "generate_with", "placement", "history"])
def test_the_choices_in_the_help_are_those_that_are_accepted(name: str) -> None:
    assert options()[name].metavar == "|".join(
        literals(SettingsPatch.model_fields[name].annotation)
    )


def test_the_searches_in_the_help_are_those_there_are() -> None:
    assert options()["search"].metavar == "|".join(SEARCHES)
    assert literals(SearchPatch.model_fields["name"].annotation) == (*SEARCHES, *PRESETS)
    assert all(name in options()["search"].help for name in PRESETS)
    assert [kind().name for kind in SEARCHES.values()] == [*SEARCHES]


def test_every_setting_has_its_flag_and_every_flag_its_setting() -> None:
    settable = SettingsPatch.model_fields.keys() | SearchPatch.model_fields.keys()
    assert options().keys() == settable - {"name", "lam", "method", "arm"}
    assert {one.name for kind in SEARCHES.values() for one in fields(kind)} == {
        *SearchPatch.model_fields
    }


def test_defaults_in_the_help_are_the_settings_defaults() -> None:
    settings = Settings()
    parts = (*(kind() for kind in SEARCHES.values()), settings.sampling, settings.reward)
    for name, option in options().items():
        told = re.findall(r"\(default: (.*?)\)$", option.help)
        for part in (*parts, settings.prompt, settings):
            default = getattr(part, name, None)
            if default is not None and name != "search":
                shown = f"{default:g}" if isinstance(default, float) else str(default)
                shown = {"True": "yes", "False": "no"}.get(shown, shown)
                assert shown.replace("\n", r"\n") in re.split("; guided, |; amulet, ", *told)


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


def test_no_flag_is_declared_twice() -> None:
    names = [one.name for group in GROUPS for one in fields(group)]
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
