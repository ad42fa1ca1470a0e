"""Images and servers: one that only chats is sent them, and a model in this process that sees scores what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import transformers

from preftilt.api import Realigner
from preftilt.engines.base import Engine
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput
from preftilt.search import BestOfN
from preftilt.settings import Settings
from preftilt.types import Preference
from tests.engine_http.stand_in import StandIn, served
from tests.vision.conftest import Ask, Oracle

pytestmark = pytest.mark.model

Open = Callable[..., Engine]


@pytest.fixture
def app(llava: str) -> StandIn:
    """Speaks the server's side of the API; it draws without looking."""
    return StandIn(transformers.AutoTokenizer.from_pretrained(llava))


@pytest.fixture
def on_server(app: StandIn) -> Iterator[Open]:
    engines: list[Engine] = []
    with served(app) as url:

        def engine(kind: str, **options: Any) -> Engine:
            engines.append(open_engine(f"{kind}+{url}", EngineOptions(**options)))
            return engines[-1]

        yield engine
        for one in engines:
            one.close()


async def test_a_chat_server_is_sent_the_image_and_the_scorer_sees_it(
    app: StandIn, on_server: Open, llava: str, ask: Ask, oracle: Oracle
):
    app.manners.completions, app.manners.chats = False, True
    settings = Settings(lam=3.0, max_tokens=6, search=BestOfN(n=2))
    asked = ask(1, system=None)
    engine = on_server("openai", scorer=llava)
    result = await Realigner(engine, settings).realign(asked, [Preference("No cats.")])
    [system, turn] = app.seen.asked("/v1/chat/completions")[-1]["messages"]
    assert system == {"role": "system", "content": "No cats."}
    assert turn["content"] == [
        {"type": "image_url", "image_url": {"url": asked[0].images[0].data_url()}},
        {"type": "text", "text": "What is it?"},
    ]
    for one in result.candidates:
        assert one.question_logprob == pytest.approx(oracle(asked, one.tokens).sum(), abs=1e-3)


def test_a_server_that_completes_is_not_asked_about_images(
    app: StandIn, on_server: Open, llava: str, ask: Ask
):
    engine = on_server("vllm", tokenizer=llava)
    with pytest.raises(BadInput, match="a vision-language model on the transformers engine"):
        engine.tokenizer.render(ask(1))
