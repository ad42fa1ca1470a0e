"""``serving.json`` and ``serving.md``: the rows, the crowd, and everything needed to judge them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.figures import CANDIDATES, NEW_TOKENS
from bench.report import processor
from bench.server import LoadResult
from bench.serving.rows import RatioRow

MODEL = "demo (the bundled one, 5 M parameters), float32"
PARTS = ("proxy", "engines", "peers", "clients", "scoring", "replicas", "streams")

INTRODUCTION = """\
Medians of n ratios, with the quartiles between which half of them lie. The two sides of a ratio are measured right
after each other, in an order that changes from one to the next, on the same cores. Every request has words of its own,
so that no cache knows it. In the rows of the upstream, of scoring and of engines no token ends a response, so that all
sides draw (or score) exactly {candidates} × {new_tokens} tokens, which is checked. The neighbours' rows have the model
as it is, because a rating must be able to end: at most {new_tokens} tokens a response.

- **The upstream** is vLLM's server alone, asked by the same client for the same chat with `n`, and nothing else: no
  log-probs, no token ids. "No scores" is a request without a preference; its answer carries log-probs all the same, and
  what telling them costs the upstream is a row of its own.
- **Scoring** asks a server in both ways that preftilt's engine knows, with random tokens. The bundled model's context
  of 2,560 tokens has room for a prompt of 2,431; 1,000 is what the aim is about.
- **Engines** run in a process each, one waiting while the other works.
- **Neighbours** draw {candidates} candidates from the same vLLM server and rate them with the same model, as they do by
  default: its_hub with its `LLMJudge`, optillm with its ratings from 0 to 10. optillm's `bon` is called as a library,
  without its proxy, which spares it the way over HTTP that ours has to go. Rating excluded compares the drawing alone.
  A model of this size rates no better than chance; what is measured is the time.
- **Replicas** are two vLLM servers of one model. All users ask at once, in another order every round. What is
  compared is a count, by the servers' own metrics: prompt tokens that they had to compute because their caches did not
  hold them. vllm-router is vLLM's own router, before the same servers.
- **Streams** are answers of SmolLM2 in bfloat16, decoded greedily and without a preference, of vLLM's server with 64
  rows; all clients ask at once, so that most of the wait for a first token is for a row. The clients take CPU, too.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPart:
    """What one part of the bench found. ``load``: the system's mean of a minute when it ended."""

    command: str
    date: str
    load: float
    versions: dict[str, str]
    rows: Sequence[RatioRow] = ()
    crowds: Sequence[LoadResult] = ()


def measured(
    command: str,
    rows: Sequence[RatioRow],
    versions: Mapping[str, str],
    crowds: Sequence[LoadResult] = (),
) -> MeasuredPart:
    """A part that has just been measured by ``command``."""
    return MeasuredPart(
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        load=round(os.getloadavg()[0], 2),
        versions=_OURS | dict(versions),
        rows=rows,
        crowds=crowds,
    )


_OURS = {
    "preftilt": version("preftilt"),
    "torch": version("torch"),
    "transformers": version("transformers"),
    "python": platform.python_version(),
}


def load(folder: Path) -> dict[str, MeasuredPart]:
    """Parts that were measured before, by name: one part can be measured again without the others."""
    path = folder / "serving.json"
    if not path.is_file():
        return {}
    told = json.loads(path.read_text(encoding="utf-8"))["parts"]
    return {name: _part(told[name]) for name in PARTS if name in told}


def _part(told: Mapping[str, Any]) -> MeasuredPart:
    rows = [RatioRow(**row) for row in told["rows"]]
    crowds = [LoadResult(**crowd) for crowd in told["crowds"]]
    return MeasuredPart(**{**told, "rows": rows, "crowds": crowds})


def save(folder: Path, parts: Mapping[str, MeasuredPart]) -> None:
    """Write ``serving.json`` and ``serving.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"device": processor(), "parts": {name: asdict(part) for name, part in parts.items()}}
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (folder / "serving.json").write_text(text, encoding="utf-8")
    (folder / "serving.md").write_text(markdown(parts), encoding="utf-8")


def markdown(parts: Mapping[str, MeasuredPart]) -> str:
    lines = [f"# Serving on {processor()}", ""]
    lines += [INTRODUCTION.format(candidates=CANDIDATES, new_tokens=NEW_TOKENS)]
    lines += [f"- threads: {os.cpu_count()}", f"- model: {MODEL}"]
    lines += [_circumstances(name, parts) for name in PARTS]
    lines += [
        "",
        "| figure | aim | measured (quartiles, n) | first side | second side |",
        "|---|---|---|---|---|",
    ]
    known = [parts[name] for name in PARTS if name in parts]
    lines += ["| " + " | ".join(row.cells()) + " |" for part in known for row in part.rows]
    crowds = [crowd for part in known for crowd in part.crowds]
    return "\n".join([*lines, "", *_crowd_table(crowds)])


def _circumstances(name: str, parts: Mapping[str, MeasuredPart]) -> str:
    if name not in parts:
        return f"- {name}: not measured"
    part = parts[name]
    versions = ", ".join(f"{package} {number}" for package, number in part.versions.items())
    return f"- {name}: `{part.command}`, {part.date}, load {part.load:g}; {versions}"


def _crowd_table(crowds: Sequence[LoadResult]) -> list[str]:
    if not crowds:
        return []
    head = "| clients at once, toy engine | errors | mixed-up answers | p50 | p99 | requests/s |"
    return [
        head,
        "|---|---|---|---|---|",
        *(
            f"| {crowd.clients} | {crowd.errors} | {crowd.mixed} | {crowd.p50:.2f} s | {crowd.p99:.2f} s |"
            f" {crowd.rate:.0f} |"
            for crowd in crowds
        ),
        "",
    ]
