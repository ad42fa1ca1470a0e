"""``preftilt run`` on a toy engine: rows in, records out, resuming, and what is refused."""

from __future__ import annotations

import gc
import gzip
import json
import os
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from preftilt.eval.rated_pools import read_pools
from preftilt.records.rows import CheckedRow, InputRow
from preftilt.testing.toy import ToyTokenizer
from tests.cli.conftest import Cli, Opener, records, row, validator
from tests.cli.toys import Dated, Slow

Write = Callable[..., Path]
FEW = ("--max-tokens", 20, "--n", 4)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def without_time(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "timing"}


def test_every_row_becomes_a_record(cli: Cli, rows: Write, out: Path, opener: Opener) -> None:
    said = cli("run", rows(row("a"), "", row()), "-o", out, *FEW)
    assert said.code == 0
    assert said.out == ""
    assert {one["id"] for one in records(out)} == {"a", "3"}
    assert all(len(one["candidates"]) == 4 for one in records(out))
    assert "2 rows in" in said.err
    assert opener.engine.closed


def test_records_come_in_the_order_of_completion_and_are_written_at_once(
    cli: Cli, rows: Write, out: Path, opener: Opener
) -> None:
    long = row("long", settings={"search": {"name": "dvts"}})
    cli("run", rows(long, row("short")), "-o", out, *FEW)
    assert [one["id"] for one in records(out)] == ["short", "long"]


def test_a_rows_settings_come_before_the_flags(cli: Cli, rows: Write, out: Path) -> None:
    own = {"lambda": 3, "search": {"n": 2}, "seed": 7, "gamma": 0.5, "system": "Be brief."}
    other = {"search": {"name": "dvts", "width": 2}}
    cli("run", rows(row("a", settings=own), row("b", settings=other), row("c")), "-o", out, *FEW)
    found = {one["id"]: one for one in records(out)}
    assert found["a"]["settings"]["search"] == {"name": "best-of-n", "n": 2}
    assert (found["a"]["seed"], found["a"]["settings"]["lambda"]) == (7, 3)
    assert found["a"]["settings"]["system"] == "Be brief."
    assert found["b"]["settings"]["search"]["width"] == 2
    assert found["c"]["settings"]["search"] == {"name": "best-of-n", "n": 4}


def test_a_row_is_the_same_alone_and_among_others(cli: Cli, rows: Write, tmp_path: Path) -> None:
    many, alone = tmp_path / "many.jsonl", tmp_path / "alone.jsonl"
    cli("run", rows(*(row(str(i)) for i in range(9))), "-o", many, *FEW)
    cli("run", rows(row("4")), "-o", alone, *FEW, "--concurrency", 1)
    [same] = [one for one in records(many) if one["id"] == "4"]
    assert without_time(same) == without_time(records(alone)[0])


def test_preferences_in_every_form(cli: Cli, rows: Write, out: Path) -> None:
    source = rows(
        row("text", preference="odd=5"),
        row("object", preference={"text": "x", "strength": 5}),
        {"id": "list", "question": "Q?", "preferences": ["x", {"text": "y", "strength": -1}]},
    )
    assert cli("run", source, "-o", out, *FEW).code == 0
    told = {one["id"]: one["settings"]["preferences"] for one in records(out)}
    assert told["text"] == [{"text": "odd=5", "strength": 20.0}]
    assert told["object"] == [{"text": "x", "strength": 5.0}]
    assert [one["strength"] for one in told["list"]] == [20.0, -1.0]


def test_rows_without_a_preference_take_that_of_the_flags(cli: Cli, rows: Write, out: Path) -> None:
    source = rows(row("own"), row("none", preference=None))
    assert cli("run", source, "-o", out, *FEW, "-p", "Short.=2", "-p", "Dry.").code == 0
    told = {one["id"]: one["settings"]["preferences"] for one in records(out)}
    assert [each["text"] for each in told["own"]] == ["No games."]
    assert told["none"] == [
        {"text": "Short.", "strength": 2.0},
        {"text": "Dry.", "strength": 20.0},
    ]


