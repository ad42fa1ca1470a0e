"""The page's mathematics and its words, in Node.js, against the package's own."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from typing import Any

import pytest

from preftilt.api import Realigner, Settings, run_sync
from preftilt.messages import Message
from preftilt.path import PathSegment, upper_envelope
from preftilt.recording import beside
from preftilt.result import Realigned
from preftilt.reward import Reward, ScoreLine, contenders, order
from preftilt.search import BestOfN, Greedy, Search
from preftilt.server.wire import AlternativesBody, ChatBody, InfluenceBody, check_body
from preftilt.testing.toy import ToyEngine, ToyTokenizer
from preftilt.types import CutOff, Preference
from tests.core.test_thoughts import Thinking
from tests.page.javascript import run_js
from tests.server.serving import Running

STATE: dict[str, Any] = {
    "model": "toy",
    "question": "How do I study\nmaths & “physics” — it's 100 % #hard? \\ $HOME 🦉",
    "preferences": [
        {"text": "I don't like games; a=b&c", "strength": 3.5},
        {"text": 'Say "no" to flights', "strength": -2},
    ],
    "search": "dvts",
    "n": 16,
    "subtrees": 2,
    "width": 3,
    "seed": 7,
    "topP": 0.8,
    "maxTokens": 20,
    "reduction": "mean",
    "cutOff": "as-is",
}
ONE = STATE | {"preferences": STATE["preferences"][:1], "search": "best-of-n", "n": 3}


def lines_of_all_kinds() -> list[list[ScoreLine]]:
    """Random planes: rough values bring ties, crossings in one point, equal lines and impossible ones."""
    drawn = random.Random(5)
    found = []
    for _ in range(300):
        digits = drawn.choice((0, 1, 12))
        lines = [
            ScoreLine(round(drawn.uniform(-9, 0), digits), round(drawn.uniform(-3, 3), digits))
            for _ in range(drawn.randrange(1, 12))
        ]
        if drawn.random() < 0.3:
            lines[drawn.randrange(len(lines))] = ScoreLine(-math.inf, 0.0)
        found.append(lines)
    return found


@pytest.mark.parametrize("start", [0.0, -4.0])
def test_the_envelope_is_that_of_the_package(start: float) -> None:
    planes = lines_of_all_kinds()
    said = run_js(
        """
        const { upperEnvelope } = await load("score");
        const read = ([q, g]) => ({ question_logprob: q ?? -Infinity, preference_gain: g });
        return data.planes.map((lines) => upperEnvelope(lines.map(read), data.start));
        """,
        {
            "planes": [
                [
                    [
                        one.question_logprob if math.isfinite(one.at(0)) else None,
                        one.preference_gain,
                    ]
                    for one in lines
                ]
                for lines in planes
            ],
            "start": start,
        },
    )
    found = [
        tuple(
            PathSegment(
                one["start"],
                float(one["stop"].replace("Infinity", "inf"))
                if isinstance(one["stop"], str)
                else one["stop"],
                one["candidate"],
            )
            for one in path
        )
        for path in said
    ]
    assert found == [upper_envelope(lines, start) for lines in planes]
    assert sum(len(path) > 2 for path in found) > 50


def realigned(
    reward: Reward,
    *wishes: Preference,
    search: Search | None = None,
    tokenizer: ToyTokenizer | None = None,
) -> Realigned:
    search = search or BestOfN(n=12)
    settings = Settings(lam=5, search=search, max_tokens=8, reward=reward, seed=3)
    work = Realigner(ToyEngine(tokenizer=tokenizer or ToyTokenizer()), settings).realign(
        [Message("user", "How?")], wishes
    )
    return run_sync(work)


@pytest.mark.parametrize(
    "reward",
    [
        Reward(),
        Reward(reduction="mean", cut_off="as-is"),
        Reward(gamma=0.9, eos="exclude", reduction="mean"),
        Reward(reduction="centred"),
        Reward(gamma=0.9, eos="exclude", reduction="centred", cut_off="as-is"),
    ],
)
@pytest.mark.parametrize(
    "wishes", [[Preference("No games.")], [Preference("No games.", 4), Preference("Sleep.", -7)]]
)
@pytest.mark.parametrize("tokenizer", [ToyTokenizer(), Thinking()], ids=["plain", "thinking"])
def test_scores_and_path_from_token_log_probs_are_those_of_the_record(
    reward: Reward, wishes: list[Preference], tokenizer: ToyTokenizer
) -> None:
    result = realigned(reward, *wishes, tokenizer=tokenizer)
    record = result.to_json() | {"pieces": [list(one) for one in result.pieces]}
    said = run_js(
        """
        const score = await load("score");
        const { asStrengths, lineOf, meanMove, pathOf, readCandidates, scoreAt, shareOfLambda, tokenGains } = score;
        const { contenders } = await load("rank");
        const strengths = asStrengths(data.settings.preferences.map((one) => one.strength));
        const candidates = readCandidates(data);
        const lines = candidates.map((one) => lineOf(one, strengths.ratios));
        const able = contenders(candidates, data.settings.cut_off);
        const path = pathOf(candidates, lines, Math.min(0, strengths.lambda), data.settings.cut_off);
        return {
          lambda: strengths.lambda,
          scores: candidates.map((one, i) => [one.slot, scoreAt(lines[i], strengths.lambda)]),
          path: path.map((one) => [one.start, candidates[one.candidate].slot]),
          gains: tokenGains(candidates[0], strengths.ratios),
          copies: candidates.reduce((sum, one) => sum + one.copies, 0),
          share: shareOfLambda(able.map((i) => lines[i]), able.map((i) => candidates[i].copies), strengths.lambda),
          move: meanMove(candidates[0], strengths.ratios),
        };
        """,
        record,
    )
    scores = {one.slot: one.score for one in result.candidates}
    assert said["lambda"] == result.lam
    assert said["copies"] == len(result.candidates)
    assert [float(score) for _, score in said["scores"]] == pytest.approx(
        [scores[slot] for slot, _ in said["scores"]]
    )
    texts = {one.slot: one.text for one in result.candidates}
    assert [texts[slot] for _, slot in said["path"]] == [
        result.candidates[one.candidate].text for one in result.path
    ]
    assert [start for start, _ in said["path"]] == pytest.approx([one.start for one in result.path])
    assert said["gains"] == pytest.approx(
        list(result.candidates[0].gains[result.candidates[0].thoughts :])
    )
    assert result.effect is not None
    assert said["share"] == pytest.approx(result.effect.share)
    assert said["move"] == pytest.approx(result.effect.difference)


@pytest.mark.parametrize("rule", ["last", "as-is"])
def test_the_order_is_that_of_the_package(rule: CutOff) -> None:
    drawn = random.Random(6)
    pools = [
        [(drawn.choice([-2.0, -1.0, None]), drawn.random() < 0.4) for _ in range(6)]
        for _ in range(200)
    ]
    said = run_js(
        """
        const { contenders, order } = await load("rank");
        return data.pools.map((pool) => {
          const candidates = pool.map(([, cut]) => ({ finish: cut ? "length" : "eos" }));
          const scores = pool.map(([score]) => score ?? -Infinity);
          return [order(candidates, scores, data.rule), contenders(candidates, data.rule)];
        });
        """,
        {"pools": pools, "rule": rule},
    )
    for pool, (ranked, able) in zip(pools, said, strict=True):
        cut_off = [cut for _, cut in pool]
        scores = [-math.inf if score is None else score for score, _ in pool]
        assert ranked == order(scores, cut_off, rule)
        assert [i in able for i in range(len(pool))] == contenders(cut_off, rule)


@pytest.mark.parametrize("wish", [[Preference("No games.")], [Preference("No games.", -3)]])
def test_the_model_s_own_answer_stands_on_the_scale_of_the_others(wish: list[Preference]) -> None:
    reward = Reward(reduction="centred")
    result, other = realigned(reward, *wish), realigned(reward, *wish, search=Greedy())
    records = [
        one.to_json() | {"pieces": [list(each) for each in one.pieces]} for one in (result, other)
    ]
    question, gain = run_js(
        """
        const { readCandidates } = await load("score");
        const [alone] = readCandidates(data[1], data[0]);
        return [alone.question, alone.gains[0]];
        """,
        records,
    )
    [placed] = beside(result, other).candidates
    assert (question, gain) == pytest.approx((placed.question_logprob, placed.preference_gain))
    assert (question, gain) != (0.0, 0.0)
    assert [one.question_logprob for one in other.candidates] == [0.0]


@pytest.mark.parametrize("state", [STATE, ONE, ONE | {"maxTokens": None, "model": ""}])
def test_a_link_tells_the_whole_state(state: dict[str, Any]) -> None:
    back = run_js(
        """
        const { fromFragment, toFragment } = await load("request");
        return fromFragment("#" + toFragment(data));
        """,
        state,
    )
    idle = {"n"} if state["search"] == "dvts" else {"subtrees", "width"}
    assert {k: v for k, v in back.items() if k not in idle} == {
        k: v for k, v in state.items() if k not in idle
    }


def test_a_link_with_nonsense_falls_back_to_the_example() -> None:
    said = run_js(
        """
        const { fromFragment } = await load("request");
        return [fromFragment("#n=3"), fromFragment("#question=x&preference=y&lambda=&n=-2&seed=1e400&top_p=2")];
        """
    )
    assert said[0] is None
    assert said[1]["preferences"] == [{"text": "y", "strength": 3}]
    assert (said[1]["n"], said[1]["seed"], said[1]["search"]) == (16, 1, "best-of-n")
    assert said[1]["topP"] == 0.9
    assert (said[1]["reduction"], said[1]["cutOff"]) == (None, None)


@pytest.mark.parametrize("state", [STATE, ONE])
def test_bodies_are_what_the_server_reads(state: dict[str, Any]) -> None:
    body, singles, alternatives, influence = run_js(
        """
        const { toAlternativesBody, toBody, toInfluenceBody, toSingleBody } = await load("request");
        const singles = ["sampled", "guided", "alone"].map((manner) => toSingleBody(data, manner, [5, 7]));
        return [toBody(data, "toy"), singles, toAlternativesBody(data, [5], 7), toInfluenceBody(data, "Read.")];
        """,
        state,
    )
    read = check_body(body, ChatBody)
    knob = read.preftilt
    assert knob is not None
    assert read.top_p == state["topP"]
    assert [
        (one.text, knob.model_dump()["lam"] if one.strength is None else one.strength)
        for one in knob.wishes
    ] == [(one["text"], one["strength"]) for one in state["preferences"]]
    for single in singles:
        read = check_body(single, ChatBody)
        assert read.preftilt is not None
        assert read.preftilt.prefix == [5, 7]
    read = check_body(alternatives, AlternativesBody)
    assert read.preftilt is not None
    assert (read.preftilt.prefix, read.token) == ([5], 7)
    assert check_body(influence, InfluenceBody).response == "Read."


@pytest.mark.parametrize("state", [STATE, ONE])
def test_the_copied_curl_command_answers(server: Running, state: dict[str, Any]) -> None:
    command = run_js(
        'return (await load("request")).asCurl(data[0], "toy", data[1] + "/", false);',
        [state, server.url],
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=60)
    assert "choices" in json.loads(done.stdout), done.stdout


@pytest.mark.parametrize("state", [STATE, ONE])
def test_the_copied_python_code_answers_as_curl_does(
    server: Running, state: dict[str, Any], tmp_path: Any
) -> None:
    code, body = run_js(
        """
        const { asPython, toBody } = await load("request");
        return [asPython(data[0], "toy", data[1] + "/", false), toBody(data[0], "toy")];
        """,
        [state, server.url],
    )
    script = tmp_path / "ask.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, encoding="utf-8", check=True, timeout=60
    )
    with server.http as http:
        said = http.post("/v1/chat/completions", json=body).json()
    assert done.stdout == said["choices"][0]["message"]["content"] + "\n"


def test_code_for_a_server_with_a_key_takes_it_from_the_environment() -> None:
    curl, python = run_js(
        """
        const { asCurl, asPython } = await load("request");
        return [asCurl, asPython].map((say) => say(data, "toy", "http://localhost:1/", true));
        """,
        ONE,
    )
    assert '-H "Authorization: Bearer $PREFTILT_KEY"' in curl
    assert 'os.environ["PREFTILT_KEY"]' in python


def test_events_may_be_cut_anywhere_and_comments_are_passed_over() -> None:
    whole = ': working\n\ndata: {"a": 1}\n\n: x\n\ndata: [DONE]\n\n'
    for size in (1, 3, 7, len(whole)):
        pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
        said = run_js(
            """
            const { events } = await load("server");
            async function* all() { yield* data; }
            const found = [];
            for await (const one of events(all())) found.push(one);
            return found;
            """,
            pieces,
        )
        assert said == ['{"a": 1}', "[DONE]"]


def test_the_slider_reaches_every_strength_and_finds_it_again() -> None:
    said = run_js(
        """
        const { lambdaAt, placeOf } = await load("words");
        return [0, 0.2, 0.5, 0.8, 1].map((place) => [place, lambdaAt(place), placeOf(lambdaAt(place))]);
        """
    )
    lambdas = [lam for _, lam, _ in said]
    assert (lambdas[0], lambdas[-1]) == (0, 100)
    assert lambdas == sorted(lambdas)
    assert [back for *_, back in said] == pytest.approx([place for place, *_ in said], abs=1e-3)
