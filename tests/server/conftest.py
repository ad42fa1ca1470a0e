"""One server over the toy engine for all tests that change nothing about it, and what servers log."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from preftilt.server.logs import LOGGER, JsonLines
from tests.server.serving import Running, serving


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the server logs, as it would stand in a file."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    yield stream
    LOGGER.removeHandler(handler)