def test_files_of_other_tools_are_read(cli: Cli, rows: Write, out: Path) -> None:
    asked = [("system", "Be kind."), ("human", "Hello."), ("gpt", "Well?"), ("human", "And now?")]
    sharegpt = [{"from": who, "value": what} for who, what in asked]
    roles = {"human": "user", "gpt": "assistant", "system": "developer"}
    messages = [{"role": roles[who], "content": what, "name": None} for who, what in asked]
    plain = row("messages", question=None, messages=messages, settings=None, preferences=None)
    source = rows({"id": "sharegpt", "conversations": sharegpt, "preference": "No games."}, plain)
    packed = source.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(source.read_bytes()))
    assert cli("run", packed, "-o", out, *FEW).code == 0
    first, second = records(out)
    assert first["prompts"] == second["prompts"]


@pytest.mark.parametrize("id", ["kept", "broken"])
def test_other_columns_are_refused_or_carried_along(
    id: str, cli: Cli, rows: Write, out: Path, opener: Opener
) -> None:
    opener.engine.fails = frozenset({"broken"})
    columns = {"source": "gsm8k", "prompt": None, "split": {"fold": 3}}
    source = rows(row(id, **columns))
    refused = cli("run", source, "-o", out)
    assert refused.code == 2
    assert "--keep-columns carries other fields along into the records" in refused.err
    cli("run", source, "-o", out, *FEW, "--keep-columns")
    [kept] = records(out)
    assert kept["columns"] == {"source": "gsm8k", "split": {"fold": 3}}
    validator("error" if id == "broken" else "realigned").validate(kept)


