"""``preftilt run --ray`` on a real cluster: the records of a local run, whatever dies meanwhile."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.cli.conftest import records, row
from tests.ray.conftest import Toy, wait_until


def by_id(path: Path) -> dict[str, dict[str, Any]]:
    """Every record of a file, without its times; no id may stand twice."""
    found = {
        one["id"]: {name: value for name, value in one.items() if name != "timing"}
        for one in records(path)
    }
    assert len(found) == len(records(path))
    return found


def test_records_and_failures_are_those_of_a_local_run_and_resuming_mends_them(
    toy: Toy, address: str, tmp_path: Path
) -> None:
    own = {"lambda": 3, "seed": 7, "search": {"name": "dvts", "width": 2, "max_steps": 3}}
    source = toy.rows(*(row(f"r{number}") for number in range(9)), row("own", settings=own))
    here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    toy.behave(fails=["r4"])
    assert toy.finish(source, here)[0] == 1
    code, said = toy.finish(source, there, "--ray", address, "--ray-actors", 2, "--ray-batch", 2)
    assert code == 1, said
    assert by_id(there) == by_id(here)
    assert by_id(there)["r4"]["error"]["message"] == "the toy broke on r4"
    assert "10 rows in" in said
    assert "1 failed, the first with EngineError: the toy broke on r4" in said
    toy.behave()
    assert toy.finish(source, here, "--resume")[0] == 0
    code, said = toy.finish(source, there, "--ray", address, "--resume")
    assert code == 0, said
    assert by_id(there) == by_id(here)
    assert "9 were done before" in said


def test_a_killed_driver_loses_only_what_was_in_flight(
    toy: Toy, address: str, tmp_path: Path
) -> None:
    source, out, whole = toy.many(12), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    toy.behave(pause=0.3)
    call = (source, out, "--ray", address, "--concurrency", 1)
    driver = toy.start(*call)
    wait_until(lambda: out.exists() and len(records(out)) >= 3, driver)
    driver.kill()
    driver.wait()
    done = by_id(out)
    assert len(done) < 12
    before = len(toy.drawn())
    toy.behave()
    code, said = toy.finish(*call, "--resume")
    assert code == 0, said
    assert not {item for _, item in toy.drawn()[before:]} & done.keys()
    toy.finish(source, whole)
    assert by_id(out) == by_id(whole)


def test_the_rows_of_a_killed_actor_are_tried_again(toy: Toy, address: str, tmp_path: Path) -> None:
    source, out, whole = toy.many(8), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    toy.behave(pause=0.5)
    flags = ("--ray", address, "--ray-actors", 2, "--ray-cpus-per-actor", 1, "--concurrency", 2)
    driver = toy.start(source, out, *flags)
    wait_until(lambda: len(toy.drawn()) >= 2, driver)
    actor, item = toy.drawn()[-1]
    os.kill(actor, signal.SIGKILL)
    toy.behave()
    _, said = driver.communicate()
    assert driver.returncode == 0, said
    assert len({one for one, drawn in toy.drawn() if drawn == item}) == 2
    toy.finish(source, whole)
    assert by_id(out) == by_id(whole)


def test_a_row_that_kills_every_actor_becomes_a_record_and_takes_no_other_with_it(
    toy: Toy, address: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    toy.behave(dies=["r2"])
    code, said = toy.finish(toy.many(5), out, "--ray", address, "--concurrency", 2)
    assert code == 1, said
    assert by_id(out).keys() == {f"r{number}" for number in range(5)}
    [failed] = [one for one in by_id(out).values() if "error" in one]
    assert failed["id"] == "r2"
    assert "the actor that had this row died, 3 times" in failed["error"]["message"]
    assert len([item for _, item in toy.drawn() if item == "r2"]) == 3


def test_an_engine_that_kills_its_process_when_opened_ends_the_run(
    toy: Toy, address: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    toy.behave(stillborn=True)
    code, said = toy.finish(toy.many(2), out, "--ray", address)
    assert (code, out.exists()) == (1, False), said
    assert "the process died 3 times while it opened toy:" in said
    assert [what for _, what in toy.drawn()] == ["opening"] * 3


def test_what_no_actor_can_do_is_refused_before_the_first_token(
    toy: Toy, address: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("dear\n", encoding="utf-8")
    source = toy.rows(row("a"), row("b", settings={"max_tokens": 9999}))
    code, said = toy.finish(source, out, "--ray", address, "--force")
    assert (code, out.read_text("utf-8"), toy.drawn()) == (2, "dear\n", [])
    assert "preftilt: error: line 2: the question prompt has" in said


def test_a_cluster_of_our_own_lives_as_long_as_the_run(toy: Toy, tmp_path: Path) -> None:
    source, here, there = toy.many(3), tmp_path / "here.jsonl", tmp_path / "there.jsonl"
    toy.finish(source, here)
    code, said = toy.finish(source, there, "--ray", "local")
    assert code == 0, said
    assert by_id(there) == by_id(here)
    told = [line for line in said.splitlines() if "RAY_BACKEND_LOG_LEVEL" not in line]
    assert len(told) == 1, said
    assert told[0].startswith("preftilt: 3 rows in")
    assert not (Path(toy.place.environment["HOME"]) / ".ray").exists()
