"""Servers that are asked by chat: hosted ones with their rules, answers without a text, and Ollama's template."""

from __future__ import annotations

import math
import time
from contextlib import aclosing

import pytest

from preftilt.api import Realigner, Settings
from preftilt.engines.base import Engine, Partial, SampleRequest
from preftilt.errors import BadInput, EngineError
from preftilt.messages import Message
from preftilt.result import Realigned
from preftilt.search import BestOfN
from preftilt.server.request_engine import NewTokens, RequestEngine
from preftilt.types import Preference, Sampling, Stream
from tests.engine_http.conftest import Opened, Running

CHAT = "/v1/chat/completions"
REFUSAL = {"content": None, "refusal": "I cannot help with that."}
REASONING = {"content": None, "reasoning_content": "Hm, let me see", "finish_reason": "length"}
FILTERED = {"content": "", "finish_reason": "content_filter"}


@pytest.fixture
def chatting(server: Running) -> Running:
    server.manners.completions, server.manners.chats = False, True
    return server


async def test_an_answer_without_a_text_is_no_candidate(
    chatting: Running, opened: Opened, scorer_folder: str
):
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    chatting.manners.says = {1: REFUSAL, 2: REASONING}
    result = await _realigned(engine, n=4)
    assert sorted(candidate.slot for candidate in result.candidates) == [0, 3]
    [note] = [note for note in result.notes if "no text" in note]
    assert note.startswith(
        "2 answers have no text (it refused: I cannot help with that.; it sent its"
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (REFUSAL, r"it refused: I cannot help with that\."),
        (REASONING, r"it sent its reasoning alone, finish reason length; allow more tokens"),
        (FILTERED, r"its content filter stopped it"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "it called a tool"),
        ({"content": " \n", "finish_reason": "stop"}, "finish reason stop"),
    ],
)
async def test_a_request_that_gets_no_text_fails_with_the_reason(
    said: dict, why: str, chatting: Running, opened: Opened, scorer_folder: str
):
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    chatting.manners.says = dict.fromkeys(range(2), said)
    with pytest.raises(EngineError, match=rf"2 answers have no text \({why}"):
        await _realigned(engine, n=2)


async def test_nothing_is_sent_that_was_not_asked_for(
    chatting: Running, opened: Opened, scorer_folder: str
):
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    await _realigned(engine, n=2)
    asked = {"model", "messages", "max_tokens", "temperature", "top_p", "seed"}
    bodies = chatting.seen.asked(CHAT)
    assert {frozenset(body) for body in bodies} == {frozenset(asked), frozenset(asked | {"n"})}


@pytest.mark.parametrize(
    ("refuses", "left_out"),
    [
        (
            {"max_tokens": "Unsupported parameter: use 'max_completion_tokens' instead."},
            "max_tokens",
        ),
        ({"seed": "unknown field: seed"}, "seed"),
        ({"top_p": "temperature and top_p cannot both be given"}, "temperature, top_p"),
    ],
)
async def test_what_a_server_refuses_is_learned_once_when_it_is_opened(
    refuses: dict, left_out: str, chatting: Running, opened: Opened, scorer_folder: str
):
    chatting.manners.refuses = refuses
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    assert _fact(engine, "fields it refuses") == left_out
    before = len(chatting.seen.asked(CHAT))
    result = await _realigned(engine, n=2)
    assert len(result.candidates) == 2
    bodies = chatting.seen.asked(CHAT)[before:]
    assert not any(name in body for body in bodies for name in refuses)
    assert all({"max_tokens", "max_completion_tokens"} & body.keys() for body in bodies)


async def test_what_was_asked_for_is_never_left_out_because_it_is_refused(
    chatting: Running, opened: Opened, scorer_folder: str
):
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    chatting.manners.refuses = {"temperature": "temperature is not supported"}
    with pytest.raises(EngineError, match="400: temperature is not supported"):
        await _realigned(engine, n=2, sampling=Sampling(temperature=0.5))
    assert len((await _realigned(engine, n=2)).candidates) == 2


async def test_a_seed_that_may_not_go_with_n_goes_with_every_answer(
    chatting: Running, opened: Opened, scorer_folder: str
):
    chatting.manners.refuses = {"n": "seed is not supported with n > 1"}
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    assert _fact(engine, "n answers in one question") == "no"
    await _realigned(engine, n=2)
    assert len({body["seed"] for body in chatting.seen.asked(CHAT)[-2:]}) == 2


async def test_an_alias_answers_under_the_name_of_its_first_answer(
    chatting: Running, opened: Opened, scorer_folder: str
):
    chatting.manners.model = "toy-2026-11-29"
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    assert _fact(engine, "model in answers") == "toy-2026-11-29"
    await _realigned(engine, n=2)
    chatting.manners.model = "toy-2026-12-24"
    with pytest.raises(
        EngineError, match=r"toy-2026-12-24 where toy was asked, which was toy-2026-11-29 before"
    ):
        await _realigned(engine, n=2)


async def test_an_alias_of_a_server_that_scores_does_too(server: Running, opened: Opened):
    server.manners.model = "toy-2026-11-29"
    engine = opened("openai")
    assert _fact(engine, "model in answers") == "toy-2026-11-29"
    server.manners.model = "other"
    with pytest.raises(EngineError, match="the model other where toy was asked"):
        await _realigned(engine, n=2)


