"""The whole measurement: collect on validation and test for every model, report, draw."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import preftilt
import preftilt.demo.world
from preftilt.demo.world import Split, WorldItem, items
from preftilt.engines.bundled import demo_folder
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.errors import BadInput
from preftilt.eval.demo.collect import GRID, Draws, N, Record, Task, collect, plan, read
from preftilt.eval.demo.figures import draw
from preftilt.eval.demo.markdown import markdown
from preftilt.eval.demo.report import Measured, report_json
from preftilt.eval.shares import in_shares
from preftilt.records import write_json, write_text

ROWS = 256
"""Sequences in a batch: many items are in flight, and a model this small gains from more than a CPU's usual 64."""

OnItem = Callable[[str, Split, int, int], None]
"""Called with the model, the split, the items done and the items in all."""


def evaluate(
    models: Sequence[str],
    out: Path,
    records: Path,
    *,
    command: str,
    limit: int | None = None,
    draws: Draws | None = None,
    processes: int = 1,
    on_item: OnItem | None = None,
) -> str:
    """Measure ``models`` on their world; writes report.md, report.json and the figures into ``out``.

    ``limit`` items of each split are measured; tree searches run on ``draws.trees`` test items and half as many
    validation items, whose pools hold only what choosing λ needs. Records go to ``records``, one file a model and
    split, and are not measured again while the model, the world, the draws and the items stay the same. ``processes``
    share the items; the numbers are the same however many there are.
    Returns the Markdown.
    """
    draws = draws or Draws()
    fewer = replace(draws, pool=N, trees=draws.trees and max(1, draws.trees // 2))
    measured = []
    for model in models:
        validation = _records(model, "validation", records, limit, fewer, processes, on_item)
        test = _records(model, "test", records, limit, draws, processes, on_item)
        measured.append(Measured(model, validation, test))
    out.mkdir(parents=True, exist_ok=True)
    report = report_json(measured, draws)
    write_json(out / "report.json", report)
    draw(report, out)
    text = markdown(report, command)
    write_text(out / "report.md", text)
    return text


def _records(
    model: str,
    split: Split,
    folder: Path,
    limit: int | None,
    draws: Draws,
    processes: int,
    on_item: OnItem | None,
) -> list[Record]:
    chosen: Sequence[WorldItem] = items(split)[:limit]
    name = re.sub(r"\W+", "-", Path(model).name)
    path = folder / f"{name}-{_fingerprint(model, chosen, draws)}-{split}.jsonl"

    def progress(done: int) -> None:
        if on_item is not None:
            on_item(model, split, done, len(chosen))

    tasks = {task.item.id: task for task in plan(chosen, draws)}
    work = partial(_measure, model, tasks, draws)
    in_shares(work, list(tasks), path, processes, progress)
    found = {record.id: record for record in read(path)}
    return [found[id] for id in tasks]


def _measure(
    model: str,
    tasks: Mapping[str, Task],
    draws: Draws,
    ids: Sequence[str],
    path: Path,
) -> None:
    engine = open_engine(model, EngineOptions(max_rows=ROWS))
    try:
        asyncio.run(collect(engine, [tasks[id] for id in ids], path, draws))
    finally:
        engine.close()


def _fingerprint(model: str, chosen: Sequence[WorldItem], draws: Draws) -> str:
    """Changes with the model's files, the world and its checker, the items, the grid or the draws.

    So records that were measured or judged differently are never taken for new ones.
    """
    folder = Path(demo_folder() if model == "demo" else model)
    if not (folder / "model.safetensors").is_file():
        raise BadInput(
            f"{model} is not a model made for the demo world: no {folder / 'model.safetensors'}"
        )
    world = Path(preftilt.demo.world.__file__).parent
    judged_by = [one for one in world.rglob("*") if one.suffix in (".py", ".toml")]
    digest = sha256(repr((chosen, GRID, draws, preftilt.__version__)).encode())
    weights_and_words = [one for one in folder.iterdir() if one.suffix != ".md"]
    for path in sorted([*weights_and_words, *judged_by]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]
