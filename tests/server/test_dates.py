"""A template that shows a date shows that of the request, however long the server has been running."""

from __future__ import annotations

from datetime import datetime

import pytest

from preftilt.server import middleware
from preftilt.testing.toy import ToyEngine
from tests.cli.toys import Dated
from tests.server.serving import QUESTION, WISH, serving

ASKED = {"model": "toy", "messages": QUESTION, "preftilt": {**WISH, "details": True}}


def test_every_request_is_answered_on_its_own_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        today = datetime(2026, 11, 28)

        @classmethod
        def now(cls) -> datetime:
            return cls.today

    monkeypatch.setattr(middleware, "datetime", Clock)
    with serving(ToyEngine(tokenizer=Dated())) as running, running.http as http:

        def answered() -> dict:
            return http.post("/v1/chat/completions", json=ASKED).json()["preftilt"]

        first = answered()
        Clock.today = datetime(2026, 11, 29)
        second = answered()
        streamed = http.post("/v1/chat/completions", json={**ASKED, "stream": True}).text
    assert first["moment"]["shown"] == ["28 Nov 2026"]
    assert second["moment"]["shown"] == ["29 Nov 2026"]
    assert "29 Nov 2026" in streamed
    assert first["prompts"] != second["prompts"]
