"""Rows of the input, read anew whenever they are gone through: a long file is never held in memory."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from preftilt.cli.configure import arms_from, settings_from
from preftilt.cli.grouping import Flags
from preftilt.cli.options import FileFlags, ModelFlags
from preftilt.errors import BadInput
from preftilt.prompt import parse_preference
from preftilt.records import CheckedRow, InputRow, file_lines, iter_items, lines_of


@dataclass(frozen=True, slots=True)
class InputRows:
    """``lines`` begins the input anew, ``items`` makes rows of its lines; all that is wrong is raised in the end."""

    lines: Callable[[], Iterator[bytes]]
    items: Callable[[Iterator[bytes]], Iterator[CheckedRow]]

    def __iter__(self) -> Iterator[CheckedRow]:
        return self.items(self.lines())


@contextmanager
def input_rows(
    source: str,
    preferences: Sequence[str],
    flags: Flags,
    model: ModelFlags,
    files: FileFlags,
    row: type[InputRow],
) -> Iterator[InputRows]:
    """The rows of a file, or of standard input for ``-``, to be read within the context."""
    name = "standard input" if source == "-" else source
    base = settings_from(flags, list(arms_from(model)))
    preferred = [parse_preference(text) for text in preferences]

    def items(lines: Iterator[bytes]) -> Iterator[CheckedRow]:
        try:
            yield from iter_items(
                lines,
                source=name,
                base=base,
                model=row,
                preferred=preferred,
                keep_columns=files.keep_columns,
            )
        except BadInput as failure:
            if re.search(r'unknown field "[^".]+"', str(failure)):
                raise BadInput(
                    f"{failure} (--keep-columns carries other fields along into the records)"
                ) from None
            raise

    path = Path(source)
    with ExitStack() as opened:
        if source != "-" and (path.is_file() or not path.exists()):
            yield InputRows(lambda: file_lines(path), items)
            return
        stream = sys.stdin.buffer if source == "-" else opened.enter_context(path.open("rb"))
        spool = opened.enter_context(tempfile.TemporaryFile())  # What flows by once is kept.
        shutil.copyfileobj(stream, spool)
        spool.flush()
        yield InputRows(lambda: _from_start(spool.fileno(), name), items)


def _from_start(file: int, name: str) -> Iterator[bytes]:
    """The lines of an open file, from its start; one reader at a time."""
    with open(os.dup(file), "rb") as stream:
        stream.seek(0)
        yield from lines_of(stream, name)
