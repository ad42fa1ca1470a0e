"""What ``preftilt verify`` finds out about an engine that keeps the laws, and about some that do not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from preftilt.cli import configure, main
from preftilt.engines.base import Capabilities, Engine, EngineWrapper
from preftilt.testing.laws import LAWS
from preftilt.testing.toy import ToyEngine
from preftilt.testing.verify import EngineCheck, check_engine, measure_cost


def checks_of(engine: Engine) -> dict[str, EngineCheck]:
    return {check.name: check for check in asyncio.run(check_engine(engine, 1e-6))}


def test_an_exact_engine_keeps_every_law_and_its_guided_draws_are_in_step():
    checks = checks_of(ToyEngine())
    assert len(checks) == len(LAWS) + 6
    measured = "log-probs of drawing beside those of scoring"
    assert {name for name, check in checks.items() if check.holds is not True} == {measured}
    assert "at most 0 nats" in checks[measured].measured
    assert "gain of nothing is at most 0 nats" in checks["two views of one prompt agree"].measured


@dataclass(slots=True)
class Unable(EngineWrapper):
    """The toy engine that claims no guided decoding."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(self.inner.capabilities, guides=False, sampler_logprobs=False)

    guide = Engine.guide


def test_what_an_engine_does_not_claim_is_not_checked_and_has_no_cost():
    engine = Unable(ToyEngine())
    checks = checks_of(engine)
    assert not [name for name in checks if "guided" in name]
    assert "is scored again" in checks["log-probs of drawing beside those of scoring"].measured
    cost = asyncio.run(measure_cost(engine))
    assert cost.guided is None
    assert min(cost.plain, cost.scored) > 0


@dataclass(slots=True)
class Drifting(ToyEngine):
    """Scores that fall from call to call, and guided draws that depend on how many there are."""

    calls: int = 0

    async def score(self, requests):
        rows = []
        for request in requests:
            self.calls += 1
            rows.append(self._score(request) - self.calls / 100)
        return rows

    async def guide(self, requests: Sequence):
        drawn = [[self._guided(request, slot) for slot in request.slots] for request in requests]
        return drawn if len(requests) == 1 else drawn[::-1]


def test_a_broken_engine_is_told_law_by_law():
    checks = checks_of(Drifting())
    broken = {name for name, check in checks.items() if check.holds is False}
    assert {"scores add up over a split", "two views of one prompt agree"} <= broken
    assert "log-probs of guided tokens beside those of scoring" in broken
    assert "law broken" in checks["scores add up over a split"].measured
    assert checks["finish reasons are true"].holds


@pytest.mark.parametrize(("engine", "code"), [(ToyEngine(), 0), (Drifting(), 1)])
def test_the_page_is_markdown_and_the_exit_code_says_whether_all_holds(
    engine: ToyEngine,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(configure, "open_engine", lambda spec, options: engine)
    with pytest.raises(SystemExit) as end:
        main(["verify", "toy"])
    page = capsys.readouterr().out
    assert end.value.code == code
    assert page.startswith("## preftilt verify: toy\n\npreftilt ")
    assert ("| **NO** |" in page) == bool(code)
    for row in ("| max_context | 512 |", "| guides | yes |", "| scores add up over a split | "):
        assert row in page
    assert "### What a token costs" in page
    for table in page.split("\n\n"):
        if table.startswith("|"):
            assert len({line.count(" | ") for line in table.splitlines()}) == 1


def test_json_has_all_of_the_page_and_quick_draws_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    engine = ToyEngine()
    monkeypatch.setattr(configure, "open_engine", lambda spec, options: engine)
    with pytest.raises(SystemExit):
        main(["verify", "toy", "--json"])
    page = json.loads(capsys.readouterr().out)
    assert all(check["holds"] in (True, None) for check in page["checks"])
    assert set(page["cost"]) == {"plain", "guided", "scored"}
    before = dict(engine.counts)
    with pytest.raises(SystemExit):
        main(["verify", "toy", "--quick", "--json"])
    page = json.loads(capsys.readouterr().out)
    assert (page["checks"], page["cost"]) == ([], None)
    assert engine.counts == before
