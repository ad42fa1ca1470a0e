"""Reward models from the command line, on a tiny random model that is opened for real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from preftilt.arm.spec import read_spec
from preftilt.cli.configure import arms_from, settings_from
from preftilt.cli.options import ModelFlags
from preftilt.errors import BadInput
from preftilt.records.schemas import schema_text
from preftilt.search import Amulet, ArmGuided, AutoSearch
from preftilt.settings import ArmSettings
from tests.arms_decoding.conftest import Arms, Models
from tests.arms_decoding.made import make_arms
from tests.cli.conftest import Cli, real_cli, records, rows

__all__ = ["real_cli", "rows"]

pytestmark = pytest.mark.model

SMALL = ("--max-tokens", 8, "--json")


@pytest.fixture
def cli(real_cli: Cli, models: Models) -> Cli:
    """Run a command on the tiny model."""

    def run(command: str, *arguments: object) -> Any:
        return real_cli(command, *arguments, "--model", models("llama"))

    return run


def valid(record: dict[str, Any]) -> dict[str, Any]:
    Draft202012Validator(json.loads(schema_text("realigned"))).validate(record)
    return record


def test_ask_decodes_with_a_reward_model_and_needs_no_preference(cli: Cli, arms: Arms):
    said = cli(
        *("ask", "Q?", "--arm", f"pku={arms('llama')['parm']}", "--alpha", "help=0.7,safe=0.3"),
        *("--search", "parm-pku", "--arm-weight", 1.5, *SMALL),
    )
    assert said.code == 0, said.err
    record = valid(said.object)
    assert record["views"][1] == {
        "name": "arm:pku",
        "weight": 1.5,
        "reader": {"arm": "pku", "method": "parm", "alpha": {"help": 0.7, "safe": 0.3}},
    }
    assert record["settings"]["search"] == {"name": "arm", "n": 1}
    assert record["settings"]["temperature"] == 0
    tokens = len(record["candidates"][0]["tokens"])
    assert record["usage"]["guided"] == {"question": tokens, "arm:pku": tokens}


def test_ask_shows_answers_candidates_and_path_without_a_preference(cli: Cli, arms: Arms):
    said = cli(
        *("ask", "Q?", "--arm", arms("llama")["helpful"], "--n", 3, "--max-tokens", 6),
        *("--compare", "--explain"),
    )
    assert said.code == 0, said.err
    assert "Realigned answer" in said.out
    assert "What λ does" in said.out


def test_several_reward_models_stand_beside_a_preference(cli: Cli, arms: Arms):
    made = arms("llama")
    said = cli(
        *("ask", "Q?", "-p", "No games.", "--lambda", 3, "--n", 2, *SMALL),
        *("--arm", made["helpful"], "--arm", made["safer"], "--alpha", "help=0.25,safe=0.75"),
    )
    assert said.code == 0, said.err
    weights = {view["name"]: view["weight"] for view in valid(said.object)["views"]}
    assert weights == {"question": -2.0, "full": 3.0, "arm:helpful": 0.25, "arm:safer": 0.75}


def test_every_row_may_have_its_own_preference_vector(
    cli: Cli, arms: Arms, rows: Callable[..., Path], tmp_path: Path
):
    mixes = [{"help": 0.5, "safe": 0.5}, {"help": 1, "safe": 0}]
    given = [{"question": "Q?", "settings": {"alpha": mix}} for mix in mixes]
    given.append({"question": "Q?", "preference": "No games.", "settings": {"arm": []}})
    out = tmp_path / "out.jsonl"
    said = cli(
        *("run", rows(*given), "-o", out, "--arm", f"pku={arms('llama')['uniarm']}"),
        *("--n", 2, "--max-tokens", 6),
    )
    assert said.code == 0, said.err
    found = sorted(records(out), key=lambda one: one["id"])
    readers = [[view.get("reader") for view in valid(one)["views"]] for one in found]
    assert [one[-1] and one[-1]["alpha"] for one in readers] == [*mixes, None]


def test_given_responses_are_scored_by_reward_models(
    cli: Cli, arms: Arms, rows: Callable[..., Path], tmp_path: Path
):
    out = tmp_path / "out.jsonl"
    given = [
        {"question": "Q?", "responses": ["An answer.", "No."]},
        {"question": "Q?", "preference": "No games.", "responses": ["An answer.", "No."]},
    ]
    said = cli("score", rows(*given), "-o", out, "--arm", arms("llama")["safer"])
    assert said.code == 0, said.err
    for one in records(out):
        [table] = valid(one)["scores"]
        assert table["lambda"] == one["settings"]["lambda"]
        assert table["scores"] == pytest.approx([each["score"] for each in one["candidates"]])


def test_a_smaller_model_stands_beside_the_model(cli: Cli, models: Models, arms: Arms):
    made, small = arms("small"), models("small")
    said = cli(
        *("ask", "Q?", "--arm", made["helpful"], "--arm-base", small, "--search", "arm"), *SMALL
    )
    assert said.code == 0, said.err
    assert valid(said.object)["usage"]["guided"].keys() == {"question", "arm:helpful"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--arm", "{parm}", "--alpha", "help=0.7,safe=0.4"), "alpha sums to 1.1"),
        (("--arm", "{parm}", "--alpha", "help=0.7,humour=0.3"), "alpha names humour, unknown"),
        (("--arm", "{parm}"), "'parm' weighs help and safe: say how much each counts"),
        (("--arm", "{parm}", "--alpha", "much"), "--alpha 'much' is neither NAME=NUMBER"),
        (("--arm", "{parm}", "--arm-weight", "x"), "--arm-weight x: 'x' is not a number"),
        (("--arm", "{parm}", "--arm", "{parm}"), "--arm parm is given twice"),
        (("--arm", "{parm}/nowhere"), "holds no reward model"),
        (("--arm", "{small}"), "or open that one beside this model (--arm-base"),
        (("--arm", "{other}"), "has another vocabulary"),
        (("--arm", "{parm}", "--arm-base", "{base}"), "leave --arm-base out"),
        (("--arm-base", "{base}"), "--arm-base is the model of reward models; name one"),
        (("--alpha", "help=1"), "and none is named"),
        (("--search", "arm"), "the search 'arm' draws with reward models"),
        (("--arm", "{helpful}", "--lambda", "3"), "--lambda does nothing without a preference"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_remedy(
    flags: tuple[str, ...], message: str, cli: Cli, models: Models, arms: Arms, folder: Path
):
    places = {
        **arms("llama"),
        "small": arms("small")["helpful"],
        "base": models("small"),
        "other": make_arms(models("llama"), folder, tokenizer="another")["helpful"],
    }
    wanted = () if "--lambda" in flags else ("-p", "No games.")
    said = cli("ask", "Q?", *wanted, *SMALL, *(one.format(**places) for one in flags))
    assert (said.code, message in said.err) == (2, True), said.err


def test_engines_elsewhere_cannot_read_with_reward_models(real_cli: Cli, arms: Arms):
    said = real_cli(
        *("ask", "Q?", "-p", "No games.", "--model", "vllm+http://127.0.0.1:9"),
        *("--arm", arms("llama")["helpful"]),
    )
    assert said.code == 2
    assert "--arm does not apply to" in said.err
    assert "open the model in this process" in said.err


def test_alpha_is_amulets_number_or_a_preference_vector():
    amulet = settings_from({"search": "amulet", "alpha": "3"})
    assert amulet.search == Amulet(alpha=3.0)
    flags = {"alpha": "help=1", "arm_weight": ["0.5", "safer=2"]}
    mixed = settings_from(flags, ["helpful", "safer"])
    assert mixed.search == AutoSearch()
    assert mixed.arms == ArmSettings(
        names=("helpful", "safer"), alpha="help=1", weight=0.5, weights=(("safer", 2.0),)
    )
    preset = settings_from({"search": "genarm-pku", "n": 3}, ["helpful"])
    assert preset.search == ArmGuided(n=3)
    with pytest.raises(BadInput, match="--alpha does not apply to --search auto"):
        settings_from({"alpha": "3"})


def test_a_reward_model_is_called_as_it_is_told_or_as_its_folder(arms: Arms):
    made = arms("llama")
    found = arms_from(ModelFlags(options={"arms": [f"x={made['safer']}", made["parm"]]}))
    assert found == {"x": made["safer"], "parm": made["parm"]}
    assert read_spec(Path(found["x"])).method == "genarm"
    with pytest.raises(BadInput, match="'=' is not NAME=FOLDER"):
        arms_from(ModelFlags(options={"arms": ["="]}))
