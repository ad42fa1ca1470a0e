"""``preftilt.method`` in a body: how the answer is picked, with the judges that the operator opened and no others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from preftilt.rivals import Judges
from preftilt.rivals.reward_models import Pair, open_reward_model
from tests.rivals.conftest import toy
from tests.server.serving import WISH, Running, ask, serving


def longest(pairs: Sequence[Pair]) -> list[float]:
    return [float(len(response)) for _, response in pairs]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    judges = Judges(reward_model=open_reward_model("tests.server.test_method:longest"))
    with serving(toy(), judges=judges) as running:
        yield running


def test_a_method_picks_the_answer(running: Running) -> None:
    method = {"method": "reward-model", "details": True}
    found = ask(running, preftilt=WISH | method).json()
    record = found["preftilt"]
    assert record["method"]["name"] == "reward-model"
    ended = [one for one in record["candidates"] if one["finish"] == "eos"]
    scores = [one["method"]["score"] for one in ended]
    assert scores == sorted(scores, reverse=True)
    assert found["choices"][0]["message"]["content"] == record["candidates"][0]["text"]


def test_the_model_itself_judges_unbound_by_the_request_s_stop_strings(running: Running) -> None:
    method = {"name": "generative-reward-model", "judge_mode": "cot", "judge_tokens": 30}
    bodies = [WISH | {"method": method, "details": True}, WISH | {"details": True}]
    judged, plain = (ask(running, preftilt=body, seed=3, stop=["."]).json() for body in bodies)
    assert judged["preftilt"]["usage"]["method"]["sampled"] > 4
    tokens = {one["slot"]: one["tokens"] for one in plain["preftilt"]["candidates"]}
    assert {one["slot"]: one["tokens"] for one in judged["preftilt"]["candidates"]} == tokens


@pytest.mark.parametrize(
    ("knob", "words"),
    [
        ({"method": "best"}, "method"),
        ({"method": {"name": "random", "answers": "letter"}}, "does not apply to the method"),
        ({"method": "random", "search": "greedy"}, "picks among candidates"),
        ({"method": {"name": "reward-model", "model": "os:system"}}, "unknown field"),
    ],
)
def test_what_makes_no_sense_is_a_400(
    knob: dict[str, object], words: str, running: Running
) -> None:
    said = ask(running, preftilt=WISH | knob)
    assert said.status_code == 400
    assert words in said.json()["error"]["message"]


def test_a_server_without_a_reward_model_says_so() -> None:
    with serving(toy()) as running:
        said = ask(running, preftilt=WISH | {"method": "reward-model"})
    assert said.status_code == 400
    assert "reward model" in said.json()["error"]["message"]
