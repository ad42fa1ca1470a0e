"""Model names that carry the knob: ``MODEL:bon-16-l20``, ``MODEL:cfg-4-l2``, ``MODEL:dvts-4x4-l5``, a preset."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from preftilt.errors import BadInput
from preftilt.messages import check_encodable
from preftilt.records.lines import parse_json
from preftilt.records.patch import complaints
from preftilt.server.failures import unknown_model
from preftilt.server.wire import Knob

SUFFIX = re.compile(
    r"(?:bon-(?P<n>[0-9]{1,6})|dvts-(?P<subtrees>[0-9]{1,6})x(?P<width>[0-9]{1,6})"
    r"|cfg(?:-(?P<guided>[0-9]{1,6}))?|(?P<single>sample|greedy))?(?:(?:^|-)l(?P<lam>-?[0-9]{1,9}(?:\.[0-9]{1,9})?))?"
)
SUFFIXES = ("cfg-l2", "cfg-4-l2", "bon-16-l20", "dvts-4x4-l5", "sample", "greedy", "l5")
"""A suffix of every kind, with numbers to change: what ``/v1/models`` and errors show."""

PRESET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class ParsedModelName:
    """A parsed model name: its preset, and the search and λ of its suffix; ``asks``: whether it has either."""

    preset: Knob
    suffix: Mapping[str, Any]

    @property
    def asks(self) -> bool:
        return bool(self.suffix) or bool(self.preset.model_fields_set)


def read_name(name: str, served: str, presets: Mapping[str, Knob]) -> ParsedModelName:
    """The parts of a model's name; a preset may also stand alone. Raises a 404 for any other name."""
    if name == served:
        return ParsedModelName(Knob(), {})
    head, colon, rest = name.rpartition(":")
    preset = presets.get(rest if colon and head == served else name)
    if preset is not None:
        return ParsedModelName(preset, {})
    suffix = read_suffix(rest) if head == served else None
    if suffix is None:
        raise unknown_model(name, model_names(served, presets), SUFFIXES)
    return ParsedModelName(Knob(), suffix)


def model_names(served: str, presets: Mapping[str, Knob]) -> list[str]:
    """The names that ``/v1/models`` lists."""
    return [served, *(f"{served}:{name}" for name in presets)]


def read_suffix(text: str) -> Mapping[str, Any] | None:
    """``bon-16-l20`` as changes to settings; None if it is none."""
    match = SUFFIX.fullmatch(text)
    if not text or match is None:
        return None
    changes: dict[str, Any] = {}
    if match["n"]:
        changes["search"] = {"name": "best-of-n", "n": int(match["n"])}
    if match["subtrees"]:
        sizes = {"subtrees": int(match["subtrees"]), "width": int(match["width"])}
        changes["search"] = {"name": "dvts", **sizes}
    if text.startswith("cfg"):
        changes["search"] = {"name": "cfg"} | (
            {"n": int(match["guided"])} if match["guided"] else {}
        )
    if match["single"]:
        changes["search"] = {"name": match["single"]}
    if match["lam"]:
        changes["lambda"] = float(match["lam"])
    return changes


def read_presets(options: Sequence[str], file: Path | None) -> dict[str, Knob]:
    """Presets of ``--preset NAME=JSON`` and of a TOML file with a table for each; raises BadInput."""
    presets: dict[str, Knob] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise BadInput(f"--preset {option!r} is not NAME=JSON")
        check_encodable(value, f"--preset {name.strip()}")
        _add(presets, name.strip(), parse_json(value.encode()))
    for name, value in (_tables(file) if file is not None else {}).items():
        _add(presets, name, value)
    return presets


def _tables(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as failure:
        raise BadInput(f"cannot read {file}: {failure.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
        raise BadInput(f"{file} is not TOML: {failure}") from None


def _add(presets: dict[str, Knob], name: str, value: Any) -> None:
    if not PRESET_NAME.fullmatch(name) or read_suffix(name) is not None:
        raise BadInput(
            f"{name!r} cannot name a preset: use letters, digits, '_', '.' and '-', and no suffix's name"
        )
    if name in presets:
        raise BadInput(f"the preset {name} is given twice")
    try:
        presets[name] = Knob.model_validate(value)
    except ValidationError as failure:
        raise BadInput(f"preset {name}: {'; '.join(complaints(failure, Knob))}") from None
