"""``python -m bench.rivals``: what choosing among the same candidates costs, by the method that chooses; two minutes.

The paper's Figure 6 in small: REAR, a generative and an external reward model pick among the same 16 candidates of the
bundled model. The last row is a λ × N sweep over one pool against a single best-of-16.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import transformers

import preftilt as pt
from bench.report import circumstances
from bench.serving.rows import RatioRow, rotated
from preftilt.demo.world import WorldItem, items
from preftilt.engines.models import demo_folder
from preftilt.engines.transformers import TransformersEngine
from preftilt.eval.answers import best_of
from preftilt.eval.calibrate import LAMBDAS
from preftilt.rivals.methods import ByJudge, ByRewardModel, Judges
from preftilt.rivals.reward_models import open_reward_model
from preftilt.types import Reduction

N = 16
SIZES = (1, 2, 4, 8, N)
REDUCTIONS: tuple[Reduction, ...] = ("sum", "mean")
SIDES = ("rear", "generative", "reasoning", "external", "sweep")
TITLES = {
    "generative": "generative reward model, verdict forced ÷ REAR",
    "reasoning": "generative reward model, reasons first (at most 64 tokens) ÷ REAR",
    "external": "external reward model of the same size ÷ REAR",
    "sweep": f"sweep over {len(LAMBDAS)} λ × {len(SIZES)} N × {len(REDUCTIONS)} reductions ÷ one best-of-{N}",
}
SWEEP_BAR = 1.1
WAKE_SECONDS = 0.1
REASONS = 64
"""The bundled model cannot judge: it would write on until its context ends."""


INTRODUCTION = f"""\
Medians of n ratios of whole requests, with the quartiles between which half of them lie; an item of the demo world a
value, the same {N} candidates on all sides, every prompt read anew. The external reward model has the bundled model's
architecture and a head of random weights; the bundled model cannot judge, either: what is measured is the time. Sides
without an aim have none in the plan: the ratio says what choosing by REAR saves.
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A candidate as a record keeps it, for :func:`best_of`."""

    length: int
    finished: bool
    question_logprob: float
    preference_gain: float


def write_reward_model(folder: Path) -> Path:
    """The bundled model with a head of random weights in place of its vocabulary: it costs what a real one of its
    size does, and its scores mean nothing."""
    source = demo_folder()
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(source)
    config.num_labels = 1
    config.pad_token_id = 0
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def sweep(result: pt.Realigned) -> int:
    """Read every λ, N and reduction off one pool; how many there were."""
    pool = [
        Stored(
            len(candidate.tokens),
            candidate.finish == "eos",
            candidate.question_logprob,
            candidate.preference_gain,
        )
        for candidate in sorted(result.candidates, key=lambda candidate: candidate.slot)
    ]
    chosen = [
        best_of(pool[:size], lam, pt.Reward(reduction=reduction))
        for reduction in REDUCTIONS
        for size in SIZES
        for lam in LAMBDAS
    ]
    return len(chosen)


def _timed(
    realigner: pt.Realigner, item: WorldItem, then: Callable[[pt.Realigned], object]
) -> float:
    """Seconds of one request; its item's draws are the same for all sides."""
    question, wish = [pt.Message("user", item.question)], [pt.Preference(item.preference)]
    began = time.perf_counter()
    then(asyncio.run(realigner.realign(question, wish, item=item.id)))
    return time.perf_counter() - began


def measure(repeats: int, tokens: int, say: Callable[[str], None]) -> list[RatioRow]:
    """The rows, one item of the world a value."""
    rows = {
        name: RatioRow(name, title, SWEEP_BAR if name == "sweep" else None)
        for name, title in TITLES.items()
    }
    rear = pt.Settings(lam=3, search=pt.BestOfN(n=N), max_tokens=tokens)
    reasons = ByJudge(judge_mode="cot", judge_tokens=REASONS)
    settings = {
        "rear": rear,
        "generative": replace(rear, method=ByJudge()),
        "reasoning": replace(rear, method=reasons),
        "external": replace(rear, method=ByRewardModel()),
        "sweep": rear,
    }
    with tempfile.TemporaryDirectory(prefix="preftilt-bench-") as folder:
        judges = Judges(reward_model=open_reward_model(str(write_reward_model(Path(folder)))))
        engine = pt.open_engine("demo")
        try:
            sides = {side: pt.Realigner(engine, settings[side], judges=judges) for side in SIDES}
            for item, order in zip(items("test"), rotated(SIDES, repeats), strict=False):
                took = {side: _once(engine, sides[side], item, side) for side in order}
                say(", ".join(f"{side} {took[side]:.2f} s" for side in SIDES))
                for name, row in rows.items():
                    row.add(took[name], took["rear"])
        finally:
            engine.close()
            judges.close()
    return list(rows.values())


def _once(engine: pt.Engine, realigner: pt.Realigner, item: WorldItem, side: str) -> float:
    """Seconds of one side, with no prompt in the engine's cache."""
    assert isinstance(engine, TransformersEngine)
    engine.forget()
    time.sleep(WAKE_SECONDS)
    return _timed(realigner, item, sweep if side == "sweep" else lambda result: None)


def markdown(facts: dict[str, object], rows: list[RatioRow]) -> str:
    """The table, and what the numbers depend on."""
    lines = [f"# What choosing costs, on {facts['device']}", "", INTRODUCTION]
    lines += [f"- {name}: {facts[name]}" for name in ("command", "date", "threads", "load_1min")]
    lines += [
        "",
        "| figure | aim | measured (quartiles, n) | first side | second side |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *("| " + " | ".join(row.cells()) + " |" for row in rows), ""])


def main() -> None:
    """Measure, print the table, save it."""
    parser = argparse.ArgumentParser(prog="python -m bench.rivals", description=__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="values a figure")
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of a response")
    parser.add_argument("--out", type=Path, default=Path("docs/bench"))
    options = parser.parse_args()
    command = shlex.join(["python", "-m", "bench.rivals", *sys.argv[1:]])
    rows = measure(
        options.repeats, options.tokens, lambda words: print(words, file=sys.stderr, flush=True)
    )
    facts = circumstances("cpu", 0, command)
    options.out.mkdir(parents=True, exist_ok=True)
    record = {"circumstances": facts, "rows": [asdict(row) for row in rows]}
    (options.out / "rivals.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    (options.out / "rivals.md").write_text(markdown(facts, rows), "utf-8")
    print(markdown(facts, rows))


if __name__ == "__main__":
    main()
