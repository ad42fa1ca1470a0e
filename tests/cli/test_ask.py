"""``preftilt ask`` on a toy engine: what it prints, what it passes on, what it refuses."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from preftilt.cli import configure
from preftilt.cli.show import short
from preftilt.search import DVTS
from preftilt.testing.toy import ToyEngine
from tests.cli.conftest import Cli, Opener

ASK = ("ask", "How do I study maths?", "--preference", "No games.", "--max-tokens", "30")


def test_the_answer_stands_first_and_the_models_own_below_it(cli: Cli) -> None:
    said = cli(*ASK)
    assert said.code == 0
    assert said.out.index("Realigned answer:") < said.out.index("The model alone")
    assert said.out.index("The model alone") < said.out.index("score  question")


def test_the_models_own_answer_is_centred_by_the_candidates_beside_it(cli: Cli) -> None:
    said = cli(*ASK, "--reduction", "centred").out
    assert "nats a √token, against the candidates' mean" in said
    [row] = re.findall(r"^ +◇ +(-?[\d.]+) ", said, flags=re.MULTILINE)
    assert float(row) != 0


def test_a_pipe_gets_plain_text_and_no_progress(cli: Cli) -> None:
    said = cli(*ASK, "--explain")
    assert "\x1b" not in said.out
    assert said.err == ""


def test_tables_fit_into_80_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = cli(*ASK)
    table = said.out[said.out.index("score  question") : said.out.index("score = question")]
    assert max(map(len, table.splitlines())) <= 80


def test_equal_answers_share_a_row_and_are_counted(cli: Cli) -> None:
    said = cli(*ASK, "--json", "--n", 64, "--max-tokens", 1)
    texts = [tuple(one["tokens"]) for one in said.object["candidates"]]
    assert len(set(texts)) < len(texts)
    table = cli(*ASK, "--n", 64, "--max-tokens", 1, "--no-compare").out
    shown = re.findall(r"^ [▶ ] +(\d+) .*? (?:×(\d+) )?\S*$", table, flags=re.MULTILINE)
    assert sum(int(times or 1) for _, times in shown) == 64
    assert len(shown) == len(set(texts))


def test_the_text_about_lambda_is_the_path(cli: Cli) -> None:
    path = cli(*ASK, "--json").object["path"]
    out = cli(*ASK).out
    told = re.findall(r"^  λ (?:from )?(\S+)", out, flags=re.MULTILINE)
    assert told == [short(one["from"]) for one in path]
    assert "this answer" in out


def test_lambda_is_told_in_digits() -> None:
    assert [short(one) for one in (0.0, 1.2345, 999.4, 999.7, 1483.2, -5.0, 2e-5)] == (
        ["0", "1.23", "999", "1,000", "1,483", "-5", "0.00002"]
    )


def test_json_prints_one_object_and_nothing_else(cli: Cli) -> None:
    said = cli(*ASK, "--json")
    assert said.object["schema"] == "preftilt.realigned/1"
    assert said.object["text"] == said.object["candidates"][0]["text"]
    assert said.out.count("\n") == 1


def test_the_same_seed_gives_the_same_answer_and_another_one_another(cli: Cli) -> None:
    def answers(*more: object) -> list[str]:
        return [one["text"] for one in cli(*ASK, "--json", *more).object["candidates"]]

    assert answers() == answers("--seed", 0)
    assert answers() != answers("--seed", 1)


def test_every_flag_reaches_the_settings(cli: Cli) -> None:
    flags = (
        *(
            "--search",
            "dvts",
            "--subtrees",
            2,
            "--width",
            3,
            "--delimiter",
            r"\n\t\\",
            "--max-steps",
            5,
        ),
        *("--max-tokens", 20, "--temperature", 0.5, "--top-p", 0.9, "--top-k", 7, "--seed", 3),
        *(
            "--gamma",
            0.9,
            "--reduction",
            "mean",
            "--eos",
            "exclude",
            "--cut-off",
            "as-is",
            "--lambda",
            7,
        ),
        *("--generate-with", "question", "--system", "Be brief.", "--placement", "user"),
    )
    result = cli("ask", "Q?", "-p", "No games.", "--json", *flags).object
    assert result["settings"] == {
        "search": {
            "name": "dvts",
            "subtrees": 2,
            "width": 3,
            "delimiter": "\n\t\\",
            "max_steps": 5,
        },
        "lambda": 7.0,
        "preferences": [{"text": "No games.", "strength": 7.0}],
        "gamma": 0.9,
        "reduction": "mean",
        "eos": "exclude",
        "cut_off": "as-is",
        "generate_with": "question",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
        "max_tokens": 20,
        "placement": "user",
        "system": "Be brief.",
        "question_system": None,
        "against": None,
        "history": "both",
        "preference_turns": None,
        "method": {"name": "rear"},
    }
    assert result["seed"] == 3


def test_without_flags_the_librarys_defaults_hold(cli: Cli) -> None:
    settings = cli("ask", "Q?", "-p", "No games.", "--json", "--max-tokens", 9).object["settings"]
    assert settings["lambda"] == 20.0
    assert settings["search"] == {"name": "best-of-n", "n": 16}
    dvts = cli(*ASK, "--json", "--search", "dvts").object["settings"]["search"]
    assert dvts == {"name": "dvts"} | {
        name: getattr(DVTS(), name) for name in ("subtrees", "width", "delimiter", "max_steps")
    }


def test_the_models_flags_reach_the_engine(cli: Cli, opener: Opener) -> None:
    cli(*ASK, "--json", "--model", "some/model", "--dtype", "bfloat16", "--device", "cuda:1")
    cli(*ASK, "--json", "--chat-template", "plain", "--thinking", "--trust-remote-code")
    (first, options), (_, others) = opener.asked
    assert (first, options.dtype, options.device) == ("some/model", "bfloat16", "cuda:1")
    assert others.chat_template == "plain"
    assert others.thinking is True
    assert others.trust_remote_code is True
    assert opener.engine.closed


def test_template_arguments_are_json_or_text(cli: Cli, opener: Opener) -> None:
    given = ("deep=true", "n=3", "mood=calm=er", 'list=["a"]', "limit=NaN")
    cli(*ASK, "--json", *(word for one in given for word in ("--template-arg", one)))
    cli(*ASK, "--json", "--max-rows", 7, "--sampler-logprobs", "off")
    (_, first), (_, second) = opener.asked
    assert first.template_kwargs == {
        "deep": True,
        "n": 3,
        "mood": "calm=er",
        "list": ["a"],
        "limit": "NaN",
    }
    assert (first.max_rows, first.sampler_logprobs) == (None, "auto")
    assert (second.max_rows, second.sampler_logprobs) == (7, "off")


def test_the_models_answer_is_labelled_by_its_prompt(cli: Cli) -> None:
    assert "(greedy, same prompt)" in cli(*ASK).out
    out = cli(*ASK, "--generate-with", "question").out
    assert "(greedy, with the preference in the prompt)" in out


def test_several_preferences_each_with_a_strength(cli: Cli) -> None:
    result = cli("ask", "Q?", "-p", "no games=20", "-p", "puns=-5", "-p", "plain", "--json").object
    assert result["settings"]["preferences"] == [
        {"text": "no games", "strength": 20.0},
        {"text": "puns", "strength": -5.0},
        {"text": "plain", "strength": 20.0},
    ]
    assert [*result["prompts"]] == ["question", "preference_1", "preference_2", "preference_3"]


def test_a_conversation_comes_from_a_file_or_from_standard_input(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "How do I study maths?"},
    ]
    path = tmp_path / "turns.json"
    path.write_text(json.dumps(turns), encoding="utf-8")
    from_file = cli("ask", "--messages", path, "-p", "No games.", "--json").object
    standard_input = io.TextIOWrapper(io.BytesIO(json.dumps(turns).encode()))
    monkeypatch.setattr("sys.stdin", standard_input)
    assert (
        cli("ask", "--messages", "-", "-p", "No games.", "--json").object["prompts"]
        == (from_file["prompts"])
    )
    assert from_file["prompts"] != cli(*ASK, "--json").object["prompts"]


def test_earlier_turns_can_be_the_preference(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "turns.json"
    roles = ("user", "assistant", "user")
    path.write_text(json.dumps([{"role": one, "content": "Games?"} for one in roles]))
    result = cli("ask", "--messages", path, "--history", "preference", "--json").object
    assert result["settings"]["preferences"] == []
    assert cli("ask", "--messages", path, "--history", "preference", "--explain").code == 0


def test_greedy_is_not_compared_with_itself(cli: Cli) -> None:
    out = cli(*ASK, "--search", "greedy").out
    assert "The model alone" not in out
    assert "What λ does" not in out


def test_an_equal_plain_answer_is_said_once(cli: Cli) -> None:
    out = cli(*ASK, "--temperature", 0).out
    assert "The model alone answers the same." in out


def test_pictures_and_pages_are_written(cli: Cli, tmp_path: Path) -> None:
    picture, page = tmp_path / "a.svg", tmp_path / "a.html"
    assert cli(*ASK, "--json", "--plot", picture, "--explain-html", page).code == 0
    assert "model alone" not in picture.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert cli(*ASK, "--plot", picture).code == 0
    assert "model alone" in picture.read_text(encoding="utf-8")


def test_explain_names_the_strongest_tokens(cli: Cli) -> None:
    out = cli(*ASK, "--explain").out
    assert re.search(r"most for it: “.*” \+\d", out)
    assert re.search(r"most against it: ", out)


BAD = {
    "an empty question": (("ask", " ", "-p", "x"), "the question is empty"),
    "an empty preference": (("ask", "Q?", "-p", " "), "no text"),
    "no preference": (("ask", "Q?"), "no preference"),
    "no chat template": ((*ASK, "--chat-template", "no.jinja"), "--chat-template no.jinja"),
    "a template argument without a value": ((*ASK, "--template-arg", "a"), "is not NAME=VALUE"),
    "a template argument twice": (
        (*ASK, "--template-arg", "a=1", "--template-arg", "a=2"),
        "--template-arg a is given twice",
    ),
    "a switch that is neither": (
        (*ASK, "--sampler-logprobs", "maybe"),
        "--sampler-logprobs must be auto, on or off",
    ),
    "no rows in a batch": ((*ASK, "--max-rows", "0"), "--max-rows"),
    "neither question nor messages": (("ask", "-p", "x"), "QUESTION"),
    "both": (("ask", "Q?", "--messages", "f", "-p", "x"), "not both"),
    "a missing file": (
        ("ask", "--messages", "nowhere.json", "-p", "x"),
        "cannot read nowhere.json",
    ),
    "lambda nan": ((*ASK, "--lambda", "nan"), "--lambda must be a finite number"),
    "lambda inf": ((*ASK, "--lambda", "inf"), "--lambda must be a finite number"),
    "an idle lambda": (("ask", "Q?", "-p", "x=3", "--lambda", "2"), "--lambda does nothing"),
    "a strength that is nan": (("ask", "Q?", "-p", "x=nan"), "finite"),
    "gamma 0": ((*ASK, "--gamma", "0"), "--gamma must be above 0 and at most 1, not 0.0"),
    "gamma above 1": ((*ASK, "--gamma", "1.5"), "--gamma must be above 0 and at most 1"),
    "gamma nan": ((*ASK, "--gamma", "nan"), "--gamma must be"),
    "n 0": ((*ASK, "--n", "0"), "--n must be a whole number of at least 1, not 0"),
    "temperature below 0": ((*ASK, "--temperature", "-1"), "--temperature must be"),
    "top-p above 1": ((*ASK, "--top-p", "2"), "--top-p must be"),
    "an unknown search": ((*ASK, "--search", "beam"), "--search must be 'auto'"),
    "an unknown reduction": (
        (*ASK, "--reduction", "max"),
        "--reduction must be sum, mean or centred",
    ),
    "n with dvts": ((*ASK, "--search", "dvts", "--n", "4"), "--n does not apply to --search dvts"),
    "width with best-of-n": ((*ASK, "--width", "4"), "it belongs to dvts"),
    "top-k with greedy": ((*ASK, "--search", "greedy", "--top-k", "4"), "--top-k does not apply"),
    "an unknown escape": ((*ASK, "--search", "dvts", "--delimiter", r"\d"), r"\d is not \n"),
    "an empty delimiter": ((*ASK, "--search", "dvts", "--delimiter", ""), "--delimiter"),
    "max-tokens that do not fit": ((*ASK, "--max-tokens", "9999"), "context"),
    "json with explain": ((*ASK, "--json", "--explain"), "--explain does not apply to --json"),
    "json with compare": ((*ASK, "--json", "--compare"), "--compare does not apply to --json"),
    "an unknown picture format": ((*ASK, "--plot", "a.gif"), ".png, .svg, .pdf"),
    "a picture in no folder": ((*ASK, "--plot", "nowhere/a.png"), "a folder that exists"),
    "an unknown flag": ((*ASK, "--lamda", "3"), "--lambda"),
    "a word for a number": ((*ASK, "--n", "many"), "a valid integer"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_code_2(name: str, cli: Cli, opener: Opener) -> None:
    arguments, message = BAD[name]
    said = cli(*arguments)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("preftilt: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err
    assert opener.engine.inner.counts["sampled"] == 0


@pytest.mark.parametrize(
    "name",
    ["no preference", "no chat template", "a template argument twice", "a switch that is neither"],
)
def test_what_can_be_refused_early_opens_no_model(name: str, cli: Cli, opener: Opener) -> None:
    cli(*BAD[name][0])
    assert opener.asked == []


def test_a_prompt_that_is_too_long_says_which_and_by_how_much(cli: Cli, opener: Opener) -> None:
    opener.engine.inner.max_context = 4
    said = cli("ask", "Q?", "-p", "No games.")
    assert said.code == 2
    assert "2 too many for the model's context of 4" in said.err


def test_bad_conversations_are_refused(cli: Cli, tmp_path: Path, opener: Opener) -> None:
    path = tmp_path / "turns.json"
    for text, message in (
        ("{", "not JSON"),
        ("[" * 200_000, "nested too deeply"),
        ("1" * 5_000, "a number of 5000 digits"),
        ("[]", "empty"),
        ('[{"role": "owner", "content": "x"}]', "role"),
        ('[{"role": "user"}]', "content"),
    ):
        path.write_text(text, encoding="utf-8")
        said = cli("ask", "--messages", path, "-p", "x")
        assert said.code == 2
        assert message in said.err
    assert opener.asked == []


def test_an_engine_that_fails_is_exit_code_1(cli: Cli, opener: Opener) -> None:
    opener.engine.fails = frozenset({""})
    said = cli(*ASK)
    assert said.code == 1
    assert said.err == "preftilt: error: the toy broke on \n"
    assert opener.engine.closed


def test_an_example_says_which_lambda_would_have_given_it(cli: Cli) -> None:
    texts = [candidate["text"] for candidate in cli(*ASK, "--json").object["candidates"]]
    out = cli(*ASK, "--example", texts[0]).out
    told = out[out.index("The answer you like") :].splitlines()
    assert re.fullmatch(r"  among the 16 candidates it is chosen for λ .*\d", told[1])
    assert told[2] == "  what λ guided decoding would need, this engine cannot tell"
    assert "  beside the 16 candidates " in cli(*ASK, "--example", "draw draw draw").out
    single = cli(*ASK, "--search", "sample", "--example", "draw").out
    assert "The answer you like\n  what λ guided decoding would need" in single


def test_an_example_is_tried_before_anything_is_drawn(cli: Cli, opener: Opener) -> None:
    said = cli(*ASK, "--example", "draw<end>")
    assert (said.code, "an end-of-turn token" in said.err or "take it out" in said.err) == (2, True)
    assert opener.engine.inner.counts == {"sampled": 0, "scored": 0}


def test_an_example_says_which_lambda_guided_decoding_would_need(
    real_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configure, "open_engine", lambda spec, options: ToyEngine())
    record = real_cli(*ASK, "--json", "--example", "draw")
    guided = record.object["example"]["guided"]
    out = real_cli(*ASK, "--example", "draw").out
    [told] = [line for line in out.splitlines() if "guided decoding draws it most likely" in line]
    assert f"at λ = {short(guided['best'])} ({short(guided['from'])} – " in told
