"""Guided searches from the command line and in rows, on the toy engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from preftilt.cli import configure
from preftilt.cli.options import setting_flags
from preftilt.errors import BadInput
from preftilt.messages import Message
from preftilt.records.schemas import schema_text
from preftilt.search import CFG, AutoSearch, Score, default_search, registry
from preftilt.server.names import read_suffix
from preftilt.server.resolve import ServerConfig, defaults_of
from preftilt.server.wire import Knob
from preftilt.testing.toy import ToyEngine
from preftilt.types import Candidate
from tests.cli.conftest import Cli, Opener, cli, opener, real_cli, records, row, rows
from tests.guided.test_driver import SamplesOnly

__all__ = ["cli", "opener", "real_cli", "rows"]

ASK = ("ask", "How do I study maths?", "-p", "No games.", "--json", "--max-tokens", 12)


@pytest.fixture
def guiding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line opens a toy engine that can guide."""
    monkeypatch.setattr(configure, "open_engine", lambda spec, options: ToyEngine())


@pytest.mark.usefixtures("guiding")
@pytest.mark.parametrize(
    ("flags", "search"),
    [
        (("--search", "cfg", "--lambda", 2, "--n", 3), {"name": "cfg", "n": 3}),
        (("--search", "linear-alignment", "--mask-top-p", 0.8), {"ratio": 2.0, "mask_top_p": 0.8}),
        (("--search", "amulet", "--iterations", 20), {"name": "amulet", "iterations": 20}),
        (("--search", "la-author"), {"name": "linear-alignment", "mask_temperature": 0.7}),
        (("--search", "amulet-default"), {"name": "amulet", "iterations": 60, "anchor": 2.0}),
    ],
)
def test_every_guided_search_answers_and_is_recorded(
    flags: tuple[object, ...], search: dict[str, object], real_cli: Cli
):
    said = real_cli(*ASK, *flags)
    assert said.code == 0, said.err
    recorded = said.object["settings"]["search"]
    assert {name: recorded[name] for name in search} == search
    assert said.object["usage"]["guided"]["full"] == said.object["usage"]["sampled"]
    assert all(
        {*candidate["logprobs"]} == {"question", "full"} for candidate in said.object["candidates"]
    )


@pytest.mark.usefixtures("guiding")
def test_a_preset_brings_its_sampling_and_flags_change_it(real_cli: Cli):
    preset = real_cli(*ASK, "--search", "la-author").object["settings"]
    assert preset["temperature"] == 0.7
    changed = real_cli(*ASK, "--search", "la-author", "--temperature", 0, "--ratio", 5)
    assert changed.object["settings"]["temperature"] == 0
    assert changed.object["settings"]["search"]["ratio"] == 5


@pytest.mark.usefixtures("guiding")
def test_rows_choose_guided_searches_of_their_own(real_cli: Cli, rows, tmp_path: Path):
    source = rows(
        row("plain", settings={"search": {"name": "best-of-n", "n": 2}}),
        row("guided", settings={"search": {"name": "cfg"}, "lambda": 4, "temperature": 0}),
        row("preset", settings={"search": {"name": "la-amulet-repo"}}),
    )
    out = tmp_path / "out.jsonl"
    said = real_cli("run", source, "-o", out, "--max-tokens", 8)
    assert said.code == 0, said.err
    found = {record["id"]: record["settings"] for record in records(out)}
    assert found["plain"]["search"]["name"] == "best-of-n"
    assert found["guided"]["lambda"] == 4
    assert (found["preset"]["search"]["ratio"], found["preset"]["temperature"]) == (2, 0)


def test_an_engine_that_cannot_guide_is_refused_with_the_remedy(cli: Cli, opener: Opener):
    said = cli(*ASK, "--search", "cfg")
    assert said.code == 2
    assert "cannot choose token by token" in said.err.replace("\n", " ")
    assert said.out == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--search", "cfg", "--ratio", 2), "--ratio does not apply to --search cfg"),
        (("--search", "cfg", "--guidance", 2), "--guidance (use --lambda, which is one for"),
        (("--search", "cfg", "--iterations", 2), "--iterations does not apply to --search cfg"),
        (("--search", "cfg", "--mask-from", "result"), "without mask_top_p"),
        (("--search", "cfg", "--mask-top-p", 2), "--mask-top-p"),
        (("--search", "args"), "--reward-model"),
    ],
)
def test_flags_that_would_do_nothing_or_make_no_sense_are_refused(
    flags: tuple[object, ...], words: str, cli: Cli
):
    said = cli(*ASK, *flags)
    assert said.code == 2
    assert words in " ".join(said.err.split())


