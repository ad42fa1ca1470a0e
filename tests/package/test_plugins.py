"""Searches, methods and benchmarks that another package adds are named, set and recorded as preftilt's own are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ENTRY_POINTS = """
[preftilt.searches]
last-of-n = added:LastOfN
best-of-n = added:LastOfN

[preftilt.methods]
shortest = added:SHORTEST

[preftilt.benchmarks]
mine = added:open_mine
"""
ADDED = '''
from dataclasses import dataclass, field

from preftilt.declare import check_settings, setting
from preftilt.search.base import rank
from preftilt.types import Expand, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class LastOfN:
    """Draws some, and takes the last.

    Attributes:
        n: answers to pick from.
        skipped: answers that are drawn besides.
    """

    n: int = setting(2, least=1)
    skipped: int = setting(1, least=0)
    name: str = field(default="last-of-n", init=False)

    def __post_init__(self):
        check_settings(self)

    @property
    def candidates(self):
        return self.n

    def plans(self, root, score, max_tokens):
        return [self._plan(root, score, max_tokens)]

    def conclude(self, outcomes, score):
        return outcomes[0]

    def _plan(self, root, score, max_tokens):
        drawn = yield Expand(parent=root, slots=tuple(range(self.n)), max_tokens=max_tokens)
        return Outcome(tuple(reversed(drawn)), stopped="all drawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortest:
    """The shortest answer.

    Attributes:
        unit: what lengths are counted in.
    """

    unit: str = setting("tokens", metavar="UNIT")
    name: str = field(default="shortest", init=False)

    async def scores(self, pool):
        return [-float(len(candidate.tokens)) for candidate in pool.candidates]


SHORTEST = Shortest()


def open_mine(opening):
    raise NotImplementedError
'''
PROGRAM = """
import json
from pydantic import ValidationError
import preftilt as pt
from preftilt.cli.options import setting_flags
from preftilt.eval.benchmarks import BENCHMARKS
from preftilt.records.patch import SettingsPatch
from preftilt.search import SEARCHES
from preftilt.testing.toy import ToyEngine

rows = {"search": {"name": "last-of-n", "n": 4, "skipped": 0}, "method": {"name": "shortest", "unit": "words"}}
settings = SettingsPatch.model_validate(rows | {"max_tokens": 6}).apply(pt.Settings())
messages, wishes = [pt.Message("user", "Q")], [pt.Preference("Be brief.")]
done = pt.run_sync(pt.Realigner(ToyEngine(), settings).realign(messages, wishes))
try:
    SettingsPatch.model_validate({"search": {"name": "last-of-n", "skipped": -1}})
    refused = []
except ValidationError as failure:
    refused = failure.errors()[0]["loc"]
print(json.dumps({
    "record": done.to_json(),
    "flags": {flag.setting.name: flag.owners for flag in setting_flags("draw", "method").flags},
    "benchmark": "mine" in BENCHMARKS,
    "refused": refused,
    "own": SEARCHES["best-of-n"].__name__,
}))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder as an installed package has it."""
    metadata = tmp_path / "added-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: added\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "added.py").write_text(ADDED)
    return tmp_path


def test_what_a_package_adds_is_named_set_and_recorded_like_the_rest(package: Path):
    code = f"import sys; sys.path.insert(0, {str(package)!r})\n{PROGRAM}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    record = said["record"]
    assert record["settings"]["search"] == {"name": "last-of-n", "n": 4, "skipped": 0}
    assert record["settings"]["method"] == {"name": "shortest", "unit": "words"}
    scores = [candidate["method"]["score"] for candidate in record["candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert said["flags"]["skipped"] == ["last-of-n"]
    assert said["flags"]["unit"] == ["shortest"]
    assert said["refused"] == ["search", "skipped"]
    assert said["benchmark"]
    assert said["own"] == "BestOfN"
