"""Lines of JSON: written so that every reader finds the same lines, and read strictly, with one clear error each.

Unicode knows more line breaks than JSON lines do. ``str.splitlines``, and whatever is built on it (many clients of
server-sent events, too), also ends a line at U+0085, U+2028 and U+2029, which JSON allows within a string: they are
written as escapes here, and never split at.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

from preftilt.errors import BadInput, PreftiltError
from preftilt.messages import check_encodable

LINE_BREAKS = "\x85\u2028\u2029"
"""Characters that JSON takes as they are and some readers of lines break at."""

GZIP = b"\x1f\x8b"
PACKED = {b"(\xb5/\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}


def json_line(value: object) -> bytes:
    """Compact JSON in UTF-8, one line for every reader and without its end; no NaN.

    Half a surrogate pair, which UTF-8 cannot say, is written as JSON's escape.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in LINE_BREAKS:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace")


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8; what UTF-8 cannot say (a file's name may have it) is written as an escape.

    Raises :class:`~preftilt.errors.PreftiltError` if it cannot be written.
    """
    try:
        path.write_bytes(text.encode("utf-8", "backslashreplace"))
    except OSError as failure:
        raise PreftiltError(f"cannot write {path}: {failure.strerror or failure}") from None


def write_json(path: Path, value: object) -> None:
    """Write a report: indented JSON as :func:`write_text` writes text; no NaN."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that preftilt itself has written, one a line."""
    with path.open("rb") as file:
        for raw in file:
            yield json.loads(raw)


def lines_of(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The lines of a stream called ``name``, with their line feeds, read as they are asked for; gzip is unpacked.

    Raises :class:`~preftilt.errors.BadInput` if it cannot be read, which may come late.
    """
    file = stream if isinstance(stream, BufferedReader) else BufferedReader(cast(Any, stream))
    head = file.peek(max(map(len, PACKED)))
    for magic, kind in PACKED.items():
        if head.startswith(magic):
            raise BadInput(f"cannot read {name}: it is packed with {kind}; unpack it, or use gzip")
    try:
        yield from gzip.GzipFile(fileobj=file) if head.startswith(GZIP) else file
    except (gzip.BadGzipFile, EOFError, zlib.error) as failure:
        raise BadInput(f"cannot read {name}: its gzip is cut off or damaged ({failure})") from None
    except OSError as failure:
        raise BadInput(f"cannot read {name}: {failure.strerror or failure}") from None


def file_lines(path: Path) -> Iterator[bytes]:
    """As :func:`lines_of`, for a file by its path."""
    try:
        file = path.open("rb")
    except OSError as failure:
        raise BadInput(f"cannot read {path}: {failure.strerror}") from None
    with file:
        yield from lines_of(file, str(path))


def file_bytes(path: Path) -> bytes:
    """All of a file; errors as :func:`file_lines`."""
    return b"".join(file_lines(path))


MAX_DIGITS = 300
"""Longer whole numbers than any that a setting takes are refused before they are computed with."""

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How JSON spells half of a surrogate pair; UTF-8 itself cannot."""


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text in UTF-8; raises :class:`~preftilt.errors.BadInput` for anything JSON does not have.

    Half a surrogate pair, which JSON can spell, is refused wherever it stands, too: no text has it, so that neither a
    tokenizer nor a file or terminal takes it.
    """
    try:
        value = json.loads(
            raw.decode("utf-8-sig"),
            parse_constant=_no_constant,
            parse_int=_whole,
            object_pairs_hook=_no_repeats,
        )
        if SURROGATE.search(raw):
            for where, text in _texts(value, ""):
                check_encodable(text, where)
    except UnicodeDecodeError as failure:
        raise BadInput(f"not UTF-8 (byte {failure.start + 1})") from None
    except json.JSONDecodeError as failure:
        line = f"line {failure.lineno}, " if failure.lineno > 1 else ""
        raise BadInput(f"not JSON: {failure.msg} ({line}column {failure.colno})") from None
    except RecursionError:
        raise BadInput("its JSON is nested too deeply to be read") from None
    return value


def file_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file of people's with one a line, each with its place, for errors; blank lines are left out."""
    for number, raw in enumerate(file_lines(path), start=1):
        if raw.strip():
            where = f"{path.name}, line {number}"
            try:
                fields = parse_json(raw)
            except BadInput as failure:
                raise BadInput(f"{where}: {failure}") from None
            if not isinstance(fields, dict):
                raise BadInput(f"{where}: must be an object")
            yield where, fields


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text within a value, the names of fields too, behind the words that name its place."""
    if isinstance(value, str):
        yield where or "the text", value
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _texts(entry, f"{where}[{index}]")
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield (f"the name of a field of {where}" if where else "the name of a field"), name
            yield from _texts(inner, f"{where}.{name}" if where else name)


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise BadInput(f"a number of {len(digits)} digits is too long; {MAX_DIGITS} are read")
    return int(digits)


def _no_constant(name: str) -> float:
    raise BadInput(f"{name} is not a number that JSON has")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f'the field "{twice}" stands twice')
    return value
