"""Measuring many items, in several processes, into files that a killed run goes on with.

A file holds one part of one benchmark at one length of context: a line an item, appended as soon as it is measured.
Its name has a mark of everything that the numbers depend on, so that other settings make another file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import preftilt
from preftilt.engines.open import open_engine
from preftilt.engines.options import EngineOptions
from preftilt.errors import PromptTooLong
from preftilt.eval.harness.benchmark import Benchmark, Case, Json
from preftilt.eval.harness.budget import Budget
from preftilt.eval.reproduce.measured import ItemMeasurements, read_measurements
from preftilt.eval.reproduce.parts import (
    AFTER_POOLS,
    GUIDANCE,
    PARTS,
    TIMED,
    MeasureSettings,
    OpenModels,
)
from preftilt.eval.runner import gather, in_shares, measure_into, resumed, surveyed
from preftilt.rivals import Judges
from preftilt.rivals.reward_models import open_reward_model

IN_FLIGHT = 16
"""Items under way at once in a process."""

IN_FLIGHT_ON_A_BUDGET = 2
"""Fewer, as those that are under way when the budget is spent still end."""

OnItem = Callable[[str, int, int], None]
"""Called with what is measured, the items done and the items in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredModels:
    """The models by name, and how they are opened; ``judge`` is a generative RM's, None for the model itself.

    identity: everything about the model that can change a number, as plain JSON; raters: about those that rate.
    """

    model: str
    options: EngineOptions
    identity: Json
    raters: Json
    judge: str | None = None
    judge_options: EngineOptions = field(default_factory=EngineOptions)
    reward_model: str | None = None
    reward_options: EngineOptions = field(default_factory=EngineOptions)

    def open(self, how: MeasureSettings, part: str, stack: ExitStack) -> OpenModels:
        """What ``part`` needs, open until ``stack`` is left."""
        engine = open_engine(self.model, self.options)
        stack.callback(engine.close)
        reward_model = judge = None
        if part in AFTER_POOLS and self.reward_model is not None:
            reward_model = open_reward_model(self.reward_model, self.reward_options)
            stack.callback(reward_model.close)
        if part in AFTER_POOLS and self.judge is not None:
            judge = open_engine(self.judge, self.judge_options)
            stack.callback(judge.close)
        return OpenModels(engine, Judges(reward_model=reward_model, judge=judge), how)


def runs_here(model: str) -> bool:
    """Whether the model computes in this process, so that processes are ours to share out."""
    return "+http" not in model.partition("://")[0]


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """What the budget did not allow: of ``of`` items, ``items`` were not measured."""

    what: str
    items: int
    of: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFile:
    """One part of a benchmark's items at one length of context: what is measured, how, and in which file."""

    benchmark: Benchmark
    models: MeasuredModels
    how: MeasureSettings
    part: str
    inserted: int
    folder: Path

    @property
    def title(self) -> str:
        turns = f", {self.inserted} messages inserted" if self.inserted else ""
        return f"{self.benchmark.name}: {self.part}{turns}"

    @property
    def path(self) -> Path:
        """Differs wherever the numbers could."""
        how = self.how
        known: dict[str, Any] = {
            "version": preftilt.__version__,
            "part": self.part,
            "model": self.models.identity,
            "raters": self.models.raters if self.part in AFTER_POOLS else None,
            "settings": how.flat,
            "searches": how.protocol.searches,
            "seed": how.seed,
            "pool": how.pool if self.part == "pool" else None,
            "n": how.n if self.part in AFTER_POOLS else None,
            "lambdas": how.lambdas if self.part == "trees" else None,
            "judge_tokens": how.judge_tokens if self.part in AFTER_POOLS else None,
            **_own(self.part, how),
        }
        mark = sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:10]
        part = self.part.replace(",", "").replace(" ", "-").lower()
        return self.folder / f"{self.benchmark.name}-{part}-{self.inserted}-{mark}.jsonl"


def _own(part: str, how: MeasureSettings) -> dict[str, Any]:
    """What only guided parts depend on."""
    guided, drawn = {"guided": how.guided_lambdas}, {"drawn": how.drawn_lambdas, "of": how.drawn}
    by_part = {
        "guidance": guided,
        "other guidance": {"others": GUIDANCE},
        "draws": drawn,
        "guidance times": guided | drawn,
    }
    return by_part.get(part, {})


