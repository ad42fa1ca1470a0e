"""Records, scores and replies to twenty requests are what they were, on three engines.

What changes on purpose is written anew by ``GOLDEN=write python -m pytest tests/golden``, looked at in the diff, and
told in the CHANGELOG.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftilt.cli import configure
from preftilt.engines.base import Engine
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.testing.toy import ToyEngine
from tests.cli.conftest import Cli, records
from tests.engine_http.conftest import Running
from tests.server.serving import serving

HERE = Path(__file__).parent
REQUESTS: list[dict[str, Any]] = [
    json.loads(line) for line in (HERE / "requests.jsonl").read_text(encoding="utf-8").splitlines()
]
RESPONSES = ["maths play points.", "read sleep not win draw"]
GUIDED = {"cfg", "linear-alignment", "amulet"}
OF_THE_MOMENT = {"timing", "created", "id", "versions", "fingerprint", "engine"}
"""Fields that say when an answer was made, and where."""
TOLERANCE = {"toy": 1e-9, "bundled": 2e-3, "stand-in": 1e-9}
"""Nats, and shares of nats: processors round the bundled model's float32 differently."""

Open = Callable[[], Engine]


@pytest.fixture(params=["toy", pytest.param("bundled", marks=pytest.mark.model), "stand-in"])
def engine(request: pytest.FixtureRequest) -> str:
    """Its name."""
    return request.param


@pytest.fixture
def opens(engine: str, server: Running, tokenizer_folder: str) -> Open:
    """Opens it."""
    server.manners.context = 640
    spec, options = f"vllm+{server.url}", EngineOptions(tokenizer=tokenizer_folder)
    return {
        "toy": ToyEngine,
        "bundled": lambda: open_engine("demo"),
        "stand-in": lambda: open_engine(spec, options),
    }[engine]


@pytest.fixture
def cli(opens: Open, real_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr(configure, "open_engine", lambda spec, options: opens())
    return real_cli


def test_records_of_runs_are_what_they_were(engine: str, cli: Cli, tmp_path: Path) -> None:
    preferring = [row for row in requests(engine) if prefers(row)]
    rows, out = write(tmp_path, preferring), tmp_path / "out.jsonl"
    flags = ("--search", "best-of-n", "--n", 4, "--max-tokens", 12)
    assert cli("run", rows, "-o", out, "--model", "demo", *flags).code == 0
    agree(engine, "run", by_id(out))


def test_scores_are_what_they_were(engine: str, cli: Cli, tmp_path: Path) -> None:
    scored = [
        row | {"responses": RESPONSES}
        for row in requests(engine)
        if prefers(row) and "search" not in settings(row)
    ]
    rows, out = write(tmp_path, scored), tmp_path / "out.jsonl"
    assert cli("score", rows, "-o", out, "--model", "demo", "--lambda", "0,1,5").code == 0
    agree(engine, "score", by_id(out))


def test_replies_of_the_server_are_what_they_were(engine: str, opens: Open) -> None:
    opened = opens()
    with serving(opened) as running, running.http as http:
        bodies = [body(row) for row in requests(engine)]
        for detailed in bodies:
            detailed.get("preftilt", {})["details"] = True
        replies = [http.post("/v1/chat/completions", json=detailed) for detailed in bodies]
    opened.close()
    agree(engine, "replies", [{"status": reply.status_code, **reply.json()} for reply in replies])


def test_streams_of_the_server_are_what_they_were(engine: str, opens: Open) -> None:
    opened = opens()
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    with serving(opened) as running, running.http as http:
        replies = [
            http.post("/v1/chat/completions", json=body(row) | streamed) for row in requests(engine)
        ]
    opened.close()
    agree(engine, "streams", [{"events": events(reply.text)} for reply in replies])


def requests(engine: str) -> list[dict[str, Any]]:
    """Those that the engine can answer: a server draws and scores, but does not guide."""
    guides = engine != "stand-in"
    return [row for row in REQUESTS if guides or search(row) not in GUIDED]


def prefers(row: dict[str, Any]) -> bool:
    """Whether it states a preference; commands want one of every row, the server does not."""
    return "preference" in row or "preferences" in row


def settings(row: dict[str, Any]) -> dict[str, Any]:
    return row.get("settings", {})


def search(row: dict[str, Any]) -> str:
    return settings(row).get("search", {}).get("name", "best-of-n")


def body(row: dict[str, Any]) -> dict[str, Any]:
    """The row as a chat request."""
    messages = row.get("messages") or [{"role": "user", "content": row["question"]}]
    stated = {name: row[name] for name in ("preference", "preferences") if name in row}
    knob = {**stated, **settings(row)}
    plain = {"model": "toy", "messages": messages, "seed": 1}
    return plain | ({"preftilt": {"max_tokens": 12} | knob} if knob else {"max_tokens": 12})


def events(text: str) -> list[Any]:
    """What a stream's ``data`` lines hold, but for its progress; texts that follow each other are joined.

    How often progress is told, and how much text comes at once, is a matter of time.
    """
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    joined: list[dict[str, Any]] = []
    for chunk in map(json.loads, lines[:-1]):
        delta = delta_of(chunk)
        if "preftilt" in delta:
            continue
        if joined and list(delta) == ["content"] == list(content := delta_of(joined[-1])):
            content["content"] += delta["content"]
        else:
            joined.append(chunk)
    return joined


def delta_of(chunk: dict[str, Any]) -> dict[str, Any]:
    return chunk["choices"][0]["delta"] if chunk["choices"] else {}


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def agree(engine: str, what: str, new: list[dict[str, Any]]) -> None:
    """Hold the lasting fields of ``new`` to the file, in their order, numbers within the engine's tolerance."""
    path = HERE / engine / f"{what}.jsonl"
    lasting_new = [lasting(record) for record in new]
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in lasting_new)
        path.write_text("".join(lines), encoding="utf-8")
    old = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lasting_new) == len(old)
    for got, want in zip(lasting_new, old, strict=True):
        compare(got, want, TOLERANCE[engine], "$")


def by_id(path: Path) -> list[dict[str, Any]]:
    """The records of a file, which come in the order of completion."""
    return sorted(records(path), key=lambda record: record["id"])


def lasting(value: Any) -> Any:
    """``value`` without the fields of the moment, at any depth."""
    if isinstance(value, dict):
        return {name: lasting(inner) for name, inner in value.items() if name not in OF_THE_MOMENT}
    return [lasting(inner) for inner in value] if isinstance(value, list) else value


def compare(got: Any, want: Any, tolerance: float, where: str) -> None:
    if isinstance(want, dict):
        assert list(got) == list(want), where
        for name in want:
            compare(got[name], want[name], tolerance, f"{where}.{name}")
    elif isinstance(want, list):
        assert len(got) == len(want), where
        for index, (inner_got, inner_want) in enumerate(zip(got, want, strict=True)):
            compare(inner_got, inner_want, tolerance, f"{where}[{index}]")
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=tolerance, abs=tolerance), where
    else:
        assert got == want, where
