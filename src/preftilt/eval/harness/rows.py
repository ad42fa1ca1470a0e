"""Rows of a benchmark's files, checked field by field, and prompts with gaps; what is wrong is said with its place.

A benchmark's data is a local folder, laid out as the benchmark publishes it, or a data set on the hub (``hub:NAME``).
Prompts are our own wording beside the code, or the benchmark's from a folder. A gap is ``{name}``. All gaps are filled
at once, so that a filling which looks like a gap stays as it is; braces that are no gap (JSON in an example) stay, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from preftilt.errors import BadInput, MissingPackage, UnknownModel
from preftilt.records.lines import file_bytes, parse_json

HUB = "hub:"
"""``hub:OWNER/NAME`` or ``hub:OWNER/NAME@REVISION`` instead of a folder."""


@dataclass(frozen=True, slots=True)
class DataRow:
    """One object of a file; ``number`` counts from 0, as the benchmarks do. Every error names file, row and field.

    ``path`` is where a nested object stands in its row.
    """

    file: str
    number: int
    fields: Mapping[str, Any]
    path: str = ""

    def text(self, name: str) -> str:
        """A text that is not blank."""
        text = self._get(name, str, "a text")
        if not text.strip():
            raise self.wrong(name, "is empty")
        return text

    def optional_text(self, name: str) -> str | None:
        """A text, or None where the field is missing or null."""
        return None if self.fields.get(name) is None else self._get(name, str, "a text")

    def texts(self, name: str, count: int | None = None) -> tuple[str, ...]:
        """A list of texts, ``count`` of them if that is given."""
        texts = self._get(name, list, "a list of texts")
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise self.wrong(name, "must be a list of texts, none of them empty")
        if count is not None and len(texts) != count:
            raise self.wrong(name, f"has {len(texts)} entries, not {count}")
        return tuple(texts)

    def object(self, name: str) -> DataRow:
        """A nested object, whose fields are named ``name.field`` in errors."""
        return DataRow(self.file, self.number, self._get(name, dict, "an object"), self._at(name))

    def objects(self, name: str) -> tuple[DataRow, ...]:
        """A list of nested objects, whose fields are named ``name[i].field`` in errors."""
        objects = self._get(name, list, "a list of objects")
        if not all(isinstance(fields, dict) for fields in objects):
            raise self.wrong(name, "must be a list of objects")
        return tuple(
            DataRow(self.file, self.number, fields, self._at(f"{name}[{i}]"))
            for i, fields in enumerate(objects)
        )

    def wrong(self, name: str, problem: str) -> BadInput:
        """The error that says what is wrong with a field."""
        return BadInput(
            f'{self.file}, row {self.number}: field "{self._at(name)}" {problem}; the file is of another version than'
            " the benchmark's (docs/how-to/benchmarks.md)"
        )

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _get(self, name: str, kind: type, described: str) -> Any:
        if name not in self.fields:
            raise self.wrong(name, f"is missing; there are {', '.join(self.fields) or 'no fields'}")
        value = self.fields[name]
        if not isinstance(value, kind):
            raise self.wrong(name, f"must be {described}, not {type(value).__name__}")
        return value


def json_rows(path: Path) -> list[DataRow]:
    """The rows of a UTF-8 JSON file that holds a list of objects."""
    return _rows(path.name, parsed(path.name, read_bytes(path)))


def jsonl_rows(path: Path) -> list[DataRow]:
    """The rows of a UTF-8 file with one JSON object a line."""
    lines = [line for line in read_bytes(path).split(b"\n") if line.strip()]
    return _rows(path.name, [parsed(f"{path.name}, row {i}", line) for i, line in enumerate(lines)])


def file_rows(path: Path) -> list[DataRow]:
    """The rows of a ``.json`` file, or of any other as JSONL."""
    return json_rows(path) if path.suffix == ".json" else jsonl_rows(path)


def hub_rows(name: str, split: str) -> list[DataRow]:
    """The rows of a data set's split, online or from the hub's cache; ``name`` is OWNER/NAME or OWNER/NAME@REVISION.

    Raises :class:`~preftilt.errors.MissingPackage` without the extra ``eval`` and
    :class:`~preftilt.errors.UnknownModel` if there is no such data set or the hub cannot be reached.
    """
    if find_spec("datasets") is None:
        raise MissingPackage('data sets of the hub need datasets: pip install "preftilt[eval]"')
    from datasets import load_dataset

    repository, _, revision = name.partition("@")
    try:
        table = load_dataset(repository, split=split, revision=revision or None)
    except (
        Exception
    ) as error:  # The hub's client raises dozens of kinds, for a network away as for a wrong name.
        raise UnknownModel(
            f"the data set {name} (split {split}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    return _rows(f"{HUB}{name}/{split}", [dict(row) for row in table])


def check_count(rows: Sequence[DataRow], file: str, expected: int) -> None:
    """Raises unless a file has as many rows as the benchmark's version has."""
    if len(rows) != expected:
        raise BadInput(
            f"{file} has {len(rows)} rows, not {expected}; the file is cut off or of another version"
            " (docs/how-to/benchmarks.md)"
        )