def test_a_row_with_the_former_name_of_lambda_is_refused_with_the_new_one(
    cli: Cli, rows, tmp_path: Path
):
    source = rows(row("old", settings={"search": {"name": "cfg", "guidance": 2}}))
    said = cli("run", source, "-o", tmp_path / "out.jsonl")
    assert said.code == 2
    assert '"settings.search.guidance" is now "lambda"' in " ".join(said.err.split())


@pytest.mark.usefixtures("guiding")
@pytest.mark.parametrize(
    ("flags", "lam"),
    [
        ((), 2.0),
        (("--search", "best-of-n"), 20.0),
        (("--search", "cfg"), 2.0),
        (("--search", "linear-alignment"), 20.0),
    ],
)
def test_a_request_without_a_lambda_gets_its_searchs_own_which_is_recorded(
    flags: tuple[str, ...], lam: float, real_cli: Cli
):
    recorded = real_cli(*ASK, *flags).object["settings"]
    assert recorded["lambda"] == lam
    assert recorded["preferences"][0]["strength"] == lam


@pytest.mark.usefixtures("guiding")
def test_the_answer_and_the_model_alone_are_scored_at_one_lambda(real_cli: Cli):
    said = real_cli(*ASK[:4], "--max-tokens", 12, "--search", "cfg")
    assert said.code == 0, said.err
    [alone] = [line for line in said.out.splitlines() if line.strip().startswith("◇")]
    scored, question, gain = map(float, alone.split()[1:4])
    assert scored == pytest.approx(question + 2 * gain, abs=0.03)


@pytest.mark.parametrize(
    ("suffix", "changes"),
    [
        ("cfg-4-l2", {"search": {"name": "cfg", "n": 4}, "lambda": 2.0}),
        ("cfg-l-1.5", {"search": {"name": "cfg"}, "lambda": -1.5}),
        ("cfg", {"search": {"name": "cfg"}}),
        ("cfgx", None),
    ],
)
def test_a_served_models_name_may_ask_for_guided_decoding(suffix: str, changes: object):
    assert read_suffix(suffix) == changes


@pytest.mark.usefixtures("guiding")
def test_the_search_of_a_request_that_names_none_is_decided_by_the_engine_and_recorded(
    real_cli: Cli, monkeypatch: pytest.MonkeyPatch
):
    guided = real_cli(*ASK).object
    search = guided["settings"]["search"]
    assert (search["name"], search["greedy"], guided["settings"]["lambda"]) == ("cfg", True, 2.0)
    assert len(guided["candidates"]) == 1
    drawn = real_cli(*ASK, "--temperature", 0.7).object["settings"]["search"]
    assert (drawn["name"], drawn["greedy"]) == ("cfg", False)
    several = real_cli(*ASK, "--n", 3).object
    assert (several["settings"]["search"]["greedy"], len(several["candidates"])) == (False, 3)
    picked = real_cli(*ASK, "--method", "preference-gain").object
    assert len(picked["candidates"]) == 16
    monkeypatch.setattr(configure, "open_engine", lambda spec, options: SamplesOnly())
    assert real_cli(*ASK, "--n", 3).object["settings"]["search"]["name"] == "best-of-n"


def test_the_help_tells_the_search_that_every_kind_of_engine_gets():
    [search] = [flag for flag in setting_flags("draw").flags if flag.setting.name == "search"]
    told = search.setting.words
    guiding, drawing = (default_search(guides).name for guides in (True, False))
    assert f"{guiding} where it can guide decoding, and {drawing} where it only draws" in told