async def test_the_words_of_an_error_with_status_200_are_told(
    chatting: Running, opened: Opened, scorer_folder: str
):
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    chatting.manners.junk = b'{"error": {"message": "quota exceeded", "code": 429}}'
    with pytest.raises(EngineError, match="though with HTTP 200: quota exceeded"):
        await _realigned(engine, n=2)


class TestOllama:
    """As the documentation says: Ollama draws the candidates, and a second engine scores them."""

    @pytest.fixture
    def ollama(self, server: Running) -> Running:
        server.manners.template, server.manners.chats = True, True
        server.manners.returns_ids = False
        return server

    async def test_it_draws_by_chat_what_a_second_engine_scores(
        self, ollama: Running, opened: Opened, scorer_folder: str
    ):
        engine = opened("openai", tokenizer=None, scorer=scorer_folder)
        assert engine.info.plan[0].startswith("draw: POST /v1/chat/completions")
        assert "of one character" in _fact(engine, "/v1/completions")
        before = len(ollama.seen.bodies)
        result = await _realigned(engine, n=2)
        assert len(result.candidates) == 2
        assert {path for path, _ in ollama.seen.bodies[before:]} == {CHAT}

    def test_a_tokenizer_that_is_named_for_it_is_not_needed(
        self, ollama: Running, opened: Opened, scorer_folder: str
    ):
        engine = opened("openai", scorer=scorer_folder)
        assert "chat" in engine.info.plan[0]

    def test_without_a_second_engine_it_is_refused(self, ollama: Running, opened: Opened):
        with pytest.raises(BadInput, match=r"its chat template to every prompt.*--scorer"):
            opened("openai")

    def test_a_server_that_adds_a_token_of_its_own_is_asked_by_chat_too(
        self, server: Running, opened: Opened, scorer_folder: str
    ):
        server.manners.takes_ids, server.manners.adds_tokens = False, 1
        server.manners.chats = True
        engine = opened("openai", scorer=scorer_folder)
        assert "chat" in engine.info.plan[0]


async def _realigned(engine: Engine, *, n: int, sampling: Sampling | None = None) -> Realigned:
    settings = Settings(
        lam=2.0, search=BestOfN(n=n), max_tokens=12, sampling=sampling or Sampling()
    )
    realigner = Realigner(engine, settings)
    return await realigner.realign(
        [Message("user", "Name a way to relax.")], [Preference("No games.")]
    )


def _fact(engine: Engine, question: str) -> str:
    [answer] = [fact.answer for fact in engine.info.facts if fact.question == question]
    return answer


@pytest.mark.parametrize("many", [True, False])
async def test_a_streamed_chat_is_what_a_call_gives(
    many: bool, chatting: Running, opened: Opened, scorer_folder: str
):
    chatting.manners.many = many
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    chatting.manners.says = {2: REFUSAL}
    asked = _asked(engine)
    [called] = await engine.sample([asked])
    before = len(chatting.seen.asked(CHAT))
    partials = {slot: Partial() for slot in asked.slots}
    parts = 0
    async with aclosing(engine.stream(asked)) as increments:
        async for increment in increments:
            partials[increment.slot].take(increment)
            parts += 1
    assert len(chatting.seen.asked(CHAT)) - before == (1 if many else 3)
    got = [partial.response(asked, "length") for partial in partials.values()]
    assert [(one.tokens, one.finish, one.absent) for one in got] == [
        (one.tokens, one.finish, one.absent) for one in called
    ]
    assert parts > 3


async def test_a_deadline_keeps_the_text_that_a_chat_server_has_sent(
    chatting: Running, opened: Opened, scorer_folder: str
):
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    asked = _asked(engine)
    [called] = await engine.sample([asked])
    chatting.manners.events = 6
    view = RequestEngine(engine, deadline=math.inf)

    def time_is_up(news: NewTokens) -> None:
        view.deadline = time.monotonic()

    view.tell = time_is_up
    [drawn] = await view.sample([asked])
    begun = [(one, want) for one, want in zip(drawn, called, strict=True) if not one.absent]
    assert begun
    for one, want in begun:
        text = engine.tokenizer.decode(one.tokens)
        assert text
        assert engine.tokenizer.decode(want.tokens).startswith(text)


async def test_a_chat_server_that_refuses_to_stream_is_asked_whole(
    chatting: Running, opened: Opened, scorer_folder: str
):
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    chatting.manners.streams = False
    asked = _asked(engine)
    [called] = await engine.sample([asked])
    before = len(chatting.seen.asked(CHAT))
    for posts in (2, 3):
        [drawn] = await RequestEngine(engine, deadline=math.inf).sample([asked])
        assert [one.tokens for one in drawn] == [one.tokens for one in called]
        assert len(chatting.seen.asked(CHAT)) - before == posts


async def test_a_chat_that_breaks_off_is_an_error(
    chatting: Running, opened: Opened, scorer_folder: str
):
    engine = opened("openai", tokenizer=None, scorer=scorer_folder)
    chatting.manners.events, chatting.manners.then = 4, "ends"
    with pytest.raises(EngineError, match="broke off in the middle"):
        await RequestEngine(engine, deadline=math.inf).sample([_asked(engine)])


def _asked(engine: Engine) -> SampleRequest:
    return SampleRequest(
        prompt=engine.tokenizer.render([Message("user", "How?")]),
        slots=(0, 1, 2),
        stream=Stream(3),
        sampling=Sampling(),
        max_tokens=12,
    )
