"""Why a chat server's answer ended: its own words are kept, and only the budget cuts an answer off."""

from __future__ import annotations

import pytest

from preftilt.engines.base import SampleRequest
from preftilt.messages import Message
from preftilt.types import Completion, Sampling, Stream
from tests.engine_http.conftest import Opened, Running

pytestmark = pytest.mark.model


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", "eos"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "tool_calls"),
        (None, "unknown"),
        ("abort", "unknown"),
    ],
)
async def test_a_reason_is_kept(
    reason: str | None,
    finish: str,
    server: Running,
    opened: Opened,
    scorer_folder: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.manners.completions, server.manners.chats = False, True
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    answer = {"index": 0, "message": {"content": "Read."}, "finish_reason": reason}
    monkeypatch.setattr(
        server.app, "_chat", lambda body: {"model": body["model"], "choices": [answer]}
    )
    request = SampleRequest(
        prompt=engine.tokenizer.render([Message("user", "How?")]),
        slots=(0,),
        stream=Stream(0),
        sampling=Sampling(),
        max_tokens=20,
    )
    [[completion]] = await engine.sample([request])
    assert isinstance(completion, Completion)
    assert completion.finish == finish
    ended = (engine.capabilities.turn_end,) if finish == "eos" else ()
    assert completion.tokens == (*engine.tokenizer.encode("Read."), *ended)
