"""What to leave out: remedies for a wish that names it are asked as they say, and only where its opposite is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preftilt.eval.benchmarks import open_benchmarks
from preftilt.eval.harness.benchmark import Benchmark, Case, Opening
from preftilt.eval.reproduce import parts
from preftilt.eval.reproduce.experiments import AVOIDING
from preftilt.eval.reproduce.report import blocks
from preftilt.eval.reproduce.running import reproduce
from preftilt.testing.toy import ToyEngine
from tests.eval.ifeval_files import write_ifeval
from tests.eval.test_reproduce import own_benchmark, plan
from tests.eval.test_reproduce import toy as toy  # the fixture

OPPOSITE = "Speak of money."


def knowing(opposite: str | None) -> Benchmark:
    own = own_benchmark()
    cases = [replace(case, facts={**case.facts, "opposite": opposite}) for case in own.test(0)]
    return replace(own, test=lambda inserted: cases, check=lambda case, text: {"right": 1.0})


def test_a_remedy_contrasts_with_the_opposite_or_leads_away_from_it(
    toy: ToyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: dict[str, tuple[float, str | None, str]] = {}
    measure = parts._guided

    async def noted(lab: Any, case: Case, settings: Any) -> dict[str, Any]:
        for name, each in settings.items():
            [preference] = case.request.preferences
            asked[name] = (each.strength, case.request.prompt.against, preference.text)
        return await measure(lab, case, settings)

    monkeypatch.setattr(parts, "_guided", noted)
    settings = plan(tmp_path, experiments=(AVOIDING,), guided_lambdas=(3.0,))
    benchmark = knowing(OPPOSITE)
    report = reproduce(settings, [benchmark], "preftilt reproduce avoiding", lambda *_: None)
    wish = benchmark.test(0)[-1].request.preferences[0].text
    assert asked["guided, λ = 3"] == (3.0, None, wish)
    assert asked["guided against the opposite, λ = 3"] == (3.0, OPPOSITE, wish)
    assert asked["guided away from the opposite, λ = -2"] == (-2.0, None, OPPOSITE)
    table = report["benchmarks"][0]["tables"][AVOIDING]
    assert {row["items"] for row in table["rows"]} == {3}
    assert blocks(report, {})


def test_wishes_without_a_known_opposite_have_no_remedy(toy: ToyEngine, tmp_path: Path):
    settings = plan(tmp_path, experiments=(AVOIDING,), guided_lambdas=(3.0,))
    report = reproduce(settings, [knowing(None)], "preftilt reproduce avoiding", lambda *_: None)
    [benchmark] = report["benchmarks"]
    methods = {row["method"] for row in benchmark["tables"][AVOIDING]["rows"]}
    assert "guided, λ = 3" in methods
    assert not any("opposite" in name for name in methods)
    assert [skip["part"] for skip in benchmark["skipped"]] == ["avoiding"]


def test_the_set_of_words_to_leave_out_is_reported_alone(tmp_path: Path):
    data = write_ifeval(tmp_path)
    [benchmark] = open_benchmarks(
        ("sys-ifeval",), Opening(data=data, switches={"rows": "exclusion"}, validation=2)
    )
    cases = benchmark.test(0)
    assert cases
    assert all(case.id.startswith("exclusion-") and case.facts["opposite"] for case in cases)
    assert benchmark.validation() == []
