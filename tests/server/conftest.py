"""One server over the toy engine for all tests that change nothing about it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.serving import Running, serving


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running