def test_a_row_that_does_not_fit_is_refused_among_the_first_and_fails_alone_later(
    cli: Cli, rows: Write, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preftilt.cli.rows.CHECKED_FIRST", 2)
    long = row("long", settings={"max_tokens": 9999})
    assert cli("run", rows(row("a"), long), "-o", out, *FEW).code == 2
    assert not out.exists()
    said = cli("run", rows(row("a"), row("b"), long, row("c")), "-o", out, *FEW)
    assert said.code == 1
    found = {one["id"]: one.get("error") for one in records(out)}
    assert [found[id] for id in ("a", "b", "c")] == [None] * 3
    failure = found["long"] or {}
    assert failure["type"] == "PromptTooLong"
    assert "defect" not in failure


def test_rows_are_read_as_they_are_done(
    cli: Cli, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: neither are they held in memory, nor are all prompts made before the first answer."""
    source = tmp_path / "long.jsonl"
    source.write_text("".join(json.dumps(row(i)) + "\n" for i in range(400)), "utf-8")
    made, held, written = 0, [], []
    item = InputRow.item

    def noted(*arguments: Any) -> CheckedRow:
        nonlocal made
        made += 1
        if made in (300, 700):
            held.append(sum(type(thing) is CheckedRow for thing in gc.get_objects()))
            written.append(len(records(out)) if out.exists() else 0)
        return item(*arguments)

    monkeypatch.setattr(InputRow, "item", noted)
    assert cli("run", source, "-o", out, "--max-tokens", 2, "--n", 1).code == 0
    assert (
        made == 2 * 400
    )  # Once for their form, before the model is opened, and once to be answered.
    assert max(held) < 150
    assert written[0] == 0
    assert 100 < written[1] < 400
    assert len(records(out)) == 400


def test_a_defect_is_told_with_its_place_and_marks_the_record(
    cli: Cli,
    rows: Write,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    drawn = Slow.sample

    async def sample(engine: Slow, requests: Any) -> Any:
        if requests[0].stream.item == "b":
            raise KeyError("lost")
        return await drawn(engine, requests)

    monkeypatch.setattr(Slow, "sample", sample)
    source = rows(row("a"), row("b"))
    assert cli("run", source, "-o", out, *FEW).code == 1
    [failed] = [one for one in records(out) if "error" in one]
    assert failed["error"] == {"type": "KeyError", "message": "'lost'", "defect": True}
    validator("error").validate(failed)
    assert "raise KeyError" in caplog.text
    assert "row b" in caplog.text


@pytest.mark.parametrize("kind", ["scores", "text"])
def test_records_may_be_smaller(
    kind: str, cli: Cli, rows: Write, out: Path, tmp_path: Path
) -> None:
    source, whole = rows(row("a"), row("b")), tmp_path / "whole.jsonl"
    cli("run", source, "-o", whole, *FEW)
    assert cli("run", source, "-o", out, *FEW, "--records", kind).code == 0
    full = {one["id"]: one for one in records(whole)}
    for small in records(out):
        validator(kind).validate(small)
        wanted = full[small["id"]]
        assert small["text"] == wanted["text"]
        if kind == "text":
            assert len(json.dumps(small)) < 1000 + len(small["text"])
        else:
            assert small["path"] == wanted["path"]
            told = ("slot", "text", "finish", "question_logprob", "preference_gain", "score")
            assert [[one[name] for name in told] for one in small["candidates"]] == [
                [one[name] for name in told] for one in wanted["candidates"]
            ]
    again = cli("run", source, "-o", out, *FEW, "--records", kind, "--resume")
    assert "nothing left to do" in again.err
    other = cli("run", source, "-o", out, *FEW, "--resume")
    assert f"records {kind}, now full" in other.err
    assert (
        "--records must be full, scores, text"
        in cli("run", source, "-o", "-", "--records", "x").err
    )


def test_lambda_is_chosen_from_records_of_scores_as_from_whole_ones(
    cli: Cli, rows: Write, out: Path, tmp_path: Path
) -> None:
    source, whole, rated = rows(row("a")), tmp_path / "whole.jsonl", tmp_path / "rated.jsonl"
    told = [{"id": "a", "slot": slot, "quality": slot % 2} for slot in range(4)]
    rated.write_text("".join(json.dumps(one) + "\n" for one in told), "utf-8")
    for path, kind in ((whole, "full"), (out, "scores")):
        cli("run", source, "-o", path, *FEW, "--reduction", "mean", "--records", kind)
    assert read_pools([out], qualities=rated) == read_pools([whole], qualities=rated)


def test_input_that_flows_by_once_is_read_twice_all_the_same(
    cli: Cli, rows: Write, out: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = rows(row("a"), row("b")).read_bytes()
    writer = threading.Thread(target=pipe.write_bytes, args=(text,))
    writer.start()
    assert cli("run", pipe, "-o", out, *FEW).code == 0
    writer.join()
    assert {one["id"] for one in records(out)} == {"a", "b"}


def test_standard_input_and_output(
    cli: Cli, rows: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with rows(row("a"), row("b")).open(encoding="utf-8") as file:
        monkeypatch.setattr("sys.stdin", file)
        said = cli("run", "-", "-o", "-", *FEW)
    assert sorted(json.loads(line)["id"] for line in said.out.splitlines()) == ["a", "b"]


def test_limit_takes_the_first_rows_and_resume_the_rest(cli: Cli, rows: Write, out: Path) -> None:
    source = rows(*(row(str(i)) for i in range(5)))
    cli("run", source, "-o", out, *FEW, "--limit", 2)
    assert sorted(one["id"] for one in records(out)) == ["0", "1"]
    said = cli("run", source, "-o", out, *FEW, "--resume")
    assert sorted(one["id"] for one in records(out)) == [str(i) for i in range(5)]
    assert "3 rows in" in said.err
    assert "2 were done before" in said.err


def test_a_failed_row_becomes_a_record_and_exit_code_1(
    cli: Cli, rows: Write, out: Path, opener: Opener
) -> None:
    opener.engine.fails = frozenset({"b"})
    said = cli("run", rows(row("a"), row("b"), row("c")), "-o", out, *FEW)
    assert said.code == 1
    assert "1 failed, the first with EngineError: the toy broke on b" in said.err
    assert "--resume tries the failed rows again" in said.err
    [failed] = [one for one in records(out) if "error" in one]
    assert failed["schema"] == "preftilt.error/1"
    assert failed["id"] == "b"
    assert failed["error"] == {"type": "EngineError", "message": "the toy broke on b"}
    assert len(records(out)) == 3


def test_resuming_tries_failed_rows_again_and_leaves_one_record_an_id(
    cli: Cli, rows: Write, out: Path, opener: Opener
) -> None:
    source = rows(row("a"), row("b"), row("c"))
    opener.engine.fails = frozenset({"a", "b"})
    cli("run", source, "-o", out, *FEW)
    opener.engine.fails = frozenset({"b"})
    assert cli("run", source, "-o", out, *FEW, "--resume").code == 1
    assert sorted(one["id"] for one in records(out)) == ["a", "b", "c"]
    opener.engine.fails = frozenset()
    assert cli("run", source, "-o", out, *FEW, "--resume").code == 0
    assert sorted(one["id"] for one in records(out)) == ["a", "b", "c"]
    assert not any("error" in one for one in records(out))


def test_resuming_a_finished_file_opens_no_model(
    cli: Cli, rows: Write, out: Path, opener: Opener
) -> None:
    source = rows(row("a"))
    cli("run", source, "-o", out, *FEW)
    before = out.read_bytes()
    opener.asked.clear()
    said = cli("run", source, "-o", out, *FEW, "--resume")
    assert (said.code, opener.asked) == (0, [])
    assert "nothing left to do" in said.err
    assert out.read_bytes() == before


def test_resuming_cuts_a_torn_last_line_off(cli: Cli, rows: Write, out: Path) -> None:
    source = rows(row("a"), row("b"))
    cli("run", source, "-o", out, *FEW)
    whole = {one["id"]: without_time(one) for one in records(out)}
    out.write_bytes(out.read_bytes()[:-25])
    assert cli("run", source, "-o", out, *FEW, "--resume").code == 0
    assert {one["id"]: without_time(one) for one in records(out)} == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--lambda", 3), "lambda 20.0, now 3.0"),
        (("--n", 8), "search best-of-n n=4, now best-of-n n=8"),
        (("--seed", 1), "seed 0, now 1"),
        (("--temperature", 0.5), "temperature 1.0, now 0.5"),
        (("--model", "other"), "model demo, now other"),
        (("--dtype", "bfloat16"), "other words or model options"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    change: tuple[object, ...], message: str, cli: Cli, rows: Write, out: Path
) -> None:
    source = rows(row("a"), row("b"))
    cli("run", source, "-o", out, *FEW, "--limit", 1)
    before = out.read_bytes()
    said = cli("run", source, "-o", out, *FEW, *change, "--resume")
    assert said.code == 2
    assert f'line 1 (id "a") was made otherwise: {message}' in said.err
    assert out.read_bytes() == before


def test_resuming_with_other_words_or_rows_is_refused(cli: Cli, rows: Write, out: Path) -> None:
    cli("run", rows(row("a")), "-o", out, *FEW)
    said = cli("run", rows(row("a", question="Another?")), "-o", out, *FEW, "--resume")
    assert "other words" in said.err
    said = cli("run", rows(row("b")), "-o", out, *FEW, "--resume")
    assert 'id "a") has no row in the input' in said.err


def test_resuming_something_else_is_refused(cli: Cli, rows: Write, out: Path) -> None:
    out.write_text("hello\n")
    said = cli("run", rows(row("a")), "-o", out, "--resume")
    assert (said.code, out.read_text()) == (2, "hello\n")
    assert "line 1 is not a record of preftilt run" in said.err


def test_an_existing_output_is_left_alone_without_resume_or_force(
    cli: Cli, rows: Write, out: Path, opener: Opener
) -> None:
    out.write_text("dear\n")
    said = cli("run", rows(row("a")), "-o", out, *FEW)
    assert (said.code, out.read_text(), opener.asked) == (2, "dear\n", [])
    assert "--resume goes on with it, --force overwrites it" in said.err
    assert cli("run", rows(row("a")), "-o", out, *FEW, "--force").code == 0
    assert [one["id"] for one in records(out)] == ["a"]


@pytest.mark.parametrize("kind", ["full", "scores", "text"])
def test_a_resume_on_another_day_is_noticed_where_prompts_show_the_date(
    cli: Cli, rows: Write, out: Path, opener: Opener, kind: str
) -> None:
    few = (*FEW, "--records", kind)
    day = datetime(2026, 11, 28, 10)
    opener.engine.inner.tokenizer = Dated(fixed=day)
    assert cli("run", rows(row("a")), "-o", out, *few).code == 0
    [first] = records(out)
    assert first["moment"] == {"now": "2026-11-28T10:00:00", "shown": ["28 Nov 2026"]}
    both = rows(row("a"), row("b"))
    opener.engine.inner.tokenizer = Dated(fixed=datetime(2026, 11, 29))
    late = cli("run", both, "-o", out, *few, "--resume")
    assert late.code == 2
    assert 'line 1 (id "a") was made with a prompt that shows 28 Nov 2026' in late.err
    assert "now it shows 29 Nov 2026: go on with --now 2026-11-28T10:00:00" in late.err
    opener.engine.inner.tokenizer = ToyTokenizer()
    assert "now it shows no date" in cli("run", both, "-o", out, *few, "--resume").err
    opener.engine.inner.tokenizer = Dated(fixed=day)
    call = ("run", both, "-o", out, *few, "--resume", "--now", "2026-11-28T10:00:00")
    assert cli(*call).code == 0
    assert opener.asked[-1][1].now == day
    marks = {record["fingerprint"] for record in records(out)}
    opener.engine.inner.tokenizer = Dated(fixed=datetime(2026, 11, 29))
    cli("run", both, "-o", out, *few, "--force")
    assert marks.isdisjoint(record["fingerprint"] for record in records(out))


def test_a_resume_on_another_day_goes_on_where_prompts_show_no_date(
    cli: Cli, rows: Write, out: Path
) -> None:
    cli("run", rows(row("a")), "-o", out, *FEW)
    assert "moment" not in records(out)[0]
    both = rows(row("a"), row("b"))
    assert cli("run", both, "-o", out, *FEW, "--resume", "--now", "2030-01-01").code == 0


def test_a_moment_that_is_none_is_refused(cli: Cli, rows: Write, out: Path) -> None:
    said = cli("run", rows(row("a")), "-o", out, "--now", "tomorrow")
    assert said.code == 2
    assert "'tomorrow' is no moment; write 2026-11-28" in said.err


def test_force_destroys_nothing_before_the_run_can_start(
    cli: Cli, rows: Write, out: Path, opener: Opener
) -> None:
    out.write_text("dear\n")
    opener.engine.inner.max_context = 4
    assert cli("run", rows(row("a")), "-o", out, "--force").code == 2
    assert out.read_text() == "dear\n"


BAD_ROWS = {
    "not JSON": ("{", "line 2: not JSON"),
    "not an object": ("[]", "line 2: not a JSON object"),
    "no question": ({"preference": "x"}, 'line 2: "question" is missing (or "messages")'),
    "no preference": (
        {"question": "x"},
        'line 2: "preference" is missing (or "preferences", or --preference for',
    ),
    "an empty question": (row(question=" "), 'line 2: "question" must not be empty'),
    "an empty preference": (row(preference=""), '"preference.text" must not be empty'),
    "question and messages": (
        row(messages=[{"role": "user", "content": "x"}]),
        '"question" and "messages" exclude each other',
    ),
    "both preferences": (row(preferences=["x"]), "exclude each other"),
    "an unknown field": (
        row(prefrence="x"),
        'unknown field "prefrence"; did you mean "preference"?',
    ),
    "an unknown setting": (
        row(settings={"temprature": 1}),
        'unknown field "settings.temprature"; did you mean "temperature"?',
    ),
    "an unknown search setting": (
        row(settings={"search": {"widht": 1}}),
        'unknown field "settings.search.widht"; did you mean "width"?',
    ),
    "a field by another name": (
        row(prompt="x"),
        'unknown field "prompt"; did you mean "question"?',
    ),
    "settings that are none": (row(settings=3), '"settings" must be an object'),
    "an answer at the end": (
        row(question=None, messages=[{"role": "assistant", "content": "y"}]),
        "take out an answer behind it",
    ),
    "no turn of ShareGPT": (
        row(question=None, conversations=[{"from": "robot", "value": "y"}]),
        "conversations[0].from is 'robot'",
    ),
    "a strange field": (row(zzz=1), 'unknown field "zzz"; the fields are id, question'),
    "a setting of another search": (
        row(settings={"search": {"width": 2}}),
        "line 2: width does not apply to the search 'auto'",
    ),
    "a setting that greedy ignores": (
        row(settings={"search": {"name": "greedy"}, "temperature": 0.5}),
        "line 2: temperature does not apply to the search 'greedy'; it belongs to auto, best-of-n",
    ),
    "JSON without a bottom": ("[" * 200_000, "line 2: its JSON is nested too deeply"),
    "objects without a bottom": ('{"a":' * 200_000, "line 2: its JSON is nested too deeply"),
    "a number without an end": ('{"id": ' + "1" * 5_000 + "}", "line 2: a number of 5000 digits"),
    "a wrong type": (row(settings={"max_tokens": "9"}), '"settings.max_tokens" must be an integer'),
    "a boolean for a number": (
        row(settings={"lambda": True}),
        '"settings.lambda" must be a number',
    ),
    "NaN": ('{"question": "x", "preference": {"text": "x", "strength": NaN}}', "NaN is not"),
    "a huge number": (
        '{"question": "x", "preference": "x", "settings": {"lambda": 1e999}}',
        "finite number",
    ),
    "gamma 0": (row(settings={"gamma": 0}), '"settings.gamma" must be greater than 0'),
    "an unknown role": (row(question=None, messages=[{"role": "x", "content": "y"}]), "role"),
    "a field twice": ('{"question": "a", "question": "b", "preference": "x"}', "stands twice"),
    "an id twice": (row("a"), 'line 2: id "a" stands in line 1 already'),
    "an empty id": (row(""), '"id'),
    "a list for an id": (row() | {"id": []}, '"id'),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_refused_before_the_model_is_opened(
    name: str, cli: Cli, rows: Write, out: Path, opener: Opener
) -> None:
    bad, message = BAD_ROWS[name]
    said = cli("run", rows(row("a"), bad), "-o", out)
    assert said.code == 2
    assert f"in.jsonl line 2: {message}".replace("line 2: line 2", "line 2") in said.err or (
        message in said.err
    )
    assert "line 2" in said.err
    assert said.err.count("\n") == 1
    assert opener.asked == []
    assert not out.exists()


def test_every_bad_row_is_told_but_not_more_than_a_few(cli: Cli, rows: Write, out: Path) -> None:
    said = cli("run", rows(row("a"), *["{"] * 8), "-o", out)
    assert [f"line {n}:" in said.err for n in range(2, 8)] == [True] * 5 + [False]
    assert "and 3 more bad rows" in said.err


def test_bytes_that_are_not_utf8_and_files_without_rows(
    cli: Cli, tmp_path: Path, out: Path
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"question": "\xff"}\n')
    assert "line 1: not UTF-8 (byte 15)" in cli("run", source, "-o", out).err
    source.write_bytes(b"\n\n")
    assert "has no rows" in cli("run", source, "-o", out).err
    assert "cannot read" in cli("run", tmp_path / "nowhere", "-o", out).err


def test_a_byte_order_mark_is_no_mistake(cli: Cli, tmp_path: Path, out: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(row("a")) + "\n", encoding="utf-8-sig")
    assert cli("run", source, "-o", out, *FEW).code == 0


def test_prompts_that_do_not_fit_are_refused_with_their_lines(
    cli: Cli, rows: Write, out: Path, opener: Opener
) -> None:
    source = rows(row("a"), row("b", settings={"max_tokens": 9999}))
    said = cli("run", source, "-o", out)
    assert said.code == 2
    assert "line 2: the question prompt has" in said.err
    assert not out.exists()
    assert opener.engine.inner.counts["sampled"] == 0


def test_strange_output_places_are_refused(cli: Cli, rows: Write, tmp_path: Path) -> None:
    source = rows(row("a"))
    for output, flags, message in (
        (tmp_path, (), "is a folder"),
        (tmp_path / "no" / "out.jsonl", (), "there is no folder"),
        (source, ("--force",), "is the input"),
        (tmp_path / "o", ("--force", "--resume"), "exclude each other"),
        ("-", ("--resume",), "not standard output"),
    ):
        said = cli("run", source, "-o", output, *flags)
        assert said.code == 2
        assert message in said.err
    assert records(source) == [row("a")]


def test_run_needs_an_output(cli: Cli, rows: Write) -> None:
    said = cli("run", rows(row("a")))
    assert said.code == 2
    assert "--output" in said.err


def test_a_full_disk_is_said_clearly(cli: Cli, rows: Write) -> None:
    said = cli("run", rows(row("a")), "-o", "/dev/full", *FEW)
    assert said.code == 1
    assert said.err.startswith("preftilt: error: cannot write /dev/full: No space left on device")
