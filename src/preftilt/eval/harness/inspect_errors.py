"""preftilt's errors in Inspect's words: a message for the user, without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inspect_ai._util.error import PrerequisiteError
from rich.markup import escape

from preftilt.errors import PreftiltError


@contextmanager
def plainly() -> Iterator[None]:
    """Errors of preftilt inside become Inspect's ``PrerequisiteError``, which its command line shows plainly."""
    try:
        yield
    except PreftiltError as error:
        raise PrerequisiteError(escape(str(error))) from error
