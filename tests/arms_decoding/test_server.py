"""Reward models through the server, a preference vector a request; on the toy model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from preftilt.api import Settings
from preftilt.cli.options import ModelFlags
from preftilt.cli.serve import NameFlags, _server_config
from preftilt.search import ArmGuided, BestOfN
from preftilt.settings import ArmSettings
from tests.arms_decoding.toys import by, realign, toy
from tests.server.serving import QUESTION, WISH, Running, serving

MIX = {"arm": "both", "alpha": {"help": 0.7, "safe": 0.3}}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with serving(toy()) as running:
        yield running


def post(server: Running, knob: dict[str, Any], **more: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": "toy", "messages": QUESTION, "preftilt": {"details": True, **knob}, **more}
    with server.http as http:
        answer = http.post("/v1/chat/completions", json=body)
    return answer.status_code, answer.json()


def test_a_request_names_a_reward_model_and_its_preference_vector(server: Running):
    status, said = post(server, {**MIX, "search": "arm", "arm_weight": 1.5})
    assert status == 200, said
    record = said["preftilt"]
    assert record["views"][1]["reader"]["alpha"] == MIX["alpha"]
    assert record["views"][1]["weight"] == 1.5
    assert said["choices"][0]["message"]["content"].strip() == record["text"].strip()


def test_the_list_of_models_tells_the_reward_models_and_their_objectives(server: Running):
    with server.http as http:
        [card] = http.get("/v1/models").json()["data"]
    arms = {"helpful": ["help"], "safer": ["safe"], "both": ["help", "safe"], "even": ["help"]}
    assert card["preftilt"]["arms"] == arms


def test_requests_of_different_mixes_do_not_disturb_each_other(server: Running):
    texts = {}
    for alpha in ({"help": 1.0, "safe": 0.0}, {"help": 0.0, "safe": 1.0}):
        knob = {"arm": "both", "alpha": alpha, "search": {"name": "arm", "n": 3}}
        status, said = post(server, knob, seed=3)
        assert status == 200, said
        again = post(server, knob, seed=3)[1]
        assert again["preftilt"]["text"] == said["preftilt"]["text"]
        texts[str(alpha)] = [one["tokens"] for one in said["preftilt"]["candidates"]]
    assert len({str(one) for one in texts.values()}) == 2


def test_a_reward_model_reads_beside_a_preference(server: Running):
    status, said = post(server, {**WISH, "arm": ["helpful", "safer"], "arm_weight": {"safer": 2}})
    assert status == 200, said
    weights = {one["name"]: one["weight"] for one in said["preftilt"]["views"]}
    assert weights == {"question": -4.0, "full": 5.0, "arm:helpful": 1.0, "arm:safer": 2.0}


def test_streamed_answers_are_drawn_with_it_too(server: Running):
    with server.client() as client:
        parts = client.chat.completions.create(
            model="toy",
            messages=[{"role": "user", "content": "play maths"}],
            seed=0,
            max_tokens=10,
            stream=True,
            extra_body={"preftilt": {**MIX, "search": "arm"}},
        )
        text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    arms = by("both", alpha="help=0.7,safe=0.3")
    settings = Settings(search=ArmGuided(), arms=arms, max_tokens=10)
    expected = asyncio.run(realign(settings))
    assert text == expected.text


def test_the_cost_of_a_request_counts_the_views_of_reward_models(server: Running):
    body = {"model": "toy", "messages": QUESTION, "preftilt": {**WISH, **MIX, "n": 2}}
    with server.http as http:
        said = http.post("/v1/preftilt/cost", json=body).json()
    assert said["prompt"].keys() == {"question", "full", "arm:both"}
    assert said["at_most"]["scored"] == 2 * said["at_most"]["sampled"]


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ({"arm": "nobody"}, "no reward model 'nobody' open; it has helpful, safer, both, even"),
        ({"arm": "both", "alpha": {"help": 0.7}}, "alpha leaves out safe"),
        ({"arm": "both", "alpha": {"help": 0.7, "safe": 0.7}}, "must sum to 1"),
        ({"arm": "both", "alpha": {"help=1,x": 1}}, "cannot be the name of an objective"),
        ({"arm": "both", "alpha": {"help": "much"}}, "alpha of help must be a number"),
        ({"alpha": {"help": 1}}, "none is named"),
        ({"arm_weight": 2}, "none is named"),
        ({"arm": "helpful", "arm_weight": "x"}, "arm_weight"),
    ],
)
def test_what_cannot_be_asked_is_a_400_that_says_why(
    knob: dict[str, Any], message: str, server: Running
):
    status, said = post(server, knob)
    assert status == 400
    assert message in said["error"]["message"]


def test_defaults_that_are_about_reward_models_turn_them_all_on(tmp_path: Any):
    model = ModelFlags(options={"arms": [f"a={tmp_path}", f"b={tmp_path}"]})

    def arms(**flags: Any) -> ArmSettings:
        return _server_config(flags, NameFlags(), {}, model).settings.arms

    assert arms() == ArmSettings()
    assert arms(search="uniarm-recon").names == ("a", "b")
    mixed = arms(alpha="x=1", arm_weight=["2"])
    assert mixed == ArmSettings(names=("a", "b"), alpha="x=1", weight=2.0)


def test_a_request_may_turn_the_servers_default_off():
    settings = Settings(lam=5.0, search=BestOfN(n=2), arms=by("helpful"), max_tokens=8)
    with serving(toy(), settings=settings) as running:
        _, read = post(running, WISH)
        _, bare = post(running, {**WISH, "arm": []})
        plain_status, plain = post(running, {"details": False, "arm": []})
    assert [one["name"] for one in read["preftilt"]["views"]][-1] == "arm:helpful"
    assert [one["name"] for one in bare["preftilt"]["views"]] == ["question", "full"]
    assert plain_status == 200
    assert "preftilt" not in plain
