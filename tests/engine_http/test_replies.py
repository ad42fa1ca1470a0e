"""Replies that come as text, in the ids that they have behind the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from preftilt.engines.base import Engine, SampleRequest
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.messages import Message
from preftilt.prompt import before_end
from preftilt.types import Sampling, Stream
from tests.engine_http.stand_in import StandIn, served
from tests.prompt.tokenizers import HEADERS, tokenizer_of


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A server that gives text alone, of a model with SentencePiece's spaces."""
    tokenizer = tokenizer_of("metaspace")
    tokenizer.chat_template = HEADERS
    tokenizer.save_pretrained(tmp_path)
    app = StandIn(tokenizer)
    app.manners.returns_ids = False
    with served(app) as url:
        engine = open_engine(f"openai+{url}", EngineOptions(tokenizer=str(tmp_path)))
        yield engine
        engine.close()


async def test_a_reply_gets_no_space_that_was_not_drawn(engine: Engine):
    request = SampleRequest(
        prompt=engine.tokenizer.render([Message("user", "Hi")]),
        slots=tuple(range(8)),
        stream=Stream(1),
        sampling=Sampling(),
        max_tokens=6,
    )
    [completions] = await engine.sample([request])
    pieces = ["".join(engine.tokenizer.pieces(one.tokens[:1])) for one in completions]
    assert any(pieces)
    assert not any(piece.startswith(" ") for piece in pieces)


def test_a_reply_is_over_where_it_spells_its_end(engine: Engine):
    ends = engine.capabilities.eos
    assert before_end("Hi<|end|>\nHi</s>", engine.tokenizer, ends) == "Hi"
    assert before_end("Hi\n", engine.tokenizer, ends) == "Hi\n"
