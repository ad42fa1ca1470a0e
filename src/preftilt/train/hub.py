"""Rows of a data set on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from preftilt.errors import BadInput, MissingPackage


def hub_rows(source: str) -> Iterator[tuple[Any, str]]:
    """The rows of ``org/name`` (its split ``train``) or ``org/name:split``, each with its place in words."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingPackage(
            'data sets from the hub need datasets: pip install "preftilt[train]"'
        ) from None
    name, _, split = source.partition(":")
    split = split or "train"
    try:
        rows = load_dataset(name, split=split)
    except Exception as failure:  # The library raises whatever its HTTP client of the day does.
        first = (str(failure).strip() or repr(failure)).splitlines()[0]
        raise BadInput(
            f"{source} is no file, and the hub does not give out such a data set: {first}"
        ) from None
    for number, row in enumerate(rows, start=1):
        yield row, f"{source}, row {number}"
