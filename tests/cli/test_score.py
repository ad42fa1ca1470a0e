"""``preftilt score`` on a toy engine: given responses under several λ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Cli, Opener, row

Write = Callable[..., Path]
RESPONSES = ["read maths.", "play points", "read maths.", "draw"]


def scored(cli: Cli, source: Path, *flags: object) -> dict[str, Any]:
    said = cli("score", source, *flags)
    assert said.code == 0
    [line] = said.out.splitlines()
    return json.loads(line)


def test_every_response_is_scored_and_nothing_drawn(cli: Cli, rows: Write, opener: Opener) -> None:
    record = scored(cli, rows(row(responses=RESPONSES)))
    by_slot = {one["slot"]: one["text"] for one in record["candidates"]}
    assert [by_slot[i] for i in range(4)] == RESPONSES
    assert record["settings"]["search"] == {"name": "given"}
    assert opener.engine.inner.counts["sampled"] == 0


def test_one_response_may_stand_alone(cli: Cli, rows: Write) -> None:
    assert len(scored(cli, rows(row(response="draw")))["candidates"]) == 1


@pytest.mark.parametrize(
    "flags",
    [
        ("--lambda", "1,3,20"),
        ("--lambda", "1", "--lambda", "3, 20"),
        ("--lambda", "1,3,20", "--reduction", "centred"),
    ],
)
def test_the_table_has_every_lambda_the_records_own_first(
    flags: tuple[str, ...], cli: Cli, rows: Write
) -> None:
    record = scored(cli, rows(row(responses=RESPONSES)), *flags)
    assert [one["lambda"] for one in record["scores"]] == [1, 3, 20]
    assert record["settings"]["lambda"] == 1
    for one in record["scores"]:
        expected = [
            c["question_logprob"] + one["lambda"] * c["preference_gain"]
            for c in record["candidates"]
        ]
        np.testing.assert_allclose(one["scores"], expected, rtol=1e-9, atol=1e-12)
        assert one["scores"][one["candidate"]] == max(one["scores"])
    assert record["scores"][0]["scores"] == [one["score"] for one in record["candidates"]]


def test_a_table_entry_is_what_scoring_with_that_lambda_gives(cli: Cli, rows: Write) -> None:
    source = rows(row(responses=RESPONSES))
    table = scored(cli, source, "--lambda", "5,0")["scores"][1]["scores"]
    alone = [one["score"] for one in scored(cli, source, "--lambda", "0")["candidates"]]
    np.testing.assert_allclose(sorted(table), sorted(alone), rtol=1e-12)


def test_a_preference_with_its_own_strength_keeps_it(cli: Cli, rows: Write) -> None:
    own = [{"text": "x", "strength": 4}, "y"]
    source = rows({"question": "Q?", "preferences": own, "responses": RESPONSES})
    record = scored(cli, source, "--lambda", "2,9")
    for one in record["scores"]:
        for candidate, score in zip(record["candidates"], one["scores"], strict=True):
            q, first, second = (np.array(view) for view in candidate["logprobs"].values())
            expected = (q + 4 * (first - q) + one["lambda"] * (second - q)).sum()
            assert score == pytest.approx(expected, rel=1e-12)


def test_a_rows_own_lambda_takes_the_first_ones_place(cli: Cli, rows: Write) -> None:
    source = rows(row(responses=RESPONSES, settings={"lambda": 7}))
    record = scored(cli, source, "--lambda", "1,3")
    assert [one["lambda"] for one in record["scores"]] == [7, 3]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(), '"responses" is missing (or "response")'),
        (row(responses=[]), '"responses"'),
        (row(responses=["a", " "]), '"responses.1" must not be empty'),
        (row(response="a", responses=["b"]), "exclude each other"),
        (row(responces=["b"]), 'did you mean "responses"?'),
    ],
)
def test_rows_without_responses_are_refused(
    bad: object, message: str, cli: Cli, rows: Write
) -> None:
    said = cli("score", rows(bad))
    assert said.code == 2
    assert "line 1" in said.err
    assert message in said.err


@pytest.mark.parametrize("lam", ["x", "1,,2", "nan", "inf"])
def test_bad_lambdas_are_refused(lam: str, cli: Cli, rows: Write) -> None:
    said = cli("score", rows(row(response="draw")), "--lambda", lam)
    assert said.code == 2
    assert "--lambda" in said.err


def test_a_response_that_cannot_be_scored_is_a_failed_row(cli: Cli, rows: Write) -> None:
    said = cli("score", rows(row("a", response="xyzzy"), row("b", response="draw")))
    assert said.code == 1
    found = {one["id"]: one for one in map(json.loads, said.out.splitlines())}
    assert "cannot spell" in found["a"]["error"]["message"]
    assert found["b"]["candidates"][0]["text"] == "draw"


def test_responses_that_do_not_fit_are_refused_before_any_is_scored(
    cli: Cli, rows: Write, opener: Opener
) -> None:
    responses = ["draw", " ".join(["draw"] * 400)]
    said = cli("score", rows(row("a") | {"response": "draw"}, row("b", responses=responses)))
    assert said.code == 2
    assert said.out == ""
    assert "line 2: response 2 has 800 tokens; with the prompt that is " in said.err
    assert f"more than the model's context of {opener.engine.capabilities.max_context}" in said.err
    assert "max_tokens" not in said.err
    assert opener.engine.inner.counts["scored"] == 0


def test_scores_can_be_resumed_with_the_same_lambdas_only(
    cli: Cli, rows: Write, tmp_path: Path
) -> None:
    source, out = rows(row("a", response="draw"), row("b", response="read")), tmp_path / "out"
    cli("score", source, "-o", out, "--lambda", "1,3", "--limit", 1)
    assert cli("score", source, "-o", out, "--lambda", "1,4", "--resume").code == 2
    assert cli("score", source, "-o", out, "--lambda", "1,3", "--resume").code == 0
    assert cli("run", source, "-o", out, "--resume").code == 2
