"""The moment that templates with a date show: fixed, the request's, or that of opening; and what shows of it."""

from __future__ import annotations

from datetime import timedelta

from preftilt.engines.chat_template import HfChatTokenizer
from preftilt.engines.replicas.replica import identify
from preftilt.messages import Message
from preftilt.prompt import Moment, rendered_at
from preftilt.testing.toy import ToyEngine
from tests.cli.toys import Dated
from tests.prompt.test_chat import NOON, Open, Read

QUESTION = [Message("user", "Name some ways to study maths.")]
LATER = NOON + timedelta(days=1)


def test_a_request_sees_its_own_moment_unless_one_was_fixed(chat: Open, read: Read) -> None:
    with rendered_at(LATER):
        assert "Now: 18 May 2030 12:00" in read(chat("clock").render(QUESTION))
        assert "Now: 17 May 2030 12:00" in read(chat("clock", now=NOON).render(QUESTION))


def test_what_shows_of_the_moment_is_known(chat: Open) -> None:
    assert chat("clock", now=NOON).moment == Moment(NOON, ("17 May 2030 12:00:00.000000",))
    with rendered_at(LATER):
        assert chat("clock").moment == Moment(LATER, ("18 May 2030 12:00:00.000000",))
    assert chat("bare", now=NOON).moment is None
    assert chat("date_string", now=NOON).moment == Moment(NOON, ("17 May 2030",))
    assert chat("date_string").moment is None
    assert HfChatTokenizer(chat(None)._tokenizer).moment is None


async def test_replicas_that_were_opened_on_two_days_are_the_same_model() -> None:
    first, second = (
        ToyEngine(tokenizer=Dated(opened=day)) for day in (NOON, NOON + timedelta(days=1))
    )
    assert first.tokenizer.render(QUESTION) != second.tokenizer.render(QUESTION)
    assert (await identify(first)).difference(await identify(second)) is None
