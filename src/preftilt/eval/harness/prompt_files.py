"""Prompts with gaps, for judges and other models: our own wording beside the code, or the benchmark's from a folder.

A gap is ``{name}``. All gaps are filled at once, so that a filling which looks like a gap stays as it is; braces that
are no gap of the prompt (JSON in an example) stay, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from preftilt.errors import BadInput
from preftilt.eval.harness.rows import read_bytes


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A prompt's text and the names of its gaps; ``source`` says whose wording it is, for the record."""

    text: str
    gaps: frozenset[str]
    source: str

    def fill(self, values: Mapping[str, str]) -> str:
        """The prompt; ``values`` must have every gap."""
        if not self.gaps:
            return self.text
        pattern = "|".join(re.escape(name) for name in sorted(self.gaps))
        return re.sub(rf"\{{({pattern})\}}", lambda gap: values[gap[1]], self.text)


@dataclass(frozen=True, slots=True)
class PromptTemplates:
    """The prompts of one role, by name."""

    of: Mapping[str, PromptTemplate]

    def fill(self, name: str, values: Mapping[str, str]) -> str:
        """The prompt ``name``, filled."""
        return self.of[name].fill(values)

    def to_json(self) -> dict[str, str]:
        """Whose wording each is."""
        return {name: template.source for name, template in self.of.items()}


def load_templates(
    package: str, files: str, gaps: Mapping[str, frozenset[str]], folder: str | None
) -> PromptTemplates:
    """A prompt for every name in ``gaps``, as :func:`load_template` has it, from the file ``files`` with the name in
    it: ``"judge_{}.txt"``."""
    return PromptTemplates(
        {name: load_template(package, files.format(name), gaps[name], folder) for name in gaps}
    )


def load_template(
    package: str, file: str, gaps: frozenset[str], folder: str | None = None
) -> PromptTemplate:
    """The prompt ``file`` of ``folder``, or of the package's own ``texts``.

    Raises :class:`~preftilt.errors.BadInput` if it is not there or lacks one of ``gaps``, before anything is asked.
    """
    if folder is None:
        text, source = (files(package) / "texts" / file).read_text("utf-8"), "preftilt"
    else:
        path = Path(folder).expanduser() / file
        text, source = read_bytes(path).decode("utf-8"), str(path)
    missing = [name for name in sorted(gaps) if f"{{{name}}}" not in text]
    if missing:
        raise BadInput(
            f"{file} of {folder or package} has no {{{missing[0]}}}, which is to be filled in; is it the right file?"
        )
    return PromptTemplate(text.strip(), gaps, source)
