"""The official ``openai`` client works unchanged, with the knob in ``extra_body`` or in the model's name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import openai
import pytest
from jsonschema import Draft202012Validator

from preftilt.api import Realigner, Settings, run_sync
from preftilt.engines.base import SampleRequest
from preftilt.messages import Message
from preftilt.records.schemas import schema_text
from preftilt.search import DVTS, BestOfN
from preftilt.server.wire import Knob
from preftilt.testing.toy import ToyEngine
from preftilt.types import Completion, Finish, Preference, Sampling, Stream
from tests.server.serving import QUESTION, WISH, Running, server_config, serving

ASKED = [Message("user", QUESTION[0]["content"])]


def expected(settings: Settings, preference: str = "No games.") -> Any:
    return run_sync(
        Realigner(ToyEngine()).realign(ASKED, [Preference(preference)], settings=settings)
    )


def create(server: Running, **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "model": "toy",
        "messages": QUESTION,
        "extra_body": {"preftilt": WISH},
    }
    with server.client() as client:
        return client.chat.completions.create(**(fields | changes))


def test_the_answer_is_the_one_that_the_library_gives(server: Running) -> None:
    said = create(server)
    whole = expected(server_config().settings)
    assert said.choices[0].message.content == whole.text
    assert said.choices[0].message.role == "assistant"
    assert said.choices[0].finish_reason == "stop"
    assert said.model == "toy"


def test_the_knob_in_the_model_s_name_is_the_knob_in_the_body(server: Running) -> None:
    for name, search, lam in (
        ("toy:bon-6-l2.5", BestOfN(n=6), 2.5),
        ("toy:dvts-2x3-l-1", DVTS(subtrees=2, width=3), -1.0),
        ("toy:l9", BestOfN(n=4), 9.0),
    ):
        said = create(server, model=name, extra_body={"preftilt": WISH | {"details": True}})
        assert said.preftilt["settings"]["lambda"] == lam
        whole = expected(Settings(lam=lam, search=search, max_tokens=24))
        assert said.choices[0].message.content == whole.text


def test_usage_counts_every_token_that_was_spent(server: Running) -> None:
    said = create(server, extra_body={"preftilt": WISH | {"details": True}})
    spent, record = said.usage.model_extra["preftilt"], said.preftilt
    drawn = sum(len(one["tokens"]) for one in record["candidates"])
    assert spent["sampled"] == said.usage.completion_tokens == drawn
    assert spent["scored"] == record["usage"]["scored"]
    assert spent["cached"] == record["usage"]["reused"] == drawn
    assert spent["candidates"] == 4
    read = sum(record["usage"]["prompt"].values()) + sum(record["usage"]["scored"].values())
    assert said.usage.prompt_tokens == read
    assert said.usage.total_tokens == read + drawn


def test_details_are_the_documented_record(server: Running) -> None:
    validator = Draft202012Validator(json.loads(schema_text("realigned")))
    said = create(server, extra_body={"preftilt": WISH | {"details": True}})
    validator.validate(said.preftilt)
    assert said.preftilt["path"]
    assert not hasattr(create(server), "preftilt")


def test_n_choices_are_the_n_best_distinct_candidates(server: Running) -> None:
    said = create(server, n=3, extra_body={"preftilt": WISH | {"n": 8, "details": True}})
    ranked = list(dict.fromkeys(one["text"] for one in said.preftilt["candidates"]))
    assert [one.message.content for one in said.choices] == ranked[:3]
    assert [one.index for one in said.choices] == [0, 1, 2]


def test_n_choices_come_even_if_fewer_are_distinct(server: Running) -> None:
    said = create(server, n=4, temperature=0)
    texts = [one.message.content for one in said.choices]
    assert len(texts) == 4
    assert len(set(texts)) == 1


def test_logprobs_are_those_of_the_prompt_that_the_answer_was_drawn_from(server: Running) -> None:
    said = create(server, logprobs=True, extra_body={"preftilt": WISH | {"details": True}})
    shown = said.choices[0].logprobs.content
    best = said.preftilt["candidates"][0]
    assert best["finish"] == "eos"
    assert [one.logprob for one in shown] == best["logprobs"]["full"][:-1]
    assert "".join(one.token for one in shown) == said.choices[0].message.content


def test_an_answer_ends_at_a_stop_string_and_is_scored_up_to_there(server: Running) -> None:
    said = create(server, stop=["\n", "maths"], extra_body={"preftilt": WISH | {"details": True}})
    text = said.choices[0].message.content
    assert "\n" not in text
    assert "maths" not in text
    assert said.choices[0].finish_reason == "stop"
    for one in said.preftilt["candidates"]:
        pieces = ToyEngine().tokenizer.pieces(tuple(one["tokens"]))
        assert not any(stop in "".join(pieces[:-1]) for stop in ("\n", "maths"))
    at_stops = [one for one in said.preftilt["candidates"] if one["text"].endswith(("\n", "maths"))]
    assert at_stops
    assert {one["finish"] for one in at_stops} == {"stop_string"}


@pytest.mark.parametrize("stop", ["\n", ["\n", "maths"]])
def test_without_eos_an_answer_that_ended_at_a_stop_string_keeps_all_its_tokens(
    stop: Any, server: Running
) -> None:
    knob = WISH | {"details": True, "eos": "exclude"}
    said = create(server, stop=stop, extra_body={"preftilt": knob}, temperature=1.3)
    for one in said.preftilt["candidates"]:
        counted = one["logprobs"]["question"][: -1 if one["finish"] == "eos" else None]
        assert one["question_logprob"] == pytest.approx(sum(counted))
    assert "stop_string" in {one["finish"] for one in said.preftilt["candidates"]}


@pytest.mark.parametrize("stop", ["\n", ".\n"])
def test_one_stop_string_is_the_same_as_that_one_and_another_that_never_comes(
    stop: str, server: Running
) -> None:
    one, two = (create(server, stop=given, n=4) for given in (stop, [stop, "never"]))
    assert [c.message.content for c in one.choices] == [c.message.content for c in two.choices]
    assert one.usage.completion_tokens <= two.usage.completion_tokens


def test_a_cut_off_answer_says_so(server: Running) -> None:
    said = create(server, max_completion_tokens=1)
    assert said.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("content_filter", "content_filter"), ("tool_calls", "tool_calls"), ("unknown", "stop")],
)
def test_a_chat_server_s_own_reason_is_passed_on(
    finish: Finish, reason: str, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = ToyEngine.sample

    async def sample(engine: ToyEngine, requests: Any) -> list[list[Completion]]:
        found = await drawn(engine, requests)
        return [[replace(one, finish=finish) for one in completions] for completions in found]

    monkeypatch.setattr(ToyEngine, "sample", sample)
    said = create(server, extra_body={"preftilt": WISH | {"details": True}})
    assert said.choices[0].finish_reason == reason
    assert {one["finish"] for one in said.preftilt["candidates"]} == {finish}
    assert not any("no candidate ended" in note for note in said.preftilt["notes"])


def test_the_same_seed_gives_the_same_answer_and_no_seed_a_fresh_one() -> None:
    with serving(seeded=False) as server:
        fixed = {create(server, seed=7).choices[0].message.content for _ in range(3)}
        fresh = {
            create(server, extra_body={"preftilt": WISH | {"details": True}}).preftilt["seed"]
            for _ in range(3)
        }
    assert len(fixed) == 1
    assert len(fresh) == 3


def test_several_preferences_have_their_own_strengths(server: Running) -> None:
    wishes = [{"text": "No games.", "lambda": 3}, {"text": "puns", "strength": -1}, "short"]
    said = create(server, extra_body={"preftilt": {"preferences": wishes, "details": True}})
    stated = said.preftilt["settings"]["preferences"]
    assert [one["strength"] for one in stated] == [3, -1, 5]


def test_a_request_without_a_preference_is_the_model_as_it_is(server: Running) -> None:
    said = create(server, extra_body=None, n=2, seed=3)
    alone = run_sync(
        Realigner(ToyEngine()).realign(
            ASKED, [Preference("x")], settings=Settings(search=BestOfN(n=2), max_tokens=24)
        )
    )
    assert len(said.choices) == 2
    assert said.usage.model_extra["preftilt"]["scored"] == {}
    assert said.usage.prompt_tokens == len(alone.prompts["question"])


def test_the_system_message_is_the_preference_where_the_operator_says_so() -> None:
    system = [{"role": "system", "content": "No games."}, *QUESTION]
    with serving(preference_from="system") as server:
        said = create(server, messages=system, extra_body=None)
        assert said.choices[0].message.content == expected(server_config().settings).text
        plain = create(server, model="toy:bon-8-l3", extra_body=None)
        assert plain.usage.model_extra["preftilt"]["candidates"] == 1


def test_a_preset_is_named_by_the_model() -> None:
    presets = {"kind": Knob.model_validate({"preference": "No games.", "lambda": 2, "n": 3})}
    with serving(presets=presets) as server:
        with server.client() as client:
            assert [one.id for one in client.models.list()] == ["toy", "toy:kind"]
            assert client.models.retrieve("toy:bon-2").id == "toy:bon-2"
            for suffixed in _card(client, "toy")["suffixes"]:
                assert client.models.retrieve(suffixed).id == suffixed
            assert "suffixes" not in _card(client, "toy:kind")
        want = expected(Settings(lam=2, search=BestOfN(n=3), max_tokens=24)).text
        for name in ("toy:kind", "kind"):
            assert create(server, model=name, extra_body=None).choices[0].message.content == want


def continued(prompt: str, slot: int, seed: int = 0) -> Completion:
    engine = ToyEngine()
    request = SampleRequest(
        prompt=engine.tokenizer.encode(prompt),
        slots=(slot,),
        stream=Stream(seed),
        sampling=Sampling(),
        max_tokens=24,
    )
    [[completion]] = run_sync(engine.sample([request]))
    return completion


def test_completions_continue_raw_texts(server: Running) -> None:
    with server.client() as client:
        said: Any = client.completions.create(
            model="toy", prompt=["read maths", " play"], n=2, logprobs=0
        )
        [alone] = client.completions.create(model="toy", prompt="read maths").choices
    assert said.object == "text_completion"
    for index, (prompt, choice) in enumerate(
        zip(["read maths"] * 2 + [" play"] * 2, said.choices, strict=True)
    ):
        want = continued(prompt, index)
        assert (choice.index, choice.text) == (index, ToyEngine().tokenizer.decode(want.tokens))
        assert "".join(choice.logprobs.tokens) == choice.text
        ended = want.finish == "eos"
        assert choice.logprobs.token_logprobs == list(want.logprobs[: len(want.tokens) - ended])
    assert alone.text == said.choices[0].text
    assert said.usage.prompt_tokens == 3 + 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra_body": {"preftilt": WISH}}, "use /v1/chat/completions"),
        ({"model": "toy:bon-4"}, "use /v1/chat/completions"),
        ({"prompt": ["read"] * 40, "n": 2}, "80 answers; this server draws 64"),
        ({"prompt": []}, "at least 1"),
        ({"prompt": [3, 4]}, "must be a string"),
    ],
)
def test_completions_refuse_what_has_no_place_there(
    changes: dict[str, Any], words: str, server: Running
) -> None:
    asked: Any = {"model": "toy", "prompt": "read"} | changes
    with server.client() as client, pytest.raises(openai.BadRequestError, match=words):
        client.completions.create(**asked)


def test_parts_of_text_and_the_developer_role_are_read(server: Running) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "How?"}]},
    ]
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"}]
    one, two = (create(server, messages=given) for given in (messages, plain))
    assert one.choices[0].message.content == two.choices[0].message.content


def test_the_client_gets_its_own_errors(server: Running) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        create(server, model="nobody")
    assert missing.value.code == "model_not_found"
    assert missing.value.request_id
    with pytest.raises(openai.BadRequestError) as bad:
        create(server, frequency_penalty=0.5)
    assert bad.value.param == "frequency_penalty"


def _card(client: openai.OpenAI, model: str) -> dict[str, Any]:
    """What the list of models says of the knob."""
    more = client.models.retrieve(model).model_extra
    assert more is not None
    return more["preftilt"]
