"""Rows of a benchmark's files, checked field by field: what is wrong is said with file, row and field.

A benchmark's data is a local folder, laid out as the benchmark publishes it, or a data set on the hub (``hub:NAME``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from preftilt.errors import BadInput, MissingPackage, UnknownModel
from preftilt.records import file_bytes, parse_json

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
    return _rows(path.name, _parsed(path.name, read_bytes(path)))


def jsonl_rows(path: Path) -> list[DataRow]:
    """The rows of a UTF-8 file with one JSON object a line."""
    lines = [line for line in read_bytes(path).split(b"\n") if line.strip()]
    return _rows(
        path.name, [_parsed(f"{path.name}, row {i}", line) for i, line in enumerate(lines)]
    )


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


def _parsed(where: str, raw: bytes) -> Any:
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