def collect(
    file: RecordFile,
    cases: Sequence[Case],
    processes: int,
    pools: Mapping[str, Sequence[str]],
    budget: Budget,
    on_item: OnItem | None = None,
    first: Callable[[], None] | None = None,
) -> Unmeasured | None:
    """Measure what ``file`` has no record of, as far as ``budget`` goes; gives what it did not allow.

    pools: the texts of the pools, by the case's key. budget: is told what all records cost, those of earlier runs too.
    first: called before anything is measured, not if there is nothing to measure.
    """
    after = file.part in AFTER_POOLS
    tasks = {case.key: case for case in cases if not after or case.key in pools}
    texts = {key: pools[key] for key in tasks} if after else {}
    gather(file.path)
    before = _cost(file, tasks)
    budget.spend(sum(before.values()))
    left = len(tasks) - len(before)

    def report_progress(done: int) -> None:
        if on_item is not None:
            on_item(file.title, done, len(tasks))

    if not left or budget.spent:
        report_progress(len(before))
        return Unmeasured(file.title, left, len(tasks)) if left else None
    if first is not None:
        first()
    share = None if budget.tokens_left is None else budget.tokens_left / left
    work = partial(_share, file.models, file.how, file.part, tasks, texts, share)
    alone = file.part in TIMED or not runs_here(file.models.model)
    in_shares(work, list(tasks), file.path, 1 if alone else processes, report_progress)
    now = _cost(file, tasks)
    budget.spend(sum(now.values()) - sum(before.values()))
    left = len(tasks) - len(now)
    return Unmeasured(file.title, left, len(tasks)) if left else None


def _cost(file: RecordFile, tasks: Mapping[str, Case]) -> dict[str, int]:
    """The tokens of every record there is of ``tasks``."""
    lines = read_lines(file.path)
    return {
        key: read_measurements(case, [lines[key]]).tokens
        for key, case in tasks.items()
        if key in lines
    }


def read_records(files: Sequence[RecordFile], cases: Sequence[Case]) -> list[ItemMeasurements]:
    """What the ``files`` hold of each case."""
    lines_of_files = [read_lines(file.path) for file in files]
    return [
        read_measurements(case, [lines[case.key] for lines in lines_of_files if case.key in lines])
        for case in cases
    ]


def read_lines(path: Path) -> dict[str, Json]:
    """The sound lines of a file by their id; none if there is no file."""
    known = surveyed(path)
    if not known.sound:
        return {}
    with path.open("rb") as file:
        return {id: written.read(file) for id, written in known.done.items()}


def _share(
    models: MeasuredModels,
    how: MeasureSettings,
    part: str,
    tasks: Mapping[str, Case],
    texts: Mapping[str, Sequence[str]],
    tokens: float | None,
    keys: Sequence[str],
    path: Path,
) -> None:
    """The work of one process; it may spend ``tokens`` an item. Module-level, as it is pickled."""
    with ExitStack() as stack:
        opened = models.open(how, part, stack)
        chosen = {key: tasks[key] for key in keys}
        limit = None if tokens is None else int(tokens * len(keys))
        budget = Budget(max_tokens_total=limit)
        asyncio.run(_measure_all(opened, part, chosen, texts, budget, path))


async def _measure_all(
    models: OpenModels,
    part: str,
    tasks: Mapping[str, Case],
    texts: Mapping[str, Sequence[str]],
    budget: Budget,
    path: Path,
) -> None:
    """Append a record an item; one whose prompt does not fit the context is recorded as skipped, with the reason."""

    async def measure_case(key: str, case: Case) -> list[Json]:
        if budget.spent:
            return []
        try:
            fields = await PARTS[part](models, case, texts.get(key, ()))
        except PromptTooLong as failure:
            fields = {"skipped": str(failure)}
        record = {"id": key, "part": part, **fields}
        budget.spend(read_measurements(case, [record]).tokens)
        return [record]

    at_once = IN_FLIGHT if budget.max_tokens_total is None else IN_FLIGHT_ON_A_BUDGET
    work = [partial(measure_case, key, case) for key, case in tasks.items()]
    await measure_into(resumed(path), work, 1 if part in TIMED else at_once)


def identity_of(model: str, options: EngineOptions) -> dict[str, Any]:
    """What can change a number about a model: its name, the options that are not about speed, and a folder's files."""
    kept = {
        name: value
        for name, value in asdict(options).items()
        if name not in ("device", "max_rows", "threads", "api_key_env", "timeout", "max_connections", "now")
    }  # fmt: skip
    if options.now is not None:
        kept["now"] = options.now.isoformat()
    return {"model": model, "options": kept, "files": _files(model)}


def _files(model: str) -> list[tuple[str, int, str]]:
    """Names, sizes and contents of a local model: a hash, or the time of the last change of a large file."""
    from preftilt.engines.models import gguf_file, model_folder

    path = gguf_file(model) or Path(model_folder(model)).expanduser()
    known = []
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file() and file.suffix != ".md":
            size, changed = file.stat().st_size, file.stat().st_mtime_ns
            small = size <= 100_000_000
            content = sha256(file.read_bytes()).hexdigest()[:12] if small else str(changed)
            known.append((file.name, size, content))
    return known
