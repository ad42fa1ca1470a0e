"""``preftilt schema``: the JSON Schemas of what is written and read."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from preftilt.records.schemas import schema_text


def schema(
    name: Annotated[
        str,
        Argument(
            metavar="realigned|scores|text|error|influence|row|score-row",
            help="Which object: a result, a failed row's record, or a row of the input.",
        ),
    ] = "realigned",
) -> None:
    """Print the JSON Schema of what preftilt writes or reads."""
    print(schema_text(name), end="")
