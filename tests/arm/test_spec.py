"""arm.json and preference vectors: what is read is what was written, and mistakes are named."""

from __future__ import annotations

import json

import pytest

from preftilt.arm.spec import (
    ArmSpec,
    Objective,
    check_alpha,
    named_numbers,
    parse_alpha,
    read_spec,
    spec_json,
)
from preftilt.errors import BadInput

HELP = Objective("help", "The answer is helpful.", 0.5)
SAFE = Objective("safe", "The answer harms nobody.", 0.1)


def made(**changed) -> ArmSpec:
    given = {
        "method": "parm",
        "base": "demo",
        "fingerprint": "a model",
        "sample": (0.5, -0.25),
        "tokenizer": "abc",
        "objectives": (HELP, SAFE),
        "targets": ("q_proj",),
        "modules": ("model.layers.0.self_attn.q_proj",),
        "rank": 8,
        "conditioned_rank": 4,
        "scale": 2.0,
    }
    return ArmSpec(**given | changed)


def test_a_spec_is_read_as_it_was_written(tmp_path):
    (tmp_path / "arm.json").write_text(spec_json(made()), "utf-8")
    assert read_spec(tmp_path) == made()


def test_a_folder_without_a_reward_model_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"arm\.json is missing"):
        read_spec(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "cannot be read"),
        ("[]", "not of the schema"),
        ('{"schema": "preftilt.arm/2"}', "not of the schema"),
        ('{"schema": "preftilt.arm/1", "colour": 1}', "unknown fields: colour"),
        ('{"schema": "preftilt.arm/1", "method": "parm"}', "damaged"),
    ],
)
def test_a_damaged_spec_is_refused(tmp_path, text, told):
    (tmp_path / "arm.json").write_text(text, "utf-8")
    with pytest.raises(BadInput, match=told):
        read_spec(tmp_path)


def test_the_file_says_its_schema_and_every_objective():
    written = json.loads(spec_json(made()))
    assert written["schema"] == "preftilt.arm/1"
    assert [one["name"] for one in written["objectives"]] == ["help", "safe"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"method": "genarm"}, "genarm learns one objective"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"objectives": (HELP, HELP)}, "names of their own"),
        ({"objectives": ()}, "names of their own"),
        ({"rank": 2}, "no larger"),
    ],
)
def test_specs_that_make_no_sense_are_refused(changed, told):
    with pytest.raises(BadInput, match=told):
        made(**changed)


@pytest.mark.parametrize(("name", "beta"), [("two words", 1.0), ("", 1.0), ("a", 0.0), ("a", -1.0)])
def test_objectives_need_a_plain_name_and_a_positive_beta(name, beta):
    with pytest.raises(BadInput):
        Objective(name, "", beta)


def test_a_preference_vector_is_read_by_name_in_the_spec_s_order():
    assert parse_alpha("safe=0.3, help=0.7", (HELP, SAFE)) == (0.7, 0.3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("help=0.7", "leaves out safe; the objectives are help, safe"),
        ("help=0.7,harm=0.3", "harm, unknown here; the objectives are help, safe"),
        ("help=0.7,safe=0.4", "sums to 1.1"),
        ("help=1.5,safe=-0.5", "alpha of safe is -0.5"),
        ("help=nan,safe=1", "alpha of help is nan"),
        ("help=much,safe=1", "alpha help=much: 'much' is not a number"),
        ("help=0.5,help=0.5", "alpha is given twice for help"),
        ("0.5,0.5", "is not NAME=NUMBER"),
    ],
)
def test_a_wrong_preference_vector_is_refused_with_the_names_that_are_known(text, told):
    with pytest.raises(BadInput, match=told):
        parse_alpha(text, (HELP, SAFE))


def test_a_number_without_a_name_is_that_of_all():
    assert named_numbers(["0.5", "taste = 2"], "--arm-weight") == {"": 0.5, "taste": 2.0}
    with pytest.raises(BadInput, match="--arm-weight is given twice; give it once"):
        named_numbers(["0.5", "1"], "--arm-weight")


def test_a_preference_vector_of_another_length_is_refused():
    with pytest.raises(BadInput, match="alpha has 1 numbers"):
        check_alpha([1.0], (HELP, SAFE))
