"""``guidance_scale`` and ``negative_prompt``: l_negative + scale · (l_positive − l_negative), token for token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from preftilt.api import Settings
from preftilt.messages import Message
from preftilt.search import BestOfN
from preftilt.streams import draw, position_key, stream_key
from preftilt.testing.toy import ToyEngine
from preftilt.types import Stream, Tokens
from tests.server.serving import QUESTION, Running, ask, serving

PREFERENCE, NEGATIVE = "No games.", "Play games."
USER = Message("user", QUESTION[0]["content"])


def system(text: str) -> Message:
    return Message("system", text)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    settings = Settings(search=BestOfN(n=2), max_tokens=12)
    with serving(settings=settings, presets={}) as running:
        yield running


def expected(
    positive: Sequence[Message], negative: Sequence[Message], scale: float, seed: int | None
) -> Tokens:
    """The tokens by the formula, drawn with the seed; greedy without one."""
    engine = ToyEngine()
    prompts = [engine.tokenizer.render(list(messages)) for messages in (positive, negative)]
    key = stream_key(Stream(seed or 0), 0)
    tokens: Tokens = ()
    while len(tokens) < 12 and tokens[-1:] != (0,):
        l_positive, l_negative = (engine.next_logprobs(prompt + tokens) for prompt in prompts)
        guided = l_negative + scale * (l_positive - l_negative)
        position = position_key(key, len(tokens))
        tokens += (int(np.argmax(guided)) if seed is None else draw(guided, position),)
    return tokens


CASES: dict[str, tuple[dict[str, Any], list[Message], list[Message]]] = {
    "a preference": (
        {"preftilt": {"preference": PREFERENCE}},
        [system(PREFERENCE), USER],
        [USER],
    ),
    "a preference against another": (
        {"preftilt": {"preference": PREFERENCE}, "negative_prompt": NEGATIVE},
        [system(PREFERENCE), USER],
        [system(NEGATIVE), USER],
    ),
    "a system message": (
        {"messages": [{"role": "system", "content": PREFERENCE}, *QUESTION]},
        [system(PREFERENCE), USER],
        [USER],
    ),
    "a system message against another": (
        {
            "messages": [{"role": "system", "content": PREFERENCE}, *QUESTION],
            "negative_prompt": NEGATIVE,
        },
        [system(PREFERENCE), USER],
        [system(NEGATIVE), USER],
    ),
    "a question against a system message": (
        {"negative_prompt": NEGATIVE},
        [USER],
        [system(NEGATIVE), USER],
    ),
}


@pytest.mark.parametrize("seed", [None, 5])
@pytest.mark.parametrize("scale", [-1.5, 0, 0.5, 2.5])
@pytest.mark.parametrize("name", CASES)
def test_every_token_follows_the_formula(
    running: Running, name: str, scale: float, seed: int | None
):
    fields, positive, negative = CASES[name]
    fields: dict[str, Any] = {"preftilt": None} | fields | {"guidance_scale": scale}
    sampling = {"temperature": 0} if seed is None else {"temperature": 1, "seed": seed}
    knob = (fields["preftilt"] or {}) | {"details": True}
    reply = ask(running, **fields | sampling | {"preftilt": knob})
    assert reply.status_code == 200, reply.text
    [candidate] = reply.json()["preftilt"]["candidates"]
    assert tuple(candidate["tokens"]) == expected(positive, negative, scale, seed)


def test_a_scale_of_1_is_off_whatever_the_negative_prompt(running: Running):
    fields = {"temperature": 0, "preftilt": None}
    plain = ask(running, **fields).json()["choices"]
    for off in ({"guidance_scale": 1}, {"guidance_scale": 1.0, "negative_prompt": NEGATIVE}):
        assert ask(running, **fields | off).json()["choices"] == plain
    assert ask(running, **fields | {"negative_prompt": " "}).json()["choices"] == plain
    knob = {"preference": PREFERENCE, "lambda": 3, "details": True}
    record = ask(running, preftilt=knob, guidance_scale=1).json()["preftilt"]
    assert (record["settings"]["lambda"], record["settings"]["search"]["name"]) == (3, "best-of-n")


def test_it_may_say_again_what_the_object_says(running: Running):
    knob = {"preference": PREFERENCE, "lambda": 2, "against": NEGATIVE, "details": True}
    guided = {"name": "cfg", "n": 2}
    same = {"guidance_scale": 2.0, "negative_prompt": NEGATIVE, "seed": 3}
    twice = ask(running, preftilt=knob | {"search": guided}, **same).json()
    once = ask(running, preftilt=knob | {"search": guided}, seed=3).json()
    assert twice["preftilt"]["candidates"] == once["preftilt"]["candidates"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"guidance_scale": 101}, "guidance_scale", "100"),
        ({"guidance_scale": -101}, "guidance_scale", "100"),
        ({"guidance_scale": "2"}, "guidance_scale", "number"),
        ({"negative_prompt": NEGATIVE}, "negative_prompt", "guidance_scale"),
        ({"guidance_scale": 2, "preftilt": None}, "guidance_scale", "nothing to guide by"),
        (
            {"guidance_scale": 2, "preftilt": {"preference": "x", "lambda": 3}},
            "preftilt.lambda",
            "differ",
        ),
        (
            {"guidance_scale": 2, "preftilt": {"preference": {"text": "x", "lambda": 3}}},
            "guidance_scale",
            "strength 3",
        ),
        (
            {
                "guidance_scale": 2,
                "negative_prompt": NEGATIVE,
                "preftilt": {"preference": "x", "against": "y"},
            },
            "preftilt.against",
            "differ",
        ),
        (
            {"guidance_scale": 2, "preftilt": {"preference": "x", "search": "best-of-n"}},
            "guidance_scale",
            "'best-of-n' does not",
        ),
        ({"guidance_scale": 2, "model": "toy:bon-4"}, "guidance_scale", "'best-of-n' does not"),
        ({"guidance_scale": 2, "model": "toy:l4"}, "preftilt.lambda", "differ"),
    ],
    ids=str,
)
def test_what_is_out_of_range_or_contradicts_the_object_is_a_400(
    running: Running, fields: dict[str, Any], param: str, words: str
):
    reply = ask(running, **fields)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]


def test_a_raw_text_takes_the_slider_at_rest_alone(running: Running):
    body = {"model": "toy", "prompt": "read", "max_tokens": 2, "negative_prompt": ""}
    with running.http as http:
        statuses = [
            http.post("/v1/completions", json=body | {"guidance_scale": scale}).status_code
            for scale in (1, 2)
        ]
    assert statuses == [200, 400]


def test_a_request_for_several_answers_that_names_no_search_draws_so_many() -> None:
    """OpenAI's ``n``; one guided answer is greedy, several are drawn."""
    with serving(settings=Settings(max_tokens=12), presets={}) as running:
        said = ask(running, n=3, preftilt={"preference": PREFERENCE, "details": True}).json()
        alone = ask(running, preftilt={"preference": PREFERENCE, "details": True}).json()
    assert [choice["index"] for choice in said["choices"]] == [0, 1, 2]
    assert len({choice["message"]["content"] for choice in said["choices"]}) > 1
    searches = [reply["preftilt"]["settings"]["search"] for reply in (said, alone)]
    assert [(search["name"], search["n"], search["greedy"]) for search in searches] == [
        ("cfg", 3, False),
        ("cfg", 1, True),
    ]
