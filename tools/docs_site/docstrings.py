"""Docstrings as Markdown: their cross-references and blocks, which are written as Sphinx reads them, in MkDocs' words.

An extension of Griffe (``extensions`` in ``mkdocs.yml``).
"""

# pyright: reportMissingImports=false
# MkDocs and Griffe are in requirements/docs.txt, not among the packages that the tests have.

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from textwrap import dedent
from typing import Any

from griffe import Extension, Module, NameResolutionError, Object

ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc):`(~?)([\w.]+)`")
BLOCK = re.compile(r"^(.*)::\n\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)


class SphinxToMarkdown(Extension):
    """Rewrites every docstring of a package once the whole package is read, so that names can be looked up."""

    def on_package(self, *, pkg: Module, **_: Any) -> None:
        for member in _defined_in(pkg):
            if member.docstring is not None:
                member.docstring.value = as_markdown(member.docstring.value, member)


def _defined_in(parent: Object) -> Iterator[Object]:
    yield parent
    for member in parent.members.values():
        if not member.is_alias:
            yield from _defined_in(member)


def as_markdown(text: str, owner: Object) -> str:
    """``:class:`~a.b.C``` becomes a link where a page shows C, and what is indented behind ``::`` a block of code.

    ``owner`` is whose docstring it is: names without a module are looked up from there.
    """
    text = BLOCK.sub(_fenced, text + "\n").rstrip()
    return ROLE.sub(lambda role: _named(role, owner), text)


def _named(role: re.Match[str], owner: Object) -> str:
    short, name = role.groups()
    shown = name.rpartition(".")[2] if short else name
    try:
        target = owner.resolve(name)
    except NameResolutionError:
        target = name
    return f'<autoref identifier="{target}" optional><code>{shown}</code></autoref>'


def _fenced(block: re.Match[str]) -> str:
    before, indented = block.groups()
    code = dedent(indented).strip("\n")
    lead = f"{before}:\n" if before.strip() else ""
    return f"{lead}\n```{_language(code)}\n{code}\n```\n\n"


def _language(code: str) -> str:
    try:
        ast.parse(code)
    except SyntaxError:
        return "text"
    return "python"