@pytest.mark.usefixtures("guiding")
def test_given_responses_are_scored_as_where_nothing_is_guided(
    real_cli: Cli, rows, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(registry, "WHERE_GUIDING", CFG(n=2))
    said = real_cli("score", rows(row("a", response="read")))
    assert said.code == 0, said.out
    scored = said.object
    assert scored["settings"]["lambda"] == scored["scores"][0]["lambda"] == 20.0


def test_a_search_that_is_not_decided_plans_nothing():
    root = Candidate((), np.zeros((2, 0)), "step")
    with pytest.raises(BadInput, match="decided by the engine"):
        AutoSearch().plans(root, Score(lambda pool: [], "last"), 8)
    with pytest.raises(BadInput, match="n of auto must be a whole number of at least 1"):
        AutoSearch(n=0)


def test_the_list_of_models_tells_the_search_and_lambda_of_requests_that_name_none(
    monkeypatch: pytest.MonkeyPatch,
):
    presets = {"kind": Knob.model_validate({"search": "dvts", "lambda": 5.0})}
    config = ServerConfig(model="toy", presets=presets)
    monkeypatch.setattr(registry, "WHERE_GUIDING", CFG(n=2))
    told = [defaults_of("toy", config, guides=guides) for guides in (True, False)]
    assert [(settings.search.name, settings.lam) for settings in told] == [
        ("cfg", 2.0),
        ("best-of-n", 20.0),
    ]
    kind = defaults_of("toy:kind", config, guides=True)
    assert (kind.search.name, kind.lam) == ("dvts", 5.0)


@pytest.mark.usefixtures("guiding")
@pytest.mark.parametrize("search", ["best-of-n", "dvts", "cfg"])
def test_a_contrast_is_the_base_of_the_score_under_every_search(search: str, real_cli: Cli):
    contrast = "Play many games."
    said = real_cli(*ASK, "--search", search, "--lambda", 3, "--against", contrast)
    assert said.code == 0, said.err
    result, toy = said.object, ToyEngine()
    assert result["settings"]["against"] == contrast
    question = Message("user", ASK[1])
    prompts = {
        name: toy.tokenizer.render([Message("system", text), question])
        for name, text in (("question", contrast), ("full", "No games."))
    }
    assert {name: tuple(ids) for name, ids in result["prompts"].items()} == prompts
    best = result["candidates"][0]
    read = {
        name: sum(
            toy.next_logprobs(ids + tuple(best["tokens"][:t]))[v]
            for t, v in enumerate(best["tokens"])
        )
        for name, ids in prompts.items()
    }
    assert best["score"] == pytest.approx(-2 * read["question"] + 3 * read["full"])
    Draft202012Validator(json.loads(schema_text("realigned"))).validate(result)


def test_rows_may_name_a_contrast_but_only_beside_a_preference(cli: Cli, rows, tmp_path: Path):
    source = rows(
        row("a", settings={"against": "Play."}), row("b", settings={"against": "No games."})
    )
    said = cli("run", source, "-o", tmp_path / "out.jsonl")
    assert said.code == 2
    assert "the preference itself" in said.err
    alone = rows({"question": "How?", "settings": {"against": "Play.", "arm": "helpful"}})
    said = cli("run", alone, "-o", tmp_path / "out.jsonl")
    assert (said.code, "without a preference" in said.err) == (2, True)


@pytest.mark.usefixtures("guiding")
def test_a_strength_by_divergence_can_be_asked_for_and_is_recorded(real_cli: Cli):
    flags = ("--search", "cfg", "--strength-by", "divergence", "--lambda", -3, "--temperature", 0)
    result = real_cli(*ASK, *flags).object
    assert result["settings"]["search"]["strength_by"] == "divergence"
    Draft202012Validator(json.loads(schema_text("realigned"))).validate(result)
    fixed = real_cli(*ASK, *flags[:2], *flags[4:]).object
    assert fixed["settings"]["search"]["strength_by"] == "fixed"
    assert result["text"] != fixed["text"]
    several = real_cli(*ASK, "-p", "Be brief.", *flags)
    assert (several.code, "--strength-by fixed" in several.err) == (2, True)


@pytest.mark.usefixtures("guiding")
def test_what_the_knob_did_is_one_line_and_its_notes(real_cli: Cli):
    said = real_cli(*ASK[:4], "--max-tokens", 12, "--search", "best-of-n", "--lambda", 30).out
    assert re.search(r"λ = 30 makes \d+% of the spread of the scores; the preference moves", said)
    assert "note: the answer is the same for every λ from" in said
    alone = real_cli(*ASK[:4], "--max-tokens", 12, "--search", "cfg").out
    assert "\nThe preference moves the answer's tokens by" in alone
