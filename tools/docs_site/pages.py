"""Pages that are made when the site is built: every command with its flags, and files from elsewhere in the repository.

A hook of MkDocs (``hooks`` in ``mkdocs.yml``).
"""

# pyright: reportMissingImports=false
# MkDocs and Griffe are in requirements/docs.txt, not among the packages that the tests have.

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer import Context
from typer.main import get_command

from preftilt.cli.app import COMMANDS, command_line
from preftilt.records.schemas import schema_text

ROOT = Path(__file__).parents[2]

LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)\s#]+)")


PLACES = {
    "CHANGELOG.md": "changes.md",
    "src/preftilt/demo/model/README.md": "explanation/demo-model.md",
    "src/preftilt/schema/realigned.schema.json": "schema/realigned.schema.json",
    "src/preftilt/schema/text.schema.json": "schema/text.schema.json",
    "src/preftilt/schema/error.schema.json": "schema/error.schema.json",
    "src/preftilt/schema/influence.schema.json": "schema/influence.schema.json",
    "integrations/open_webui_filter.py": "integrations/open_webui_filter.py",
    "integrations/its_hub_scorer.py": "integrations/its_hub_scorer.py",
}
"""Files outside ``docs/`` that the site has, and where in it they are."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files in ``docs/``."""
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    for source, place in PLACES.items():
        text = (ROOT / source).read_text("utf-8")
        if place.endswith(".schema.json"):
            text = schema_text(place.removeprefix("schema/").removesuffix(".schema.json"))
        if place.endswith(".md"):
            text = _moved(without_front_matter(text), source, place)
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links that lead out of ``docs/``, as a reader of the repository follows them, lead to the site's own copies."""
    place = page.file.src_uri
    return markdown if place in PLACES.values() else _moved(markdown, f"docs/{place}", place)


def _moved(markdown: str, source: str, place: str) -> str:
    """The text of a file of the repository, ``source``, with its links as they are at ``place`` in the site."""

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        target = PLACES.get(target, target.removeprefix("docs/"))
        return f"]({posixpath.relpath(target, posixpath.dirname(place))}"

    return LINK.sub(link, markdown)


def without_front_matter(text: str) -> str:
    """A model card without the YAML that hubs read."""
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)


def commands() -> str:
    """Every command of ``preftilt`` with its flags, in the words of ``--help``."""
    program: Any = get_command(command_line(*COMMANDS))
    lines = [
        "# Every command and flag",
        "",
        "What `preftilt COMMAND --help` shows. [The command line](cli.md) explains what the flags do together.",
        "",
    ]
    for name, command in program.commands.items():
        lines += _command(f"preftilt {name}", command)
    return "\n".join(lines)


def _command(name: str, command: Any) -> list[str]:
    context = Context(command, info_name=name)
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [f"## `{name}`", "", *_prose(command.help or ""), "", "```text", usage, "```", ""]
    parameters = [parameter for parameter in command.params if parameter.get_help_record(context)]
    for panel, members in _by_panel(parameters):
        lines += [f"| {panel} | |", "|---|---|"]
        for parameter in members:
            names, meaning = parameter.get_help_record(context)
            lines.append(f"| {_code(names)} | {_cell(meaning)} |")
        lines.append("")
    return lines


def _prose(text: str) -> Iterable[str]:
    """Help texts, with example calls as code."""
    for line in text.splitlines():
        before, example, call = line.partition("Example: ")
        yield f"{before}{example}`{call}`" if example else _cell(line)


def _by_panel(parameters: Iterable[Any]) -> Iterable[tuple[str, list[Any]]]:
    """Arguments first, then options by the panels that ``--help`` shows them in, in their order."""

    def panel(parameter: Any) -> str:
        if parameter.param_type_name == "argument":
            return "Arguments"
        return getattr(parameter, "rich_help_panel", None) or "Options"

    order = list(dict.fromkeys(panel(parameter) for parameter in parameters))
    order.sort(key=lambda name: name != "Arguments")
    ranked = sorted(parameters, key=lambda parameter: order.index(panel(parameter)))
    for name, members in groupby(ranked, key=panel):
        yield name, list(members)


def _code(text: str) -> str:
    """Flags and their values; a flag is not broken at its hyphens, and values are at the bars between them."""
    words = [escape(word).replace("|", "&#124;<wbr>") for word in text.split(" ")]
    flags = [f'<span class="flag">{word}</span>' if word[:1] == "-" else word for word in words]
    return f"<code>{' '.join(flags)}</code>"


def _cell(text: str) -> str:
    """A text that a table's cell shows as it is."""
    return re.sub(r"([\\`*_|\[\]{}<>])", lambda special: f"&#{ord(special[0])};", text)