def data_folder(data: str, benchmark: str) -> Path:
    """The folder that ``data`` names; it is where ``benchmark``'s files are or a folder above them.

    So both ``../shared/data`` and ``../shared/data/prefeval`` will do for ``prefeval``.
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        raise BadInput(
            f"there is no folder {data} with the data of {benchmark}; give one (-T data=FOLDER, or --data)"
        )
    return folder / benchmark if (folder / benchmark).is_dir() else folder


def read_bytes(path: Path) -> bytes:
    """The bytes of a data file, unpacked; a missing one is an error that says what is needed."""
    try:
        return file_bytes(path)
    except BadInput as error:
        raise BadInput(
            f"{error}; the benchmark needs it (docs/how-to/benchmarks.md says from where)"
        ) from None


def parsed(where: str, raw: bytes) -> Any:
    """The value of JSON; what is wrong with it is said with the place ``where`` it stands."""
    try:
        return parse_json(raw)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def _rows(file: str, data: Any) -> list[DataRow]:
    if not isinstance(data, list):
        raise BadInput(f"{file} must hold a list of objects, not {type(data).__name__}")
    for number, fields in enumerate(data):
        if not isinstance(fields, dict):
            raise BadInput(
                f"{file}, row {number}: must be an object, not {type(fields).__name__}; the file is of another version"
            )
    return [DataRow(file, number, fields) for number, fields in enumerate(data)]


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


def own_text(benchmark: str, file: str) -> str:
    """A fixed text of ``benchmark``'s, without outer white space."""
    texts = files("preftilt.eval.benchmarks") / "texts"
    return (texts / benchmark / file).read_text("utf-8").strip()


def load_templates(
    benchmark: str, file: str, gaps: Mapping[str, frozenset[str]], folder: str | None
) -> PromptTemplates:
    """A prompt for every name in ``gaps``, as :func:`load_template` has it, from the file ``file`` with the name in
    it: ``"judge_{}.txt"``."""
    return PromptTemplates(
        {name: load_template(benchmark, file.format(name), gaps[name], folder) for name in gaps}
    )


def load_template(
    benchmark: str, file: str, gaps: frozenset[str], folder: str | None = None
) -> PromptTemplate:
    """The prompt ``file`` of ``folder``, or of our own texts for ``benchmark``.

    Raises :class:`~preftilt.errors.BadInput` if it is not there or lacks one of ``gaps``, before anything is asked.
    """
    if folder is None:
        text, source = own_text(benchmark, file), "preftilt"
    else:
        path = Path(folder).expanduser() / file
        text, source = read_bytes(path).decode("utf-8").strip(), str(path)
    missing = [name for name in sorted(gaps) if f"{{{name}}}" not in text]
    if missing:
        raise BadInput(
            f"{file} of {folder or benchmark} has no {{{missing[0]}}}, which is to be filled in; is it the right file?"
        )
    return PromptTemplate(text, gaps, source)
